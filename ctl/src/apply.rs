//! Client-side apply: what to change so that an object is as its file says.
//!
//! As kubectl's: the file is kept in the annotation `kubectl.kubernetes.io/last-applied-configuration`; what the last file had and this
//! one has not is deleted, what this one has is merged, the rest (set by others) stays.

use serde_json::{Map, Value};

pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object with its own text in the annotation.
pub fn annotated(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{object}\n");
    object["metadata"]["annotations"][LAST_APPLIED] = Value::from(text);
    object
}

/// What the annotation of a live object holds; an object without one was never applied.
pub fn last_applied(live: &Value) -> Value {
    live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null)
}

/// A strategic merge patch: all of `wanted` that `live` lacks, and deletions of what only `last` had.
///
/// `merge_key(path)` gives the key that a list's items are told apart by, if they are merged at all.
pub fn patch(
    last: &Value,
    wanted: &Value,
    live: &Value,
    merge_key: &dyn Fn(&[&str]) -> Option<String>,
) -> Value {
    let mut patch = Map::new();
    diff_maps(last, wanted, live, &mut Vec::new(), merge_key, &mut patch);
    Value::Object(patch)
}

fn diff_maps<'a>(
    last: &'a Value,
    wanted: &'a Value,
    live: &Value,
    path: &mut Vec<&'a str>,
    merge_key: &dyn Fn(&[&str]) -> Option<String>,
    patch: &mut Map<String, Value>,
) {
    for (field, value) in wanted.as_object().into_iter().flatten() {
        path.push(field);
        if let Some(change) = diff(&last[field], value, &live[field], path, merge_key) {
            patch.insert(field.clone(), change);
        }
        path.pop();
    }
    for field in last.as_object().into_iter().flatten().map(|(field, _)| field) {
        if wanted.get(field).is_none() && live.get(field).is_some() {
            patch.insert(field.clone(), Value::Null);
        }
    }
}

fn diff<'a>(
    last: &'a Value,
    wanted: &'a Value,
    live: &Value,
    path: &mut Vec<&'a str>,
    merge_key: &dyn Fn(&[&str]) -> Option<String>,
) -> Option<Value> {
    match (wanted, live) {
        (Value::Object(_), Value::Object(_)) => {
            let mut patch = Map::new();
            diff_maps(last, wanted, live, path, merge_key, &mut patch);
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (Value::Array(items), Value::Array(_)) => match merge_key(path) {
            Some(key) => diff_items(last, items, live, &key, path, merge_key),
            None => (wanted != live).then(|| wanted.clone()),
        },
        _ => (wanted != live).then(|| wanted.clone()),
    }
}

fn diff_items<'a>(
    last: &'a Value,
    items: &'a [Value],
    live: &Value,
    key: &str,
    path: &mut Vec<&'a str>,
    merge_key: &dyn Fn(&[&str]) -> Option<String>,
) -> Option<Value> {
    let find = |list: &'_ Value, id: &Value| {
        list.as_array().into_iter().flatten().find(|item| item[key] == *id).cloned()
    };
    let mut patch = Vec::new();
    for item in items {
        let id = &item[key];
        let before =
            last.as_array().into_iter().flatten().find(|old| old[key] == *id).unwrap_or(&Value::Null);
        match find(live, id) {
            None => patch.push(item.clone()),
            Some(present) => {
                let mut change = Map::new();
                diff_maps(before, item, &present, path, merge_key, &mut change);
                if !change.is_empty() {
                    change.insert(key.to_owned(), id.clone());
                    patch.push(Value::Object(change));
                }
            }
        }
    }
    for old in last.as_array().into_iter().flatten() {
        let id = &old[key];
        if !items.iter().any(|item| item[key] == *id) && find(live, id).is_some() {
            patch.push(serde_json::json!({ key: id, "$patch": "delete" }));
        }
    }
    (!patch.is_empty()).then_some(Value::Array(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_files_say_changes() {
        let keys = |path: &[&str]| (path.last() == Some(&"env")).then(|| "name".to_owned());
        let cases = [
            ("no change, no patch", json!({"a": 1}), json!({"a": 1}), json!({"a": 1, "b": 2}), json!({})),
            (
                "dropped from the file",
                json!({"a": 1, "b": 1}),
                json!({"a": 1}),
                json!({"a": 1, "b": 1}),
                json!({"b": null}),
            ),
            (
                "set by others stays",
                json!({}),
                json!({"a": {"x": 1}}),
                json!({"a": {"x": 2, "y": 3}}),
                json!({"a": {"x": 1}}),
            ),
            (
                "plain lists are replaced",
                json!({"l": [1]}),
                json!({"l": [2]}),
                json!({"l": [1]}),
                json!({"l": [2]}),
            ),
            (
                "keyed lists are merged",
                json!({"env": [{"name": "a", "value": "1"}, {"name": "gone"}]}),
                json!({"env": [{"name": "a", "value": "2"}, {"name": "new"}]}),
                json!({"env": [{"name": "a", "value": "1"}, {"name": "gone"}, {"name": "other"}]}),
                json!({"env": [{"name": "a", "value": "2"}, {"name": "new"}, {"name": "gone", "$patch": "delete"}]}),
            ),
        ];
        for (name, last, wanted, live, expected) in cases {
            assert_eq!(patch(&last, &wanted, &live, &keys), expected, "{name}");
        }
    }
}
