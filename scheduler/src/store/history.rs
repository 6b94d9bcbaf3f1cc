//! Recent changes in memory, and the watchers that read them.
//!
//! Each watcher is a task with its own position: it reads the ring, or the file when it has fallen behind the ring, and
//! waits for room in its channel. So a slow watcher costs one position, not a queue.
//!
//! Invariant: the ring holds every change after `floor`.

use super::{Change, Embedded, Revision, Watch};
use redb::Database;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, watch};

const RING_CHANGES_MAX: usize = 4_096;
const RING_BYTES_MAX: usize = 4 << 20;
/// Changes looked at in one go.
const CHUNK: usize = 256;
const CHANNEL_CHANGES: usize = 64;

pub(super) struct History {
    ring: Mutex<Ring>,
    newest: watch::Sender<Revision>,
}

struct Ring {
    changes: VecDeque<Change>,
    bytes: usize,
    floor: Revision,
    newest: Revision,
}

impl History {
    pub fn new(newest: Revision) -> Self {
        let ring = Ring { changes: VecDeque::new(), bytes: 0, floor: newest, newest };
        Self { ring: Mutex::new(ring), newest: watch::Sender::new(newest) }
    }

    pub fn newest(&self) -> Revision {
        *self.newest.borrow()
    }

    /// Takes in what a synced transaction changed.
    pub fn publish(&self, changes: Vec<Change>, newest: Revision) {
        self.ring().push(changes, newest);
        self.newest.send_replace(newest);
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("nothing panics while it holds the ring")
    }
}

impl Ring {
    fn push(&mut self, changes: Vec<Change>, newest: Revision) {
        self.newest = newest;
        for change in changes {
            self.bytes += size(&change);
            self.changes.push_back(change);
        }
        while self.bytes > RING_BYTES_MAX || self.changes.len() > RING_CHANGES_MAX {
            let Some(old) = self.changes.pop_front() else { break };
            self.bytes -= size(&old);
            self.floor = old.revision;
        }
    }

    /// Changes after `from` under `prefix` and how far they reach; `None` when the ring starts later.
    fn after(&self, prefix: &str, from: Revision) -> Option<(Vec<Change>, Revision)> {
        if from < self.floor {
            return None;
        }
        let start = self.changes.partition_point(|change| change.revision <= from);
        let mut reached = from;
        let mut found = Vec::new();
        for (seen, change) in self.changes.range(start..).enumerate() {
            if seen >= CHUNK && change.revision != reached {
                return Some((found, reached));
            }
            reached = change.revision;
            if change.key.starts_with(prefix) {
                found.push(change.clone());
            }
        }
        Some((found, self.newest.max(from)))
    }
}

fn size(change: &Change) -> usize {
    let bytes = |value: &Option<Arc<[u8]>>| value.as_ref().map_or(0, |value| value.len());
    change.key.len() + bytes(&change.value) + bytes(&change.previous) + 64
}

/// Starts a watcher; it ends when its reader does, the store closes, or its history was compacted away.
pub(super) fn watch(history: &Arc<History>, db: Weak<Database>, prefix: String, from: Revision) -> Watch {
    let (sender, receiver) = mpsc::channel(CHANNEL_CHANGES);
    let position = Arc::new(AtomicU64::new(from));
    let watch = Watch::new(receiver, position.clone());
    let newest = history.newest.subscribe();
    tokio::spawn(follow(Source { history: Arc::downgrade(history), db, prefix }, newest, sender, position));
    watch
}

/// Where a watcher reads; weak, so that watchers do not keep a store open.
struct Source {
    history: Weak<History>,
    db: Weak<Database>,
    prefix: String,
}

impl Source {
    fn after(&self, from: Revision) -> Option<(Vec<Change>, Revision)> {
        let recent = self.history.upgrade()?.ring().after(&self.prefix, from);
        recent.or_else(|| Embedded::changes_on_disk(&*self.db.upgrade()?, &self.prefix, from, CHUNK).ok())
    }
}

async fn follow(
    source: Source,
    mut newest: watch::Receiver<Revision>,
    sender: mpsc::Sender<Change>,
    position: Arc<AtomicU64>,
) {
    let mut from = position.load(Ordering::Relaxed);
    loop {
        newest.borrow_and_update();
        let Some((changes, reached)) = source.after(from) else { return };
        for change in changes {
            if sender.send(change).await.is_err() {
                return;
            }
        }
        if reached > from {
            from = reached;
            position.store(reached, Ordering::Release);
            continue;
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}
