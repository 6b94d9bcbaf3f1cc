//! The one thread that writes the embedded store: transactions that wait together share one fsync.
//!
//! Invariants: a reply is sent only after the file is synced; a transaction whose expectations fail changes nothing and
//! takes no revision; what watchers see is on disk.

use super::{
    Change, Expect, Revision, StoreError, Write,
    embedded::{COMPACTED, KEYS, META, NEWEST, NO_VERSION, Row, VERSIONS, Version, backend},
    history::History,
};
use redb::{Database, ReadableTable, Table, WriteTransaction};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};
use tokio::sync::{mpsc, oneshot};

/// Transactions that share one fsync at most.
const BATCH_MAX: usize = 512;
/// Bytes of the disk that writes leave free, so that no transaction stops half way and a restart finds room.
const RESERVE: u64 = 16 << 20;
/// The same for deletions, which make room in the end.
const RESERVE_TO_DELETE: u64 = 4 << 20;
/// Bytes that a transaction may take for each byte of its values: copies of pages on the way to the root.
const BYTES_PER_BYTE: u64 = 4;

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub revisions: u64,
    /// With more than this in superseded values a tenth of the revisions is kept.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { revisions: 20_000, bytes: 64 << 20 }
    }
}

/// Versions looked at by one step of automatic compaction, so that no write waits long for it.
const COMPACT_STEP: u64 = 2_000;

pub(super) enum Request {
    Commit { writes: Vec<Write>, reply: oneshot::Sender<Result<Revision, StoreError>> },
    Compact { revision: Revision, reply: oneshot::Sender<Result<(), StoreError>> },
}

pub(super) fn spawn(
    db: Arc<Database>,
    history: Arc<History>,
    limits: Limits,
    dir: Option<PathBuf>,
    mut inbox: mpsc::UnboundedReceiver<Request>,
) -> io::Result<JoinHandle<()>> {
    let mut writer = Writer { newest: history.newest(), db, history, limits, dir, superseded_bytes: 0 };
    std::thread::Builder::new().name("store".into()).spawn(move || {
        let mut batch = Vec::new();
        while inbox.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            if !writer.perform(std::mem::take(&mut batch)) {
                // redb serves nothing more after a failed write: the owner starts anew.
                return;
            }
        }
    })
}

struct Writer {
    db: Arc<Database>,
    history: Arc<History>,
    limits: Limits,
    /// Where the file is; `None` in memory.
    dir: Option<PathBuf>,
    newest: Revision,
    /// Bytes of superseded values since automatic compaction last ran; an estimate after a restart.
    superseded_bytes: u64,
}

/// Replies that wait for the fsync.
enum Waiting {
    Commit(oneshot::Sender<Result<Revision, StoreError>>, Result<Revision, StoreError>),
    Compact(oneshot::Sender<Result<(), StoreError>>, Result<(), StoreError>),
}

impl Writer {
    /// False when the disk failed.
    fn perform(&mut self, batch: Vec<Request>) -> bool {
        let mut changes = Vec::new();
        let mut waiting = Vec::with_capacity(batch.len());
        let before = self.newest;
        let done = self.transact(batch, &mut changes, &mut waiting);
        match &done {
            Ok(()) => self.history.publish(changes, self.newest),
            Err(_) => self.newest = before,
        }
        for reply in waiting {
            // A caller that has gone away does not need its answer.
            match reply {
                Waiting::Commit(reply, result) => {
                    let _ = reply.send(done.clone().and(result));
                }
                Waiting::Compact(reply, result) => {
                    let _ = reply.send(done.clone().and(result));
                }
            }
        }
        done.is_ok()
    }

    /// Refuses what the disk has no room for.
    fn check_room(&self, writes: &[Write], free: Option<u64>) -> Result<(), StoreError> {
        let (Some(dir), Some(free)) = (&self.dir, free) else { return Ok(()) };
        let reserve =
            if writes.iter().all(|write| write.value.is_none()) { RESERVE_TO_DELETE } else { RESERVE };
        let needed = reserve + room(writes);
        if free < needed {
            return Err(StoreError::Full { dir: dir.display().to_string(), free, needed });
        }
        Ok(())
    }

    fn transact(
        &mut self,
        batch: Vec<Request>,
        changes: &mut Vec<Change>,
        waiting: &mut Vec<Waiting>,
    ) -> Result<(), StoreError> {
        let transaction = match self.db.begin_write() {
            Ok(transaction) => transaction,
            Err(error) => {
                for request in batch {
                    waiting.push(refused(request, backend(&error)));
                }
                return Err(backend(error));
            }
        };
        let before = self.newest;
        let mut broken = None;
        let mut free = self.dir.as_deref().and_then(free_bytes);
        for request in batch {
            waiting.push(match request {
                Request::Commit { writes, reply } => {
                    let result = self
                        .check_room(&writes, free)
                        .and_then(|()| self.commit(&transaction, &writes, changes));
                    free = free.map(|free| free.saturating_sub(room(&writes)));
                    broken = broken.or(broke(&result));
                    Waiting::Commit(reply, result)
                }
                Request::Compact { revision, reply } => {
                    let result = compact(&transaction, revision.min(self.newest), u64::MAX);
                    broken = broken.or(broke(&result));
                    Waiting::Compact(reply, result)
                }
            });
        }
        if let Some(error) = broken {
            transaction.abort().map_err(backend)?;
            return Err(error);
        }
        if self.newest == before && waiting.iter().all(|reply| matches!(reply, Waiting::Commit(..))) {
            return transaction.abort().map_err(backend);
        }
        self.compact_step(&transaction)?;
        transaction.open_table(META).map_err(backend)?.insert(NEWEST, self.newest).map_err(backend)?;
        transaction.commit().map_err(backend)
    }

    /// One transaction inside the shared one. Expectations come first: nothing is written when one fails.
    fn commit(
        &mut self,
        transaction: &WriteTransaction,
        writes: &[Write],
        changes: &mut Vec<Change>,
    ) -> Result<Revision, StoreError> {
        let mut keys = transaction.open_table(KEYS).map_err(backend)?;
        let mut versions = transaction.open_table(VERSIONS).map_err(backend)?;
        let mut present = Vec::with_capacity(writes.len());
        for write in writes {
            let version = keys.get(write.key.as_str()).map_err(backend)?.map_or(NO_VERSION, |v| v.value());
            let wanted = match write.expect {
                Expect::Absent => 0,
                Expect::Revision(revision) => revision,
            };
            if version.0 != wanted || (version == NO_VERSION && write.value.is_none()) {
                return Err(StoreError::Conflict { key: write.key.clone(), actual: version.0 });
            }
            present.push(version);
        }
        self.newest += 1;
        for (index, (write, before)) in (0u32..).zip(writes.iter().zip(present)) {
            let change = self.apply(&mut keys, &mut versions, (self.newest, index), write, before)?;
            changes.push(change);
        }
        Ok(self.newest)
    }

    fn apply(
        &mut self,
        keys: &mut Table<&'static str, Version>,
        versions: &mut Table<Version, Row<'static>>,
        version: Version,
        write: &Write,
        before: Version,
    ) -> Result<Change, StoreError> {
        let key = write.key.as_str();
        let previous: Option<Arc<[u8]>> =
            versions.get(before).map_err(backend)?.and_then(|row| row.value().2.map(Arc::from));
        self.superseded_bytes += previous.as_ref().map_or(0, |value| value.len() as u64);
        versions.insert(version, (key, before, write.value.as_deref())).map_err(backend)?;
        match write.value {
            Some(_) => keys.insert(key, version).map_err(backend)?,
            None => keys.remove(key).map_err(backend)?,
        };
        let value = write.value.as_deref().map(Arc::from);
        Ok(Change { key: key.into(), revision: version.0, value, previous })
    }

    fn compact_step(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        let many = self.superseded_bytes > self.limits.bytes;
        let keep = if many { self.limits.revisions / 10 } else { self.limits.revisions };
        let target = self.newest.saturating_sub(keep);
        compact(transaction, target, COMPACT_STEP)?;
        let meta = transaction.open_table(META).map_err(backend)?;
        let compacted = meta.get(COMPACTED).map_err(backend)?.map_or(0, |n| n.value());
        if many && compacted >= target {
            self.superseded_bytes = 0;
        }
        Ok(())
    }
}

/// Bytes that writes may take on disk.
fn room(writes: &[Write]) -> u64 {
    let bytes: usize = writes.iter().filter_map(|write| write.value.as_ref()).map(|value| value.len()).sum();
    bytes as u64 * BYTES_PER_BYTE
}

/// What an unprivileged process may still write to the filesystem; `None` when it does not say.
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

/// A failed disk, which may have left half a transaction behind; a conflict leaves nothing.
fn broke<T>(result: &Result<T, StoreError>) -> Option<StoreError> {
    result.as_ref().err().filter(|error| matches!(error, StoreError::Backend(_))).cloned()
}

fn refused(request: Request, error: StoreError) -> Waiting {
    match request {
        Request::Commit { reply, .. } => Waiting::Commit(reply, Err(error)),
        Request::Compact { reply, .. } => Waiting::Compact(reply, Err(error)),
    }
}

/// Removes what was superseded or deleted up to `target`, at most `step` revisions of it.
fn compact(transaction: &WriteTransaction, target: Revision, step: u64) -> Result<(), StoreError> {
    let mut meta = transaction.open_table(META).map_err(backend)?;
    let compacted = meta.get(COMPACTED).map_err(backend)?.map_or(0, |n| n.value());
    let target = target.min(compacted.saturating_add(step));
    if target <= compacted {
        return Ok(());
    }
    let mut versions = transaction.open_table(VERSIONS).map_err(backend)?;
    let mut dead = Vec::new();
    for row in versions.range((compacted + 1, 0)..(target + 1, 0)).map_err(backend)? {
        let (version, row) = row.map_err(backend)?;
        let (_, before, value) = row.value();
        dead.extend((before != NO_VERSION).then_some(before));
        dead.extend(value.is_none().then(|| version.value()));
    }
    for version in dead {
        versions.remove(version).map_err(backend)?;
    }
    meta.insert(COMPACTED, target).map_err(backend)?;
    Ok(())
}
