//! Makes the archive of an unpacked layer again: the inverse of [`crate::unpack`].
//!
//! Semantics: OCI image specification `layer.md`; POSIX pax for what ustar cannot say (long and non-ASCII names, large ids, times with fractions
//! or before 1970) and `SCHILY.xattr.*` for attributes, as GNU tar, docker and containerd write them.
//!
//! Invariants: the bytes depend on the tree alone (names in byte order, no time or name of this host), so that two passes give one digest; every
//! step is taken from a descriptor and follows no link. An archive made here differs from the one the layer came from: so does its digest.

use crate::{
    unpack::{is_directory, is_welcome, is_whiteout},
    whiteout::{OPAQUE, OPAQUE_XATTR, WHITEOUT},
};
use nix::{
    dir::Dir,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, major, minor},
};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};
use tar::{EntryType, Header};
use xattr::FileExt;

const BLOCK: u64 = 512;
/// Largest values of ustar's octal fields.
const ID_MAX: u32 = 0o777_7777;
const SIZE_MAX: u64 = 0o777_7777_7777;
/// Length of ustar's name and link fields.
const NAME_BYTES_MAX: usize = 100;

/// Writes the archive of the unpacked layer at `layer`, with its end mark.
pub(crate) fn pack(layer: &Path, out: impl Write) -> io::Result<()> {
    let root = File::open(layer)?;
    let mut packer = Packer { out, links: BTreeMap::new() };
    let stat = fstat(&root)?;
    packer.entry(&Member::new(b"./".to_vec(), EntryType::Directory, &stat, attributes(&root)?))?;
    packer.directory(&root, b"")?;
    end(&mut packer.out)
}

/// What ends an archive.
pub(crate) fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK as usize])
}

/// One file of an archive that is not a layer, owned by root and without a time.
pub(crate) fn plain_file(out: &mut impl Write, path: &str, size: u64) -> io::Result<()> {
    let member = Member::of_root(path.as_bytes().to_vec(), size);
    write_header(out, &member)
}

/// What fills a member's last block.
pub(crate) fn padding(out: &mut impl Write, size: u64) -> io::Result<()> {
    let left = size.wrapping_neg() % BLOCK;
    out.write_all(&[0; BLOCK as usize][..left as usize])
}

struct Packer<W> {
    out: W,
    /// Where a file with several names was written first, by inode.
    links: BTreeMap<u64, Vec<u8>>,
}

struct Member {
    path: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds and nanoseconds since the epoch.
    mtime: (i64, i64),
    size: u64,
    device: (u64, u64),
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Member {
    /// A file of root's without a time.
    fn of_root(path: Vec<u8>, size: u64) -> Self {
        Self {
            path,
            kind: EntryType::Regular,
            link: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    fn new(path: Vec<u8>, kind: EntryType, stat: &FileStat, xattrs: Vec<(OsString, Vec<u8>)>) -> Self {
        let size = if kind == EntryType::Regular { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        let device = if matches!(kind, EntryType::Char | EntryType::Block) {
            (major(stat.st_rdev), minor(stat.st_rdev))
        } else {
            (0, 0)
        };
        Self {
            path,
            kind,
            link: Vec::new(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            size,
            device,
            xattrs,
        }
    }
}

impl<W: Write> Packer<W> {
    /// The content of a directory; `path` ends in a slash unless it is the root's.
    fn directory(&mut self, dir: &File, path: &[u8]) -> io::Result<()> {
        if dir.get_xattr(OPAQUE_XATTR)?.as_deref() == Some(b"y") {
            self.mark(&[path, OPAQUE].concat())?;
        }
        for name in names(dir)? {
            let stat = fstatat(dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let full = [path, name.as_bytes()].concat();
            if is_whiteout(&stat) {
                self.mark(&[path, WHITEOUT, name.as_bytes()].concat())?;
            } else if is_directory(&stat) {
                let inner = open(dir, &name, OFlag::O_DIRECTORY)?;
                let full = [full.as_slice(), b"/"].concat();
                self.entry(&Member::new(full.clone(), EntryType::Directory, &stat, attributes(&inner)?))?;
                self.directory(&inner, &full)?;
            } else {
                self.leaf(dir, &name, full, &stat)?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, dir: &File, name: &OsStr, path: Vec<u8>, stat: &FileStat) -> io::Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                let mut member = Member::new(path, EntryType::Link, stat, Vec::new());
                member.link.clone_from(first);
                return self.entry(&member);
            }
            self.links.insert(stat.st_ino, path.clone());
        }
        let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => {
                let file = open(dir, name, OFlag::empty())?;
                let member = Member::new(path, EntryType::Regular, stat, attributes(&file)?);
                return self.file(&member, file);
            }
            SFlag::S_IFLNK => {
                let mut member = Member::new(path, EntryType::Symlink, stat, Vec::new());
                member.link = readlinkat(dir, name)?.into_vec();
                return self.entry(&member);
            }
            SFlag::S_IFCHR => EntryType::Char,
            SFlag::S_IFBLK => EntryType::Block,
            SFlag::S_IFIFO => EntryType::Fifo,
            // No archive can hold a socket, so no layer has one.
            _ => return Ok(()),
        };
        self.entry(&Member::new(path, kind, stat, Vec::new()))
    }

    fn file(&mut self, member: &Member, file: File) -> io::Result<()> {
        self.entry(member)?;
        let copied = io::copy(&mut file.take(member.size), &mut self.out)?;
        if copied < member.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        padding(&mut self.out, member.size)
    }

    /// An empty file whose name says that something below is hidden.
    fn mark(&mut self, path: &[u8]) -> io::Result<()> {
        self.entry(&Member::of_root(path.to_vec(), 0))
    }

    fn entry(&mut self, member: &Member) -> io::Result<()> {
        write_header(&mut self.out, member)
    }
}

fn write_header(out: &mut impl Write, member: &Member) -> io::Result<()> {
    let records = records(member);
    if !records.is_empty() {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..3].copy_from_slice(b"pax");
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(records.len() as u64);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        out.write_all(&records)?;
        padding(out, records.len() as u64)?;
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(member.kind);
    let cut = |field: &mut [u8; NAME_BYTES_MAX], text: &[u8]| {
        let length = text.len().min(NAME_BYTES_MAX);
        field[..length].copy_from_slice(&text[..length]);
    };
    cut(&mut header.as_old_mut().name, &member.path);
    cut(&mut header.as_old_mut().linkname, &member.link);
    header.set_mode(member.mode);
    header.set_uid(member.uid.min(ID_MAX).into());
    header.set_gid(member.gid.min(ID_MAX).into());
    header.set_mtime(u64::try_from(member.mtime.0).unwrap_or(0).min(SIZE_MAX));
    header.set_size(member.size.min(SIZE_MAX));
    header.set_device_major(u32::try_from(member.device.0).unwrap_or(0))?;
    header.set_device_minor(u32::try_from(member.device.1).unwrap_or(0))?;
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// The PAX records that say what the header cannot.
fn records(member: &Member) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        records.extend([length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat());
    };
    for (key, text) in [(&b"path"[..], &member.path), (b"linkpath", &member.link)] {
        if text.len() > NAME_BYTES_MAX || !text.is_ascii() {
            add(key, text);
        }
    }
    for (key, id) in [(&b"uid"[..], member.uid), (b"gid", member.gid)] {
        if id > ID_MAX {
            add(key, id.to_string().as_bytes());
        }
    }
    if member.size > SIZE_MAX {
        add(b"size", member.size.to_string().as_bytes());
    }
    let (seconds, nanos) = member.mtime;
    if nanos != 0 || seconds < 0 || seconds.unsigned_abs() > SIZE_MAX {
        add(b"mtime", time(seconds, nanos).as_bytes());
    }
    for (name, value) in &member.xattrs {
        add(&[b"SCHILY.xattr.", name.as_bytes()].concat(), value);
    }
    records
}

/// Seconds with nine decimals; before 1970 the fraction counts away from zero.
fn time(seconds: i64, nanos: i64) -> String {
    if seconds < 0 && nanos > 0 {
        return format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

/// Attributes that an image may carry, by name.
fn attributes(file: &File) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let listed = match file.list_xattr() {
        Err(err) if err.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32) => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut attributes = BTreeMap::new();
    for name in listed.filter(is_welcome) {
        if let Some(value) = file.get_xattr(&name)? {
            attributes.insert(name, value);
        }
    }
    Ok(attributes.into_iter().collect())
}

/// In byte order.
fn names(dir: &File) -> io::Result<Vec<OsString>> {
    let mut listing = Dir::from_fd(dir.try_clone()?.into())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn open(dir: &File, name: &OsStr, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty()).map(File::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back() {
        let cases = [
            ((0, 5), "0.000000005"),
            ((12, 500_000_000), "12.500000000"),
            ((-2, 750_000_000), "-1.250000000"),
            ((-1, 500_000_000), "-0.500000000"),
            ((-3, 0), "-3.000000000"),
        ];
        for ((seconds, nanos), expected) in cases {
            assert_eq!(time(seconds, nanos), expected);
        }
    }
}
