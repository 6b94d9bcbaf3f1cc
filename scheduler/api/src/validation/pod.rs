//! Pods and pod templates.

use super::{forbidden, invalid, names, required, unsupported};
use crate::FieldError;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// A pod's spec at the path `at`.
pub fn spec(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let volumes = volumes(spec, at, errors);
    let containers = spec["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        errors.push(required(format!("{at}.containers"), ""));
    }
    let mut seen = HashSet::new();
    for field in ["initContainers", "containers"] {
        for (index, value) in spec[field].as_array().into_iter().flatten().enumerate() {
            let at = format!("{at}.{field}[{index}]");
            container(value, &at, &volumes, errors);
            let name = value["name"].as_str().unwrap_or_default();
            if !name.is_empty() && !seen.insert(name) {
                errors.push(duplicate(format!("{at}.name"), name));
            }
        }
    }
    one_of(spec, at, "restartPolicy", &["Always", "Never", "OnFailure"], errors);
    one_of(spec, at, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let message = format!(
            "Invalid value: {}: must be greater than or equal to 0",
            spec["terminationGracePeriodSeconds"]
        );
        errors.push(invalid(format!("{at}.terminationGracePeriodSeconds"), message));
    }
    users(spec, at, errors);
}

/// What does not go with `hostUsers: false`, and what does not go without.
fn users(spec: &Value, at: &str, errors: &mut Vec<FieldError>) {
    if spec["hostUsers"] == false {
        // The names are Kubernetes' own.
        for (field, named) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
        {
            if spec[field] == true {
                errors.push(forbidden(format!("{at}.{named}"), "when `pod.Spec.HostUsers` is false"));
            }
        }
        return;
    }
    for list in ["initContainers", "containers"] {
        for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            if container["securityContext"]["procMount"] == "Unmasked" {
                let field = format!("{at}.{list}[{index}].securityContext.procMount");
                let message = "Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`";
                errors.push(invalid(field, message.to_owned()));
            }
        }
    }
}

fn one_of(object: &Value, at: &str, field: &str, allowed: &[&str], errors: &mut Vec<FieldError>) {
    let value = object[field].as_str().unwrap_or_default();
    if !object[field].is_null() && !allowed.contains(&value) {
        let all: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
        errors.push(unsupported(format!("{at}.{field}"), value, &all.join(", ")));
    }
}

fn duplicate(field: String, value: &str) -> FieldError {
    FieldError { reason: "FieldValueDuplicate", field, message: format!("Duplicate value: {value:?}") }
}

fn volumes<'a>(spec: &'a Value, at: &str, errors: &mut Vec<FieldError>) -> HashSet<&'a str> {
    let mut found = HashSet::new();
    for (index, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}.volumes[{index}].name");
        names::label(at.clone(), &volume["name"], errors);
        let name = volume["name"].as_str().unwrap_or_default();
        if !name.is_empty() && !found.insert(name) {
            errors.push(duplicate(at, name));
        }
    }
    found
}

fn container(container: &Value, at: &str, volumes: &HashSet<&str>, errors: &mut Vec<FieldError>) {
    names::label(format!("{at}.name"), &container["name"], errors);
    if container["image"].as_str().unwrap_or_default().is_empty() {
        errors.push(required(format!("{at}.image"), ""));
    }
    one_of(container, at, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    for (index, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}.ports[{index}]");
        names::port(format!("{at}.containerPort"), &port["containerPort"], errors);
        names::protocol(format!("{at}.protocol"), &port["protocol"], errors);
    }
    for (index, env) in container["env"].as_array().into_iter().flatten().enumerate() {
        if env["name"].as_str().unwrap_or_default().is_empty() {
            errors.push(required(format!("{at}.env[{index}].name"), ""));
        }
    }
    for (index, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let name = mount["name"].as_str().unwrap_or_default();
        if !volumes.contains(name) {
            let (reason, message) = ("FieldValueNotFound", format!("Not found: {name:?}"));
            errors.push(FieldError { reason, field: format!("{at}.name"), message });
        }
        if mount["mountPath"].as_str().unwrap_or_default().is_empty() {
            errors.push(required(format!("{at}.mountPath"), ""));
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[field].is_object() {
            probe(&container[field], &format!("{at}.{field}"), errors);
        }
    }
}

fn probe(probe: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|handler| probe[**handler].is_object()).count() {
        0 => errors.push(required(at, "must specify a handler type")),
        1 => {}
        _ => errors.push(forbidden(at, "may not specify more than 1 handler type")),
    }
}

/// What of a pod's spec an update may change.
pub fn update(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if comparable(new) == comparable(old) {
        return;
    }
    let message = "Forbidden: pod updates may not change fields other than \
        `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
        additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
        previously negative)";
    let (reason, field) = ("FieldValueForbidden", "spec".into());
    errors.push(FieldError { reason, field, message: message.into() });
}

/// The spec without what may change.
fn comparable(pod: &Value) -> Map<String, Value> {
    let mut spec = pod["spec"].as_object().cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"] {
        spec.remove(field);
    }
    for field in ["containers", "initContainers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    spec
}
