//! Removal of trees of any depth: containers may nest directories deeper than a process has descriptors or stack.
//!
//! What is two levels down and a directory with something in it is moved one level up until nothing is left, so four descriptors are enough.
//! Every step is taken from a descriptor and follows no link.

use crate::unpack::{is_directory, open_directory};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, renameat},
    sys::stat::fstatat,
    unistd::{UnlinkatFlags, unlinkat},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Removes the directory `path` and all below it. Errors: `NotFound` when it is not there. Blocks.
pub fn tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL.into());
    };
    // `.` for a path of one name.
    tree_at(File::open(Path::new(".").join(parent))?.as_fd(), name)
}

/// The same for the directory `name` in `parent`.
pub(crate) fn tree_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let top = open_directory(parent, name)?;
    let mut moved = 0;
    loop {
        let names = list(&top)?;
        if names.is_empty() {
            return Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?);
        }
        for name in names.iter().filter(|name| !gone(&top, name)) {
            let below = open_directory(top.as_fd(), name)?;
            for name in list(&below)?.iter().filter(|name| !gone(&below, name)) {
                raise(&below, name, &top, &mut moved)?;
            }
            drop(below);
            unlinkat(&top, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
}

/// Moves a directory to where a name is free.
fn raise(from: &File, name: &OsStr, to: &File, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match renameat(from, name, to, format!("moved-{moved}").as_str()) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            // On an overlay a directory of the lower layer stays where it is.
            Err(Errno::EXDEV) => return tree_at(from.as_fd(), name),
            raised => return Ok(raised?),
        }
    }
}

/// Whether a file, link or empty directory could be removed; the error of what could not comes when it is opened as a directory.
fn gone(dir: &File, name: &OsStr) -> bool {
    let flag = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(err) => return err == Errno::ENOENT,
        Ok(stat) if is_directory(&stat) => UnlinkatFlags::RemoveDir,
        Ok(_) => UnlinkatFlags::NoRemoveDir,
    };
    matches!(unlinkat(dir, name, flag), Ok(()) | Err(Errno::ENOENT))
}

fn list(dir: &File) -> io::Result<Vec<OsString>> {
    let mut listing = Dir::from_fd(open_directory(dir.as_fd(), OsStr::new("."))?.into())?;
    let names = listing.iter().map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()));
    names.filter(|name| !name.as_ref().is_ok_and(|name| name == "." || name == "..")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, mkdirat};

    #[test]
    fn a_tree_goes_however_deep_it_is() {
        let home = tempfile::tempdir().expect("directory");
        let path = home.path().join("tree");
        std::fs::create_dir(&path).expect("made");
        std::fs::write(path.join("moved-1"), "in the way").expect("written");
        std::fs::write(home.path().join("outside"), "safe").expect("written");
        let mut dir = File::open(&path).expect("open");
        for _ in 0..20_000 {
            mkdirat(&dir, "d", Mode::S_IRWXU).expect("made");
            dir = open_directory(dir.as_fd(), OsStr::new("d")).expect("open");
            nix::unistd::symlinkat(home.path(), &dir, "out").expect("linked");
        }
        tree(&path).expect("removed");
        assert!(!path.exists() && home.path().join("outside").exists());
        assert_eq!(tree(&path).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }
}
