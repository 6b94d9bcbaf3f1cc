//! How a layer says that a name of the layers below is gone.
//!
//! overlayfs' own marks (kernel `Documentation/filesystems/overlayfs.rst`): a character device 0:0 in place of the name, and
//! `trusted.overlay.opaque=y` on a directory that hides all below. A filesystem that refuses these (an overlay itself, or one without attributes)
//! cannot carry the upper layer of an overlay either: there the archive's marks, the files `.wh.<name>` and `.wh..wh..opq`
//! (OCI image-spec `layer.md`), are kept as they are, for the copy that containers get instead. No archive can hold such a name for itself.

use crate::unpack::is_whiteout;
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, SFlag, fstatat, makedev, mknodat},
    unistd::{UnlinkatFlags, unlinkat},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
};
use xattr::FileExt;

pub(crate) const WHITEOUT: &[u8] = b".wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Hides `name` in the directory `parent`. Errors: `EEXIST` where this layer has the name itself.
pub(crate) fn hide(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let parent = parent.as_fd();
    match mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
        Err(Errno::EPERM | Errno::EOPNOTSUPP) => {}
        made => return Ok(made?),
    }
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EEXIST.into()),
        Err(Errno::ENOENT) => mark(parent, &file_of(name)),
        Err(err) => Err(err.into()),
    }
}

/// Hides everything that layers below have in `dir`.
pub(crate) fn make_opaque(dir: &File) -> io::Result<()> {
    match dir.set_xattr(OPAQUE_XATTR, b"y") {
        Err(err)
            if [Errno::EPERM, Errno::EOPNOTSUPP]
                .map(|errno| Some(errno as i32))
                .contains(&err.raw_os_error()) =>
        {
            mark(dir, OsStr::from_bytes(OPAQUE))
        }
        set => set,
    }
}

/// Whether `dir` hides what layers below have in it.
pub(crate) fn is_opaque(dir: &File) -> io::Result<bool> {
    match dir.get_xattr(OPAQUE_XATTR) {
        Ok(Some(value)) if value == b"y" => return Ok(true),
        Err(err) if err.raw_os_error() != Some(Errno::EOPNOTSUPP as i32) => return Err(err),
        _ => {}
    }
    exists(dir, OsStr::from_bytes(OPAQUE))
}

/// Whether the layer of `dir` hides `name`, which it does not have itself.
pub(crate) fn is_hidden(dir: &File, name: &OsStr) -> io::Result<bool> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(is_whiteout(&stat)),
        Err(Errno::ENOENT) => exists(dir, &file_of(name)),
        Err(err) => Err(err.into()),
    }
}

/// Takes the file away that hides `name`; whether there was one.
pub(crate) fn unmark(parent: impl AsFd, name: &OsStr) -> io::Result<bool> {
    match unlinkat(parent, file_of(name).as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Whether `name` is a mark, not a file of the image.
pub(crate) fn is_mark(name: &OsStr) -> bool {
    name.as_bytes().starts_with(WHITEOUT)
}

fn file_of(name: &OsStr) -> OsString {
    let mut file = OsStr::from_bytes(WHITEOUT).to_owned();
    file.push(name);
    file
}

fn mark(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty()).map(drop)?)
}

fn exists(dir: &File, name: &OsStr) -> io::Result<bool> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
        Err(err) => Err(err.into()),
    }
}
