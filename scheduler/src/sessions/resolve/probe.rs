//! Probes and lifecycle hooks, with named ports looked up.

use super::seconds;
use crate::controllers::object::{items, string, text};
use agent_protocol::{Handler, HttpHeader, Probe};
use serde_json::Value;

pub fn probe(value: &Value, container: &Value) -> Option<Probe> {
    let number = |field: &str, default: u32| match seconds(&value[field]) {
        None | Some(0) => default,
        Some(number) => number,
    };
    Some(Probe {
        handler: handler(value, container)?,
        initial_delay_s: seconds(&value["initialDelaySeconds"]).unwrap_or_default(),
        timeout_s: number("timeoutSeconds", 1),
        period_s: number("periodSeconds", 10),
        success_threshold: number("successThreshold", 1),
        failure_threshold: number("failureThreshold", 3),
        grace_s: seconds(&value["terminationGracePeriodSeconds"]),
    })
}

/// `None` when nothing is asked for. A port name that the container does not have becomes port 0, which fails.
pub fn handler(value: &Value, container: &Value) -> Option<Handler> {
    let port = |target: &Value| port_number(target, container);
    let (http, tcp, grpc) = (&value["httpGet"], &value["tcpSocket"], &value["grpc"]);
    if !value["exec"].is_null() {
        let command = items(&value["exec"]["command"]).iter().map(string).collect();
        return Some(Handler::Exec { command });
    }
    if !http.is_null() {
        let header = |h: &Value| HttpHeader { name: string(&h["name"]), value: string(&h["value"]) };
        let path = Some(string(&http["path"])).filter(|path| !path.is_empty());
        return Some(Handler::Http {
            host: string(&http["host"]),
            port: port(&http["port"]),
            path: path.unwrap_or_else(|| "/".to_owned()),
            tls: text(&http["scheme"]).eq_ignore_ascii_case("https"),
            headers: items(&http["httpHeaders"]).iter().map(header).collect(),
        });
    }
    if !tcp.is_null() {
        return Some(Handler::Tcp { host: string(&tcp["host"]), port: port(&tcp["port"]) });
    }
    if !grpc.is_null() {
        return Some(Handler::Grpc { port: port(&grpc["port"]), service: string(&grpc["service"]) });
    }
    let sleep = seconds(&value["sleep"]["seconds"])?;
    Some(Handler::Sleep { seconds: sleep })
}

fn port_number(target: &Value, container: &Value) -> u16 {
    let named = |name: &str| {
        let port = items(&container["ports"]).iter().find(|port| text(&port["name"]) == name);
        port.and_then(|port| port["containerPort"].as_i64()).or_else(|| name.parse().ok())
    };
    let number = target.as_i64().or_else(|| named(text(target))).unwrap_or_default();
    u16::try_from(number).unwrap_or_default()
}
