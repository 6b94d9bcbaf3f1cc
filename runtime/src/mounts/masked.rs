//! Masked and read-only paths: parts of /proc and /sys that a container is not to see or not to write.

use super::{MountError, io_error};
use nix::fcntl::OFlag;
use runtime_spec::oci::Spec;
use runtime_sys::{
    mount::{Attributes, clone_tree, new_filesystem},
    path::open_beneath,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Covers masked files with the null device (`null` is a checked descriptor of it) and directories with an empty read-only tmpfs, and makes the
/// read-only paths so. Paths that do not exist are left out.
pub fn apply(root: &OwnedFd, spec: &Spec, null: &OwnedFd) -> Result<(), MountError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten().map(Path::new) {
        let Some(at) = open(root, path)? else { continue };
        let copy = clone_tree(Some(at.as_fd()), Path::new(""), true).map_err(io_error("clone", path))?;
        let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        copy.set_attributes(attributes, true).map_err(io_error("make read-only", path))?;
        copy.attach(at.as_fd()).map_err(io_error("make read-only", path))?;
    }
    let mut empty: Option<OwnedFd> = None;
    for path in linux.masked_paths().iter().flatten().map(Path::new) {
        let Some(at) = open(root, path)? else { continue };
        let is_dir = nix::sys::stat::fstat(&at).map_err(|err| io_error("mask", path)(err.into()))?.st_mode
            & libc::S_IFMT
            == libc::S_IFDIR;
        let cover = if is_dir {
            // One empty filesystem serves them all.
            match empty.take() {
                Some(first) => {
                    clone_tree(Some(first.as_fd()), Path::new(""), false).inspect(|_| empty = Some(first))
                }
                None => new_filesystem("tmpfs", &[("nr_blocks", Some("1"))], libc::MOUNT_ATTR_RDONLY),
            }
        } else {
            clone_tree(Some(null.as_fd()), Path::new(""), false)
        };
        let attached = cover.and_then(|cover| cover.attach(at.as_fd())).map_err(io_error("mask", path))?;
        if is_dir && empty.is_none() {
            empty = Some(attached);
        }
    }
    Ok(())
}

/// `None` where nothing is; a symlink on the way is refused.
fn open(root: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>, MountError> {
    let below = path.strip_prefix("/").unwrap_or(path);
    match open_beneath(root, below, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(err) if err.kind() == io::ErrorKind::NotFound || err.kind() == io::ErrorKind::NotADirectory => {
            Ok(None)
        }
        Err(err) => Err(io_error("open", path)(err)),
    }
}
