//! `tmpcopyup`: what an image has where a tmpfs is mounted, copied into it.

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FchmodatFlags, FileStat, Mode, fchmodat, fstat, fstatat, mkdirat},
    unistd::{Gid, Uid, fchownat, symlinkat},
};
use runtime_sys::path::open_beneath;
use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Deepest directory that is copied; each level holds three descriptors.
const DEPTH_MAX: usize = 100;

/// Copies files, directories and symlinks with owners and modes. Every step is taken from a descriptor, and no link is followed: the image is
/// not trusted. Other kinds of files are left out.
pub fn copy_tree(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    copy_dir(from, to, 0)
}

fn copy_dir(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories are nested too deeply"));
    }
    let listed = open_beneath(from, Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    for entry in Dir::from_fd(listed)?.into_iter() {
        let entry = entry?;
        let name = Path::new(OsStr::from_bytes(entry.file_name().to_bytes())).to_path_buf();
        if name == Path::new(".") || name == Path::new("..") {
            continue;
        }
        let stat = fstatat(from, &name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        copy_one(from, to, &name, &stat, depth)?;
    }
    Ok(())
}

fn copy_one(from: &OwnedFd, to: &OwnedFd, name: &Path, stat: &FileStat, depth: usize) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    let nofollow = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let kind = stat.st_mode & libc::S_IFMT;
    match kind {
        libc::S_IFDIR => {
            match mkdirat(to, name, mode) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(err) => return Err(err.into()),
            }
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
            copy_dir(&open_beneath(from, name, flags)?, &open_beneath(to, name, flags)?, depth + 1)?;
        }
        libc::S_IFREG => {
            let source = openat(from, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK | nofollow, Mode::empty())?;
            let made = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | nofollow;
            if fstat(&source)?.st_mode & libc::S_IFMT != libc::S_IFREG {
                // Exchanged for a device, say, which would never end.
                return Err(Errno::ESTALE.into());
            }
            let target = openat(to, name, made, Mode::from_bits_truncate(0o600))?;
            io::copy(&mut File::from(source), &mut File::from(target))?;
        }
        libc::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?,
        _ => return Ok(()),
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(to.as_fd(), name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind != libc::S_IFLNK {
        // After chown, which takes setuid away.
        fchmodat(to.as_fd(), name, mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}
