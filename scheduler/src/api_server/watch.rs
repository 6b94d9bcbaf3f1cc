//! WATCH: changes as one JSON event per line.
//!
//! The client's reading drives the store's watch: a slow client costs a few queued events and nothing else. A watch whose
//! history was compacted away ends with an ERROR event with code 410, and the client lists again.

use super::{
    Server,
    read::{self, Shape},
    request::Target,
    response::{self, Answer, Form},
    router::Call,
};
use crate::{
    registry::{self, identity, object},
    store::{Change, ListOptions, Revision},
};
use api::Status;
use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use serde_json::{Value, json};
use std::{convert::Infallible, time::Duration};
use tokio::{sync::mpsc, time::Instant};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Watches end after this or up to twice as long, so that they do not all come back at once.
const WATCH_MIN: Duration = Duration::from_secs(30 * 60);
const EVENTS_QUEUED: usize = 16;
const INITIAL_PAGE: usize = 500;

impl Server {
    pub(super) async fn watch(&self, target: &Target, call: &Call) -> Result<Answer, Status> {
        let mut shape = Shape::of(target.resource, call, self.registry().clock().now())?;
        if !target.name.is_empty() {
            shape.selection.only_name(&target.name);
        }
        let send_initial = call.query.flag("sendInitialEvents")?;
        let bookmarks = call.query.flag("allowWatchBookmarks")?;
        if send_initial && call.query.get("resourceVersionMatch") != Some("NotOlderThan") {
            let message = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
                           resourceVersionMatch to NotOlderThan";
            return Err(Status::new(422, "Invalid", message));
        }
        let asked = read::revision(call)?.filter(|revision| *revision != 0);
        let from = asked.filter(|_| !send_initial);
        let initial = from.is_none();
        let from = from.unwrap_or_else(|| self.registry().revision());
        let watch = self.registry().watch(target.resource, target.scope(), from).await?;
        let timeout = call.query.number("timeoutSeconds")?.filter(|seconds| *seconds != 0);
        let jitter = Duration::from_secs(u64::from(u16::from_le_bytes(identity::random())) % 1_800);
        let lasts = timeout.map_or(WATCH_MIN + jitter, Duration::from_secs);
        let (sender, mut receiver) = mpsc::channel::<Bytes>(EVENTS_QUEUED);
        let task = Task {
            server: self.clone(),
            target: target.clone(),
            shape,
            sender,
            bookmarks,
            end: Instant::now() + lasts,
            columns_sent: false,
        };
        tokio::spawn(task.run(watch, from, initial, send_initial));
        let chunks = futures_util::stream::poll_fn(move |context| {
            receiver.poll_recv(context).map(|chunk| chunk.map(Ok::<_, Infallible>))
        });
        Ok(response::with_type(StatusCode::OK, "application/json", Body::from_stream(chunks)))
    }
}

struct Task {
    server: Server,
    target: Target,
    shape: Shape,
    sender: mpsc::Sender<Bytes>,
    bookmarks: bool,
    end: Instant,
    columns_sent: bool,
}

/// The client has gone away.
struct Gone;

impl Task {
    async fn run(mut self, watch: registry::Watch, from: Revision, initial: bool, mark_initial: bool) {
        if initial && self.send_initial(from, mark_initial).await.is_err() {
            return;
        }
        // Nobody is left to tell when the client has gone.
        let _ = self.follow(watch).await;
    }

    /// What is there at `from`, then, when asked for, a bookmark that says so.
    async fn send_initial(&mut self, from: Revision, mark: bool) -> Result<(), Gone> {
        let mut options = ListOptions { at: Some(from), limit: INITIAL_PAGE, ..ListOptions::default() };
        loop {
            let registry = self.server.registry();
            let page = registry.page(self.target.resource, self.target.scope(), options.clone()).await;
            let page = match page {
                Ok(page) => page,
                Err(status) => return self.send_error(&status).await,
            };
            for entry in &page.entries {
                if self.selects(&entry.value, entry.revision) {
                    self.send("ADDED", &entry.value, entry.revision).await?;
                }
            }
            options.after = page.next;
            if options.after.is_none() {
                break;
            }
        }
        if mark { self.bookmark(from, true).await } else { Ok(()) }
    }

    async fn follow(&mut self, mut watch: registry::Watch) -> Result<(), Gone> {
        let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        loop {
            let sender = self.sender.clone();
            let change = tokio::select! {
                change = watch.next_change() => match change {
                    Some(change) => change,
                    None => {
                        let message = "too old resource version: the watch fell behind";
                        return self.send_error(&Status::expired(message)).await;
                    }
                },
                () = tokio::time::sleep_until(self.end) => return Ok(()),
                () = sender.closed() => return Err(Gone),
                _ = ticks.tick(), if self.bookmarks => match watch.settled() {
                    Ok(revision) => {
                        self.bookmark(revision, false).await?;
                        continue;
                    }
                    Err(change) => change,
                },
            };
            self.send_change(&change).await?;
        }
    }

    /// An object that comes to match a selector is added, one that ceases to is deleted.
    async fn send_change(&mut self, change: &Change) -> Result<(), Gone> {
        let revision = change.revision;
        let now = change.value.as_ref().filter(|value| self.selects(value, revision));
        let before = change.previous.as_ref().filter(|value| self.selects(value, revision));
        match (now, before) {
            (Some(value), None) => self.send("ADDED", value, revision).await,
            (Some(value), Some(_)) => self.send("MODIFIED", value, revision).await,
            (None, Some(previous)) => self.send("DELETED", previous, revision).await,
            (None, None) => Ok(()),
        }
    }

    fn selects(&self, bytes: &[u8], revision: Revision) -> bool {
        self.shape.selection.is_everything() || self.shape.selection.matches(&object::decode(bytes, revision))
    }

    async fn send(&mut self, event: &str, bytes: &[u8], revision: Revision) -> Result<(), Gone> {
        let mut line = Vec::with_capacity(bytes.len() + 96);
        line.extend_from_slice(format!(r#"{{"type":"{event}","object":"#).as_bytes());
        match self.shape.form {
            Form::Object => object::splice(&mut line, bytes, revision),
            Form::Partial => read::put(&mut line, &self.shape.partial(&object::decode(bytes, revision))),
            Form::Table => {
                let object = object::decode(bytes, revision);
                self.put_table(&mut line, &object, revision);
            }
        }
        line.extend_from_slice(b"}\n");
        self.sender.send(line.into()).await.map_err(|_| Gone)
    }

    fn put_table(&mut self, line: &mut Vec<u8>, object: &Value, revision: Revision) {
        let columns = !std::mem::replace(&mut self.columns_sent, true);
        let metadata = json!({"resourceVersion": revision.to_string()});
        line.extend(self.shape.table_head(&metadata, columns));
        read::put(line, &self.shape.row(object));
        line.extend_from_slice(b"]}");
    }

    async fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Result<(), Gone> {
        let resource = self.target.resource;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (kind, version) = match self.shape.form {
            Form::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".into()),
            Form::Object | Form::Table => (resource.kind, resource.api_version()),
        };
        let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        let mut line = br#"{"type":"BOOKMARK","object":"#.to_vec();
        match self.shape.form {
            Form::Table => self.put_table(&mut line, &object, revision),
            Form::Object | Form::Partial => read::put(&mut line, &object),
        }
        line.extend_from_slice(b"}\n");
        self.sender.send(line.into()).await.map_err(|_| Gone)
    }

    async fn send_error(&mut self, status: &Status) -> Result<(), Gone> {
        let line = format!("{}\n", json!({"type": "ERROR", "object": status.to_value()}));
        self.sender.send(line.into()).await.map_err(|_| Gone)
    }
}
