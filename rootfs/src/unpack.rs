//! Unpacks one layer into an empty directory, for overlayfs to use.
//!
//! Semantics: OCI image specification `layer.md`; overlayfs' own marks as kernel `Documentation/filesystems/overlayfs.rst`:
//! a whiteout `.wh.x` becomes a character device 0:0 named `x`, an opaque directory gets `trusted.overlay.opaque=y`.
//!
//! Invariants: every path is opened from a descriptor of the layer's root with openat2(RESOLVE_IN_ROOT), the last name
//! without following a link, so no entry reaches outside, whatever the archive made before; `..` is refused, a leading
//! `/` means the layer's root. Entries, bytes and the length of names are limited. Attributes that steer overlayfs
//! (`trusted.*`, `user.overlay.*`) are not taken from archives.

use crate::{
    ImageError,
    error::{io_error, malformed},
    remove,
    tarball::{Archive, Entry, Kind},
    whiteout::{self, OPAQUE, WHITEOUT},
};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{
            FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, makedev, mkdirat, mknodat,
            utimensat,
        },
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat},
};
use runtime_sys::{
    file::start_writing,
    path::{make_dirs_in_root, open_in_root},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    rc::Rc,
};
use xattr::FileExt;

const BUFFER_BYTES: usize = 128 << 10;
/// How much of a file the disk is given at once while the rest is still unpacked. What is smaller waits for the sync at the end.
const WRITE_OUT_BYTES: u64 = 4 << 20;
const WRITE_OUT_BYTES_MIN: u64 = 256 << 10;

/// How much one layer may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of all file contents together, holes included.
    pub bytes_max: u64,
    pub entries_max: u64,
    /// How many times as long as the packed layer the plain one may be...
    pub expansion_max: u64,
    /// ...once it is longer than this.
    pub expansion_free_bytes: u64,
}

impl Default for Limits {
    /// Far above real images (the largest layers known are some 30 GB), far below what fills a host by accident.
    /// A file of nothing but zeros, gzipped, expands 1030 times; that is fine up to the size of a small disk image.
    fn default() -> Self {
        let expansion_free_bytes = 1 << 30;
        Self { bytes_max: 64 << 30, entries_max: 4_000_000, expansion_max: 1000, expansion_free_bytes }
    }
}

/// Unpacks `archive` into the empty directory `dir`.
///
/// Errors leave `dir` half filled; the caller throws it away.
pub(crate) fn unpack<R: Read>(
    archive: &mut Archive<R>,
    dir: &Path,
    limits: Limits,
) -> Result<(), ImageError> {
    let root: OwnedFd = File::open(dir).map_err(io_error("open", dir))?.into();
    let mut target = Target { root, parent: None, directories: Vec::new(), buffer: vec![0; BUFFER_BYTES] };
    let (mut entries, mut bytes) = (0, 0u64);
    while let Some(entry) = archive.next().map_err(unreadable)? {
        entries += 1;
        bytes = bytes.saturating_add(entry.size);
        if entries > limits.entries_max || bytes > limits.bytes_max {
            let problem =
                format!("over the limit of {} entries and {} bytes", limits.entries_max, limits.bytes_max);
            return Err(refuse(&entry, problem));
        }
        target.place(&entry, archive)?;
    }
    target.finish()
}

fn unreadable(err: io::Error) -> ImageError {
    malformed("layer", err)
}

struct Target {
    root: OwnedFd,
    /// The directory that the last entry went into: mostly the next one does too. Forgotten when anything is removed, because
    /// its path may then lead elsewhere; what is added changes no path that exists.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Directories and their times, set last because their content changes them.
    directories: Vec<(PathBuf, (i64, i64))>,
    buffer: Vec<u8>,
}

impl Target {
    fn place<R: Read>(&mut self, entry: &Entry, content: &mut Archive<R>) -> Result<(), ImageError> {
        let path = clean(entry, &entry.path)?;
        let Some(name) = path.file_name() else {
            return if entry.kind == Kind::Directory { self.root_directory(entry) } else { Ok(()) };
        };
        let parent_path = path.parent().expect("a path with a name has a parent");
        let parent = self.parent(parent_path).map_err(|err| failed("reach", entry, err))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(entry, parent.as_fd(), name, OsStr::from_bytes(hidden));
        }
        let hid_lower = self.make_room(entry, parent.as_fd(), name)?;
        match entry.kind {
            Kind::Directory => self.directory(entry, parent.as_fd(), name, hid_lower, &path),
            Kind::File => self.file(entry, parent.as_fd(), name, content),
            Kind::HardLink => self.hard_link(entry, parent.as_fd(), name),
            Kind::Symlink => symlinkat(&entry.link, parent.as_fd(), name)
                .map_err(io::Error::from)
                .and_then(|()| own_node(entry, parent.as_fd(), name))
                .map_err(|err| failed("make symlink", entry, err)),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                node(entry, parent.as_fd(), name).map_err(|err| failed("make node", entry, err))
            }
        }
    }

    /// The directory `path`, made where it is missing.
    fn parent(&mut self, path: &Path) -> io::Result<Rc<OwnedFd>> {
        if let Some((_, parent)) = self.parent.as_ref().filter(|(known, _)| known == path) {
            return Ok(Rc::clone(parent));
        }
        let parent = Rc::new(make_dirs_in_root(&self.root, path)?);
        self.parent = Some((path.to_owned(), Rc::clone(&parent)));
        Ok(parent)
    }

    /// Removes what is in the way of the entry; answers whether that was a whiteout (lower layers' content is hidden).
    fn make_room(&mut self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, ImageError> {
        let there = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => {
                return whiteout::unmark(parent, name).map_err(|err| failed("replace", entry, err));
            }
            there => there.map_err(|err| failed("look at", entry, err.into()))?,
        };
        if is_directory(&there) {
            if entry.kind == Kind::Directory {
                return Ok(false);
            }
            self.parent = None;
            remove::tree_at(parent, name).map_err(|err| failed("replace", entry, err))?;
            return Ok(false);
        }
        self.parent = None;
        unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
            .map_err(|err| failed("replace", entry, err.into()))?;
        Ok(is_whiteout(&there))
    }

    fn root_directory(&mut self, entry: &Entry) -> Result<(), ImageError> {
        self.directories.push((PathBuf::from("."), entry.mtime));
        let root =
            openat(&self.root, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        root.map_err(io::Error::from)
            .and_then(|root| own(entry, &File::from(root)))
            .map_err(|err| failed("set attributes of", entry, err))
    }

    fn directory(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        hid_lower: bool,
        path: &Path,
    ) -> Result<(), ImageError> {
        match mkdirat(parent, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(err) => return Err(failed("make directory", entry, err.into())),
        }
        let made = open_directory(parent, name).and_then(|dir| {
            if hid_lower {
                whiteout::make_opaque(&dir)?;
            }
            own(entry, &dir)
        });
        made.map_err(|err| failed("set attributes of", entry, err))?;
        self.directories.push((path.to_owned(), entry.mtime));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        content: &mut Archive<R>,
    ) -> Result<(), ImageError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file = File::from(file.map_err(|err| failed("make file", entry, err.into()))?);
        match &entry.regions {
            None => self.copy(entry, content, &mut file, 0)?,
            Some(regions) => {
                for region in regions {
                    file.seek(SeekFrom::Start(region.offset)).map_err(|err| failed("write", entry, err))?;
                    let content = &mut content.by_ref().take(region.length);
                    self.copy(entry, content, &mut file, region.offset)?;
                }
                file.set_len(entry.size).map_err(|err| failed("write", entry, err))?;
            }
        }
        own(entry, &file)
            .and_then(|()| {
                Ok(futimens(&file, &TimeSpec::new(entry.mtime.0, entry.mtime.1), &times(entry).1)?)
            })
            .map_err(|err| failed("set attributes of", entry, err))
    }

    /// Writes `content` to the file, which stands at the offset `at`.
    fn copy(
        &mut self,
        entry: &Entry,
        content: &mut impl Read,
        file: &mut File,
        at: u64,
    ) -> Result<(), ImageError> {
        let (mut written, mut given) = (at, at);
        // Archive and disk errors are told apart: the first is the image's fault, the second this host's.
        loop {
            let count = content.read(&mut self.buffer).map_err(unreadable)?;
            let enough = if count == 0 { WRITE_OUT_BYTES_MIN } else { WRITE_OUT_BYTES };
            if written - given >= enough {
                start_writing(file, given, written - given).map_err(|err| failed("write", entry, err))?;
                given = written;
            }
            if count == 0 {
                return Ok(());
            }
            file.write_all(&self.buffer[..count]).map_err(|err| failed("write", entry, err))?;
            written += count as u64;
        }
    }

    fn hard_link(&self, entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), ImageError> {
        let target = clean(entry, &entry.link)?;
        let Some(target_name) = target.file_name() else {
            return Err(refuse(entry, "hard link to the root directory"));
        };
        let target_parent = target.parent().expect("a path with a name has a parent");
        let target_parent = Path::new("/").join(target_parent);
        open_in_root(&self.root, &target_parent, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .and_then(|dir| Ok(linkat(dir, target_name, parent, name, AtFlags::empty())?))
            .map_err(|err| failed("make hard link", entry, err))
    }

    fn whiteout(
        &self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        hidden: &OsStr,
    ) -> Result<(), ImageError> {
        if name.as_bytes() == OPAQUE {
            // `parent` is O_PATH, which takes no attributes.
            let made = open_directory(parent, OsStr::new(".")).and_then(|dir| whiteout::make_opaque(&dir));
            return made.map_err(|err| failed("make opaque", entry, err));
        }
        match hidden.as_bytes() {
            b"" | b"." | b".." => return Err(refuse(entry, "whiteout of no name")),
            // Housekeeping of aufs, once found in images.
            name if name.starts_with(WHITEOUT) => return Ok(()),
            _ => {}
        }
        match whiteout::hide(parent, hidden) {
            Ok(()) => Ok(()),
            // This layer has the name itself: only what lies below is hidden.
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => match open_directory(parent, hidden) {
                Ok(dir) => whiteout::make_opaque(&dir),
                Err(_) => Ok(()),
            }
            .map_err(|err| failed("make opaque", entry, err)),
            Err(err) => Err(failed("make whiteout", entry, err)),
        }
    }

    /// Sets the times of directories, innermost last written first.
    fn finish(&self) -> Result<(), ImageError> {
        for (path, mtime) in self.directories.iter().rev() {
            let time = TimeSpec::new(mtime.0, mtime.1);
            let dir =
                open_in_root(&self.root, &Path::new("/").join(path), OFlag::O_RDONLY | OFlag::O_DIRECTORY);
            match dir {
                Ok(dir) => futimens(dir, &time, &time).map_err(io::Error::from),
                // A later entry replaced it by something else.
                Err(_) => Ok(()),
            }
            .map_err(io_error("set times of", path))?;
        }
        Ok(())
    }
}

/// The names of a path in the archive, without leading `/` and `.`.
fn clean(entry: &Entry, path: &Path) -> Result<PathBuf, ImageError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse(entry, "path climbs with `..`"));
            }
        }
    }
    Ok(clean)
}

/// Names come from the image: what they hold is not for a terminal, nor are a megabyte of them for a log.
fn refuse(entry: &Entry, problem: impl ToString) -> ImageError {
    let name = entry.path.as_os_str().as_bytes();
    let (shown, more) = if name.len() > 256 { (&name[..256], "...") } else { (name, "") };
    malformed(format!("layer: {}{more}", shown.escape_ascii()), problem)
}

/// An operation the kernel refused: because of what the entry is, or because of this host.
fn failed(what: &'static str, entry: &Entry, source: io::Error) -> ImageError {
    let of_the_entry = [
        Errno::ENAMETOOLONG,
        Errno::ELOOP,
        Errno::ENOTDIR,
        Errno::ENOENT,
        Errno::EEXIST,
        Errno::EXDEV,
        Errno::EINVAL,
        // Attributes: a value, a name.
        Errno::E2BIG,
        Errno::ERANGE,
    ];
    match source.raw_os_error().map(Errno::from_raw) {
        Some(errno) if of_the_entry.contains(&errno) => refuse(entry, format!("cannot {what} it: {source}")),
        _ => io_error(what, &entry.path)(source),
    }
}

fn times(entry: &Entry) -> (TimeSpec, TimeSpec) {
    let time = TimeSpec::new(entry.mtime.0, entry.mtime.1);
    (time, time)
}

pub(crate) fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// overlayfs' mark for a removed name.
pub(crate) fn is_whiteout(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && stat.st_rdev == 0
}

pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty()).map(File::from)?)
}

/// Owner, then mode (chown clears setuid), then attributes (chown clears file capabilities).
fn own(entry: &Entry, file: &File) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    fchmod(file, Mode::from_bits_truncate(entry.mode))?;
    for (name, value) in &entry.xattrs {
        if !is_welcome(name) {
            continue;
        }
        match file.set_xattr(name, value) {
            // The filesystem has no such attributes; only capabilities change what the image does.
            Err(err)
                if err.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) && name != "security.capability" => {}
            set => set?,
        }
    }
    Ok(())
}

/// Attributes that images carry for their programs.
pub(crate) fn is_welcome(name: &OsString) -> bool {
    let name = name.as_bytes();
    name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn node(entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let (kind, device) = match entry.kind {
        Kind::CharDevice => (SFlag::S_IFCHR, entry.device),
        Kind::BlockDevice => (SFlag::S_IFBLK, entry.device),
        _ => (SFlag::S_IFIFO, (0, 0)),
    };
    let device = makedev(device.0.into(), device.1.into());
    mknodat(parent, name, kind, Mode::empty(), device)?;
    own_node(entry, parent, name)?;
    let mode = Mode::from_bits_truncate(entry.mode);
    Ok(nix::sys::stat::fchmodat(parent, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?)
}

/// Owner and times of what cannot be opened.
fn own_node(entry: &Entry, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (atime, mtime) = times(entry);
    Ok(utimensat(parent, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?)
}

#[cfg(test)]
mod tests;
