//! A Service with its endpoints, as the nodes' proxies need it.

use crate::controllers::world::{Endpoint, NsName, ServicePort, SlicePort, World};
use agent_protocol::{Protocol, Service, ServicePort as Port};
use std::net::{Ipv4Addr, SocketAddr};

/// `None` when there is no such Service or nothing about it concerns a node.
pub fn message(world: &World, at: &NsName) -> Option<Service> {
    let service = world.services.get(at)?;
    let cluster_ip: Option<Ipv4Addr> = service.cluster_ip.parse().ok();
    if cluster_ip.is_none() && !service.is_headless() && !service.is_external() {
        return None;
    }
    let ports = service.ports.iter().filter_map(|port| {
        Some(Port {
            name: port.name.clone(),
            protocol: protocol(&port.protocol)?,
            port: u16::try_from(port.port).ok()?,
            node_port: u16::try_from(port.node_port).ok().filter(|&port| port > 0),
            endpoints: endpoints(world, at, port),
        })
    });
    let mut hosts: Vec<(String, Ipv4Addr)> = Vec::new();
    if service.is_headless() {
        for endpoint in world.slices_of(at).flat_map(|slice| &slice.endpoints).filter(|e| e.ready) {
            hosts.extend(addresses(endpoint).map(|ip| (endpoint.hostname.clone(), ip)));
        }
        hosts.sort();
        hosts.dedup();
    }
    Some(Service {
        namespace: at.namespace.clone(),
        name: at.name.clone(),
        cluster_ip,
        external_name: service.is_external().then(|| service.external_name.clone()),
        ports: ports.collect(),
        hosts,
        affinity_s: service.affinity_s.and_then(|seconds| u32::try_from(seconds).ok()),
    })
}

/// Ready endpoints; when there are none, those that still serve while they terminate.
fn endpoints(world: &World, at: &NsName, port: &ServicePort) -> Vec<SocketAddr> {
    let of = |wanted: fn(&Endpoint) -> bool| {
        let mut found: Vec<SocketAddr> = Vec::new();
        for slice in world.slices_of(at) {
            let matches = |p: &&SlicePort| p.name == port.name && p.protocol == port.protocol;
            let Some(number) = slice.ports.iter().find(matches).and_then(|p| u16::try_from(p.port).ok())
            else {
                continue;
            };
            let chosen = slice.endpoints.iter().filter(|endpoint| wanted(endpoint));
            found.extend(chosen.flat_map(addresses).map(|ip| SocketAddr::from((ip, number))));
        }
        found.sort();
        found.dedup();
        found
    };
    let ready = of(|endpoint| endpoint.ready);
    if ready.is_empty() { of(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = Ipv4Addr> {
    endpoint.addresses.iter().filter_map(|ip| ip.parse().ok())
}

fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn world(endpoints: Value) -> World {
        let mut world = World::default();
        let mut put = |key: &str, object: Value| {
            world.apply(key, 1, Some(&object.to_string().into_bytes().into()));
        };
        put(
            "/services/d/web",
            json!({"metadata": {"name": "web", "namespace": "d", "uid": "1"}, "spec": {
            "clusterIP": "10.96.0.7", "type": "NodePort",
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}}),
        );
        put(
            "/endpointslices.discovery.k8s.io/d/web-x",
            json!({
            "metadata": {"name": "web-x", "namespace": "d", "uid": "2",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}),
        );
        world
    }

    #[test]
    fn traffic_goes_to_ready_endpoints_and_else_to_those_that_drain() {
        let endpoint = |ip: &str, ready: bool, serving: bool, terminating: bool| {
            json!({"addresses": [ip], "conditions":
                {"ready": ready, "serving": serving, "terminating": terminating}})
        };
        let (up, draining, down) = (
            endpoint("10.0.0.1", true, true, false),
            endpoint("10.0.0.2", false, true, true),
            endpoint("10.0.0.3", false, false, false),
        );
        let cases = [
            (json!([up, draining, down]), vec!["10.0.0.1:8080"]),
            (json!([draining, down]), vec!["10.0.0.2:8080"]),
            (json!([down]), vec![]),
        ];
        for (endpoints, expected) in cases {
            let service = message(&world(endpoints.clone()), &NsName::new("d", "web")).expect("a service");
            let [port] = &service.ports[..] else { panic!("one port") };
            let found: Vec<String> = port.endpoints.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{endpoints}");
            assert_eq!((port.port, port.node_port), (80, Some(30080)));
        }
    }
}
