//! Carries out writes through the registry. What is already as it should be, or gone, counts as done.

use super::{
    object::text,
    plan::{Delete, Note, Part, Patch, Write},
    recorder::Recorder,
    world::ObjectKey,
};
use crate::registry::{DeleteOptions, Propagation, Registry, Subresource, WriteOptions};
use api::{Resource, Status};
use futures_util::future::join_all;
use serde_json::Value;

/// Most writes of one task under way at once: they share commits.
const AT_ONCE: usize = 64;

/// Carries out a task's writes: creations and deletions side by side, patches after them in order. The first failure
/// is returned; after one no more creations and deletions are begun.
pub async fn perform(registry: &Registry, recorder: &Recorder, writes: Vec<Write>) -> Result<(), Status> {
    let (patches, others): (Vec<Write>, Vec<Write>) =
        writes.into_iter().partition(|write| matches!(write, Write::Patch(_)));
    let mut others = others.into_iter();
    let mut outcome = Ok(());
    while outcome.is_ok() {
        let batch: Vec<Write> = others.by_ref().take(AT_ONCE).collect();
        if batch.is_empty() {
            break;
        }
        let results = join_all(batch.into_iter().map(|write| one(registry, recorder, write))).await;
        outcome = results.into_iter().collect();
    }
    for write in patches {
        let result = one(registry, recorder, write).await;
        outcome = outcome.and(result);
    }
    outcome
}

async fn one(registry: &Registry, recorder: &Recorder, write: Write) -> Result<(), Status> {
    match write {
        Write::Create { resource, object, note } => create(registry, recorder, resource, object, note).await,
        Write::Patch(change) => {
            if patch(registry, &change).await? {
                recorder.record(change.note);
            }
            Ok(())
        }
        Write::Delete(deletion) => {
            if delete(registry, &deletion).await? {
                recorder.record(deletion.note);
            }
            Ok(())
        }
        Write::Note(note) => {
            recorder.record(Some(note));
            Ok(())
        }
    }
}

/// The served resource behind a key's first part.
pub fn resource_of(name: &str) -> Result<&'static Resource, Status> {
    let found = api::resource::RESOURCES.iter().find(|resource| resource.to_string() == name);
    found.copied().ok_or_else(|| Status::internal(format!("{name} is not served")))
}

async fn create(
    registry: &Registry,
    recorder: &Recorder,
    resource: &str,
    object: Value,
    note: Option<Note>,
) -> Result<(), Status> {
    let namespace = text(&object["metadata"]["namespace"]).to_owned();
    let options = WriteOptions::default();
    match registry.create(resource_of(resource)?, &namespace, object, &options).await {
        Ok(made) => {
            let name = text(&made["metadata"]["name"]);
            let named = note.map(|note| Note { message: note.message.replace("{name}", name), ..note });
            recorder.record(named);
            Ok(())
        }
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        Err(status) => {
            let failed = note.filter(|note| note.reason == "SuccessfulCreate");
            recorder.record(failed.map(|note| Note {
                warning: true,
                reason: "FailedCreate".to_owned(),
                message: format!("Error creating: {status}"),
                ..note
            }));
            Err(status)
        }
    }
}

/// True when the object was changed.
async fn patch(registry: &Registry, patch: &Patch) -> Result<bool, Status> {
    let ObjectKey { resource, at } = &patch.key;
    let resource = resource_of(resource)?;
    let options = WriteOptions::default();
    let subresource = match patch.part {
        Part::Main => Subresource::Main,
        Part::Status => Subresource::Status,
        Part::Finalize => Subresource::Finalize,
        Part::Binding => return bind(registry, patch).await,
    };
    let mut changed = false;
    let change = |mut object: Value| {
        changed = false;
        if !patch.uid.is_empty() && text(&object["metadata"]["uid"]) != patch.uid {
            return Ok(object);
        }
        let revision = text(&object["metadata"]["resourceVersion"]);
        if patch.revision.is_some_and(|wanted| wanted.to_string() != revision) {
            return Err(Status::conflict(resource, &at.name, "the object has been modified"));
        }
        changed = patch.change.apply(&mut object);
        Ok(object)
    };
    match registry.update(resource, &at.namespace, &at.name, subresource, change, &options).await {
        Ok(_) => Ok(changed),
        Err(status) if status.code == 404 => Ok(false),
        Err(status) => Err(status),
    }
}

async fn bind(registry: &Registry, patch: &Patch) -> Result<bool, Status> {
    let super::plan::Change::Merge(merge) = &patch.change else { return Ok(false) };
    let (at, node) = (&patch.key.at, text(&merge["spec"]["nodeName"]));
    let current = registry.get(&api::resource::PODS, &at.namespace, &at.name).await?;
    if text(&current["metadata"]["uid"]) != patch.uid {
        return Err(Status::not_found(&api::resource::PODS, &at.name));
    }
    registry.bind(&at.namespace, &at.name, node, &WriteOptions::default()).await.map(|_| true)
}

/// True when the object was there.
async fn delete(registry: &Registry, delete: &Delete) -> Result<bool, Status> {
    let ObjectKey { resource, at } = &delete.key;
    let options = DeleteOptions {
        grace_period_s: delete.grace_s,
        propagation: delete.propagation.map(|policy| match policy {
            "Foreground" => Propagation::Foreground,
            "Orphan" => Propagation::Orphan,
            _ => Propagation::Background,
        }),
        uid: Some(delete.uid.clone()).filter(|uid| !uid.is_empty()),
        ..DeleteOptions::default()
    };
    match registry.delete(resource_of(resource)?, &at.namespace, &at.name, &options).await {
        Ok(_) => Ok(true),
        Err(status) if status.code == 404 || (status.code == 409 && !delete.uid.is_empty()) => Ok(false),
        Err(status) => Err(status),
    }
}
