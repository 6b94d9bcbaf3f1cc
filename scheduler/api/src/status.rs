//! `metav1.Status`: the errors of the API, in Kubernetes' own words.

use crate::Resource;
use serde_json::{Map, Value, json};
use std::fmt;

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Box<Details>,
}

/// What a failed request was about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource's plural, or for invalid objects the kind.
    pub kind: String,
    pub causes: Vec<Cause>,
    pub retry_after_s: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// What is wrong with one field; `reason` is one of `metav1.CauseType`, as `FieldValueInvalid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub reason: &'static str,
    pub field: String,
    /// As clients read it after the field, as `Invalid value: 70000: must be between 1 and 65535, inclusive`.
    pub message: String,
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Box::default() }
    }

    fn about(self, resource: &Resource, name: &str) -> Self {
        let (kind, group) = (resource.plural.into(), resource.group.into());
        Self { details: Box::new(Details { name: name.into(), group, kind, ..Details::default() }), ..self }
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{resource} {name:?} not found")).about(resource, name)
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{resource} {name:?} already exists");
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(resource, name)
    }

    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("{resource} {name:?} is forbidden: {why}");
        Self::new(403, "Forbidden", message).about(resource, name)
    }

    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let dot = if resource.group.is_empty() { "" } else { "." };
        let kind = format!("{}{dot}{}", resource.kind, resource.group);
        let lines: Vec<String> = errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect();
        let all = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut status = Self::new(422, "Invalid", format!("{kind} {name:?} is invalid: {all}"));
        status = status.about(resource, name);
        status.details.kind = resource.kind.into();
        status.details.causes = errors
            .iter()
            .map(|e| Cause { reason: e.reason.into(), message: e.message.clone(), field: e.field.clone() })
            .collect();
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The revision asked for is no longer kept: list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// The object clients read.
    pub fn to_value(&self) -> Value {
        let d = &self.details;
        let mut details = Map::new();
        for (field, text) in [("name", &d.name), ("group", &d.group), ("kind", &d.kind)] {
            if !text.is_empty() {
                details.insert(field.into(), json!(text));
            }
        }
        if !d.causes.is_empty() {
            let cause = |c: &Cause| json!({"reason": c.reason, "message": c.message, "field": c.field});
            details.insert("causes".into(), d.causes.iter().map(cause).collect());
        }
        if d.retry_after_s != 0 {
            details.insert("retryAfterSeconds".into(), json!(d.retry_after_s));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !details.is_empty() {
            status["details"] = details.into();
        }
        status
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}
