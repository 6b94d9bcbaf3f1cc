//! The object layer over the store: what every write goes through, whether it came over HTTP or from a controller.
//!
//! A write is: default → admit → validate → set metadata → compare-and-swap; retried on conflict where the caller's
//! change is a function of the object. Objects are `serde_json::Value`s as clients know them, resourceVersion included.
//!
//! Invariants: status and spec are written separately; an object with finalizers, or a pod in its grace period, is
//! marked and not removed; a Service address or node port has one owner.

mod admission;
mod bootstrap;
mod create;
mod delete;
mod expiry;
pub mod identity;
mod managed_fields;
pub mod object;
mod services;
mod shape;
mod update;
mod watch;

pub use delete::{DeleteOptions, Deleted, Propagation};
pub use expiry::expire_events;
pub use services::{Cidr, CidrError};
pub use update::Subresource;
pub use watch::{Event, Watch};

use crate::{
    clock::Clock,
    store::{Embedded, Entry, Expect, ListOptions, Page, Revision, Store, StoreError, Write},
};
use api::{Resource, Status};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard};

/// How a create or update is done.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Do everything but store it.
    pub dry_run: bool,
    /// Who owns the written fields; empty is the control plane itself.
    pub field_manager: String,
}

/// What the registry has to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    pub service_cidr: Cidr,
    pub clock: Clock,
}

/// All objects of the cluster. Clones are the same registry.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Embedded,
    config: Config,
    /// Held from looking for a free Service address or port until it is stored.
    services: Mutex<()>,
}

impl Registry {
    pub fn new(store: Embedded, config: Config) -> Self {
        Self(Arc::new(Inner { store, config, services: Mutex::new(()) }))
    }

    /// For tests: nothing is kept on disk.
    pub fn in_memory(clock: Clock) -> Result<Self, StoreError> {
        let service_cidr = "10.96.0.0/12".parse().expect("a CIDR");
        Ok(Self::new(Embedded::in_memory()?, Config { service_cidr, clock }))
    }

    pub fn clock(&self) -> &Clock {
        &self.0.config.clock
    }

    pub fn revision(&self) -> Revision {
        self.0.store.revision()
    }

    /// The store underneath, for what reads across resources; writes go through the registry.
    pub(crate) fn store(&self) -> &Embedded {
        &self.0.store
    }

    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Value, Status> {
        let entry = self.entry(resource, namespace, name).await?;
        Ok(object::decode(&entry.value, entry.revision))
    }

    /// The object's bytes as stored; [`object::splice`] makes them what clients read.
    pub async fn entry(&self, resource: &Resource, namespace: &str, name: &str) -> Result<Entry, Status> {
        let key = object::key(resource.group, resource.plural, namespace, name);
        self.0.store.get(&key).await.map_err(failed)?.ok_or_else(|| Status::not_found(resource, name))
    }

    /// Every object, of one namespace or of all, and the revision the list is at: where a watch goes on.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
    ) -> Result<(Vec<Value>, Revision), Status> {
        let page = self.page(resource, namespace, ListOptions::default()).await?;
        let objects = page.entries.iter().map(|entry| object::decode(&entry.value, entry.revision));
        Ok((objects.collect(), page.revision))
    }

    /// A page of stored bytes; `after` is the `next` of the page before.
    pub async fn page(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: ListOptions,
    ) -> Result<Page, Status> {
        let prefix = object::prefix(resource.group, resource.plural, namespace);
        self.0.store.list(&prefix, options).await.map_err(failed)
    }

    /// Refuses a revision that has not been reached.
    pub fn require_revision(&self, asked: Revision) -> Result<(), Status> {
        let newest = self.revision();
        if asked <= newest { Ok(()) } else { Err(failed(StoreError::Future { asked, newest })) }
    }

    /// Changes after revision `from`.
    pub async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        from: Revision,
    ) -> Result<Watch, Status> {
        let prefix = object::prefix(resource.group, resource.plural, namespace);
        Ok(Watch::new(self.0.store.watch(&prefix, from).await.map_err(failed)?))
    }

    async fn lock_services(&self, resource: &Resource) -> Option<MutexGuard<'_, ()>> {
        if is(resource, &api::resource::SERVICES) { Some(self.0.services.lock().await) } else { None }
    }

    /// Stores one object, or removes it; the revision it is at then.
    async fn commit(
        &self,
        key: String,
        expect: Expect,
        value: Option<Vec<u8>>,
    ) -> Result<Revision, StoreError> {
        self.0.store.commit(vec![Write { key, expect, value }]).await
    }
}

/// Whether two resources are the same served kind.
fn is(resource: &Resource, other: &Resource) -> bool {
    resource.plural == other.plural && resource.group == other.group
}

/// A store's error as clients read it.
fn failed(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        StoreError::Future { asked, newest } => {
            let message = format!("Too large resource version: {asked}, current: {newest}");
            let mut status = Status::new(504, "Timeout", message);
            status.details.retry_after_s = 1;
            // By this clients know that the store is another one, and list anew.
            status.details.causes.push(api::Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            });
            status
        }
        StoreError::Full { .. } => Status::new(507, "InsufficientStorage", error.to_string()),
        StoreError::Conflict { .. } | StoreError::Backend(_) => Status::internal(error),
    }
}

#[cfg(test)]
mod tests;
