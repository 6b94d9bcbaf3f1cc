//! The writable layer of one container. Nothing is mounted here: the runtime mounts it where only the container sees it.

use crate::{Image, ImageError, ImageStore, error::io_error};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Directories of an overlay mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Uppermost first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Empty directory to mount on.
    pub root: PathBuf,
}

impl ImageStore {
    /// Makes the writable layer of a container, or gives the one it has. `container` is one safe path component. Blocks.
    pub fn prepare(&self, image: &Image, container: &str) -> Result<Snapshot, ImageError> {
        let dir = self.snapshot_dir(container);
        let snapshot = Snapshot {
            lower: image.lower.clone(),
            upper: dir.join("upper"),
            work: dir.join("work"),
            root: dir.join("root"),
        };
        for path in [&snapshot.upper, &snapshot.work, &snapshot.root] {
            fs::create_dir_all(path).map_err(io_error("create", path))?;
        }
        // The root directory of the container is the upper one: it has to look like the image's.
        if let Some(below) = image.lower.iter().find_map(|lower| fs::metadata(lower).ok()) {
            use std::os::unix::fs::{MetadataExt, chown};
            fs::set_permissions(&snapshot.upper, below.permissions())
                .map_err(io_error("set the mode of", &snapshot.upper))?;
            chown(&snapshot.upper, Some(below.uid()), Some(below.gid()))
                .map_err(io_error("chown", &snapshot.upper))?;
        }
        Ok(snapshot)
    }

    /// Removes the writable layer of a container; absent is success. Blocks.
    pub fn discard(&self, container: &str) -> Result<(), ImageError> {
        let dir = self.snapshot_dir(container);
        match fs::remove_dir_all(&dir) {
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
