//! The store in one redb file on this host.
//!
//! On disk, as in etcd: `versions` holds every kept version of every key by (revision, index in the transaction), so a
//! value is written once; `keys` says which version of a key is the present one. Each version points to the one before
//! it, which is how lists at an old revision and previous values of changes are found. Compaction removes versions that
//! were superseded at or before its revision.
//!
//! Invariants: `keys` names exactly the versions that are neither superseded nor tombstones; every version after
//! `COMPACTED` still has the version before it.

use super::{
    Change, Entry, ListOptions, Page, Revision, Store, StoreError, Watch, Write,
    history::{self, History},
    writer::{self, Limits},
};
use redb::{
    Database, ReadTransaction, ReadableDatabase, TableDefinition, TableError,
    backends::{FileBackend, InMemoryBackend},
};
use std::{
    collections::BTreeMap,
    fs::File,
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};
use tokio::sync::{mpsc, oneshot};

/// Revision and index in its transaction; `(0, 0)` is no version.
pub(super) type Version = (u64, u32);
/// Key, version before, value (`None`: a deletion).
pub(super) type Row<'a> = (&'a str, Version, Option<&'a [u8]>);
pub(super) const NO_VERSION: Version = (0, 0);
pub(super) const VERSIONS: TableDefinition<Version, Row> = TableDefinition::new("versions");
pub(super) const KEYS: TableDefinition<&str, Version> = TableDefinition::new("keys");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const NEWEST: &str = "newest";
pub(super) const COMPACTED: &str = "compacted";

const CACHE_BYTES: usize = 8 << 20;

/// The embedded store. The last clone that goes away closes the file.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    db: Arc<Database>,
    history: Arc<History>,
    requests: Option<mpsc::UnboundedSender<writer::Request>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens or creates the file; an interrupted transaction is undone by redb.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed =
            |error: &dyn std::fmt::Display| StoreError::Backend(format!("open {}: {error}", path.display()));
        // Secrets are in it: nobody but its owner may read it.
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| failed(&error))?;
        // A new file's name has to survive power loss as well as its content.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| failed(&error))?;
        let file = FileBackend::new(file).map_err(|error| failed(&error))?;
        let mut builder = Database::builder();
        let db = builder.set_cache_size(CACHE_BYTES).create_with_backend(file);
        Self::start(db.map_err(|error| failed(&error))?, Limits::default(), Some(parent.to_path_buf()))
    }

    /// A store that is gone when it is dropped.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::in_memory_with(Limits::default())
    }

    pub(super) fn in_memory_with(limits: Limits) -> Result<Self, StoreError> {
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(InMemoryBackend::new())
            .map_err(backend)?;
        Self::start(db, limits, None)
    }

    fn start(db: Database, limits: Limits, dir: Option<PathBuf>) -> Result<Self, StoreError> {
        // A file that has its tables is not written to: a full disk can be read.
        let newest = match Reader::new(&db) {
            Ok(reader) => reader.newest,
            Err(_) => {
                let transaction = db.begin_write().map_err(backend)?;
                transaction.open_table(VERSIONS).map_err(backend)?;
                transaction.open_table(KEYS).map_err(backend)?;
                transaction.open_table(META).map_err(backend)?;
                transaction.commit().map_err(backend)?;
                0
            }
        };
        let db = Arc::new(db);
        let history = Arc::new(History::new(newest));
        let (requests, inbox) = mpsc::unbounded_channel();
        let thread = writer::spawn(db.clone(), history.clone(), limits, dir, inbox)
            .map_err(|error| StoreError::Backend(format!("start the writer thread: {error}")))?;
        let thread = Mutex::new(Some(thread));
        Ok(Self(Arc::new(Inner { db, history, requests: Some(requests), thread })))
    }

    /// Returns once a write to the disk has failed; the file has to be opened anew.
    pub async fn failed(&self) {
        if let Some(requests) = &self.0.requests {
            requests.closed().await;
        }
    }

    async fn request<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> writer::Request,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Backend("closed".into());
        let (reply, answer) = oneshot::channel();
        let requests = self.0.requests.as_ref().ok_or_else(closed)?;
        requests.send(make(reply)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Changes after `from` out of the file, at most `limit` versions, and how far they reach.
    pub(super) fn changes_on_disk(
        db: &Database,
        prefix: &str,
        from: Revision,
        limit: usize,
    ) -> Result<(Vec<Change>, Revision), StoreError> {
        let reader = Reader::new(db)?;
        reader.check(from)?;
        let mut changes = Vec::new();
        let mut reached = from;
        for (seen, row) in reader.versions.range((from + 1, 0)..).map_err(backend)?.enumerate() {
            let (version, row) = row.map_err(backend)?;
            let (revision, _) = version.value();
            if seen >= limit && revision != reached {
                return Ok((changes, reached));
            }
            reached = revision;
            let (key, before, value) = row.value();
            if key.starts_with(prefix) {
                let previous = reader.value(before)?;
                changes.push(Change { key: key.into(), revision, value: value.map(Arc::from), previous });
            }
        }
        Ok((changes, reader.newest))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.requests = None;
        let thread = self.thread.lock().map(|mut thread| thread.take());
        if let Ok(Some(thread)) = thread {
            let _ = thread.join();
        }
    }
}

impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let reader = Reader::new(&self.0.db)?;
        let version = reader.keys.get(key).map_err(backend)?.map_or(NO_VERSION, |version| version.value());
        let value = reader.value(version)?;
        Ok(value.map(|value| Entry { key: key.into(), value, revision: version.0 }))
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page, StoreError> {
        let db = self.0.db.clone();
        let prefix = prefix.to_owned();
        tokio::task::spawn_blocking(move || Reader::new(&db)?.list(&prefix, &options))
            .await
            .map_err(|error| StoreError::Backend(error.to_string()))?
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, StoreError> {
        assert!(!writes.is_empty(), "a transaction changes something");
        self.request(|reply| writer::Request::Commit { writes, reply }).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        Reader::new(&self.0.db)?.check(from)?;
        let db = Arc::downgrade(&self.0.db);
        Ok(history::watch(&self.0.history, db, prefix.to_owned(), from))
    }

    fn revision(&self) -> Revision {
        self.0.history.newest()
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.request(|reply| writer::Request::Compact { revision, reply }).await
    }
}

/// A snapshot of the file.
struct Reader {
    versions: redb::ReadOnlyTable<Version, Row<'static>>,
    keys: redb::ReadOnlyTable<&'static str, Version>,
    newest: Revision,
    compacted: Revision,
}

impl Reader {
    fn new(db: &Database) -> Result<Self, StoreError> {
        let transaction: ReadTransaction = db.begin_read().map_err(backend)?;
        let open = || -> Result<_, TableError> {
            Ok((
                transaction.open_table(VERSIONS)?,
                transaction.open_table(KEYS)?,
                transaction.open_table(META)?,
            ))
        };
        let (versions, keys, meta) = open().map_err(backend)?;
        let number = |name| Ok::<_, StoreError>(meta.get(name).map_err(backend)?.map_or(0, |n| n.value()));
        Ok(Self { newest: number(NEWEST)?, compacted: number(COMPACTED)?, versions, keys })
    }

    fn check(&self, asked: Revision) -> Result<(), StoreError> {
        if asked < self.compacted {
            return Err(StoreError::Compacted { asked, oldest: self.compacted });
        }
        if asked > self.newest {
            return Err(StoreError::Future { asked, newest: self.newest });
        }
        Ok(())
    }

    fn value(&self, version: Version) -> Result<Option<Arc<[u8]>>, StoreError> {
        if version == NO_VERSION {
            return Ok(None);
        }
        let row = self.versions.get(version).map_err(backend)?;
        Ok(row.and_then(|row| row.value().2.map(Arc::from)))
    }

    fn list(&self, prefix: &str, options: &ListOptions) -> Result<Page, StoreError> {
        let at = options.at.unwrap_or(self.newest);
        self.check(at)?;
        let mut overrides = self.versions_before_changes(prefix, at)?.into_iter().peekable();
        let after = options.after.as_deref().unwrap_or(prefix);
        let included = if options.after.is_some() { Bound::Excluded(after) } else { Bound::Included(after) };
        let mut page = Page { revision: at, ..Page::default() };
        // False once the page is complete and nothing is left to count.
        let mut add = |key: &str, version: Version| -> Result<bool, StoreError> {
            if version == NO_VERSION || (options.after.is_some() && key <= after) {
                return Ok(true);
            }
            if options.limit != 0 && page.entries.len() == options.limit {
                page.next = page.entries.last().map(|entry| entry.key.clone());
                if options.count {
                    *page.remaining.get_or_insert(0) += 1;
                }
                return Ok(options.count);
            }
            if let Some(value) = self.value(version)? {
                page.entries.push(Entry { key: key.into(), value, revision: version.0 });
            }
            Ok(true)
        };
        for row in self.keys.range::<&str>((included, Bound::Unbounded)).map_err(backend)? {
            let (key, version) = row.map_err(backend)?;
            let (key, mut version) = (key.value(), version.value());
            if !key.starts_with(prefix) {
                break;
            }
            while let Some((gone, before)) = overrides.next_if(|(changed, _)| changed.as_str() < key) {
                add(&gone, before)?;
            }
            if let Some((_, before)) = overrides.next_if(|(changed, _)| changed == key) {
                version = before;
            }
            if !add(key, version)? {
                return Ok(page);
            }
        }
        for (gone, before) in overrides {
            add(&gone, before)?;
        }
        Ok(page)
    }

    /// What each key that changed after `at` was at `at`.
    fn versions_before_changes(
        &self,
        prefix: &str,
        at: Revision,
    ) -> Result<BTreeMap<String, Version>, StoreError> {
        let mut found = BTreeMap::new();
        if at == self.newest {
            return Ok(found);
        }
        for row in self.versions.range((at + 1, 0)..).map_err(backend)? {
            let (_, row) = row.map_err(backend)?;
            let (key, before, _) = row.value();
            if key.starts_with(prefix) && !found.contains_key(key) {
                found.insert(key.to_owned(), before);
            }
        }
        Ok(found)
    }
}

pub(super) fn backend(error: impl std::fmt::Display) -> StoreError {
    StoreError::Backend(error.to_string())
}
