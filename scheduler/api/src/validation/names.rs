//! Names, labels and ports.

use super::{invalid, required, unsupported};
use crate::{FieldError, Resource};
use serde_json::Value;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
    validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

pub fn metadata(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let (right, rule) = match resource.plural {
        "namespaces" => (is_label(name), LABEL),
        "services" => (is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase()), DNS_1035),
        _ => (is_subdomain(name), SUBDOMAIN),
    };
    if name.is_empty() {
        errors.push(required("metadata.name", "name or generateName is required"));
    } else if !right {
        errors.push(invalid("metadata.name", format!("Invalid value: {name:?}: {rule}")));
    }
    labels("metadata.labels", &object["metadata"]["labels"], &mut errors);
    errors
}

/// A map of labels at `field`.
pub fn labels(field: &str, labels: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let (prefix, name) =
            key.split_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        if !is_label_text(name) || name.is_empty() || prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
            errors.push(invalid(field, format!("Invalid value: {key:?}: {QUALIFIED}")));
        }
        let value = value.as_str().unwrap_or_default();
        if !is_label_text(value) {
            errors.push(invalid(field, format!("Invalid value: {value:?}: {LABEL_VALUE}")));
        }
    }
}

/// A name like a container's or a volume's.
pub fn label(field: impl Into<String>, value: &Value, errors: &mut Vec<FieldError>) {
    match value.as_str().unwrap_or_default() {
        "" => errors.push(required(field, "")),
        name if !is_label(name) => errors.push(invalid(field, format!("Invalid value: {name:?}: {LABEL}"))),
        _ => {}
    }
}

pub fn port(field: impl Into<String>, value: &Value, errors: &mut Vec<FieldError>) {
    if value.is_null() {
        errors.push(required(field, ""));
    } else if !value.as_i64().is_some_and(|port| (1..=65_535).contains(&port)) {
        errors
            .push(invalid(field, format!("Invalid value: {value}: must be between 1 and 65535, inclusive")));
    }
}

pub fn protocol(field: impl Into<String>, value: &Value, errors: &mut Vec<FieldError>) {
    let name = value.as_str().unwrap_or_default();
    if !matches!(name, "TCP" | "UDP" | "SCTP") {
        errors.push(unsupported(field, name, r#""SCTP", "TCP", "UDP""#));
    }
}

pub fn is_label(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
        && name.chars().all(|c| alphanumeric(c) || c == '-')
}

fn is_subdomain(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        part.starts_with(alphanumeric)
            && part.ends_with(alphanumeric)
            && part.chars().all(|c| alphanumeric(c) || c == '-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

fn is_label_text(value: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| alphanumeric(c) || matches!(c, '-' | '_' | '.');
    value.is_empty()
        || (value.len() <= 63
            && value.starts_with(alphanumeric)
            && value.ends_with(alphanumeric)
            && value.chars().all(inner))
}
