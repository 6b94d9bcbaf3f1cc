//! The `scale` subresource: `autoscaling/v1 Scale` over `spec.replicas`.

use super::{
    Server, body,
    request::Target,
    response::{self, Answer},
    router::{Call, not_found},
    write::{Patch, write_options},
};
use crate::registry::object;
use api::{FieldError, Resource, Status};
use axum::{
    body::Body,
    http::{Method, StatusCode},
};
use serde_json::{Value, json};

impl Server {
    pub(super) async fn scale(&self, target: &Target, call: Call, content: Body) -> Result<Answer, Status> {
        let method = call.parts.method.clone();
        if method == Method::GET {
            let object = self.registry().get(target.resource, &target.namespace, &target.name).await?;
            return Ok(response::value(StatusCode::OK, &scale_of(&object)));
        }
        let options = write_options(&call)?;
        let parts = call.parts;
        let content = body::read(content).await?;
        let wanted = match method {
            Method::PUT => Wanted::Scale(body::decode(&parts.headers, &content)?),
            Method::PATCH => Wanted::Patch(Patch::parse(&parts.headers, &content)?),
            _ => return Err(not_found()),
        };
        let change = |object: Value| wanted.apply(target.resource, object);
        let main = Target { subresource: String::new(), ..target.clone() };
        let updated = self.update(&main, change, &options).await?;
        Ok(response::value(StatusCode::OK, &scale_of(&updated)))
    }
}

enum Wanted {
    Scale(Value),
    Patch(Patch),
}

impl Wanted {
    fn apply(&self, resource: &Resource, mut object: Value) -> Result<Value, Status> {
        let scale = match self {
            Self::Scale(scale) => scale.clone(),
            Self::Patch(patch) => patch.apply(&scale_of(&object))?,
        };
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
            let error = FieldError { reason: "FieldValueInvalid", field: "spec.replicas".into(), message };
            return Err(Status::invalid(resource, object::meta_str(&object, "name"), &[error]));
        }
        object["spec"]["replicas"] = json!(replicas);
        let version = object::meta_str(&scale, "resourceVersion");
        if !version.is_empty() {
            object["metadata"]["resourceVersion"] = json!(version);
        }
        Ok(object)
    }
}

fn scale_of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[field] = object["metadata"][field].clone();
    }
    let replicas = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": replicas("spec")},
        "status": {"replicas": replicas("status"), "selector": selector_text(&object["spec"]["selector"])},
    })
}

/// A label selector as it is written in queries.
fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        match expression["operator"].as_str().unwrap_or_default() {
            "In" => parts.push(format!("{key} in ({})", values.join(","))),
            "NotIn" => parts.push(format!("{key} notin ({})", values.join(","))),
            "Exists" => parts.push(key.into()),
            "DoesNotExist" => parts.push(format!("!{key}")),
            _ => {}
        }
    }
    parts.sort_unstable();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_read_as_in_queries() {
        let selector = json!({
            "matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["y", "x"]},
                                 {"key": "gone", "operator": "DoesNotExist"}],
        });
        assert_eq!(selector_text(&selector), "!gone,a=1,b=2,tier in (x,y)");
    }
}
