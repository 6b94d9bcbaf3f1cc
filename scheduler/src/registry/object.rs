//! How an object is kept: its key, and its bytes without a resourceVersion.
//!
//! The bytes start with apiVersion, kind and metadata, in this order, so that the first `"metadata":{` is the object's
//! own and a reader can splice the resourceVersion in without parsing.

use crate::store::Revision;
use serde_json::{Map, Value, json};
use std::io::Write;

const METADATA: &[u8] = b"\"metadata\":{";

/// `/<resource>[.<group>]/` of a resource, and the namespace when one is asked for.
pub fn prefix(group: &str, plural: &str, namespace: Option<&str>) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("/{plural}{dot}{group}/{namespace}/"),
        _ => format!("/{plural}{dot}{group}/"),
    }
}

/// The key of one object; `namespace` is empty for cluster-scoped ones.
pub fn key(group: &str, plural: &str, namespace: &str, name: &str) -> String {
    let mut key = prefix(group, plural, Some(namespace));
    key.push_str(name);
    key
}

/// The bytes to store.
pub fn encode(object: &Value) -> Vec<u8> {
    let object = object.as_object().expect("objects were decoded as JSON objects");
    let mut bytes = Vec::with_capacity(512);
    bytes.push(b'{');
    for field in ["apiVersion", "kind"] {
        if let Some(value) = object.get(field) {
            put(&mut bytes, field, value);
        }
    }
    let mut metadata = object.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.remove("resourceVersion");
    put(&mut bytes, "metadata", &Value::Object(metadata));
    for (field, value) in object {
        if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
            put(&mut bytes, field, value);
        }
    }
    bytes.push(b'}');
    bytes
}

fn put(bytes: &mut Vec<u8>, field: &str, value: &Value) {
    if bytes.len() > 1 {
        bytes.push(b',');
    }
    serde_json::to_writer(&mut *bytes, field).expect("writing to memory does not fail");
    bytes.push(b':');
    serde_json::to_writer(&mut *bytes, value).expect("a JSON value has string keys");
}

/// The object as clients know it.
pub fn decode(bytes: &[u8], revision: Revision) -> Value {
    let mut object: Value = serde_json::from_slice(bytes).expect("the store holds what `encode` wrote");
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    object
}

/// Appends the stored bytes with the resourceVersion put in.
pub fn splice(out: &mut Vec<u8>, bytes: &[u8], revision: Revision) {
    let at = bytes.windows(METADATA.len()).position(|window| window == METADATA);
    let at = at.expect("the store holds what `encode` wrote") + METADATA.len();
    let comma = if bytes.get(at) == Some(&b'}') { "" } else { "," };
    out.extend_from_slice(&bytes[..at]);
    write!(out, "\"resourceVersion\":\"{revision}\"{comma}").expect("writing to memory does not fail");
    out.extend_from_slice(&bytes[at..]);
}

/// `metadata` of an object, made when it is missing.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("just made sure")
}

/// A string field of `metadata`; empty when it is missing.
pub fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spliced_bytes_are_the_object_with_its_revision() {
        for object in [
            json!({"data": {"metadata": "\"metadata\":{"}, "kind": "ConfigMap", "apiVersion": "v1",
                   "metadata": {"name": "a", "resourceVersion": "4"}}),
            json!({"aspec": {"metadata": {"name": "inner"}}, "kind": "X", "apiVersion": "g/v1", "metadata": {}}),
        ] {
            let bytes = encode(&object);
            let mut spliced = Vec::new();
            splice(&mut spliced, &bytes, 17);
            let spliced: Value = serde_json::from_slice(&spliced).expect("still JSON");
            assert_eq!(spliced, decode(&bytes, 17));
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = json!("17");
            assert_eq!(spliced, expected);
        }
    }

    #[test]
    fn keys_of_one_namespace_share_its_prefix_only() {
        assert_eq!(key("apps", "deployments", "n", "web"), "/deployments.apps/n/web");
        assert_eq!(key("", "nodes", "", "a"), "/nodes/a");
        assert!(!key("", "pods", "nn", "a").starts_with(&prefix("", "pods", Some("n"))));
    }
}
