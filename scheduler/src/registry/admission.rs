//! What the control plane itself sets on objects that are written.

use super::is;
use api::{Resource, resource};
use serde_json::{Value, json};

/// Seconds a pod stays on a node that is not ready or not reachable.
const NODE_TOLERATION_S: u32 = 300;

/// Sets defaults and what only the control plane decides on a new object.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    if resource.status && !is(resource, &resource::NODES) {
        object["status"] = json!({});
    }
    if is(resource, &resource::NAMESPACES) {
        prepare_namespace(object);
    }
    if is(resource, &resource::PODS) {
        prepare_pod(object);
    }
    api::set_defaults(resource, object);
    if is(resource, &resource::PODS) {
        object["status"] = json!({"phase": "Pending", "qosClass": api::qos_class(object)});
    }
}

/// Sets defaults, and keeps what an update may leave out but never takes away.
pub fn prepare_update(resource: &Resource, old: &Value, new: &mut Value) {
    if is(resource, &resource::NAMESPACES) {
        let name = old["metadata"]["name"].clone();
        new["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    }
    api::set_defaults(resource, new);
}

fn prepare_namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    object["spec"]["finalizers"] = json!(["kubernetes"]);
    object["status"] = json!({"phase": "Active"});
}

fn prepare_pod(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.entry("priority").or_insert(json!(0));
    spec.entry("preemptionPolicy").or_insert(json!("PreemptLowerPriority"));
    let account = spec.entry("serviceAccountName").or_insert(json!("default")).clone();
    spec.entry("serviceAccount").or_insert(account);
    let tolerations = spec.entry("tolerations").or_insert(json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerations.iter().any(|toleration| tolerates_no_execute(toleration, key)) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                                    "tolerationSeconds": NODE_TOLERATION_S}));
        }
    }
}

fn tolerates_no_execute(toleration: &Value, key: &str) -> bool {
    let unset_or =
        |field: &str, value: &str| toleration[field].as_str().is_none_or(|v| v.is_empty() || v == value);
    unset_or("key", key) && unset_or("effect", "NoExecute")
}
