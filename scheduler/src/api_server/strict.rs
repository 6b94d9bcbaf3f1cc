//! Which fields of an object its kind does not have, and whether those it has are of the right type.
//!
//! The object is read as the kind's Go-like struct and written again: what is lost was unknown.

use api::{Resource, Status};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Drops unknown fields and names them; refuses fields of a wrong type.
pub fn prune_unknown(resource: &Resource, object: &mut Value) -> Result<Vec<String>, Status> {
    quantities(object);
    let read = match (resource.group, resource.plural) {
        ("apps", "deployments") => round::<Deployment>,
        ("apps", "replicasets") => round::<ReplicaSet>,
        ("coordination.k8s.io", "leases") => round::<Lease>,
        ("discovery.k8s.io", "endpointslices") => round::<EndpointSlice>,
        ("", "configmaps") => round::<ConfigMap>,
        ("", "events") => round::<Event>,
        ("", "namespaces") => round::<Namespace>,
        ("", "nodes") => round::<Node>,
        ("", "pods") => round::<Pod>,
        ("", "secrets") => round::<Secret>,
        ("", "services") => round::<Service>,
        ("", "serviceaccounts") => round::<ServiceAccount>,
        _ => return Ok(Vec::new()),
    };
    complete(resource, object);
    let known = read(object).map_err(|error| {
        let kind = resource.kind;
        let version = resource.version;
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
    })?;
    let mut unknown = Vec::new();
    prune(object, &known, "", &mut unknown);
    Ok(unknown)
}

fn round<K: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(K::deserialize(object)?)
}

/// apiVersion and kind may be left out where the URL says them.
fn complete(resource: &Resource, object: &mut Value) {
    for (field, value) in [("apiVersion", resource.api_version()), ("kind", resource.kind.to_owned())] {
        if object[field].is_null() {
            object[field] = value.into();
        }
    }
}

/// Numbers where Kubernetes takes quantities, as in `cpu: 1`, are quantities.
fn quantities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match (key.as_str(), value) {
                    ("limits" | "requests" | "capacity" | "allocatable", Value::Object(amounts)) => {
                        for amount in amounts.values_mut().filter(|amount| amount.is_number()) {
                            *amount = amount.to_string().into();
                        }
                    }
                    ("sizeLimit" | "divisor", amount) if amount.is_number() => {
                        *amount = amount.to_string().into();
                    }
                    (_, value) => quantities(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(quantities),
        _ => {}
    }
}

fn prune(object: &mut Value, known: &Value, path: &str, unknown: &mut Vec<String>) {
    match (object, known) {
        (Value::Object(object), Value::Object(known)) => object.retain(|key, value| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match known.get(key) {
                Some(known) => prune(value, known, &path, unknown),
                // Null is the same as absent, and an empty list or map may be written as nothing.
                None if is_empty(value) => {}
                None => {
                    unknown.push(format!("unknown field {path:?}"));
                    return false;
                }
            }
            true
        }),
        (Value::Array(object), Value::Array(known)) => {
            for (index, (value, known)) in object.iter_mut().zip(known).enumerate() {
                prune(value, known, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::resource::PODS;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_named_and_dropped() {
        let mut pod = json!({"metadata": {"name": "p", "creationTimestamp": null}, "spec": {"containers": [
            {"name": "c", "imagee": "x", "resources": {"limits": {"cpu": 1}}, "command": []}], "foo": 1}});
        let unknown = prune_unknown(&PODS, &mut pod).expect("types are right");
        assert_eq!(unknown, [r#"unknown field "spec.containers[0].imagee""#, r#"unknown field "spec.foo""#]);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
        assert!(pod["spec"]["foo"].is_null());
        let mut wrong = json!({"metadata": {"name": "p"}, "spec": {"containers": "none"}});
        assert!(prune_unknown(&PODS, &mut wrong).is_err());
    }
}
