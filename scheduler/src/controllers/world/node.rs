//! A node as controllers and placement see it.

use super::{amount::Amounts, meta::Meta};
use crate::controllers::object::{items, string, text, time_s};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub meta: Meta,
    pub allocatable: Amounts,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub pod_cidr: String,
    pub internal_ip: String,
    /// Status of the Ready condition: `True`, `False`, `Unknown`, or empty.
    pub ready: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
    pub added_s: Option<i64>,
}

impl Node {
    pub fn parse(object: &Value, revision: u64) -> Self {
        let (spec, status) = (&object["spec"], &object["status"]);
        let allocatable =
            if status["allocatable"].is_null() { &status["capacity"] } else { &status["allocatable"] };
        let ready = items(&status["conditions"]).iter().find(|c| text(&c["type"]) == "Ready");
        let address = items(&status["addresses"]).iter().find(|a| text(&a["type"]) == "InternalIP");
        Self {
            meta: Meta::parse(object, revision),
            allocatable: Amounts::parse(allocatable),
            taints: items(&spec["taints"]).iter().map(Taint::parse).collect(),
            unschedulable: spec["unschedulable"] == true,
            pod_cidr: string(&spec["podCIDR"]),
            internal_ip: address.map(|a| string(&a["address"])).unwrap_or_default(),
            ready: ready.map(|c| string(&c["status"])).unwrap_or_default(),
        }
    }
}

impl Node {
    /// What decides which pods it takes; a heartbeat does not change it.
    pub fn offer(&self) -> impl PartialEq + use<'_> {
        (self.allocatable, &self.taints, self.unschedulable, &self.ready, &self.meta.labels)
    }
}

impl Taint {
    pub fn parse(value: &Value) -> Self {
        Self {
            key: string(&value["key"]),
            value: string(&value["value"]),
            effect: string(&value["effect"]),
            added_s: time_s(&value["timeAdded"]),
        }
    }
}
