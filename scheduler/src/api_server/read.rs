//! GET: one object, or a list. Stored bytes are copied out; only selectors, tables and partial objects decode them.

use super::selection::Selection;
use super::{
    Server,
    request::Target,
    response::{self, Answer, Form},
    router::Call,
};
use crate::{
    registry::object,
    store::{Entry, ListOptions, Page, Revision},
};
use api::{Resource, Status};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::{convert::Infallible, time::SystemTime};
use tokio::sync::mpsc;

/// Objects that are read and sent in one go.
const PAGE_OBJECTS: usize = 500;
/// Pages of one list that wait for a slow client.
const PAGES_QUEUED: usize = 2;

impl Server {
    pub(super) async fn get(&self, target: &Target, call: &Call) -> Result<Answer, Status> {
        let shape = Shape::of(target.resource, call, self.registry().clock().now())?;
        let entry = self.registry().entry(target.resource, &target.namespace, &target.name).await?;
        let mut body = Vec::with_capacity(entry.value.len() + 64);
        match shape.form {
            Form::Object => object::splice(&mut body, &entry.value, entry.revision),
            Form::Partial => put(&mut body, &shape.partial(&decode(&entry))),
            Form::Table => {
                body.extend(shape.table_head(&json!({"resourceVersion": entry.revision.to_string()}), true));
                put(&mut body, &shape.row(&decode(&entry)));
                body.extend_from_slice(b"]}");
            }
        }
        Ok(response::document(&call.parts.headers, body))
    }

    pub(super) async fn list(&self, target: &Target, call: &Call) -> Result<Answer, Status> {
        let shape = Shape::of(target.resource, call, self.registry().clock().now())?;
        self.registry().require_revision(revision(call)?.unwrap_or(0))?;
        let (options, left) = start(call)?;
        let mut lister = Lister { server: self.clone(), target: target.clone(), shape, options };
        let limit = call.query.number::<usize>("limit")?.unwrap_or(0);
        if limit != 0 {
            let (entries, page) = lister.take(limit, left).await?;
            return Ok(response::document(&call.parts.headers, lister.shape.whole(&entries, &page)));
        }
        let first = lister.next_page().await?;
        if first.next.is_none() {
            let entries: Vec<&Entry> = first.entries.iter().collect();
            return Ok(response::document(&call.parts.headers, lister.shape.whole(&entries, &first)));
        }
        Ok(stream(lister, first))
    }
}

/// Reads page after page at one revision.
struct Lister {
    server: Server,
    target: Target,
    shape: Shape,
    options: ListOptions,
}

impl Lister {
    async fn next_page(&mut self) -> Result<Page, Status> {
        let options = ListOptions { limit: PAGE_OBJECTS, ..self.options.clone() };
        let page = self.server.registry().page(self.target.resource, self.target.scope(), options).await?;
        self.options.at = Some(page.revision);
        self.options.after.clone_from(&page.next);
        Ok(Page { entries: page.entries.into_iter().filter(|entry| self.wants(entry)).collect(), ..page })
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.shape.selection.is_everything() || self.shape.selection.matches(&decode(entry))
    }

    /// The next `limit` objects that are selected, and where the list goes on.
    async fn take(&mut self, limit: usize, left: Option<u64>) -> Result<(Vec<Entry>, Page), Status> {
        let everything = self.shape.selection.is_everything();
        let mut taken: Vec<Entry> = Vec::new();
        loop {
            let wanted = if everything { limit } else { PAGE_OBJECTS };
            let count = everything && self.options.after.is_none();
            let options = ListOptions { limit: wanted, count, ..self.options.clone() };
            let mut page =
                self.server.registry().page(self.target.resource, self.target.scope(), options).await?;
            page.remaining = page.remaining.or(left.map(|left| left.saturating_sub(limit as u64)));
            self.options.at = Some(page.revision);
            self.options.after.clone_from(&page.next);
            let entries = std::mem::take(&mut page.entries);
            let last = entries.last().map(|entry| entry.key.clone());
            for entry in entries {
                if !self.wants(&entry) {
                    continue;
                }
                let key = entry.key.clone();
                taken.push(entry);
                if taken.len() == limit {
                    let more = page.next.is_some() || last.as_ref() != Some(&key);
                    page.next = more.then_some(key);
                    return Ok((taken, page));
                }
            }
            if page.next.is_none() {
                return Ok((taken, page));
            }
        }
    }
}

/// Sends a long list page by page; a client that stops reading stops the reading of pages.
fn stream(mut lister: Lister, first: Page) -> Answer {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(PAGES_QUEUED);
    tokio::spawn(async move {
        let mut page = first;
        let mut bytes = lister.shape.list_head(&list_metadata(page.revision));
        let mut empty = true;
        loop {
            lister.shape.items(&mut bytes, page.entries.iter(), &mut empty);
            if page.next.is_none() {
                bytes.extend_from_slice(b"]}");
                // A client that has gone away needs no end.
                let _ = sender.send(bytes.into()).await;
                return;
            }
            if sender.send(std::mem::take(&mut bytes).into()).await.is_err() {
                return;
            }
            // Without its end the list does not parse: the client notices a failure here.
            let Ok(next) = lister.next_page().await else { return };
            page = next;
        }
    });
    let chunks = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|chunk| chunk.map(Ok::<_, Infallible>))
    });
    response::with_type(StatusCode::OK, "application/json", Body::from_stream(chunks))
}

/// In what shape objects are sent.
pub struct Shape {
    pub resource: &'static Resource,
    pub form: Form,
    pub selection: Selection,
    full_rows: bool,
    now: SystemTime,
}

impl Shape {
    pub fn of(resource: &'static Resource, call: &Call, now: SystemTime) -> Result<Self, Status> {
        let form = accepted_form(&call.parts.headers)?;
        let query = &call.query;
        let selection = Selection::parse(resource, query.get("labelSelector"), query.get("fieldSelector"))?;
        let full_rows = match query.get("includeObject") {
            Some("Object") => true,
            None | Some("Metadata" | "None") => false,
            Some(other) => {
                return Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}")));
            }
        };
        Ok(Self { resource, form, selection, full_rows, now })
    }

    /// A list that fits in memory.
    fn whole<E: std::borrow::Borrow<Entry>>(&self, entries: &[E], page: &Page) -> Vec<u8> {
        let mut metadata = list_metadata(page.revision);
        if let Some(next) = &page.next {
            metadata["continue"] = json!(continue_token(page.revision, next, page.remaining));
            if let Some(remaining) = page.remaining {
                metadata["remainingItemCount"] = json!(remaining);
            }
        }
        let mut body = self.list_head(&metadata);
        self.items(&mut body, entries.iter().map(std::borrow::Borrow::borrow), &mut true);
        body.extend_from_slice(b"]}");
        body
    }

    fn list_head(&self, metadata: &Value) -> Vec<u8> {
        let (kind, version) = match self.form {
            Form::Table => return self.table_head(metadata, true),
            Form::Partial => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
            Form::Object => (format!("{}List", self.resource.kind), self.resource.api_version()),
        };
        format!(r#"{{"kind":"{kind}","apiVersion":"{version}","metadata":{metadata},"items":["#).into_bytes()
    }

    fn items<'a>(&self, out: &mut Vec<u8>, entries: impl Iterator<Item = &'a Entry>, empty: &mut bool) {
        for entry in entries {
            if !std::mem::replace(empty, false) {
                out.push(b',');
            }
            match self.form {
                Form::Object => object::splice(out, &entry.value, entry.revision),
                Form::Partial => put(out, &self.partial(&decode(entry))),
                Form::Table => put(out, &self.row(&decode(entry))),
            }
        }
    }

    /// A table up to its rows; a watch says the columns once.
    pub fn table_head(&self, metadata: &Value, columns: bool) -> Vec<u8> {
        let columns = if columns { super::table::columns(self.resource) } else { Value::Null };
        format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{metadata},"columnDefinitions":{columns},"rows":["#
        )
        .into_bytes()
    }

    pub fn row(&self, object: &Value) -> Value {
        let shown = if self.full_rows { object.clone() } else { self.partial(object) };
        json!({"cells": super::table::cells(self.resource, object, self.now), "object": shown})
    }

    pub fn partial(&self, object: &Value) -> Value {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    }
}

pub fn accepted_form(headers: &HeaderMap) -> Result<Form, Status> {
    response::form(headers).ok_or_else(|| {
        let message = "only the following media types are accepted: application/json";
        Status::new(406, "NotAcceptable", message)
    })
}

pub fn put(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value has string keys");
}

fn decode(entry: &Entry) -> Value {
    object::decode(&entry.value, entry.revision)
}

fn list_metadata(revision: Revision) -> Value {
    json!({"resourceVersion": revision.to_string()})
}

/// Where a list starts: at the `continue` of the page before, at an exact revision, or now; and how many objects the
/// pages before left.
fn start(call: &Call) -> Result<(ListOptions, Option<u64>), Status> {
    if let Some(token) = call.query.get("continue") {
        let (revision, after, remaining) = parse_continue(token)
            .ok_or_else(|| Status::bad_request("continue key is not valid: it is not one of ours"))?;
        let options = ListOptions { at: Some(revision), after: Some(after), ..ListOptions::default() };
        return Ok((options, remaining));
    }
    let exact = call.query.get("resourceVersionMatch") == Some("Exact");
    let revision = revision(call)?.filter(|revision| exact && *revision != 0);
    Ok((ListOptions { at: revision, ..ListOptions::default() }, None))
}

/// The query's resourceVersion.
pub fn revision(call: &Call) -> Result<Option<Revision>, Status> {
    let Some(given) = call.query.get("resourceVersion") else { return Ok(None) };
    given.parse().map(Some).map_err(|_| {
        Status::bad_request(format!("resourceVersion: Invalid value: {given:?}: must be a number"))
    })
}

/// What is left is counted for the first page only, and from then on remembered by the client.
fn continue_token(revision: Revision, after: &str, remaining: Option<u64>) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": after, "left": remaining});
    URL_SAFE_NO_PAD.encode(token.to_string())
}

fn parse_continue(token: &str) -> Option<(Revision, String, Option<u64>)> {
    let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    Some((token["rv"].as_u64()?, token["start"].as_str()?.to_owned(), token["left"].as_u64()))
}
