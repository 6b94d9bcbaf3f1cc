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
    tarball::{Archive, Entry, Kind},
    whiteout::{self, OPAQUE, WHITEOUT},
};
use nix::{
    dir::Dir,
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
            remove_directory(parent, name, 0).map_err(|err| failed("replace", entry, err))?;
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

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
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

/// Deepest tree that an entry may replace.
const DEPTH_MAX: usize = 256;

fn remove_directory(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(Errno::ENAMETOOLONG.into());
    }
    let dir = open_directory(parent, name)?;
    let mut listing = Dir::from_fd(dir.try_clone()?.into())?;
    let names: Vec<OsString> = listing
        .iter()
        .map(|entry| entry.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned()))
        .collect::<Result<_, _>>()?;
    for name in names.iter().filter(|name| *name != "." && *name != "..") {
        if is_directory(&fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?) {
            remove_directory(dir.as_fd(), name, depth + 1)?;
        } else {
            unlinkat(&dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
        }
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whiteout::OPAQUE_XATTR;
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt},
    };
    use tar::{EntryType, Header};

    /// A member: kind, name, link target, content, PAX records.
    type Row<'a> = (EntryType, &'a [u8], &'a [u8], &'a [u8], &'a [(&'a str, &'a [u8])]);

    const NO_PAX: &[(&str, &[u8])] = &[];

    fn block(kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        let fields = header.as_ustar_mut().expect("ustar");
        fields.name[..name.len()].copy_from_slice(name);
        fields.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o6755);
        header.set_uid(1000);
        header.set_gid(2000);
        header.set_mtime(77);
        header.set_size(content.len() as u64);
        header.set_device_major(5).expect("a device field");
        header.set_device_minor(1).expect("a device field");
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut content = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length = (body..).find(|n| n.to_string().len() + body == *n).expect("a fixed point");
            content.extend([format!("{length} {key}=").as_bytes(), value, b"\n"].concat());
        }
        block(EntryType::XHeader, b"pax", b"", &content)
    }

    fn archive(rows: &[Row<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, name, link, content, records) in rows {
            if !records.is_empty() {
                bytes.extend(pax(records));
            }
            bytes.extend(block(*kind, name, link, content));
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn try_unpack(rows: &[Row<'_>], limits: Limits) -> (tempfile::TempDir, Result<(), ImageError>) {
        let dir = tempfile::tempdir().expect("directory");
        let bytes = archive(rows);
        let done = unpack(&mut Archive::new(bytes.as_slice()), dir.path(), limits);
        (dir, done)
    }

    fn unpacked(rows: &[Row<'_>]) -> tempfile::TempDir {
        let (dir, done) = try_unpack(rows, Limits::default());
        done.expect("a good archive");
        dir
    }

    use EntryType as T;

    #[test]
    fn entries_go_where_their_path_leads_at_that_time() {
        let dir = unpacked(&[
            (T::Directory, b"b/", b"", b"", NO_PAX),
            (T::Regular, b"a/one", b"", b"1", NO_PAX),
            // What the next entry's directory was is removed, and its name leads elsewhere.
            (T::Symlink, b"a", b"b", b"", NO_PAX),
            (T::Regular, b"a/two", b"", b"2", NO_PAX),
            (T::Regular, b"a/three", b"", b"3", NO_PAX),
            (T::Directory, b"a/", b"", b"", NO_PAX),
            (T::Regular, b"a/four", b"", b"4", NO_PAX),
        ]);
        let names = |of: &str| {
            let listed = fs::read_dir(dir.path().join(of)).expect("list");
            let mut names: Vec<_> = listed.map(|entry| entry.expect("entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names("b"), ["three", "two"]);
        assert_eq!(names("a"), ["four"]);
        assert_eq!(names("."), ["a", "b"]);
    }

    #[test]
    fn long_files_are_whole() {
        let content: Vec<u8> =
            (0..(WRITE_OUT_BYTES * 2 + WRITE_OUT_BYTES_MIN + 7)).map(|at| (at / 251) as u8).collect();
        let dir = unpacked(&[(T::Regular, b"long", b"", &content, NO_PAX)]);
        assert!(fs::read(dir.path().join("long")).expect("there") == content);
    }

    #[test]
    fn metadata_and_kinds_are_kept() {
        let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let records: &[(&str, &[u8])] = &[
            ("mtime", b"12.5"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"\xff\0"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ];
        let dir = unpacked(&[
            (T::Directory, b"./", b"", b"", NO_PAX),
            (T::Directory, b"d/", b"", b"", NO_PAX),
            (T::Regular, b"/d/\xff\xfe", b"", b"text", records),
            (T::Char, b"d/console", b"", b"", NO_PAX),
            (T::Fifo, b"d/fifo", b"", b"", NO_PAX),
            (T::Symlink, b"d/link", b"/nowhere", b"", NO_PAX),
            (T::Link, b"hard", b"d/link", b"", NO_PAX),
        ]);
        let path = |name: &[u8]| dir.path().join(OsStr::from_bytes(name));
        let file = path(b"d/\xff\xfe");
        let meta = fs::metadata(&file).expect("there");
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid()),
            (0o6755, 1000, 2000),
            "setuid survives chown"
        );
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (12, 500_000_000));
        let attribute = |name: &str| xattr::get(&file, name).expect("readable");
        assert_eq!(attribute("security.capability").as_deref(), Some(capability));
        assert_eq!(attribute("user.note").as_deref(), Some(&b"\xff\0"[..]));
        assert_eq!((attribute("trusted.overlay.redirect"), attribute("user.overlay.opaque")), (None, None));
        assert_eq!(fs::metadata(path(b"d")).expect("there").mtime(), 77, "set after it was filled");
        assert_eq!(fs::metadata(dir.path()).expect("there").uid(), 1000, "the root has an entry too");
        let console = fs::metadata(path(b"d/console")).expect("there");
        assert!(console.file_type().is_char_device() && console.rdev() == makedev(5, 1));
        assert!(fs::metadata(path(b"d/fifo")).expect("there").file_type().is_fifo());
        let (link, hard) = (fs::symlink_metadata(path(b"d/link")), fs::symlink_metadata(path(b"hard")));
        assert_eq!(link.expect("there").ino(), hard.expect("there").ino(), "a hard link never follows");
    }

    #[test]
    fn later_entries_replace_earlier_ones() {
        let dir = unpacked(&[
            (T::Regular, b"a", b"", b"1", NO_PAX),
            (T::Regular, b"a", b"", b"22", NO_PAX),
            (T::Directory, b"b/", b"", b"", NO_PAX),
            (T::Regular, b"b/c/d", b"", b"", NO_PAX),
            (T::Symlink, b"b", b"a", b"", NO_PAX),
            (T::Symlink, b"e", b"b", b"", NO_PAX),
            (T::Directory, b"e", b"", b"", NO_PAX),
        ]);
        assert_eq!(fs::read(dir.path().join("a")).expect("there"), b"22");
        assert_eq!(fs::read_link(dir.path().join("b")).expect("a link"), Path::new("a"));
        assert!(fs::symlink_metadata(dir.path().join("e")).expect("there").is_dir());
    }

    #[test]
    fn whiteouts_hide_lower_layers_only() {
        let dir = unpacked(&[
            (T::Regular, b".wh.gone", b"", b"", NO_PAX),
            (T::Regular, b"kept", b"", b"mine", NO_PAX),
            (T::Regular, b".wh.kept", b"", b"", NO_PAX),
            (T::Regular, b".wh.again", b"", b"", NO_PAX),
            (T::Directory, b"again/", b"", b"", NO_PAX),
            (T::Directory, b"mine/", b"", b"", NO_PAX),
            (T::Regular, b".wh.mine", b"", b"", NO_PAX),
            (T::Regular, b"deep/.wh..wh..opq", b"", b"", NO_PAX),
            (T::Regular, b".wh..wh.plnk", b"", b"", NO_PAX),
        ]);
        let gone = fs::symlink_metadata(dir.path().join("gone")).expect("a mark");
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert_eq!(fs::read(dir.path().join("kept")).expect("there"), b"mine");
        for name in ["again", "mine", "deep"] {
            let opaque = xattr::get(dir.path().join(name), OPAQUE_XATTR).expect("readable");
            assert_eq!(opaque.as_deref(), Some(&b"y"[..]), "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 5, "nothing else");
    }

    #[test]
    fn attacks_are_refused_or_stay_inside() {
        let deep = [b'a'; 90];
        let long: &[(&str, &[u8])] = &[("path", &[b'n'; 300])];
        let refused: [(&str, &[Row<'_>]); 9] = [
            ("climbing name", &[(T::Regular, b"../x", b"", b"", NO_PAX)]),
            ("climbing in the middle", &[(T::Regular, b"a/../../x", b"", b"", NO_PAX)]),
            ("climbing by PAX", &[(T::Regular, b"x", b"", b"", &[("path", b"../x")])]),
            ("climbing hard link", &[(T::Link, b"h", b"../../etc/passwd", b"", NO_PAX)]),
            ("hard link to what is not there", &[(T::Link, b"h", b"/etc/passwd", b"", NO_PAX)]),
            (
                "hard link through a link out",
                &[(T::Symlink, b"s", b"/etc", b"", NO_PAX), (T::Link, b"h", b"s/passwd", b"", NO_PAX)],
            ),
            ("whiteout of the directory above", &[(T::Regular, b"d/.wh...", b"", b"", NO_PAX)]),
            ("whiteout of nothing", &[(T::Regular, b".wh.", b"", b"", NO_PAX)]),
            ("a name too long for a file", &[(T::Regular, b"x", b"", b"", long)]),
        ];
        for (name, rows) in refused {
            let (_dir, done) = try_unpack(rows, Limits::default());
            assert!(matches!(done, Err(ImageError::Malformed { .. })), "{name}: {done:?}");
        }
        let limits = Limits { bytes_max: 10, entries_max: 3, ..Limits::default() };
        let (_dir, big) = try_unpack(&[(T::Regular, b"x", b"", &deep, NO_PAX)], limits);
        let (_dir, many) =
            try_unpack(&[(T::Regular, b"x".as_slice(), b"".as_slice(), b"".as_slice(), NO_PAX); 4], limits);
        assert!(big.is_err() && many.is_err());
    }

    #[test]
    fn writing_through_a_link_out_changes_nothing_outside() {
        let outside = tempfile::tempdir().expect("directory");
        fs::write(outside.path().join("victim"), "safe").expect("written");
        let target = outside.path().as_os_str().as_bytes();
        let attacks: [&[Row<'_>]; 5] = [
            &[(T::Symlink, b"s", target, b"", NO_PAX), (T::Regular, b"s/victim", b"", b"owned", NO_PAX)],
            &[(T::Symlink, b"s", target, b"", NO_PAX), (T::Regular, b"s/.wh.victim", b"", b"", NO_PAX)],
            &[(T::Symlink, b"s", target, b"", NO_PAX), (T::Regular, b"s/.wh..wh..opq", b"", b"", NO_PAX)],
            &[
                (T::Symlink, b"s", target, b"", NO_PAX),
                (T::Directory, b"s/", b"", b"", NO_PAX),
                (T::Regular, b"s/victim", b"", b"", NO_PAX),
            ],
            &[
                (T::Symlink, b"s", b"../../../../../../../../../..", b"", NO_PAX),
                (T::Directory, b"s/etc/wherry-attack", b"", b"", NO_PAX),
            ],
        ];
        for attack in attacks {
            let (_dir, done) = try_unpack(attack, Limits::default());
            drop(done);
            assert_eq!(
                fs::read_to_string(outside.path().join("victim")).expect("there"),
                "safe",
                "{attack:?}"
            );
            assert_eq!(fs::metadata(outside.path()).expect("there").uid(), 0, "{attack:?}");
            assert_eq!(xattr::get(outside.path(), OPAQUE_XATTR).expect("readable"), None);
            assert!(!Path::new("/etc/wherry-attack").exists());
        }
    }

    proptest::proptest! {
        /// Whatever bytes come, unpacking ends, and what it makes is below the directory.
        #[test]
        fn any_bytes_end(mut bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..2048), at in 0..1536usize, value: u8) {
            let outer = tempfile::tempdir().expect("directory");
            let dir = outer.path().join("layer");
            fs::create_dir(&dir).expect("made");
            let _ = unpack(&mut Archive::new(bytes.as_slice()), &dir, Limits::default());
            bytes = archive(&[(T::Regular, b"a/b", b"", b"text", NO_PAX)]);
            bytes[at] = value;
            let _ = unpack(&mut Archive::new(bytes.as_slice()), &dir, Limits::default());
            proptest::prop_assert_eq!(fs::read_dir(outer.path()).expect("list").count(), 1);
        }
    }
}
