//! Whether overlayfs can be mounted here, found out by doing it.

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::{fs, io, path::Path};

/// Mounts an overlay of directories below the empty directory `dir`, and changes, removes and replaces what its lower layer has.
///
/// It is mounted in a mount namespace that goes with the thread that made it. Errors: what was refused. Blocks.
pub(crate) fn probe(dir: &Path) -> io::Result<()> {
    for part in ["lower/replaced", "upper", "work", "root"] {
        fs::create_dir_all(dir.join(part))?;
    }
    for file in ["lower/changed", "lower/removed", "lower/replaced/file"] {
        fs::write(dir.join(file), "lower")?;
    }
    std::thread::scope(|scope| {
        let probed =
            std::thread::Builder::new().name("overlay".to_owned()).spawn_scoped(scope, || try_in(dir));
        probed?.join().unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))
    })
}

fn try_in(dir: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)?;
    let root = dir.join("root");
    let path = |name: &str| dir.join(name).display().to_string();
    let data = format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(data.as_str()))?;
    // An upper layer that can hold no marks mounts all the same, read-only or without them.
    fs::write(root.join("changed"), "upper")?;
    fs::remove_file(root.join("removed"))?;
    fs::remove_dir_all(root.join("replaced"))?;
    fs::create_dir(root.join("replaced"))?;
    let seen = (fs::read(dir.join("lower/changed"))?, fs::read_dir(root.join("replaced"))?.count());
    if seen == (b"lower".to_vec(), 0) {
        Ok(())
    } else {
        Err(io::Error::other("the layers were not kept apart"))
    }
}
