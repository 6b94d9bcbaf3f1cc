//! The layers of an image copied into one directory, for a host that cannot mount overlayfs.
//!
//! Directories, names and whiteouts as [`merged`] has them. Kept: owners, modes, times, attributes (capabilities and ACLs), hard links inside a layer.
//! Contents are shared with the layer where the filesystem can (copy_file_range(2) clones extents). Layers do not change meanwhile.

use crate::{
    ImageError,
    error::io_error,
    merged::{Entry, entry, open_at},
    whiteout::is_mark,
};
use nix::{
    dir::Dir,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::{
        stat::{
            FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, futimens, mkdirat,
            mknodat, utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat},
};
use runtime_sys::path::open_beneath;
use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};
use xattr::FileExt;

/// Copies what the layers `lower`, uppermost first, look like together, into the empty directory `to`. Blocks.
pub(crate) fn merged(lower: &[PathBuf], to: &Path) -> Result<(), ImageError> {
    let open = |path: &PathBuf| File::open(path).map_err(io_error("open", path));
    let layers = lower.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut copy = Copy { layers, to: open(&to.to_path_buf())?, links: HashMap::new() };
    // By path, not by descriptor: trees may be deeper than descriptors are many.
    let mut left = vec![Directory { path: PathBuf::from("."), layers: (0..lower.len()).collect() }];
    let mut done = Vec::new();
    while let Some(directory) = left.pop() {
        copy.directory(&directory, &mut left).map_err(io_error("copy", to.join(&directory.path)))?;
        done.push(directory);
    }
    // Their contents have changed their times.
    for directory in done.iter().rev() {
        copy.times(directory).map_err(io_error("set the times of", to.join(&directory.path)))?;
    }
    Ok(())
}

struct Copy {
    /// Uppermost first.
    layers: Vec<File>,
    to: File,
    /// Files of several names: layer and inode, and where the first name is.
    links: HashMap<(usize, u64), PathBuf>,
}

/// A directory of the result.
struct Directory {
    path: PathBuf,
    /// Those that have a part of it, uppermost first.
    layers: Vec<usize>,
}

impl Copy {
    fn open(&self, layer: usize, path: &Path) -> io::Result<File> {
        open_beneath(&self.layers[layer], path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map(File::from)
    }

    /// Copies what is directly in the directory; directories in it are made and added to `left`.
    fn directory(&mut self, directory: &Directory, left: &mut Vec<Directory>) -> io::Result<()> {
        let parts: Vec<File> = directory
            .layers
            .iter()
            .map(|layer| self.open(*layer, &directory.path))
            .collect::<Result<_, _>>()?;
        let to = File::from(open_beneath(&self.to, &directory.path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?);
        attributes(&parts[0], &to, &fstat(&parts[0])?)?;
        let mut names = BTreeSet::new();
        for part in &parts {
            list(part, &mut names)?;
        }
        for name in names {
            let path = directory.path.join(&name);
            match entry(&parts, &name)? {
                None => {}
                Some(Entry::Directory(below)) => {
                    mkdirat(&to, name.as_os_str(), Mode::S_IRWXU)?;
                    let layers = below.iter().map(|(part, _)| directory.layers[*part]).collect();
                    left.push(Directory { path, layers });
                }
                Some(Entry::Other { part, stat }) => {
                    self.other(&parts[part], directory.layers[part], &to, &path, &stat)?;
                }
            }
        }
        Ok(())
    }

    fn other(
        &mut self,
        from: &File,
        layer: usize,
        to: &File,
        path: &Path,
        stat: &FileStat,
    ) -> io::Result<()> {
        let name = path.file_name().expect("a path below the root");
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(layer, stat.st_ino)) {
                return Ok(linkat(&self.to, first, to, name, AtFlags::empty())?);
            }
            self.links.insert((layer, stat.st_ino), path.to_path_buf());
        }
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => return file(from, to, name, stat),
            SFlag::S_IFLNK => symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?,
            kind => mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?,
        }
        fchownat(to, name, owner(stat).0, owner(stat).1, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
            fchmodat(to, name, mode(stat), FchmodatFlags::FollowSymlink)?;
        }
        let (atime, mtime) = times(stat);
        Ok(utimensat(to, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?)
    }

    fn times(&self, directory: &Directory) -> io::Result<()> {
        let (atime, mtime) = times(&fstat(self.open(directory.layers[0], &directory.path)?)?);
        let to = open_beneath(&self.to, &directory.path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        Ok(futimens(to, &atime, &mtime)?)
    }
}

fn list(dir: &File, names: &mut BTreeSet<OsString>) -> io::Result<()> {
    for entry in Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." && !is_mark(name) {
            names.insert(name.to_owned());
        }
    }
    Ok(())
}

fn file(from: &File, to: &File, name: &OsStr, stat: &FileStat) -> io::Result<()> {
    let mut from = open_at(from, name, OFlag::empty())?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut to = File::from(openat(to, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    io::copy(&mut from, &mut to)?;
    attributes(&from, &to, stat)?;
    let (atime, mtime) = times(stat);
    Ok(futimens(&to, &atime, &mtime)?)
}

/// Owner, then mode (chown clears setuid), then attributes (chown clears file capabilities).
fn attributes(from: &File, to: &File, stat: &FileStat) -> io::Result<()> {
    fchown(to, owner(stat).0, owner(stat).1)?;
    fchmod(to, mode(stat))?;
    let unsupported = |err: &io::Error| err.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32);
    let names = match from.list_xattr() {
        Err(err) if unsupported(&err) => return Ok(()),
        names => names?,
    };
    // Overlayfs' own, and those that the host's security module sets on what is made.
    let welcome = |name: &OsString| {
        let name = name.as_bytes();
        !name.starts_with(b"trusted.") && (!name.starts_with(b"security.") || name == b"security.capability")
    };
    for name in names.filter(welcome) {
        let Some(value) = from.get_xattr(&name)? else { continue };
        match to.set_xattr(&name, &value) {
            Err(err) if unsupported(&err) && name != "security.capability" => {}
            set => set?,
        }
    }
    Ok(())
}

fn owner(stat: &FileStat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn mode(stat: &FileStat) -> Mode {
    Mode::from_bits_truncate(stat.st_mode)
}

/// Of access and change.
fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}
