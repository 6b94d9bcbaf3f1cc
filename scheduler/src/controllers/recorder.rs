//! Events, as `kubectl describe` shows them: the same thing about the same object is one Event with a count.
//!
//! Recording never blocks and never fails its caller; when too many wait, the newest are dropped.

use super::{
    object::{rfc3339, text},
    plan::{Note, Regarding},
};
use crate::registry::{Registry, Subresource, WriteOptions};
use api::{Status, resource::EVENTS};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    time::UNIX_EPOCH,
};
use tokio::sync::mpsc;
use tracing::debug;

const WAITING_MAX: usize = 4096;
/// Events that are remembered so that a repetition is counted.
const REMEMBERED_MAX: usize = 4096;

/// Takes notes; clones feed the same Events.
#[derive(Clone)]
pub struct Recorder(mpsc::Sender<Note>);

impl Recorder {
    /// Starts the task that writes the Events.
    pub fn start(registry: Registry) -> Self {
        let (sender, mut notes) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            let mut book = Book { registry, seen: HashMap::new(), order: VecDeque::new(), serial: 0 };
            while let Some(note) = notes.recv().await {
                if let Err(status) = book.write(&note).await {
                    debug!(error = %status, reason = note.reason, "event was not written");
                }
            }
        });
        Self(sender)
    }

    pub fn record(&self, note: Option<Note>) {
        if let Some(note) = note
            && self.0.try_send(note).is_err()
        {
            debug!("event was dropped: too many wait");
        }
    }
}

struct Book {
    registry: Registry,
    /// Namespace and name of the Event for a thing that happened.
    seen: HashMap<Happening, (String, String)>,
    order: VecDeque<Happening>,
    serial: u64,
}

type Happening = (Regarding, String, String);

impl Book {
    async fn write(&mut self, note: &Note) -> Result<(), Status> {
        let happening = (note.regarding.clone(), note.reason.clone(), note.message.clone());
        if let Some((namespace, name)) = self.seen.get(&happening) {
            match self.count(namespace, name).await {
                Err(status) if status.code == 404 => {}
                result => return result,
            }
        }
        let place = self.create(note).await?;
        if self.seen.insert(happening.clone(), place).is_none() {
            self.order.push_back(happening);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        Ok(())
    }

    async fn count(&self, namespace: &str, name: &str) -> Result<(), Status> {
        let now = self.registry.clock().timestamp();
        let change = |mut event: Value| {
            event["count"] = (event["count"].as_u64().unwrap_or(1) + 1).into();
            event["lastTimestamp"] = now.as_str().into();
            Ok(event)
        };
        let options = WriteOptions::default();
        self.registry.update(&EVENTS, namespace, name, Subresource::Main, change, &options).await.map(drop)
    }

    async fn create(&mut self, note: &Note) -> Result<(String, String), Status> {
        let regarding = &note.regarding;
        let since = self.registry.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.serial += 1;
        let serial = since.as_nanos() as u64 + self.serial;
        let namespace = if regarding.namespace.is_empty() { "default" } else { &regarding.namespace };
        let now = rfc3339(since.as_secs() as i64);
        let mut involved = json!({
            "apiVersion": regarding.api_version,
            "kind": regarding.kind,
            "name": regarding.name,
            "uid": regarding.uid,
        });
        for (field, value) in [("namespace", &regarding.namespace), ("fieldPath", &regarding.field_path)] {
            if !value.is_empty() {
                involved[field] = value.as_str().into();
            }
        }
        let mut source = json!({"component": note.component});
        if !note.host.is_empty() {
            source["host"] = note.host.as_str().into();
        }
        let event = json!({
            "metadata": {"name": format!("{}.{serial:x}", regarding.name), "namespace": namespace},
            "involvedObject": involved,
            "reason": note.reason,
            "message": note.message,
            "type": if note.warning { "Warning" } else { "Normal" },
            "source": source,
            "reportingComponent": note.component,
            "reportingInstance": note.host,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "eventTime": null,
        });
        let made = self.registry.create(&EVENTS, namespace, event, &WriteOptions::default()).await?;
        Ok((namespace.to_owned(), text(&made["metadata"]["name"]).to_owned()))
    }
}
