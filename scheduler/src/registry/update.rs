//! Changing an object: its main part, its status, and the few writes with rules of their own.

use super::{Registry, WriteOptions, admission, failed, managed_fields, object, services, shape};
use crate::store::{Entry, Expect, StoreError};
use api::{FieldError, Resource, Status, resource};
use serde_json::{Value, json};

/// Conflicts with other writers before an update is given up.
const ATTEMPTS: usize = 32;
const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";
/// What stays as it was, whatever a client sends.
const KEPT_FIELDS: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "namespace",
];

/// Which part of an object a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// Everything but the status, where that is a subresource.
    Main,
    Status,
    /// A pod's node; other spec fields stay.
    Binding,
    /// A namespace's `spec.finalizers`.
    Finalize,
}

impl Subresource {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Binding => "binding",
            Self::Finalize => "finalize",
        }
    }
}

impl Registry {
    /// Applies `change` to the object as it is, again if somebody else was faster, and returns it as stored.
    ///
    /// A `metadata.resourceVersion` that `change` sets has to be the object's; without one the change always applies.
    /// A change that changes nothing is not written.
    pub async fn update(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        subresource: Subresource,
        mut change: impl FnMut(Value) -> Result<Value, Status>,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        for _ in 0..ATTEMPTS {
            let entry = self.entry(resource, namespace, name).await?;
            let old = object::decode(&entry.value, entry.revision);
            let mut new = change(old.clone())?;
            shape::check(&mut new)?;
            check_identity(resource, name, &old, &new)?;
            let written = Written { resource, subresource, entry, old };
            match self.update_once(written, new, options).await? {
                Some(stored) => return Ok(stored),
                None => continue,
            }
        }
        Err(Status::conflict(resource, name, MODIFIED))
    }

    /// `None`: somebody else wrote first.
    async fn update_once(
        &self,
        written: Written<'_>,
        mut new: Value,
        options: &WriteOptions,
    ) -> Result<Option<Value>, Status> {
        let Written { resource, subresource, ref entry, ref old } = written;
        let name = object::meta_str(old, "name");
        keep_fields(old, &mut new);
        separate(resource, subresource, old, &mut new);
        let invalid = |errors: Vec<FieldError>| Status::invalid(resource, name, &errors);
        let _held = self.lock_services(resource).await;
        if super::is(resource, &resource::SERVICES) && subresource == Subresource::Main {
            let used = self.services_in_use(object::meta_str(old, "namespace"), name).await?;
            services::allocate(&mut new, Some(old), &used, &self.0.config.service_cidr).map_err(invalid)?;
        }
        admission::prepare_update(resource, old, &mut new);
        let mut errors = added_finalizers(old, &new);
        if subresource == Subresource::Main {
            errors.extend(api::validate_update(resource, &new, old));
        }
        if !errors.is_empty() {
            return Err(invalid(errors));
        }
        if new == *old {
            return Ok(Some(new));
        }
        if resource.generation && spec_changed(old, &new) {
            bump_generation(&mut new);
        }
        managed_fields::record(&mut new, options, subresource.name(), &self.clock().timestamp());
        if options.dry_run {
            return Ok(Some(new));
        }
        let value = if is_finished(&new) { None } else { Some(object::encode(&new)) };
        match self.commit(entry.key.clone(), Expect::Revision(entry.revision), value).await {
            Ok(revision) => {
                new["metadata"]["resourceVersion"] = json!(revision.to_string());
                Ok(Some(new))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Gives a pod its node, once.
    pub async fn bind(
        &self,
        namespace: &str,
        pod: &str,
        node: &str,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let now = self.clock().timestamp();
        let change = |mut object: Value| {
            let current = object["spec"]["nodeName"].as_str().unwrap_or_default();
            if !current.is_empty() {
                let why = format!("pod {pod} is already assigned to node {current:?}");
                return Err(Status::conflict(&resource::PODS, pod, &why));
            }
            if !object["metadata"]["deletionTimestamp"].is_null() {
                let why = format!("pod {pod} is being deleted, cannot be assigned to a host");
                return Err(Status::conflict(&resource::PODS, pod, &why));
            }
            object["spec"]["nodeName"] = json!(node);
            let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                                   "lastTransitionTime": now});
            set_condition(&mut object, scheduled);
            Ok(object)
        };
        self.update(&resource::PODS, namespace, pod, Subresource::Binding, change, options).await
    }
}

/// What an update starts from.
struct Written<'a> {
    resource: &'a Resource,
    subresource: Subresource,
    entry: Entry,
    old: Value,
}

/// Replaces the condition of the same type, or adds it.
pub fn set_condition(object: &mut Value, condition: Value) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let conditions = object["status"]["conditions"].as_array_mut().expect("just made sure");
    match conditions.iter_mut().find(|present| present["type"] == condition["type"]) {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

fn check_identity(resource: &Resource, name: &str, old: &Value, new: &Value) -> Result<(), Status> {
    for field in ["apiVersion", "kind"] {
        let (given, expected) = (new[field].as_str().unwrap_or_default(), &old[field]);
        if !given.is_empty() && given != expected {
            let message =
                format!("{field} in the data ({given}) does not match the expected one ({expected})");
            return Err(Status::bad_request(message));
        }
    }
    let given = object::meta_str(new, "name");
    if given != name {
        let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
        return Err(Status::bad_request(message));
    }
    let namespace = object::meta_str(new, "namespace");
    if !namespace.is_empty() && namespace != object::meta_str(old, "namespace") {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let (given, present) = (object::meta_str(new, "uid"), object::meta_str(old, "uid"));
    if !given.is_empty() && given != present {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {present}");
        return Err(Status::conflict(resource, name, &why));
    }
    let given = object::meta_str(new, "resourceVersion");
    if !given.is_empty() && given != object::meta_str(old, "resourceVersion") {
        return Err(Status::conflict(resource, name, MODIFIED));
    }
    Ok(())
}

fn keep_fields(old: &Value, new: &mut Value) {
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    let metadata = object::metadata(new);
    for field in KEPT_FIELDS {
        match old["metadata"].get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    metadata.insert("resourceVersion".into(), old["metadata"]["resourceVersion"].clone());
    if !metadata.contains_key("managedFields")
        && let Some(fields) = old["metadata"].get("managedFields")
    {
        metadata.insert("managedFields".into(), fields.clone());
    }
}

/// Takes from `old` what the subresource does not write.
fn separate(resource: &Resource, subresource: Subresource, old: &Value, new: &mut Value) {
    let restore = |new: &mut Value, field: &str| match old.get(field) {
        Some(value) => new[field] = value.clone(),
        None => drop(new.as_object_mut().expect("checked by the caller").remove(field)),
    };
    match subresource {
        Subresource::Main if resource.status => restore(new, "status"),
        Subresource::Main | Subresource::Binding => {}
        Subresource::Status => {
            let status = new.get("status").cloned();
            let managed = new["metadata"].get("managedFields").cloned();
            *new = old.clone();
            if let Some(status) = status {
                new["status"] = status;
            }
            if let Some(managed) = managed {
                new["metadata"]["managedFields"] = managed;
            }
        }
        Subresource::Finalize => {
            let finalizers = new["spec"]["finalizers"].clone();
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
        }
    }
}

fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn added_finalizers(old: &Value, new: &Value) -> Vec<FieldError> {
    if old["metadata"]["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    let added: Vec<String> = finalizers(new)
        .filter(|name| !finalizers(old).any(|known| known == *name))
        .map(|name| format!("{name:?}"))
        .collect();
    if added.is_empty() {
        return Vec::new();
    }
    let message = format!(
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers \
         []string{{{}}}",
        added.join(", ")
    );
    vec![FieldError { reason: "FieldValueForbidden", field: "metadata.finalizers".into(), message }]
}

fn spec_changed(old: &Value, new: &Value) -> bool {
    let parts = |object: &Value| {
        let mut object = object.as_object().cloned().unwrap_or_default();
        object.remove("metadata");
        object.remove("status");
        object
    };
    parts(old) != parts(new)
}

pub(super) fn bump_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    object["metadata"]["generation"] = json!(generation + 1);
}

/// Whether nothing holds a deleted object back any more.
pub(super) fn is_finished(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let held = |list: &Value| list.as_array().is_some_and(|list| !list.is_empty());
    let in_grace = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) != 0;
    let has_contents = object["kind"] == "Namespace" && held(&object["spec"]["finalizers"]);
    let marked = !metadata["deletionTimestamp"].is_null();
    marked && !in_grace && !has_contents && !held(&metadata["finalizers"])
}
