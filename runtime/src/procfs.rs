//! The host's procfs: where a process sets what can only be set by writing to a file.
//!
//! Never the container's own: a volume over part of it, or a link in it, would lead a privileged write to another file, such as
//! /proc/sysrq-trigger (CVE-2019-16884, CVE-2025-52881). Files are opened below a descriptor that was checked to be a procfs's root, and on its own
//! mount. What they show and set is about the process that opens them and its namespaces.

use nix::{
    fcntl::{OFlag, open},
    sys::{
        stat::{Mode, fstat},
        statfs::{PROC_SUPER_MAGIC, fstatfs},
    },
};
use runtime_sys::path::open_on_mount;
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Inode of a procfs's root, `PROC_ROOT_INO` of linux/proc_ns.h.
const ROOT_INODE: u64 = 1;

/// The root directory of a procfs.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// What is on /proc, as long as this process is in the host's mounts. Errors: `PermissionDenied` when it is no procfs.
    pub fn open() -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open("/proc", flags, Mode::empty())?;
        expect_root(&root)?;
        Ok(Self(root))
    }

    /// Opens a file for writing. Errors: `CrossesDevices` when something is mounted over it.
    pub fn create(&self, path: &str) -> io::Result<File> {
        open_on_mount(&self.0, Path::new(path), OFlag::O_WRONLY).map(File::from)
    }

    /// Writes a file whole, in one call as procfs wants it.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        self.create(path)?.write_all(value.as_bytes())
    }
}

/// Errors: `PermissionDenied` when the directory is not the root of a procfs.
pub fn expect_root(dir: impl AsFd) -> io::Result<()> {
    let is_proc = fstatfs(&dir)?.filesystem_type() == PROC_SUPER_MAGIC;
    if is_proc && fstat(&dir)?.st_ino == ROOT_INODE {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a procfs"))
}
