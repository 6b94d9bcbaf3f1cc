//! What makes an object invalid, in Kubernetes' own words.

use crate::{FieldError, Resource};
use serde_json::Value;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
    '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What is wrong with a new, defaulted object.
pub fn validate_create(_resource: &Resource, object: &Value) -> Vec<FieldError> {
    let field = "metadata.name".to_owned();
    match object["metadata"]["name"].as_str().unwrap_or_default() {
        "" => {
            let message = "Required value: name or generateName is required".into();
            vec![FieldError { reason: "FieldValueRequired", field, message }]
        }
        name if !is_subdomain(name) => {
            let message = format!("Invalid value: {name:?}: {SUBDOMAIN}");
            vec![FieldError { reason: "FieldValueInvalid", field, message }]
        }
        _ => Vec::new(),
    }
}

/// What is wrong with `new` as a change of `old`.
pub fn validate_update(resource: &Resource, new: &Value, _old: &Value) -> Vec<FieldError> {
    validate_create(resource, new)
}

fn is_subdomain(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(alphanumeric)
            && label.ends_with(alphanumeric)
            && label.chars().all(|c| alphanumeric(c) || c == '-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
