//! When an image was last used, and how much disk its layers take.
//!
//! On disk: `used/<manifest digest>`, an empty file whose modification time is the last use. It is not synced: a power cut may set an image's
//! use back by seconds, which only changes the order in which unused images go.

use crate::{
    ImageError, ImageStore,
    error::io_error,
    image::{Record, hex},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// Unit of `st_blocks`, whatever the filesystem's own is: stat(2).
const STAT_BLOCK_BYTES: u64 = 512;

impl ImageStore {
    /// Notes that a container is made from the image at `now_s` (seconds since the epoch). False when the image is not here, or not any more:
    /// from a true answer on garbage collection keeps it for its minimum age.
    pub fn mark_used(&self, digest: &str, now_s: u64) -> Result<bool, ImageError> {
        let images = self.inner.images.lock().expect("no panic while locked");
        if !images.contains_key(digest) {
            return Ok(false);
        }
        let path = self.used_path(digest);
        let marked = File::create(&path)
            .and_then(|file| file.set_modified(UNIX_EPOCH + Duration::from_secs(now_s)))
            .map_err(io_error("mark", path));
        marked.map(|()| true)
    }

    /// Seconds since the epoch; `None`: no container was made from it yet.
    pub fn last_used_s(&self, digest: &str) -> Option<u64> {
        modified_s(&self.used_path(digest))
    }

    /// The last use; what was never used counts as used when it came.
    pub(crate) fn last_wanted_s(&self, digest: &str) -> u64 {
        let came = modified_s(&self.record_path(digest)).unwrap_or(0);
        self.last_used_s(digest).unwrap_or(0).max(came)
    }

    /// Disk that the unpacked layer takes; 0 for one that is not here.
    pub(crate) fn layer_bytes(&self, diff_id: &str) -> Result<u64, ImageError> {
        let path = self.layer_path(diff_id);
        match disk_usage(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(0),
            usage => usage.map_err(io_error("measure", path)),
        }
    }

    /// Removes marks of images that are gone: an agent was killed between the two removals.
    pub(crate) fn remove_stale_marks<'a>(
        &self,
        images: impl Iterator<Item = &'a Record>,
    ) -> Result<(), ImageError> {
        let known: BTreeSet<&str> = images.filter_map(|record| hex(&record.digest)).collect();
        let dir = self.inner.root.join("used");
        for entry in fs::read_dir(&dir).map_err(io_error("list", &dir))?.flatten() {
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_file(entry.path()).map_err(io_error("remove", entry.path()))?;
            }
        }
        Ok(())
    }

    pub(crate) fn used_path(&self, digest: &str) -> PathBuf {
        self.inner.root.join("used").join(hex(digest).unwrap_or_default())
    }
}

fn modified_s(path: &Path) -> Option<u64> {
    let meta = path.symlink_metadata().ok()?;
    meta.is_file().then(|| u64::try_from(meta.mtime()).unwrap_or(0))
}

/// Bytes of a tree, what has several names counted once; links are not followed.
fn disk_usage(path: &Path) -> io::Result<u64> {
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    // A list, because trees may be deeper than descriptors are many.
    let mut left = vec![path.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata()?;
        if !meta.is_dir() && meta.nlink() > 1 && !seen.insert(meta.ino()) {
            continue;
        }
        bytes += meta.blocks() * STAT_BLOCK_BYTES;
        if meta.is_dir() {
            for entry in fs::read_dir(path)? {
                left.push(entry?.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_descriptors_are_many_is_measured() {
        const INNER: &str = "WHERRY_TEST_FEW_DESCRIPTORS";
        if std::env::var_os(INNER).is_none() {
            let name = "usage::tests::a_tree_deeper_than_descriptors_are_many_is_measured";
            let mut inner = std::process::Command::new("sh");
            inner.args(["-c", "ulimit -n 256 && exec \"$0\" --exact \"$1\""]).env(INNER, "1");
            inner.arg(std::env::current_exe().expect("this program")).arg(name);
            assert!(inner.status().expect("started").success());
            return;
        }
        let home = tempfile::tempdir().expect("directory");
        let mut path = home.path().to_path_buf();
        // Nearly as deep as a path can be.
        (0..1900).for_each(|_| path.push("d"));
        fs::create_dir_all(&path).expect("made");
        fs::write(path.join("f"), [1; 5000]).expect("written");
        assert!(disk_usage(home.path()).expect("measured") >= 5000);
    }
}
