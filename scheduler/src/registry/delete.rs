//! Deleting: marking an object first where finalizers, a grace period or a namespace's contents ask for it.

use super::{Registry, failed, is, object, update};
use crate::{
    clock,
    store::{Expect, StoreError},
};
use api::{Resource, Status, resource};
use serde_json::{Value, json};
use std::time::Duration;

const ATTEMPTS: usize = 32;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const POD_GRACE_S: i64 = 30;
/// Namespaces the cluster cannot be without.
const KEPT_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// What becomes of the objects that the deleted one owns; garbage collection does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_s: Option<i64>,
    pub propagation: Option<Propagation>,
    /// Only this incarnation of the object.
    pub uid: Option<String>,
    /// Only this version of it.
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

/// A deletion that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Deleted {
    /// As it is now, or was last.
    pub object: Value,
    /// Whether it is out of the store.
    pub gone: bool,
}

impl Registry {
    /// Removes an object, or marks it as being deleted.
    pub async fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        if is(resource, &resource::NAMESPACES) && KEPT_NAMESPACES.contains(&name) {
            return Err(Status::forbidden(resource, name, "this namespace may not be deleted"));
        }
        for _ in 0..ATTEMPTS {
            let entry = self.entry(resource, namespace, name).await?;
            let old = object::decode(&entry.value, entry.revision);
            check_preconditions(resource, name, &old, options)?;
            let mut new = old.clone();
            mark(resource, &mut new, options, self.clock().now());
            let gone = update::is_finished(&new);
            if options.dry_run || (!gone && new == old) {
                return Ok(Deleted { object: new, gone: false });
            }
            let value = (!gone).then(|| object::encode(&new));
            match self.commit(entry.key.clone(), Expect::Revision(entry.revision), value).await {
                Ok(revision) => {
                    // Like Kubernetes, an object that is removed at once is shown as it was.
                    let mut object = if gone { old } else { new };
                    object["metadata"]["resourceVersion"] = json!(revision.to_string());
                    return Ok(Deleted { object, gone });
                }
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Status::conflict(resource, name, "the object is being modified too often"))
    }
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    object: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let checks = [
        ("UID", &options.uid, object::meta_str(object, "uid")),
        ("ResourceVersion", &options.resource_version, object::meta_str(object, "resourceVersion")),
    ];
    for (what, wanted, present) in checks {
        if let Some(wanted) = wanted
            && wanted != present
        {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {present}"
            );
            return Err(Status::conflict(resource, name, &why));
        }
    }
    Ok(())
}

/// Sets deletionTimestamp, the grace period and the finalizers that the options ask for.
fn mark(resource: &Resource, object: &mut Value, options: &DeleteOptions, now: std::time::SystemTime) {
    let grace = grace_s(resource, object, options);
    set_finalizers(object, options.propagation);
    let marked = !object["metadata"]["deletionTimestamp"].is_null();
    let metadata = object::metadata(object);
    if !marked {
        let at = now + Duration::from_secs(grace.max(0).unsigned_abs());
        metadata.insert("deletionTimestamp".into(), json!(clock::timestamp(at)));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
        if resource.generation {
            update::bump_generation(object);
        }
    } else if grace < metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) {
        let at = now + Duration::from_secs(grace.max(0).unsigned_abs());
        metadata.insert("deletionTimestamp".into(), json!(clock::timestamp(at)));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    }
    if is(resource, &resource::NAMESPACES) {
        object["status"]["phase"] = json!("Terminating");
    }
}

/// Only pods have time to stop, and only those that a node runs.
fn grace_s(resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
    if !is(resource, &resource::PODS) {
        return 0;
    }
    let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || ended {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(POD_GRACE_S);
    options.grace_period_s.unwrap_or(own).max(0)
}

fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let metadata = object::metadata(object);
    let present = metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut wanted: Vec<Value> =
        present.into_iter().filter(|name| *name != FOREGROUND && *name != ORPHAN).collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => wanted.push(json!(FOREGROUND)),
        Propagation::Orphan => wanted.push(json!(ORPHAN)),
    }
    if wanted.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), wanted.into());
    }
}
