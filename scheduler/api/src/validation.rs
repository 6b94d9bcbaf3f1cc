//! What makes an object invalid, in Kubernetes' own words. Written for the kinds that are served today.

mod names;
mod pod;
mod workload;

use crate::{FieldError, Resource};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// What is wrong with a new, defaulted object.
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = names::metadata(resource, object);
    match (resource.group, resource.plural) {
        ("", "pods") => pod::spec(&object["spec"], "spec", &mut errors),
        ("apps", "deployments" | "replicasets") => workload::spec(resource, object, &mut errors),
        ("", "services") => service(&object["spec"], &mut errors),
        ("", "secrets") => {
            data_keys(object, "data", &mut errors);
        }
        ("", "configmaps") => {
            data_keys(object, "data", &mut errors);
            data_keys(object, "binaryData", &mut errors);
        }
        _ => {}
    }
    errors
}

/// What is wrong with `new` as a change of `old`.
pub fn validate_update(resource: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate_create(resource, new);
    match (resource.group, resource.plural) {
        ("", "pods") => pod::update(new, old, &mut errors),
        ("apps", "deployments" | "replicasets") if new["spec"]["selector"] != old["spec"]["selector"] => {
            let message = format!("Invalid value: {}: field is immutable", new["spec"]["selector"]);
            errors.push(invalid("spec.selector", message));
        }
        ("", "configmaps" | "secrets") if old["immutable"] == true => {
            for field in ["immutable", "data", "binaryData", "type"] {
                if new[field] != old[field] {
                    errors.push(forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
        }
        _ => {}
    }
    errors
}

/// What cannot be decoded at all: a Secret's data that is no base64.
pub fn undecodable(resource: &Resource, object: &Value) -> Option<String> {
    if resource.plural != "secrets" && resource.plural != "configmaps" {
        return None;
    }
    let field = if resource.plural == "secrets" { "data" } else { "binaryData" };
    let values = object[field].as_object().into_iter().flatten();
    let kind = resource.kind;
    values.into_iter().find_map(|(_, value)| {
        let text = value.as_str().unwrap_or_default();
        let plain: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        let at = match STANDARD.decode(&plain) {
            Ok(_) => return None,
            Err(base64::DecodeError::InvalidByte(at, _)) => at,
            Err(_) => plain.len() / 4 * 4,
        };
        Some(format!(
            "{kind} in version \"v1\" cannot be handled as a {kind}: illegal base64 data at input byte {at}"
        ))
    })
}

fn data_keys(object: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let key_ok = |key: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !key.is_empty()
            && key.len() <= 253
            && key.chars().all(allowed)
            && key != "."
            && !key.starts_with("..")
    };
    for (key, _) in object[field].as_object().into_iter().flatten().filter(|(key, _)| !key_ok(key)) {
        let message = format!(
            "Invalid value: {key:?}: a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
             'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
        );
        errors.push(invalid(format!("{field}[{key}]"), message));
    }
}

fn service(spec: &Value, errors: &mut Vec<FieldError>) {
    let kind = spec["type"].as_str().unwrap_or_default();
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let supported = r#""ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#;
        errors.push(unsupported("spec.type", kind, supported));
    }
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    if ports.is_empty() && kind != "ExternalName" && spec["clusterIP"] != "None" {
        errors.push(required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        if ports.len() > 1 && port["name"].as_str().unwrap_or_default().is_empty() {
            errors.push(required(at("name"), ""));
        }
        names::port(at("port"), &port["port"], errors);
        if port["targetPort"].is_number() {
            names::port(at("targetPort"), &port["targetPort"], errors);
        }
        names::protocol(at("protocol"), &port["protocol"], errors);
    }
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> FieldError {
    FieldError { reason: "FieldValueInvalid", field: field.into(), message: message.into() }
}

fn required(field: impl Into<String>, why: &str) -> FieldError {
    let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
    FieldError { reason: "FieldValueRequired", field: field.into(), message }
}

fn forbidden(field: impl Into<String>, why: &str) -> FieldError {
    FieldError { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
}

fn unsupported(field: impl Into<String>, value: &str, supported: &str) -> FieldError {
    let message = format!("Unsupported value: {value:?}: supported values: {supported}");
    FieldError { reason: "FieldValueNotSupported", field: field.into(), message }
}

#[cfg(test)]
mod tests;
