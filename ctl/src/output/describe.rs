//! An object in words: its fields one per line, nested by indentation.

use serde_json::Value;

/// The lines of `value`, without what only machines read.
pub fn describe(value: &Value) -> String {
    let mut text = String::new();
    let metadata = &value["metadata"];
    for (label, field) in [("Name", "name"), ("Namespace", "namespace")] {
        if let Some(name) = metadata[field].as_str() {
            text.push_str(&format!("{:14}{name}\n", format!("{label}:")));
        }
    }
    for field in ["labels", "annotations"] {
        let entries: Vec<String> = metadata[field]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| !name.ends_with("/last-applied-configuration"))
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        let shown =
            if entries.is_empty() { "<none>".to_owned() } else { entries.join(&format!("\n{:14}", "")) };
        text.push_str(&format!("{:14}{shown}\n", format!("{}:", title(field))));
    }
    if let Some(owner) = metadata["ownerReferences"].as_array().and_then(|owners| owners.first()) {
        let part = |field: &str| owner[field].as_str().unwrap_or_default();
        text.push_str(&format!("{:14}{}/{}\n", "Controlled By:", part("kind"), part("name")));
    }
    for (field, part) in value.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata"].contains(&field.as_str()) {
            entry(&mut text, field, part, 0);
        }
    }
    text
}

/// Objects that say nothing when they are empty, unlike `emptyDir: {}`.
const EMPTY_IS_ABSENT: [&str; 3] = ["lastState", "resources", "securityContext"];

fn entry(text: &mut String, field: &str, value: &Value, depth: usize) {
    let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
    if value.is_null() || is_empty && EMPTY_IS_ABSENT.contains(&field) {
        return;
    }
    let indent = "  ".repeat(depth);
    let label = title(field);
    match value {
        Value::Object(map) if map.is_empty() => text.push_str(&format!("{indent}{label}:  {{}}\n")),
        Value::Object(map) => {
            text.push_str(&format!("{indent}{label}:\n"));
            map.iter().for_each(|(field, value)| entry(text, field, value, depth + 1));
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            text.push_str(&format!("{indent}{label}:  {}\n", items.join(", ")));
        }
        Value::Array(items) => {
            text.push_str(&format!("{indent}{label}:\n"));
            for (index, item) in items.iter().enumerate() {
                let key =
                    ["name", "type", "mountPath", "port"].into_iter().find(|key| item.get(key).is_some());
                let heading = key.map_or_else(|| index.to_string(), |key| scalar(&item[key]));
                text.push_str(&format!("{indent}  {heading}:\n"));
                match item {
                    Value::Object(map) => map
                        .iter()
                        .filter(|(field, _)| Some(field.as_str()) != key)
                        .for_each(|(field, value)| entry(text, field, value, depth + 2)),
                    other => text.push_str(&format!("{indent}    {}\n", scalar(other))),
                }
            }
        }
        other => text.push_str(&format!("{indent}{label}:  {}\n", scalar(other))),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// `containerPort` as `Container Port`.
fn title(field: &str) -> String {
    let mut title = String::new();
    for (index, letter) in field.chars().enumerate() {
        if index == 0 {
            title.extend(letter.to_uppercase());
        } else {
            if letter.is_uppercase() && !title.ends_with(|last: char| last.is_uppercase()) {
                title.push(' ');
            }
            title.push(letter);
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_become_words() {
        let cases = [("containerPort", "Container Port"), ("podIP", "Pod IP"), ("name", "Name")];
        for (field, expected) in cases {
            assert_eq!(title(field), expected);
        }
    }

    #[test]
    fn nested_fields_are_indented() {
        let text = describe(&json!({
            "kind": "Pod", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"containers": [{"name": "web", "args": ["x", "y"], "resources": {}}], "nodeName": "n"},
        }));
        assert_eq!(
            text,
            "Name:         a\nNamespace:    b\nLabels:       <none>\nAnnotations:  <none>\nSpec:\n  Containers:\n    web:\n      Args:  x, y\n  Node Name:  n\n"
        );
    }
}
