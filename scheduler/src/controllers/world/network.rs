//! Services and EndpointSlices.

use super::{meta::Meta, selector::Selector};
use crate::controllers::object::{int, items, string, text};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    pub meta: Meta,
    /// `None`: the endpoints are somebody else's business.
    pub selector: Option<Selector>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`.
    pub kind: String,
    /// Empty until allocated; `None` for a headless one.
    pub cluster_ip: String,
    pub external_name: String,
    pub publish_not_ready: bool,
    /// `sessionAffinity: ClientIP`.
    pub affinity_s: Option<i64>,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: i64,
    /// Number or name.
    pub target: Value,
    pub node_port: i64,
    pub app_protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSlice {
    pub meta: Meta,
    /// From the label `kubernetes.io/service-name`.
    pub service: String,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<SlicePort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub hostname: String,
    pub node: String,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Name and uid of the pod behind it.
    pub target: Option<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    pub name: String,
    pub protocol: String,
    pub port: i64,
    pub app_protocol: Option<String>,
}

impl Service {
    pub fn parse(object: &Value, revision: u64) -> Self {
        let spec = &object["spec"];
        let selector = Selector::from_map(&spec["selector"]);
        let affinity = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
        Self {
            meta: Meta::parse(object, revision),
            selector: (!selector.is_empty()).then_some(selector),
            kind: string(&spec["type"]),
            cluster_ip: string(&spec["clusterIP"]),
            external_name: string(&spec["externalName"]),
            publish_not_ready: spec["publishNotReadyAddresses"] == true,
            affinity_s: (text(&spec["sessionAffinity"]) == "ClientIP")
                .then(|| affinity.as_i64().unwrap_or(10_800)),
            ports: items(&spec["ports"]).iter().map(ServicePort::parse).collect(),
        }
    }

    pub fn is_headless(&self) -> bool {
        self.cluster_ip == "None"
    }

    pub fn is_external(&self) -> bool {
        self.kind == "ExternalName"
    }
}

impl ServicePort {
    fn parse(value: &Value) -> Self {
        let target = &value["targetPort"];
        Self {
            name: string(&value["name"]),
            protocol: Some(string(&value["protocol"])).filter(|p| !p.is_empty()).unwrap_or("TCP".into()),
            port: int(&value["port"]),
            target: if target.is_null() || *target == 0 { value["port"].clone() } else { target.clone() },
            node_port: int(&value["nodePort"]),
            app_protocol: value["appProtocol"].as_str().map(str::to_owned),
        }
    }
}

impl EndpointSlice {
    pub fn parse(object: &Value, revision: u64) -> Self {
        let meta = Meta::parse(object, revision);
        Self {
            service: meta.labels.get("kubernetes.io/service-name").cloned().unwrap_or_default(),
            meta,
            endpoints: items(&object["endpoints"]).iter().map(Endpoint::parse).collect(),
            ports: items(&object["ports"]).iter().map(SlicePort::parse).collect(),
        }
    }
}

impl Endpoint {
    fn parse(value: &Value) -> Self {
        let (conditions, target) = (&value["conditions"], &value["targetRef"]);
        let ready = conditions["ready"] != false;
        Self {
            addresses: items(&value["addresses"]).iter().map(string).collect(),
            hostname: string(&value["hostname"]),
            node: string(&value["nodeName"]),
            ready,
            serving: conditions["serving"].as_bool().unwrap_or(ready),
            terminating: conditions["terminating"] == true,
            target: (text(&target["kind"]) == "Pod")
                .then(|| (string(&target["name"]), string(&target["uid"]))),
        }
    }
}

impl SlicePort {
    fn parse(value: &Value) -> Self {
        Self {
            name: string(&value["name"]),
            protocol: string(&value["protocol"]),
            port: int(&value["port"]),
            app_protocol: value["appProtocol"].as_str().map(str::to_owned),
        }
    }
}
