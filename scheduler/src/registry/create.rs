//! Creating an object.

use super::{Registry, WriteOptions, admission, failed, identity, managed_fields, object, services, shape};
use crate::store::{Expect, StoreError};
use api::{Resource, Status, resource};
use serde_json::{Value, json};

/// Generated names that are tried before giving up.
const NAME_ATTEMPTS: usize = 8;
/// What a client cannot choose.
const SERVER_FIELDS: [&str; 7] = [
    "uid",
    "creationTimestamp",
    "resourceVersion",
    "generation",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

impl Registry {
    /// Stores a new object and returns it as stored.
    pub async fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        check_identity(resource, namespace, &mut object)?;
        if !object::meta_str(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if resource.namespaced {
            self.require_namespace(resource, namespace, &object).await?;
        }
        let base = object::meta_str(&object, "generateName").to_owned();
        let generated = object::meta_str(&object, "name").is_empty() && !base.is_empty();
        for attempt in 1.. {
            let mut candidate = object.clone();
            if generated {
                candidate["metadata"]["name"] = json!(identity::generated_name(&base));
            }
            match self.create_once(resource, namespace, candidate, options).await {
                Err(status) if generated && status.reason == "AlreadyExists" && attempt < NAME_ATTEMPTS => {}
                result => return result,
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn create_once(
        &self,
        resource: &Resource,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let now = self.clock().timestamp();
        let metadata = object::metadata(&mut object);
        for field in SERVER_FIELDS {
            metadata.remove(field);
        }
        metadata.remove("managedFields");
        metadata.insert("uid".into(), json!(identity::uid()));
        metadata.insert("creationTimestamp".into(), json!(now));
        if resource.generation {
            metadata.insert("generation".into(), json!(1));
        }
        admission::prepare_create(resource, &mut object);
        let name = object::meta_str(&object, "name").to_owned();
        let errors = api::validate_create(resource, &object);
        if !errors.is_empty() {
            return Err(Status::invalid(resource, &name, &errors));
        }
        let _held = self.lock_services(resource).await;
        if super::is(resource, &resource::SERVICES) {
            let used = self.services_in_use(namespace, &name).await?;
            services::allocate(&mut object, None, &used, &self.0.config.service_cidr)
                .map_err(|errors| Status::invalid(resource, &name, &errors))?;
        }
        managed_fields::record(&mut object, options, "", &now);
        let key = object::key(resource.group, resource.plural, namespace, &name);
        if options.dry_run {
            let taken = self.0.store_get(&key).await?;
            return if taken { Err(Status::already_exists(resource, &name)) } else { Ok(object) };
        }
        match self.commit(key, Expect::Absent, Some(object::encode(&object))).await {
            Ok(revision) => {
                object["metadata"]["resourceVersion"] = json!(revision.to_string());
                Ok(object)
            }
            Err(StoreError::Conflict { .. }) => Err(Status::already_exists(resource, &name)),
            Err(error) => Err(failed(error)),
        }
    }

    async fn require_namespace(
        &self,
        resource: &Resource,
        namespace: &str,
        object: &Value,
    ) -> Result<(), Status> {
        let found = self.get(&resource::NAMESPACES, "", namespace).await?;
        if found["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = Status::forbidden(resource, object::meta_str(object, "name"), &why);
        status.details.causes.push(api::Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
        Err(status)
    }
}

impl super::Inner {
    async fn store_get(&self, key: &str) -> Result<bool, Status> {
        use crate::store::Store;
        Ok(self.store.get(key).await.map_err(failed)?.is_some())
    }
}

/// Makes apiVersion, kind and namespace what the request says, or refuses what contradicts it.
fn check_identity(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), Status> {
    shape::check(object)?;
    for (field, expected) in [("apiVersion", resource.api_version()), ("kind", resource.kind.to_owned())] {
        let given = object[field].as_str().unwrap_or_default();
        if !given.is_empty() && given != expected {
            let message =
                format!("{field} in the data ({given}) does not match the expected one ({expected})");
            return Err(Status::bad_request(message));
        }
        object[field] = json!(expected);
    }
    let metadata = object::metadata(object);
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if resource.namespaced {
        metadata.insert("namespace".into(), json!(namespace));
    } else {
        metadata.remove("namespace");
    }
    Ok(())
}
