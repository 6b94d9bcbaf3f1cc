//! Opening paths inside a tree that may be hostile: by descriptor, with openat2(2), never by string.

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, SFlag, mkdirat, mknodat},
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

/// How often a lookup that raced with a rename is tried again; openat2(2) answers `EAGAIN`.
const TRIES: usize = 128;

/// Opens `path` as if `root` were `/`: symlinks, absolute ones too, and `..` stay inside.
///
/// Errors: as openat2(2); magic links (`/proc/self/exe` and the like) give `ELOOP`.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    open(root, path, flags, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Opens `path` below `dir`; a symlink on the way, or a step out, is an error (`ELOOP`, `EXDEV`).
pub fn open_beneath(dir: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    open(dir, path, flags, ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS)
}

/// Opens `path` below `dir` on the very mount of `dir`: whatever is mounted on the way is an error (`EXDEV`), as is a magic link (`ELOOP`).
///
/// For procfs, whose only other symlinks are the kernel's own, `self` and the like.
pub fn open_on_mount(dir: impl AsFd, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open(dir, path, flags, resolve)
}

fn open(dir: impl AsFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    for _ in 0..TRIES {
        match openat2(dir.as_fd(), path, how) {
            Err(Errno::EAGAIN) => {}
            opened => return Ok(opened?),
        }
    }
    Err(Errno::EAGAIN.into())
}

/// Opens the directory `path` inside `root`, making what is missing (mode 0755). O_PATH.
///
/// Each step is taken from a descriptor of the one before, so an exchanged symlink never leads outside (CVE-2021-30465).
pub fn make_dirs_in_root(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_in_root(root.as_fd(), path, flags) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let mut done = PathBuf::from("/");
    let mut dir = open_in_root(root.as_fd(), &done, flags)?;
    for part in parts(path)? {
        done.push(&part);
        dir = match open_in_root(root.as_fd(), &done, flags) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                match mkdirat(dir.as_fd(), &part, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => open_in_root(root.as_fd(), &done, flags)?,
                    Err(err) => return Err(err.into()),
                }
            }
            opened => opened?,
        };
    }
    Ok(dir)
}

/// Opens the file `path` inside `root` as O_PATH, making an empty one (and its directories) where nothing is.
pub fn make_file_in_root(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    match open_in_root(root.as_fd(), path, OFlag::O_PATH) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let dir = make_dirs_in_root(root.as_fd(), path.parent().unwrap_or(Path::new("/")))?;
    // Made, not opened: what somebody puts in its place meanwhile, such as a FIFO, is never waited for.
    match mknodat(dir.as_fd(), Path::new(name), SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0) {
        Err(err) if err != Errno::EEXIST => return Err(err.into()),
        _ => {}
    }
    open_in_root(root.as_fd(), path, OFlag::O_PATH)
}

/// The names in `path`; `..` is refused.
fn parts(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(PathBuf::from(name)),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{}: has a `..`", path.display()),
                ));
            }
        }
    }
    Ok(names)
}

/// Opens for reading, inside `root`, as a [`File`].
pub fn read_in_root(root: impl AsFd, path: &Path) -> io::Result<File> {
    open_in_root(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Read, os::unix::fs::symlink};

    #[test]
    fn symlinks_stay_inside_the_root() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).expect("made");
        fs::write(root.join("etc/passwd"), "inside").expect("written");
        for (name, target) in
            [("abs", "/etc/passwd"), ("up", "../../../../etc/passwd"), ("etc/self", "passwd")]
        {
            symlink(target, root.join(name)).expect("linked");
            let handle = File::open(&root).expect("opened");
            let mut text = String::new();
            read_in_root(&handle, Path::new(name)).expect("found").read_to_string(&mut text).expect("read");
            assert_eq!(text, "inside", "{name} -> {target}");
        }
    }

    #[test]
    fn directories_are_made_behind_a_symlink_inside_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("real")).expect("made");
        symlink("/real", root.join("link")).expect("linked");
        symlink("/../../outside", root.join("escape")).expect("linked");
        let handle = File::open(&root).expect("opened");
        make_dirs_in_root(&handle, Path::new("/link/a/b")).expect("made");
        assert!(root.join("real/a/b").is_dir());
        // The link's target does not exist inside the root: mkdir(2) does not follow it, and nothing appears outside.
        assert!(make_dirs_in_root(&handle, Path::new("/escape/x")).is_err());
        assert!(!dir.path().join("outside").exists());
        assert!(make_dirs_in_root(&handle, Path::new("/a/../../b")).is_err());
        make_file_in_root(&handle, Path::new("/link/f")).expect("made");
        assert!(root.join("real/f").is_file());
    }
}
