//! Events, as `kubectl describe` shows them: the same thing about the same object is one Event with a count.
//!
//! Recording never blocks and never fails its caller; when too many wait, the newest are dropped.

use super::{
    object::text,
    plan::{Note, Regarding},
};
use crate::registry::{Registry, Subresource, WriteOptions};
use api::{Status, resource::EVENTS};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    time::UNIX_EPOCH,
};
use tokio::sync::mpsc;
use tracing::debug;

const WAITING_MAX: usize = 4096;
/// Events written side by side: they share commits.
const AT_ONCE: usize = 32;
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
            let mut batch = Vec::with_capacity(AT_ONCE);
            while notes.recv_many(&mut batch, AT_ONCE).await > 0 {
                book.write_all(batch.drain(..)).await;
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
    /// The Event for a thing that happened.
    seen: HashMap<Happening, Place>,
    order: VecDeque<Happening>,
    serial: u64,
}

/// About what, reason, message.
type Happening = (Regarding, String, String);
/// Namespace and name of an Event.
type Place = (String, String);

impl Book {
    async fn write_all(&mut self, notes: impl Iterator<Item = Note>) {
        let mut counts: HashMap<Happening, (Note, u64)> = HashMap::new();
        for note in notes {
            let happening = (note.regarding.clone(), note.reason.clone(), note.message.clone());
            counts.entry(happening).or_insert((note, 0)).1 += 1;
        }
        let since = self.registry.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = since.as_nanos() as u64 + self.serial;
        self.serial += counts.len() as u64;
        let book = &*self;
        let written =
            counts.into_iter().zip(first..).map(|((happening, (note, times)), serial)| async move {
                (book.write(&happening, &note, times, serial).await, happening)
            });
        for (result, happening) in join_all(written).await {
            match result {
                Ok(place) => self.remember(happening, place),
                Err(status) => debug!(error = %status, reason = happening.1, "event was not written"),
            }
        }
    }

    fn remember(&mut self, happening: Happening, place: Place) {
        if self.seen.insert(happening.clone(), place).is_none() {
            self.order.push_back(happening);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }

    /// Counts the Event there is, or makes one; answers where it is.
    async fn write(
        &self,
        happening: &Happening,
        note: &Note,
        times: u64,
        serial: u64,
    ) -> Result<Place, Status> {
        if let Some(place) = self.seen.get(happening) {
            match self.count(&place.0, &place.1, times).await {
                Err(status) if status.code == 404 => {}
                result => return result.map(|()| place.clone()),
            }
        }
        self.create(note, times, serial).await
    }

    async fn count(&self, namespace: &str, name: &str, times: u64) -> Result<(), Status> {
        let now = self.registry.clock().timestamp();
        let change = |mut event: Value| {
            event["count"] = (event["count"].as_u64().unwrap_or(1) + times).into();
            event["lastTimestamp"] = now.as_str().into();
            Ok(event)
        };
        let options = WriteOptions::default();
        self.registry.update(&EVENTS, namespace, name, Subresource::Main, change, &options).await.map(drop)
    }

    async fn create(&self, note: &Note, times: u64, serial: u64) -> Result<Place, Status> {
        let regarding = &note.regarding;
        let namespace = if regarding.namespace.is_empty() { "default" } else { &regarding.namespace };
        let now = self.registry.clock().timestamp();
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
            "count": times,
            "eventTime": null,
        });
        let made = self.registry.create(&EVENTS, namespace, event, &WriteOptions::default()).await?;
        Ok((namespace.to_owned(), text(&made["metadata"]["name"]).to_owned()))
    }
}
