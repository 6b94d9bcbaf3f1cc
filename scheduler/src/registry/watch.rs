//! A watch for controllers: decoded objects.

use super::object;
use crate::store::{self, Change, Revision};
use serde_json::Value;

/// What happened to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Added(Value),
    Modified(Value),
    /// The object as it was last, at the revision of its removal.
    Deleted(Value),
}

/// Changes of one resource.
pub struct Watch(store::Watch);

impl Watch {
    pub(super) fn new(watch: store::Watch) -> Self {
        Self(watch)
    }

    /// The next event; `None` when the watcher fell behind what is kept, or the store closed: list again.
    pub async fn next(&mut self) -> Option<Event> {
        let Change { revision, value, previous, .. } = self.0.next().await?;
        Some(match (value, previous) {
            (Some(value), None) => Event::Added(object::decode(&value, revision)),
            (Some(value), Some(_)) => Event::Modified(object::decode(&value, revision)),
            (None, previous) => Event::Deleted(object::decode(&previous.unwrap_or_default(), revision)),
        })
    }

    /// The next change as stored.
    pub async fn next_change(&mut self) -> Option<Change> {
        self.0.next().await
    }

    /// See [`store::Watch::settled`].
    pub fn settled(&mut self) -> Result<Revision, Change> {
        self.0.settled()
    }
}
