//! Strategic merge patch: a merge patch that knows which lists are maps, with directives.
//!
//! Source: Kubernetes `strategic-merge-patch.md` and apimachinery `strategicpatch`. Directives: `$patch: delete|replace|merge`,
//! `$retainKeys`, `$deleteFromPrimitiveList/FIELD`, `$setElementOrder/FIELD`; `null` deletes a field.

use super::{ListStrategy, PatchError, list_strategy};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies `patch` to `target`; on an error `target` may be half patched and is to be thrown away.
pub fn strategic(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("a strategic merge patch is an object".to_owned()));
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    merge_object(target.as_object_mut().expect("made an object above"), patch, &mut Vec::new())
}

fn merge_object<'a>(
    target: &mut Map<String, Value>,
    patch: &'a Map<String, Value>,
    path: &mut Vec<&'a str>,
) -> Result<(), PatchError> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            *target = patch
                .iter()
                .filter(|(field, _)| *field != DIRECTIVE)
                .map(|(f, v)| (f.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(PatchError::Malformed(format!(
                "$patch: {other:?}: allowed are delete, merge and replace"
            )));
        }
    }
    if let Some(Value::Array(keep)) = patch.get(RETAIN_KEYS) {
        target.retain(|field, _| keep.iter().any(|name| name == field));
    }
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix(DELETE_FROM) {
            delete_scalars(target.get_mut(list), value);
        } else if !field.starts_with('$') {
            path.push(field);
            merge_field(target, field, value, path)?;
            path.pop();
        }
    }
    for (field, order) in patch {
        if let Some(list) = field.strip_prefix(ORDER) {
            path.push(list);
            let strategy = list_strategy(path);
            path.pop();
            if let (Some(Value::Array(items)), Value::Array(order)) = (target.get_mut(list), order) {
                reorder(items, order, strategy);
            }
        }
    }
    Ok(())
}

fn merge_field<'a>(
    target: &mut Map<String, Value>,
    field: &str,
    value: &'a Value,
    path: &mut Vec<&'a str>,
) -> Result<(), PatchError> {
    match value {
        Value::Null => _ = target.remove(field),
        Value::Object(patch) => {
            let slot = target.entry(field).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            merge_object(slot.as_object_mut().expect("made an object above"), patch, path)?;
        }
        Value::Array(patch) => {
            let slot = target.entry(field).or_insert_with(|| Value::Array(Vec::new()));
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            merge_list(slot.as_array_mut().expect("made a list above"), patch, path)?;
        }
        scalar => _ = target.insert(field.to_owned(), scalar.clone()),
    }
    Ok(())
}

fn merge_list<'a>(
    target: &mut Vec<Value>,
    patch: &'a [Value],
    path: &mut Vec<&'a str>,
) -> Result<(), PatchError> {
    let replaces = |item: &Value| {
        item.get(DIRECTIVE).is_some_and(|directive| directive == "replace")
            && item.as_object().is_some_and(|o| o.len() == 1)
    };
    match list_strategy(path) {
        ListStrategy::Replace => *target = patch.to_vec(),
        _ if patch.iter().any(replaces) => {
            *target = patch.iter().filter(|item| !replaces(item)).cloned().collect()
        }
        ListStrategy::Set => {
            let new = patch.iter().filter(|item| !target.contains(item)).cloned().collect::<Vec<_>>();
            target.extend(new);
        }
        ListStrategy::MergeBy(key) => {
            for item in patch {
                merge_item(target, item, key, path)?;
            }
        }
    }
    Ok(())
}

fn merge_item<'a>(
    target: &mut Vec<Value>,
    item: &'a Value,
    key: &str,
    path: &mut Vec<&'a str>,
) -> Result<(), PatchError> {
    let Value::Object(patch) = item else {
        return Err(PatchError::Malformed(format!("{}: every item must be an object", path.join("."))));
    };
    let Some(id) = patch.get(key) else {
        return Err(PatchError::Malformed(format!("map: {item} does not contain declared merge key: {key}")));
    };
    if patch.get(DIRECTIVE).is_some_and(|directive| directive == "delete") {
        target.retain(|old| old.get(key) != Some(id));
        return Ok(());
    }
    match target.iter_mut().find(|old| old.get(key) == Some(id)).and_then(Value::as_object_mut) {
        Some(old) => merge_object(old, patch, path),
        None => {
            let mut new = Map::new();
            merge_object(&mut new, patch, path)?;
            target.push(Value::Object(new));
            Ok(())
        }
    }
}

fn delete_scalars(target: Option<&mut Value>, doomed: &Value) {
    if let (Some(Value::Array(items)), Value::Array(doomed)) = (target, doomed) {
        items.retain(|item| !doomed.contains(item));
    }
}

/// Puts `items` in the given order; what it does not name keeps its place behind the item it followed.
fn reorder(items: &mut [Value], order: &[Value], strategy: ListStrategy) {
    let same = |item: &Value, wanted: &Value| match strategy {
        ListStrategy::MergeBy(key) => item.get(key).is_some() && item.get(key) == wanted.get(key),
        _ => item == wanted,
    };
    let rank = |item: &Value| order.iter().position(|wanted| same(item, wanted));
    let mut named: Vec<Value> = items.iter().filter(|item| rank(item).is_some()).cloned().collect();
    named.sort_by_key(|item| rank(item));
    let mut named = named.into_iter();
    for item in items.iter_mut() {
        if rank(item).is_some()
            && let Some(next) = named.next()
        {
            *item = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_merge_by_key_and_obey_directives() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}], "args": ["p"]},
            {"name": "b", "image": "b:1"},
        ]}});
        let containers = |list: Value| json!({"spec": {"containers": list}});
        let cases = [
            (
                "an item is merged, a plain list replaced",
                containers(json!([{"name": "a", "image": "a:2", "args": ["q"]}])),
                json!([{"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}], "args": ["q"]}, {"name": "b", "image": "b:1"}]),
            ),
            (
                "an item is deleted, another added",
                containers(json!([{"name": "b", "$patch": "delete"}, {"name": "c"}])),
                json!([{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}], "args": ["p"]}, {"name": "c"}]),
            ),
            (
                "null deletes a field",
                containers(json!([{"name": "a", "env": null, "args": null}])),
                json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]),
            ),
            (
                "the list is replaced",
                containers(json!([{"$patch": "replace"}, {"name": "z"}])),
                json!([{"name": "z"}]),
            ),
            (
                "the order is set",
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
                json!([{"name": "b", "image": "b:1"}, {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}], "args": ["p"]}]),
            ),
        ];
        for (name, patch, expected) in cases {
            let mut target = pod.clone();
            strategic(&mut target, &patch).expect(name);
            assert_eq!(target["spec"]["containers"], expected, "{name}");
        }
    }

    #[test]
    fn maps_retain_keys_and_sets_lose_items() {
        let mut deployment = json!({
            "metadata": {"finalizers": ["x", "y"], "labels": {"a": "1"}},
            "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
        });
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"], "labels": {"a": null, "b": "2"}},
            "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
        });
        strategic(&mut deployment, &patch).expect("applies");
        assert_eq!(deployment["metadata"], json!({"finalizers": ["y", "z"], "labels": {"b": "2"}}));
        assert_eq!(deployment["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn what_is_no_patch_is_refused() {
        let mut target = json!({});
        for patch in
            [json!([]), json!({"$patch": "explode"}), json!({"spec": {"containers": [{"image": "a"}]}})]
        {
            assert!(strategic(&mut target, &patch).is_err(), "{patch}");
        }
    }
}
