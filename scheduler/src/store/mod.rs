//! Keys and values with revisions: where every Kubernetes object is kept.
//!
//! Semantics are etcd's, so that etcd can stand behind the same trait: one revision for the whole store, raised by one
//! with every transaction; compare-and-swap by the revision of a key's last change; watches that replay from a revision.
//! Keys are made by `registry::key`; values are the JSON bytes that clients read, without `metadata.resourceVersion`:
//! the reader takes that from [`Entry::revision`].
//!
//! Invariants: an acknowledged write is on disk (fsync, group commit); a watcher sees every change after its
//! revision exactly once and in order, or its channel closes and a new watch says [`StoreError::Compacted`].

#[cfg(test)]
mod contract;
mod embedded;
mod history;
mod writer;

pub use embedded::Embedded;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;

/// Number of a transaction; 0 is the empty store.
pub type Revision = u64;

/// One key's value as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Arc<[u8]>,
    /// Revision of the last change of this key: `metadata.resourceVersion`.
    pub revision: Revision,
}

/// A page of keys in order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// The store's revision that the whole list is at.
    pub revision: Revision,
    /// Where to go on (exclusive); `None` on the last page.
    pub next: Option<String>,
    /// Keys after this page, where they were to be counted.
    pub remaining: Option<u64>,
}

/// What a key has to be like for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    Revision(Revision),
}

/// One change; `value: None` deletes.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: String,
    pub expect: Expect,
    pub value: Option<Vec<u8>>,
}

/// One change as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub revision: Revision,
    /// The value after the change; `None` when the key was deleted.
    pub value: Option<Arc<[u8]>>,
    /// The value before; `None` when the key was created.
    pub previous: Option<Arc<[u8]>>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// An [`Expect`] did not hold; nothing was written. `actual` is 0 when the key is absent.
    #[error("{key} is at revision {actual}")]
    Conflict { key: String, actual: Revision },
    /// The history before `oldest` is gone: list again.
    #[error("revision {asked} is older than {oldest}, the oldest kept")]
    Compacted { asked: Revision, oldest: Revision },
    /// The revision has not been reached yet.
    #[error("revision {asked} is newer than {newest}, the newest")]
    Future { asked: Revision, newest: Revision },
    /// The disk is nearly full. Nothing was written; reads go on, and deletions as long as there is room for them.
    #[error("{dir} has {free} bytes free, too few for a write: at least {needed} are kept in reserve")]
    Full { dir: String, free: u64, needed: u64 },
    /// Disk or database; nothing was acknowledged.
    #[error("store: {0}")]
    Backend(String),
}

/// Where to read a list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `None`: now. Otherwise the revision of an earlier page.
    pub at: Option<Revision>,
    /// Start after this key.
    pub after: Option<String>,
    /// 0: no limit.
    pub limit: usize,
    /// Count what comes after the page, which costs a look at every key.
    pub count: bool,
}

/// Changes to the keys under one prefix.
pub struct Watch {
    changes: mpsc::Receiver<Change>,
    /// Every change up to this revision has been put into `changes`.
    position: Arc<AtomicU64>,
}

impl Watch {
    fn new(changes: mpsc::Receiver<Change>, position: Arc<AtomicU64>) -> Self {
        Self { changes, position }
    }

    /// The next change; `None` when the history it needed is gone, or the store closed: list again.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }

    /// Up to which revision nothing is left to deliver: what a bookmark may say. `Err` is a change that came first.
    pub fn settled(&mut self) -> Result<Revision, Change> {
        let position = self.position.load(Ordering::Acquire);
        match self.changes.try_recv() {
            Ok(change) => Err(change),
            Err(_) => Ok(position),
        }
    }
}

/// The store. Cheap to clone; every method may be called from any task.
pub trait Store: Clone + Send + Sync + 'static {
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;
    /// Keys that start with `prefix`, in order.
    fn list(
        &self,
        prefix: &str,
        options: ListOptions,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;
    /// All writes in one transaction, or none; returns its revision once it is on disk. A transaction names a key once.
    fn commit(&self, writes: Vec<Write>) -> impl Future<Output = Result<Revision, StoreError>> + Send;
    /// Changes to keys with `prefix` after `from`, in order, then live. A slow reader slows down nobody else.
    fn watch(&self, prefix: &str, from: Revision) -> impl Future<Output = Result<Watch, StoreError>> + Send;
    /// The newest revision.
    fn revision(&self) -> Revision;
    /// Forget history before `revision`.
    fn compact(&self, revision: Revision) -> impl Future<Output = Result<(), StoreError>> + Send;
}
