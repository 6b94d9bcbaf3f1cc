//! Deployments and ReplicaSets. They keep the object's bytes beside the parsed fields: pods and ReplicaSets are made
//! from the template in them.

use super::{meta::Meta, selector::Selector};
use crate::controllers::object::{canonical_hash, int, items, string, string_map, text, time_s};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// Label that tells the pods of one ReplicaSet of a Deployment from another's.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaSet {
    pub meta: Meta,
    pub annotations: BTreeMap<String, String>,
    pub replicas: i64,
    pub min_ready_s: i64,
    pub selector: Selector,
    /// Hash of the template without [`POD_TEMPLATE_HASH`].
    pub template_hash: u64,
    pub template_labels: BTreeMap<String, String>,
    pub status: ReplicaSetStatus,
    pub raw: Arc<[u8]>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaSetStatus {
    pub replicas: i64,
    pub fully_labeled: i64,
    pub ready: i64,
    pub available: i64,
    pub terminating: i64,
    pub observed_generation: i64,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deployment {
    pub meta: Meta,
    pub annotations: BTreeMap<String, String>,
    pub replicas: i64,
    pub min_ready_s: i64,
    pub selector: Selector,
    /// Hash of the template.
    pub template_hash: u64,
    pub paused: bool,
    /// `None`: strategy Recreate.
    pub rolling: Option<RollingUpdate>,
    pub history_limit: i64,
    /// `None`: progress is not judged.
    pub progress_deadline_s: Option<i64>,
    pub status: DeploymentStatus,
    pub raw: Arc<[u8]>,
}

/// Numbers or percentages, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct RollingUpdate {
    pub max_surge: Value,
    pub max_unavailable: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentStatus {
    pub observed_generation: i64,
    pub replicas: i64,
    pub updated: i64,
    pub ready: i64,
    pub available: i64,
    pub unavailable: i64,
    pub terminating: i64,
    pub collisions: Option<i64>,
    pub conditions: Vec<Condition>,
}

/// One of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    pub reason: String,
    pub message: String,
    pub updated_s: i64,
    pub changed_s: i64,
}

impl ReplicaSet {
    pub fn parse(object: &Value, revision: u64, raw: Arc<[u8]>) -> Self {
        let (spec, status) = (&object["spec"], &object["status"]);
        Self {
            meta: Meta::parse(object, revision),
            annotations: string_map(&object["metadata"]["annotations"]),
            replicas: spec["replicas"].as_i64().unwrap_or(1),
            min_ready_s: int(&spec["minReadySeconds"]),
            selector: Selector::parse(&spec["selector"]),
            template_hash: template_hash(&spec["template"]),
            template_labels: string_map(&spec["template"]["metadata"]["labels"]),
            status: ReplicaSetStatus {
                replicas: int(&status["replicas"]),
                fully_labeled: int(&status["fullyLabeledReplicas"]),
                ready: int(&status["readyReplicas"]),
                available: int(&status["availableReplicas"]),
                terminating: int(&status["terminatingReplicas"]),
                observed_generation: int(&status["observedGeneration"]),
                conditions: items(&status["conditions"]).iter().map(Condition::parse).collect(),
            },
            raw,
        }
    }

    /// The whole object again.
    pub fn object(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap_or_default()
    }
}

impl Deployment {
    pub fn parse(object: &Value, revision: u64, raw: Arc<[u8]>) -> Self {
        let (spec, status) = (&object["spec"], &object["status"]);
        let strategy = &spec["strategy"];
        let rolling = &strategy["rollingUpdate"];
        let quarter = |value: &Value| if value.is_null() { "25%".into() } else { value.clone() };
        Self {
            meta: Meta::parse(object, revision),
            annotations: string_map(&object["metadata"]["annotations"]),
            replicas: spec["replicas"].as_i64().unwrap_or(1),
            min_ready_s: int(&spec["minReadySeconds"]),
            selector: Selector::parse(&spec["selector"]),
            template_hash: template_hash(&spec["template"]),
            paused: spec["paused"] == true,
            rolling: (text(&strategy["type"]) != "Recreate").then(|| RollingUpdate {
                max_surge: quarter(&rolling["maxSurge"]),
                max_unavailable: quarter(&rolling["maxUnavailable"]),
            }),
            history_limit: spec["revisionHistoryLimit"].as_i64().unwrap_or(10),
            progress_deadline_s: Some(spec["progressDeadlineSeconds"].as_i64().unwrap_or(600))
                .filter(|&seconds| seconds < i64::from(i32::MAX)),
            status: DeploymentStatus {
                observed_generation: int(&status["observedGeneration"]),
                replicas: int(&status["replicas"]),
                updated: int(&status["updatedReplicas"]),
                ready: int(&status["readyReplicas"]),
                available: int(&status["availableReplicas"]),
                unavailable: int(&status["unavailableReplicas"]),
                terminating: int(&status["terminatingReplicas"]),
                collisions: status["collisionCount"].as_i64(),
                conditions: items(&status["conditions"]).iter().map(Condition::parse).collect(),
            },
            raw,
        }
    }

    /// The whole object again.
    pub fn object(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap_or_default()
    }
}

impl Condition {
    pub fn parse(value: &Value) -> Self {
        let changed_s = time_s(&value["lastTransitionTime"]).unwrap_or_default();
        Self {
            kind: string(&value["type"]),
            status: string(&value["status"]),
            reason: string(&value["reason"]),
            message: string(&value["message"]),
            updated_s: time_s(&value["lastUpdateTime"]).unwrap_or(changed_s),
            changed_s,
        }
    }
}

/// Fields whose zero value clients leave out when they write an object back.
const ZERO_IS_ABSENT: [&str; 11] = [
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "optional",
    "priority",
];

/// Hash of what a pod template means: without the label that is derived from it, and without what says nothing
/// (`null`, `{}`, `[]`, `""`), because a client that writes a template back leaves that out or puts it in.
pub fn template_hash(template: &Value) -> u64 {
    let mut template = template.clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(POD_TEMPLATE_HASH);
    }
    prune(&mut template);
    canonical_hash(&template)
}

/// Takes out what says nothing; true when nothing is left.
fn prune(value: &mut Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => {
            for item in &mut *list {
                prune(item);
            }
            list.is_empty()
        }
        Value::Object(map) => {
            map.retain(|key, value| {
                let zero = *value == false || *value == 0;
                !(prune(value) || (zero && ZERO_IS_ABSENT.contains(&key.as_str())))
            });
            map.is_empty()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_means_the_same_however_it_was_written() {
        let hash = |container: Value| {
            template_hash(&json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}}))
        };
        let plain = hash(json!({"name": "c", "image": "i"}));
        let cases = [
            (json!({"name": "c", "image": "i", "resources": {}, "env": [], "tty": false}), true),
            (json!({"image": "i", "name": "c", "workingDir": "", "lifecycle": null}), true),
            (json!({"name": "c", "image": "j"}), false),
            (json!({"name": "c", "image": "i", "securityContext": {"runAsUser": 0}}), false),
            (json!({"name": "c", "image": "i", "args": [""]}), false),
        ];
        for (container, same) in cases {
            assert_eq!(hash(container.clone()) == plain, same, "{container}");
        }
        let hashed = json!({"metadata": {"labels": {"app": "a", "pod-template-hash": "x"}, "creationTimestamp": null},
                            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(template_hash(&hashed), plain);
    }
}
