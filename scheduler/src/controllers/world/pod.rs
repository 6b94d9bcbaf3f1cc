//! A pod as controllers, placement and sessions see it.

use super::{
    amount::{Amounts, pod_requests},
    meta::Meta,
    selector::Requirement,
};
use crate::controllers::object::{canonical_hash, int, items, string, string_map, text, time_s};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub meta: Meta,
    /// Empty until it is bound.
    pub node: String,
    pub phase: Phase,
    pub ready: bool,
    /// Since when the Ready condition is what it is.
    pub ready_since_s: Option<i64>,
    pub ips: Vec<String>,
    pub restarts: i64,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i64,
    pub hostname: String,
    pub subdomain: String,
    pub host_network: bool,
    /// Reason of a false PodScheduled condition, with its message.
    pub unscheduled: Option<(String, String)>,
    pub placement: Placement,
    pub ports: Vec<NamedPort>,
    /// Changes when what the node has to know changes.
    pub desired_hash: u64,
    pub references: BTreeSet<Reference>,
}

/// What decides where a pod may run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    pub scheduler: String,
    pub gated: bool,
    pub priority: i64,
    pub requests: Amounts,
    pub node_selector: BTreeMap<String, String>,
    /// Any of these terms has to hold; `None` when there is no requirement.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<Toleration>,
    pub host_ports: Vec<HostPort>,
}

/// All of these have to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeTerm {
    pub labels: Vec<Requirement>,
    /// On `metadata.name`.
    pub fields: Vec<Requirement>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Toleration {
    /// Empty: every key.
    pub key: String,
    /// `None`: `operator: Exists`.
    pub value: Option<String>,
    /// Empty: every effect.
    pub effect: String,
    pub seconds: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i64,
}

/// A container port that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    pub name: String,
    pub protocol: String,
    pub number: i64,
}

/// A ConfigMap or Secret a pod refers to, in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    ConfigMap(String),
    Secret(String),
}

impl Pod {
    pub fn parse(object: &Value, revision: u64) -> Self {
        let (spec, status) = (&object["spec"], &object["status"]);
        let condition = |kind: &str| items(&status["conditions"]).iter().find(|c| text(&c["type"]) == kind);
        let ready = condition("Ready");
        let cost = &object["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
        Self {
            meta: Meta::parse(object, revision),
            node: string(&spec["nodeName"]),
            phase: parse_phase(text(&status["phase"])),
            ready: ready.is_some_and(|c| text(&c["status"]) == "True"),
            ready_since_s: ready.and_then(|c| time_s(&c["lastTransitionTime"])),
            ips: parse_ips(status),
            restarts: items(&status["containerStatuses"]).iter().map(|c| int(&c["restartCount"])).sum(),
            deletion_cost: text(cost).parse().unwrap_or_default(),
            hostname: string(&spec["hostname"]),
            subdomain: string(&spec["subdomain"]),
            host_network: spec["hostNetwork"] == true,
            unscheduled: condition("PodScheduled")
                .filter(|c| text(&c["status"]) == "False")
                .map(|c| (string(&c["reason"]), string(&c["message"]))),
            placement: Placement::parse(spec),
            ports: items(&spec["containers"])
                .iter()
                .chain(
                    items(&spec["initContainers"]).iter().filter(|c| text(&c["restartPolicy"]) == "Always"),
                )
                .flat_map(|c| items(&c["ports"]))
                .filter(|port| !text(&port["name"]).is_empty())
                .map(|port| NamedPort {
                    name: string(&port["name"]),
                    protocol: protocol(port),
                    number: int(&port["containerPort"]),
                })
                .collect(),
            desired_hash: desired_hash(object),
            references: references(spec),
        }
    }

    /// Neither finished nor being deleted: counts towards a controller's replicas.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.meta.is_deleting()
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Ready for at least `min_ready_s`.
    pub fn is_available(&self, min_ready_s: i64, now_s: i64) -> bool {
        self.ready && (min_ready_s == 0 || self.ready_since_s.is_some_and(|at| at + min_ready_s <= now_s))
    }

    /// The port a target names: a number, or the name of a container port of that protocol.
    pub fn port(&self, target: &Value, wanted_protocol: &str) -> Option<i64> {
        let by_name = |name: &str| {
            self.ports.iter().find(|p| p.name == name && p.protocol == wanted_protocol).map(|p| p.number)
        };
        target.as_i64().or_else(|| by_name(text(target)))
    }
}

impl Placement {
    fn parse(spec: &Value) -> Self {
        let affinity = &spec["affinity"]["nodeAffinity"];
        let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        let host_ports = items(&spec["containers"])
            .iter()
            .flat_map(|container| items(&container["ports"]))
            .filter(|port| int(&port["hostPort"]) > 0)
            .map(|port| HostPort {
                ip: Some(text(&port["hostIP"])).filter(|ip| *ip != "0.0.0.0").unwrap_or_default().into(),
                protocol: protocol(port),
                port: int(&port["hostPort"]),
            });
        Self {
            scheduler: string(&spec["schedulerName"]),
            gated: !items(&spec["schedulingGates"]).is_empty(),
            priority: int(&spec["priority"]),
            requests: pod_requests(spec),
            node_selector: string_map(&spec["nodeSelector"]),
            required: required.as_array().map(|terms| terms.iter().map(NodeTerm::parse).collect()),
            preferred: items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .map(|term| (int(&term["weight"]), NodeTerm::parse(&term["preference"])))
                .collect(),
            tolerations: items(&spec["tolerations"]).iter().map(Toleration::parse).collect(),
            host_ports: host_ports.collect(),
        }
    }
}

impl NodeTerm {
    fn parse(value: &Value) -> Self {
        let list = |field: &str| items(&value[field]).iter().map(Requirement::parse).collect();
        Self { labels: list("matchExpressions"), fields: list("matchFields") }
    }

    /// A term without any condition matches nothing.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        !(self.labels.is_empty() && self.fields.is_empty())
            && self.labels.iter().all(|requirement| requirement.matches(labels))
            && self.fields.iter().all(|requirement| requirement.matches_value(Some(name)))
    }
}

impl Toleration {
    fn parse(value: &Value) -> Self {
        let exists = text(&value["operator"]) == "Exists";
        Self {
            key: string(&value["key"]),
            value: (!exists).then(|| string(&value["value"])),
            effect: string(&value["effect"]),
            seconds: value["tolerationSeconds"].as_i64(),
        }
    }
}

fn protocol(port: &Value) -> String {
    Some(text(&port["protocol"])).filter(|p| !p.is_empty()).unwrap_or("TCP").to_owned()
}

fn parse_phase(phase: &str) -> Phase {
    match phase {
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        "Unknown" => Phase::Unknown,
        _ => Phase::Pending,
    }
}

fn parse_ips(status: &Value) -> Vec<String> {
    let listed: Vec<String> = items(&status["podIPs"]).iter().map(|ip| string(&ip["ip"])).collect();
    if !listed.is_empty() {
        return listed;
    }
    status["podIP"].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned).into_iter().collect()
}

fn desired_hash(object: &Value) -> u64 {
    let meta = &object["metadata"];
    let relevant = [
        &object["spec"],
        &meta["labels"],
        &meta["annotations"],
        &meta["deletionTimestamp"],
        &meta["deletionGracePeriodSeconds"],
    ];
    relevant.iter().fold(0u64, |hash, value| hash.rotate_left(7) ^ canonical_hash(value))
}

fn references(spec: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut add = |make: fn(String) -> Reference, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            found.insert(make(name.to_owned()));
        }
    };
    for container in items(&spec["containers"]).iter().chain(items(&spec["initContainers"])) {
        for from in items(&container["envFrom"]) {
            add(Reference::ConfigMap, &from["configMapRef"]["name"]);
            add(Reference::Secret, &from["secretRef"]["name"]);
        }
        for from in items(&container["env"]).iter().map(|env| &env["valueFrom"]) {
            add(Reference::ConfigMap, &from["configMapKeyRef"]["name"]);
            add(Reference::Secret, &from["secretKeyRef"]["name"]);
        }
    }
    for volume in items(&spec["volumes"]) {
        add(Reference::ConfigMap, &volume["configMap"]["name"]);
        add(Reference::Secret, &volume["secret"]["secretName"]);
        for source in items(&volume["projected"]["sources"]) {
            add(Reference::ConfigMap, &source["configMap"]["name"]);
            add(Reference::Secret, &source["secret"]["name"]);
        }
    }
    for secret in items(&spec["imagePullSecrets"]) {
        add(Reference::Secret, &secret["name"]);
    }
    found
}
