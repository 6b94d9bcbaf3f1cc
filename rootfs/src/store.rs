//! The store of images on disk.

use crate::{
    ImageError, Reference, Registries, embedded,
    error::io_error,
    image::{Image, Record, hex},
    layer, overlay, remove,
    unpack::Limits,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Cheap to clone. Blocking methods are for a thread that may block.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub root: PathBuf,
    pub registries: Registries,
    /// By manifest digest.
    pub images: Mutex<BTreeMap<String, Record>>,
    /// One pull of a name, and one unpacking of a layer, at a time.
    pub locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Layers that a pull or import under way counts on, and how many do.
    pinned: Mutex<BTreeMap<String, usize>>,
    staged: AtomicU64,
    /// Why no overlay can be mounted here, if so.
    pub overlay_refused: Option<String>,
}

/// Fewest digits of a digest that stand for the whole of it.
const DIGITS_MIN: usize = 8;

/// What an image without layers lies on: an empty directory in `layers/`.
const NO_LAYERS: &str = "empty";

/// Layers that must stay while their image is being made.
pub(crate) struct Pin {
    store: ImageStore,
    diff_ids: Vec<String>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.store.inner.pinned.lock().expect("no panic while locked");
        for diff_id in &self.diff_ids {
            let count = pinned.get_mut(diff_id).expect("pinned by us");
            *count -= 1;
            if *count == 0 {
                pinned.remove(diff_id);
            }
        }
    }
}

impl ImageStore {
    /// Opens the store below `state_dir`, making what is missing and removing what a crash left half done. Blocks.
    pub fn open(state_dir: &Path, registries: Registries) -> Result<Self, ImageError> {
        for dir in ["images", "layers", "layers/empty", "snapshots", "used"] {
            let path = state_dir.join(dir);
            fs::create_dir_all(&path).map_err(io_error("create", path))?;
        }
        let staging = state_dir.join("staging");
        match remove::tree(&staging) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error("remove", staging)(err));
            }
            _ => fs::create_dir_all(&staging).map_err(io_error("create", &staging))?,
        }
        let images = load(state_dir)?;
        let trial = staging.join("overlay");
        let overlay_refused = overlay::probe(&trial).err().map(|err| err.to_string());
        remove::tree(&trial).map_err(io_error("remove", &trial))?;
        let inner = Inner {
            root: state_dir.to_path_buf(),
            registries,
            images: Mutex::new(images),
            locks: Mutex::new(BTreeMap::new()),
            pinned: Mutex::new(BTreeMap::new()),
            staged: AtomicU64::new(0),
            overlay_refused,
        };
        let store = Self { inner: Arc::new(inner) };
        embedded::install(&store)?;
        store.remove_unused_layers()?;
        store.remove_stale_marks(store.inner.images.lock().expect("no panic while locked").values())?;
        Ok(store)
    }

    /// Why every container gets a copy of its image: what overlayfs said when the store was opened. `None` where layers are shared.
    pub fn overlay_refused(&self) -> Option<&str> {
        self.inner.overlay_refused.as_deref()
    }

    /// The image of that name or digest, if it is here.
    pub fn resolve(&self, reference: &Reference) -> Option<Image> {
        let images = self.inner.images.lock().expect("no panic while locked");
        let name = reference.to_string();
        let found = images.values().find(|record| {
            let same_digest = reference.digest.as_ref().is_some_and(|digest| *digest == record.digest);
            record.names.contains(&name)
                || (same_digest
                    && record.names.iter().any(|name| {
                        name.starts_with(&format!("{}/{}", reference.registry, reference.repository))
                    }))
        });
        found.map(|record| self.image(record))
    }

    /// Every image, by digest.
    pub fn list(&self) -> Vec<Image> {
        self.inner
            .images
            .lock()
            .expect("no panic while locked")
            .values()
            .map(|record| self.image(record))
            .collect()
    }

    /// Takes a name away, or with a digest the image with all its names. `users` are (image digest, container) pairs that keep images.
    pub fn remove(&self, reference: &str, users: &[(String, String)]) -> Result<String, ImageError> {
        let mut images = self.inner.images.lock().expect("no panic while locked");
        let (digest, name) = find(&images, reference)?;
        let record = images.get_mut(&digest).expect("found");
        let last = name.is_none() || record.names.len() == 1;
        if let (true, Some((_, by))) = (last, users.iter().find(|(used, _)| *used == digest)) {
            return Err(ImageError::InUse { reference: reference.to_owned(), by: by.clone() });
        }
        if last {
            self.forget(&mut images, &digest)?;
            drop(images);
            self.remove_unused_layers()?;
        } else {
            record.names.retain(|have| Some(have) != name.as_ref());
            let record = record.clone();
            self.write_record(&record)?;
        }
        Ok(digest)
    }

    /// Takes an image away for good; its layers are for [`Self::remove_unused_layers`].
    pub(crate) fn forget(
        &self,
        images: &mut BTreeMap<String, Record>,
        digest: &str,
    ) -> Result<(), ImageError> {
        let path = self.record_path(digest);
        fs::remove_file(&path).map_err(io_error("remove", path))?;
        images.remove(digest);
        // One that stays is removed when the store is opened again.
        let _ = fs::remove_file(self.used_path(digest));
        Ok(())
    }

    /// Layers that no image names go.
    pub(crate) fn remove_unused_layers(&self) -> Result<(), ImageError> {
        let mut doomed = Vec::new();
        {
            let images = self.inner.images.lock().expect("no panic while locked");
            let pinned = self.inner.pinned.lock().expect("no panic while locked");
            let used: BTreeSet<&str> = images
                .values()
                .flat_map(|record| &record.diff_ids)
                .chain(pinned.keys())
                .map(String::as_str)
                .chain([NO_LAYERS])
                .collect();
            let layers = self.inner.root.join("layers");
            for entry in fs::read_dir(&layers).map_err(io_error("list", &layers))?.flatten() {
                if !used.contains(entry.file_name().to_string_lossy().as_ref()) {
                    // Moved away first: half a layer must never stand under its name.
                    let staged = self.stage();
                    fs::rename(entry.path(), &staged).map_err(io_error("remove", entry.path()))?;
                    doomed.push(staged);
                }
            }
        }
        // Without the locks: a large layer takes its time.
        doomed.into_iter().try_for_each(|path| remove::tree(&path).map_err(io_error("remove", path)))
    }

    pub(crate) fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_path(diff_id).is_dir()
    }

    /// Unpacks a layer and puts it in place once it is whole, verified and on disk. Blocks.
    ///
    /// - `blob`: digest of the bytes of `input` (`sha256:…`), where one is known.
    pub(crate) fn add_layer(
        &self,
        diff_id: &str,
        blob: Option<&str>,
        input: impl Read,
    ) -> Result<(), ImageError> {
        let target = self.layer_path(diff_id);
        if target.is_dir() {
            return Ok(());
        }
        let staged = self.stage();
        fs::create_dir(&staged).map_err(io_error("create", &staged))?;
        let added = layer::unpack(input, &staged, Limits::default()).and_then(|unpacked| {
            if let Some(expected) = blob {
                verify("blob", expected, &unpacked.blob)?;
            }
            verify("layer", &format!("sha256:{diff_id}"), &unpacked.diff_id)?;
            let commit = || -> std::io::Result<()> {
                nix::unistd::syncfs(File::open(&staged)?)?;
                fs::rename(&staged, &target)?;
                File::open(self.inner.root.join("layers"))?.sync_all()
            };
            match commit() {
                // Another pull was faster.
                Err(_) if target.is_dir() => Ok(()),
                committed => committed.map_err(io_error("commit", &staged)),
            }
        });
        // Gone when it was renamed; otherwise emptied at the next start at the latest.
        let _ = remove::tree(&staged);
        added
    }

    /// Keeps layers from being swept until the pin is dropped.
    pub(crate) fn pin(&self, diff_ids: &[String]) -> Pin {
        let mut pinned = self.inner.pinned.lock().expect("no panic while locked");
        for diff_id in diff_ids {
            *pinned.entry(diff_id.clone()).or_default() += 1;
        }
        Pin { store: self.clone(), diff_ids: diff_ids.to_vec() }
    }

    /// Makes an image known whose layers are all there; its names are taken from any other image.
    pub(crate) fn add_image(&self, mut record: Record) -> Result<Image, ImageError> {
        let mut images = self.inner.images.lock().expect("no panic while locked");
        if let Some(known) = images.get(&record.digest) {
            let more =
                known.names.iter().filter(|name| !record.names.contains(name)).cloned().collect::<Vec<_>>();
            record.names.extend(more);
        }
        self.write_record(&record)?;
        let digest = record.digest.clone();
        for other in images.values_mut().filter(|other| other.digest != digest) {
            let before = other.names.len();
            other.names.retain(|name| !record.names.contains(name));
            if other.names.len() != before {
                self.write_record(other)?;
            }
        }
        let image = self.image(&record);
        images.insert(digest, record);
        Ok(image)
    }

    fn write_record(&self, record: &Record) -> Result<(), ImageError> {
        let (path, staged) = (self.record_path(&record.digest), self.stage());
        let text = serde_json::to_vec(record).map_err(|err| crate::error::malformed("image record", err))?;
        let written = fs::write(&staged, text)
            .and_then(|()| File::open(&staged)?.sync_all())
            .and_then(|()| fs::rename(&staged, &path))
            .and_then(|()| File::open(self.inner.root.join("images"))?.sync_all());
        written.map_err(io_error("write", path))
    }

    pub(crate) fn record_path(&self, digest: &str) -> PathBuf {
        self.inner.root.join("images").join(format!("{}.json", hex(digest).unwrap_or_default()))
    }

    pub(crate) fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.inner.root.join("layers").join(diff_id)
    }

    /// A new path for something that is being made.
    pub(crate) fn stage(&self) -> PathBuf {
        let number = self.inner.staged.fetch_add(1, Ordering::Relaxed);
        self.inner.root.join("staging").join(format!("{}-{number}", std::process::id()))
    }

    /// Lower directories of an overlay with these layers: uppermost first, at least one.
    ///
    /// overlayfs refuses one directory twice. The upper of two equal layers already says all that the lower one would,
    /// whiteouts included, so the lower one is left out.
    fn lower(&self, diff_ids: &[String]) -> Vec<PathBuf> {
        let mut lower: Vec<PathBuf> = Vec::new();
        for path in diff_ids.iter().rev().map(|id| self.layer_path(id)) {
            if !lower.contains(&path) {
                lower.push(path);
            }
        }
        if lower.is_empty() {
            lower.push(self.layer_path(NO_LAYERS));
        }
        lower
    }

    pub(crate) fn image(&self, record: &Record) -> Image {
        Image {
            names: record.names.clone(),
            digest: record.digest.clone(),
            size_bytes: record.size_bytes,
            lower: self.lower(&record.diff_ids),
            config: record.config.clone(),
        }
    }
}

/// The images whose layers are all there; a record without them is left from a removal that was cut short.
fn load(state_dir: &Path) -> Result<BTreeMap<String, Record>, ImageError> {
    let dir = state_dir.join("images");
    let mut images = BTreeMap::new();
    for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))?.flatten() {
        let text = fs::read(entry.path()).map_err(io_error("read", entry.path()))?;
        match serde_json::from_slice::<Record>(&text) {
            Ok(record) if record.diff_ids.iter().all(|id| state_dir.join("layers").join(id).is_dir()) => {
                images.insert(record.digest.clone(), record);
            }
            _ => fs::remove_file(entry.path()).map_err(io_error("remove", entry.path()))?,
        }
    }
    Ok(images)
}

/// The digest of the image that `reference` means, with the name if it is one: a name, a digest, or the beginning of a digest.
pub(crate) fn find(
    images: &BTreeMap<String, Record>,
    reference: &str,
) -> Result<(String, Option<String>), ImageError> {
    let not_found = || ImageError::NotFound { reference: reference.to_owned() };
    if reference.strip_prefix("sha256:").is_some_and(|digits| digits.len() >= DIGITS_MIN) {
        let mut fitting = images.keys().filter(|digest| digest.starts_with(reference));
        let digest = fitting.next().ok_or_else(not_found)?;
        if fitting.next().is_some() {
            return Err(crate::error::malformed(reference, "is the beginning of more than one digest"));
        }
        return Ok((digest.clone(), None));
    }
    let name = reference.parse::<Reference>()?.to_string();
    let record = images.values().find(|record| record.names.contains(&name)).ok_or_else(not_found)?;
    Ok((record.digest.clone(), Some(name)))
}

/// Compares a digest (`sha256:…`) with the hexadecimal one of what came.
pub(crate) fn verify(what: &str, expected: &str, actual: &str) -> Result<(), ImageError> {
    if hex(expected) == Some(actual) {
        return Ok(());
    }
    let actual = format!("sha256:{actual}");
    Err(ImageError::Digest { what: what.to_owned(), expected: expected.to_owned(), actual })
}
