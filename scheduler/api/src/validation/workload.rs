//! Deployments and ReplicaSets: selector, template, replicas and strategy.

use super::{invalid, names, pod, required, unsupported};
use crate::{FieldError, Resource};
use serde_json::Value;

pub fn spec(resource: &Resource, object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    if let Some(replicas) = spec["replicas"].as_i64().filter(|replicas| *replicas < 0) {
        let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        errors.push(invalid("spec.replicas", message));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    selector(&spec["selector"], labels, errors);
    names::labels("spec.template.metadata.labels", labels, errors);
    pod::spec(&spec["template"]["spec"], "spec.template.spec", errors);
    let restart = spec["template"]["spec"]["restartPolicy"].as_str();
    if let Some(other) = restart.filter(|policy| matches!(*policy, "Never" | "OnFailure")) {
        errors.push(unsupported("spec.template.spec.restartPolicy", other, r#""Always""#));
    }
    if resource.plural == "deployments" {
        strategy(&spec["strategy"], errors);
    }
}

fn selector(selector: &Value, labels: &Value, errors: &mut Vec<FieldError>) {
    let list = |field: &str| selector[field].as_array().map_or(&[][..], Vec::as_slice);
    let wanted = selector["matchLabels"].as_object();
    if wanted.is_none_or(serde_json::Map::is_empty) && list("matchExpressions").is_empty() {
        if selector.is_object() {
            let message = "Invalid value: {}: empty selector is invalid for deployment";
            errors.push(invalid("spec.selector", message));
        } else {
            errors.push(required("spec.selector", ""));
        }
        return;
    }
    let equal = wanted.into_iter().flatten().all(|(key, value)| labels[key.as_str()] == *value);
    let expressions = list("matchExpressions").iter().all(|expression| {
        let value = &labels[expression["key"].as_str().unwrap_or_default()];
        let named = expression["values"].as_array().is_some_and(|values| values.contains(value));
        match expression["operator"].as_str().unwrap_or_default() {
            "In" => named,
            "NotIn" => !named,
            "Exists" => !value.is_null(),
            "DoesNotExist" => value.is_null(),
            _ => false,
        }
    });
    if !equal || !expressions {
        let shown = if labels.is_null() { "{}".to_owned() } else { labels.to_string() };
        let message = format!("Invalid value: {shown}: `selector` does not match template `labels`");
        errors.push(invalid("spec.template.metadata.labels", message));
    }
}

fn strategy(strategy: &Value, errors: &mut Vec<FieldError>) {
    let kind = strategy["type"].as_str().unwrap_or_default();
    if !matches!(kind, "RollingUpdate" | "Recreate") {
        errors.push(unsupported("spec.strategy.type", kind, r#""Recreate", "RollingUpdate""#));
    }
    let zero = |field: &str| {
        let value = &strategy["rollingUpdate"][field];
        value == 0 || value == "0%" || value == "0"
    };
    if kind == "RollingUpdate" && zero("maxSurge") && zero("maxUnavailable") {
        let message = "Invalid value: 0: may not be 0 when `maxSurge` is 0";
        errors.push(invalid("spec.strategy.rollingUpdate.maxUnavailable", message));
    }
}
