//! The writable layer of one container, or its copy of the image. Nothing is mounted here: the runtime mounts it where only the container sees it.

use crate::{Image, ImageError, ImageStore, copy, error::io_error, remove};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where a container's root filesystem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Empty directory to mount the overlay on; without one, the whole filesystem.
    pub root: PathBuf,
    /// `None` where overlayfs cannot be mounted ([`ImageStore::overlay_refused`]).
    pub overlay: Option<Overlay>,
}

/// Directories of an overlay mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Uppermost first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

impl ImageStore {
    /// Makes the writable layer of a container, or gives the one it has. `container` is one safe path component. Blocks.
    pub fn prepare(&self, image: &Image, container: &str) -> Result<Snapshot, ImageError> {
        let dir = self.snapshot_dir(container);
        let root = dir.join("root");
        if self.overlay_refused().is_some() {
            self.copy(image, &dir, &root)?;
            return Ok(Snapshot { root, overlay: None });
        }
        let overlay =
            Overlay { lower: image.lower.clone(), upper: dir.join("upper"), work: dir.join("work") };
        for path in [&overlay.upper, &overlay.work, &root] {
            fs::create_dir_all(path).map_err(io_error("create", path))?;
        }
        // The root directory of the container is the upper one: it has to look like the image's.
        if let Some(below) = image.lower.iter().find_map(|lower| fs::metadata(lower).ok()) {
            use std::os::unix::fs::{MetadataExt, chown};
            fs::set_permissions(&overlay.upper, below.permissions())
                .map_err(io_error("set the mode of", &overlay.upper))?;
            chown(&overlay.upper, Some(below.uid()), Some(below.gid()))
                .map_err(io_error("chown", &overlay.upper))?;
        }
        Ok(Snapshot { root, overlay: Some(overlay) })
    }

    /// Copies the layers of `image` to `root` in `dir`, unless a whole copy is there.
    fn copy(&self, image: &Image, dir: &Path, root: &Path) -> Result<(), ImageError> {
        // An overlay's mount point, from when one could be mounted, is no copy.
        let upper = dir.join("upper");
        if root.is_dir() && !upper.exists() {
            return Ok(());
        }
        match remove::tree(dir) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", dir)(err)),
            _ => {}
        }
        let staged = dir.join("copy");
        fs::create_dir_all(&staged).map_err(io_error("create", &staged))?;
        copy::merged(&image.lower, &staged)?;
        // Under its name only when it is whole.
        fs::rename(&staged, root).map_err(io_error("commit", root))
    }

    /// Removes the writable layer of a container; absent is success. Blocks.
    pub fn discard(&self, container: &str) -> Result<(), ImageError> {
        let dir = self.snapshot_dir(container);
        match remove::tree(&dir) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io_error("remove", dir)(err)),
            _ => Ok(()),
        }
    }

    /// Containers that have a writable layer.
    pub fn snapshots(&self) -> Result<Vec<String>, ImageError> {
        let dir = self.inner.root.join("snapshots");
        let entries = fs::read_dir(&dir).map_err(io_error("list", &dir))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn snapshot_dir(&self, container: &str) -> PathBuf {
        assert!(
            Path::new(container).components().count() == 1 && container != "..",
            "container {container:?} is one path component"
        );
        self.inner.root.join("snapshots").join(container)
    }
}
