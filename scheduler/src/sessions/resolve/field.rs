//! The downward API: fields of the pod itself, and resources of its containers.

use super::Context;
use crate::controllers::{
    object::{items, string, text},
    world::amount::{millis, whole},
};
use agent_protocol::DownwardField;
use serde_json::Value;

/// A field's value, or which one the node has to fill in.
pub enum FieldValue {
    Text(String),
    OnNode(DownwardField),
}

impl Context<'_> {
    /// Reads a `fieldRef`.
    pub fn field(&self, reference: &Value) -> Result<FieldValue, String> {
        let (meta, spec) = (&self.object["metadata"], &self.object["spec"]);
        let path = text(&reference["fieldPath"]);
        let value = match path {
            "metadata.name" => string(&meta["name"]),
            "metadata.namespace" => string(&meta["namespace"]),
            "metadata.uid" => string(&meta["uid"]),
            "metadata.labels" => quoted(&meta["labels"]),
            "metadata.annotations" => quoted(&meta["annotations"]),
            "spec.nodeName" => string(&spec["nodeName"]),
            "spec.serviceAccountName" => string(&spec["serviceAccountName"]),
            "status.podIP" => return Ok(FieldValue::OnNode(DownwardField::PodIp)),
            "status.podIPs" => return Ok(FieldValue::OnNode(DownwardField::PodIps)),
            "status.hostIP" => return Ok(FieldValue::OnNode(DownwardField::HostIp)),
            "status.hostIPs" => return Ok(FieldValue::OnNode(DownwardField::HostIps)),
            _ => match subscript(path) {
                Some(("metadata.labels", key)) => string(&meta["labels"][key]),
                Some(("metadata.annotations", key)) => string(&meta["annotations"][key]),
                _ => return Err(format!("unsupported fieldPath: {path}")),
            },
        };
        Ok(FieldValue::Text(value))
    }

    /// Reads a `resourceFieldRef`, in units of its divisor, rounded up. A limit nobody set is the node's.
    pub fn resource_field(&self, reference: &Value, container: &Value) -> Result<String, String> {
        let name = text(&reference["containerName"]);
        let spec = &self.object["spec"];
        let all = items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
        let container = if name.is_empty() {
            Some(container)
        } else {
            all.into_iter().find(|c| text(&c["name"]) == name)
        };
        let container = container.ok_or_else(|| format!("container {name} not found"))?;
        let resource = text(&reference["resource"]);
        let (kind, what) =
            resource.split_once('.').ok_or_else(|| format!("unsupported container resource : {resource}"))?;
        let resources = &container["resources"];
        let (read, node): (fn(&Value) -> u64, u64) = match what {
            "cpu" => (millis, self.sources.node.cpu_millis),
            "memory" => (whole, self.sources.node.memory_bytes),
            "ephemeral-storage" => (whole, self.sources.node.ephemeral_bytes),
            _ => return Err(format!("unsupported container resource : {resource}")),
        };
        let amount = match (kind, read(&resources["limits"][what])) {
            ("limits", 0) => node,
            ("limits", limit) => limit,
            _ => read(&resources["requests"][what]),
        };
        let divisor = match read(&reference["divisor"]) {
            0 if what == "cpu" => 1000,
            0 => 1,
            divisor => divisor,
        };
        Ok(amount.div_ceil(divisor).to_string())
    }
}

/// `metadata.labels['key']` as path and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, rest) = path.split_once('[')?;
    Some((field, rest.strip_suffix(']')?.trim_matches(['\'', '"'])))
}

/// A map as the downward API writes it: `key="value"` lines, sorted.
fn quoted(map: &Value) -> String {
    let map = crate::controllers::object::string_map(map);
    let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}
