//! The parts of every object that this layer itself reads and writes: refused early when they are not what they have
//! to be, so that everything after may rely on them.

use api::Status;
use serde_json::Value;

/// Refuses an object whose metadata, spec or status cannot be ones; takes out nulls, which mean nothing.
pub fn check(object: &mut Value) -> Result<(), Status> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Status::bad_request("the object is not a JSON object"));
    };
    for field in ["metadata", "spec", "status"] {
        match fields.get(field) {
            Some(Value::Null) => drop(fields.remove(field)),
            Some(value) if !value.is_object() => return Err(wrong(field, value, "an object")),
            _ => {}
        }
    }
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else { return Ok(()) };
    metadata.retain(|_, value| !value.is_null());
    for (field, value) in metadata.iter() {
        let (right, expected) = match field.as_str() {
            "labels" | "annotations" => (is_string_map(value), "a map of strings"),
            "finalizers" => (is_list(value, Value::is_string), "a list of strings"),
            "ownerReferences" | "managedFields" => (is_list(value, Value::is_object), "a list of objects"),
            "generation" | "deletionGracePeriodSeconds" => (value.is_i64(), "a number"),
            "name" | "namespace" | "generateName" | "uid" | "resourceVersion" | "selfLink"
            | "creationTimestamp" | "deletionTimestamp" => (value.is_string(), "a string"),
            _ => (true, ""),
        };
        if !right {
            return Err(wrong(&format!("metadata.{field}"), value, expected));
        }
    }
    Ok(())
}

fn is_string_map(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.values().all(Value::is_string))
}

fn is_list(value: &Value, item: fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(item))
}

fn wrong(field: &str, value: &Value, expected: &str) -> Status {
    let shown: String = value.to_string().chars().take(64).collect();
    Status::bad_request(format!("json: cannot unmarshal {shown} into field {field}: it has to be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shapes() {
        for (object, expected) in [
            (json!({"metadata": {"name": "a", "labels": {"k": "v"}}, "spec": null}), None),
            (json!([]), Some("the object is not a JSON object")),
            (json!({"spec": "text"}), Some("field spec: it has to be an object")),
            (
                json!({"metadata": {"labels": {"k": 1}}}),
                Some("field metadata.labels: it has to be a map of strings"),
            ),
            (
                json!({"metadata": {"finalizers": [1]}}),
                Some("field metadata.finalizers: it has to be a list of strings"),
            ),
            (
                json!({"metadata": {"name": 7}}),
                Some("unmarshal 7 into field metadata.name: it has to be a string"),
            ),
        ] {
            let refusal = check(&mut object.clone()).err().map(|status| status.message);
            let found = refusal.as_deref().unwrap_or_default();
            assert!(found.contains(expected.unwrap_or_default()), "{object}: {found}");
            assert_eq!(refusal.is_some(), expected.is_some(), "{object}: {found}");
        }
    }
}
