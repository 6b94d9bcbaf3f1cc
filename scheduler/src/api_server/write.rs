//! POST, PUT, PATCH and DELETE, and the pod subresources that are writes.

use super::{
    Server, body,
    query::Query,
    read::Shape,
    request::Target,
    response::{self, Answer},
    router::Call,
};
use crate::registry::{DeleteOptions, Deleted, Propagation, Subresource, WriteOptions, object};
use api::{Resource, Status, patch::PatchError, resource};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use serde_json::{Value, json};

/// Kinds whose deletion always answers with the object.
const ANSWERED_WITH_OBJECT: [&str; 5] =
    ["pods", "services", "serviceaccounts", "persistentvolumes", "persistentvolumeclaims"];

/// A decoded body and what a client is warned of.
struct Decoded {
    object: Value,
    warnings: Vec<String>,
}

impl Server {
    pub(super) async fn create(&self, target: &Target, call: Call, content: Body) -> Result<Answer, Status> {
        if target.resource.namespaced && target.namespace.is_empty() {
            return Err(Status::bad_request("an empty namespace may not be set during creation"));
        }
        let options = write_options(&call)?;
        let decoded = decode(target.resource, call, content).await?;
        let created =
            self.registry().create(target.resource, &target.namespace, decoded.object, &options).await?;
        Ok(warn(response::value(StatusCode::CREATED, &created), &decoded.warnings))
    }

    pub(super) async fn put(&self, target: &Target, call: Call, content: Body) -> Result<Answer, Status> {
        let options = write_options(&call)?;
        let decoded = decode(target.resource, call, content).await?;
        let object = decoded.object;
        let put = |_| Ok(object.clone());
        let updated = self.update(target, put, &options).await?;
        Ok(warn(response::value(StatusCode::OK, &updated), &decoded.warnings))
    }

    pub(super) async fn patch(&self, target: &Target, call: Call, content: Body) -> Result<Answer, Status> {
        let options = write_options(&call)?;
        let validation = Validation::of(&call.query)?;
        let parts = call.parts;
        let content = body::read(content).await?;
        let patch = Patch::parse(&parts.headers, &content)?;
        let mut warnings = Vec::new();
        let change = |current: Value| {
            let mut patched = patch.apply(&current)?;
            warnings = validation.check(target.resource, &mut patched)?;
            Ok(patched)
        };
        let updated = self.update(target, change, &options).await?;
        Ok(warn(response::value(StatusCode::OK, &updated), &warnings))
    }

    pub(super) async fn update(
        &self,
        target: &Target,
        change: impl FnMut(Value) -> Result<Value, Status>,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let part = match target.subresource.as_str() {
            "status" => Subresource::Status,
            "finalize" => Subresource::Finalize,
            _ => Subresource::Main,
        };
        self.registry().update(target.resource, &target.namespace, &target.name, part, change, options).await
    }

    pub(super) async fn delete(&self, target: &Target, call: Call, content: Body) -> Result<Answer, Status> {
        let options = delete_options(call, content).await?;
        let deleted =
            self.registry().delete(target.resource, &target.namespace, &target.name, &options).await?;
        Ok(response::value(StatusCode::OK, &deletion_answer(target.resource, deleted)))
    }

    /// Deletes what is selected, one by one; what somebody else deletes meanwhile is no error.
    pub(super) async fn delete_collection(
        &self,
        target: &Target,
        call: Call,
        content: Body,
    ) -> Result<Answer, Status> {
        let shape = Shape::of(target.resource, &call, self.registry().clock().now())?;
        let options = delete_options(call, content).await?;
        let (objects, revision) = self.registry().list(target.resource, target.scope()).await?;
        let mut items = Vec::new();
        for selected in objects.iter().filter(|object| shape.selection.matches(object)) {
            let (namespace, name) =
                (object::meta_str(selected, "namespace"), object::meta_str(selected, "name"));
            match self.registry().delete(target.resource, namespace, name, &options).await {
                Ok(deleted) => items.push(deleted.object),
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        let list = json!({
            "kind": format!("{}List", target.resource.kind), "apiVersion": target.resource.api_version(),
            "metadata": {"resourceVersion": revision.to_string()}, "items": items,
        });
        Ok(response::value(StatusCode::OK, &list))
    }

    /// `POST pods/NAME/binding`: the pod's node.
    pub(super) async fn bind(&self, target: &Target, call: Call, content: Body) -> Result<Answer, Status> {
        let options = write_options(&call)?;
        let parts = call.parts;
        let binding = body::decode(&parts.headers, &body::read(content).await?)?;
        let node = binding["target"]["name"].as_str().filter(|node| !node.is_empty());
        let node = node.ok_or_else(|| Status::bad_request("target.name: Required value"))?;
        self.registry().bind(&target.namespace, &target.name, node, &options).await?;
        Ok(response::value(StatusCode::CREATED, &success()))
    }

    /// `POST pods/NAME/eviction`: a deletion that may be refused.
    pub(super) async fn evict(&self, target: &Target, call: Call, content: Body) -> Result<Answer, Status> {
        let dry_run = dry_run(&call.query)?;
        let parts = call.parts;
        let eviction = body::decode(&parts.headers, &body::read(content).await?)?;
        let mut options = parse_delete_options(&eviction["deleteOptions"])?;
        options.dry_run |= dry_run;
        self.registry().delete(&resource::PODS, &target.namespace, &target.name, &options).await?;
        Ok(response::value(StatusCode::CREATED, &success()))
    }
}

async fn decode(resource: &Resource, call: Call, content: Body) -> Result<Decoded, Status> {
    let validation = Validation::of(&call.query)?;
    let parts = call.parts;
    let bytes = body::read(content).await?;
    let mut object = body::decode(&parts.headers, &bytes)?;
    let warnings = validation.check(resource, &mut object)?;
    Ok(Decoded { object, warnings })
}

fn unpatchable(error: &PatchError) -> Status {
    match error {
        PatchError::Malformed(why) => Status::bad_request(why),
        PatchError::DoesNotApply(why) => Status::new(422, "Invalid", why),
    }
}

/// What to do with fields that are not the kind's.
#[derive(Clone, Copy)]
enum Validation {
    Ignore,
    Warn,
    Strict,
}

impl Validation {
    fn of(query: &Query) -> Result<Self, Status> {
        match query.get("fieldValidation") {
            None | Some("Warn") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(Status::bad_request(format!(
                "fieldValidation: Invalid value: {other:?}: must be one of Ignore, Strict, Warn"
            ))),
        }
    }

    /// Drops unknown fields.
    fn check(self, resource: &Resource, object: &mut Value) -> Result<Vec<String>, Status> {
        if let Some(why) = api::undecodable(resource, object) {
            return Err(Status::bad_request(why));
        }
        let found = super::strict::prune_unknown(resource, object)?;
        match self {
            Self::Ignore => Ok(Vec::new()),
            Self::Warn => Ok(found),
            Self::Strict if found.is_empty() => Ok(found),
            Self::Strict => {
                let kind = resource.kind;
                Err(Status::bad_request(format!(
                    "{kind} in version {:?} cannot be handled as a {kind}: strict decoding error: {}",
                    resource.version,
                    found.join(", ")
                )))
            }
        }
    }
}

/// A decoded patch.
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    pub fn parse(headers: &HeaderMap, content: &[u8]) -> Result<Self, Status> {
        match body::media_type(headers) {
            "application/json-patch+json" => Ok(Self::Json(body::from_json(content)?)),
            "application/merge-patch+json" => Ok(Self::Merge(body::from_json(content)?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(body::from_json(content)?)),
            other => {
                let message = format!(
                    "the body of the request was in an unknown format ({other}) - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json"
                );
                Err(Status::new(415, "UnsupportedMediaType", message))
            }
        }
    }

    pub fn apply(&self, current: &Value) -> Result<Value, Status> {
        let mut target = current.clone();
        match self {
            Self::Json(patch) => api::patch::json(&mut target, patch),
            Self::Merge(patch) => {
                api::patch::merge(&mut target, patch);
                Ok(())
            }
            Self::Strategic(patch) => api::patch::strategic(&mut target, patch),
        }
        .map_err(|error| unpatchable(&error))?;
        let refusal = || Status::bad_request("the patch leaves something that is not an object");
        if target.is_object() { Ok(target) } else { Err(refusal()) }
    }
}

pub fn write_options(call: &Call) -> Result<WriteOptions, Status> {
    Ok(WriteOptions { dry_run: dry_run(&call.query)?, field_manager: call.field_manager() })
}

fn dry_run(query: &Query) -> Result<bool, Status> {
    match query.get("dryRun") {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => {
            let message = format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"");
            Err(Status::bad_request(message))
        }
    }
}

/// DeleteOptions out of the body, or where there is none, out of the query.
async fn delete_options(call: Call, content: Body) -> Result<DeleteOptions, Status> {
    let query = call.query;
    let parts = call.parts;
    let content = body::read(content).await?;
    let given = if content.is_empty() { json!({}) } else { body::decode(&parts.headers, &content)? };
    let mut options = parse_delete_options(&given)?;
    options.dry_run |= dry_run(&query)?;
    if options.grace_period_s.is_none() {
        options.grace_period_s = query.number("gracePeriodSeconds")?;
    }
    if options.propagation.is_none() {
        options.propagation = query.get("propagationPolicy").map(propagation).transpose()?;
    }
    Ok(options)
}

fn parse_delete_options(given: &Value) -> Result<DeleteOptions, Status> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let orphan = |orphan: bool| if orphan { Propagation::Orphan } else { Propagation::Background };
    let policy = given["propagationPolicy"].as_str().map(propagation).transpose()?;
    Ok(DeleteOptions {
        grace_period_s: given["gracePeriodSeconds"].as_i64(),
        propagation: policy.or(given["orphanDependents"].as_bool().map(orphan)),
        uid: text(&given["preconditions"]["uid"]),
        resource_version: text(&given["preconditions"]["resourceVersion"]),
        dry_run: given["dryRun"].as_array().is_some_and(|all| all.iter().any(|one| one == "All")),
    })
}

fn propagation(policy: &str) -> Result<Propagation, Status> {
    match policy {
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        "Orphan" => Ok(Propagation::Orphan),
        other => Err(Status::bad_request(format!(
            "propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \
             \"Background\", \"Orphan\""
        ))),
    }
}

fn deletion_answer(resource: &Resource, deleted: Deleted) -> Value {
    if !deleted.gone || ANSWERED_WITH_OBJECT.contains(&resource.plural) {
        return deleted.object;
    }
    let mut status = success();
    let metadata = &deleted.object["metadata"];
    status["details"] = json!({"name": metadata["name"], "kind": resource.plural, "uid": metadata["uid"]});
    if !resource.group.is_empty() {
        status["details"]["group"] = json!(resource.group);
    }
    status
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

fn warn(mut answer: Answer, warnings: &[String]) -> Answer {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            answer.headers_mut().append(header::WARNING, value);
        }
    }
    answer
}
