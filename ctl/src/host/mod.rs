//! The daemons of this host: found, started, awaited and stopped, under systemd or as plain processes.
//!
//! Order: scheduler, netd, agent; stopped in reverse. A daemon says it is ready by sd_notify(3) in both cases.
//! Flags given to `ctl up` are kept, so that a later `ctl up` without them brings the same cluster back.

pub mod agent;
pub mod process;
pub mod systemd;

use crate::error::{CtlError, failed, file};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// One daemon and what it is started with.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// `scheduler`, `netd` or `agent`.
    pub name: &'static str,
    pub args: Vec<String>,
}

impl Daemon {
    pub fn program(&self) -> String {
        format!("wherry-{}", self.name)
    }
}

/// Directory that holds `wherry-*`: beside `ctl`, else in `PATH`.
pub fn binaries() -> Result<PathBuf, CtlError> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .find(|dir| dir.join("wherry-agent").is_file() && dir.join("wherry-runtime").is_file())
        .ok_or_else(|| failed("wherry-agent and wherry-runtime are neither beside ctl nor in PATH; `make install` puts them there"))
}

/// Writes a file whole or not at all.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), CtlError> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, content)
        .and_then(|()| fs::File::open(&temporary)?.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(file("write", path))
}

/// Removes a file or a whole directory; absent is success.
pub fn remove(path: &Path) -> Result<(), CtlError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(err) => Err(err),
    };
    match removed {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(file("remove", path)(err)),
        _ => Ok(()),
    }
}
