//! Unpacking one layer into a directory of its own.
//!
//! The archive is not trusted: every path is opened by descriptor inside the layer's directory, so neither `..`, an absolute name nor a symlink leads
//! out. Whiteouts (image-spec `layer.md`) become what overlayfs understands: a character device 0:0, and `trusted.overlay.opaque` on directories.

use crate::{ImageError, error::malformed};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2},
    sys::{
        stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mknodat, utimensat},
        time::{TimeSpec, TimeValLike},
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};
use runtime_sys::path::{make_dirs_in_root, open_in_root};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};
use tar::{Archive, Entry, EntryType};
use xattr::FileExt;

const ENTRIES_MAX: u64 = 2_000_000;
const BYTES_MAX: u64 = 64 << 30;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How a layer's bytes are packed, by their first ones.
fn decompress<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let mut len = 0;
    while len < magic.len() {
        match input.read(&mut magic[len..])? {
            0 => break,
            read => len += read,
        }
    }
    let whole = io::Cursor::new(magic).take(len as u64).chain(input);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// Counts and hashes what is read.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hash.update(&buffer[..len]);
        self.bytes += len as u64;
        if self.bytes > BYTES_MAX {
            return Err(io::Error::other(format!("the layer unpacks to more than {BYTES_MAX} bytes")));
        }
        Ok(len)
    }
}

/// Unpacks the layer read from `input` into the empty directory `target`; gives the diff id and the size unpacked.
pub fn unpack(input: impl Read, target: &Path) -> Result<(String, u64), ImageError> {
    let bad = |err: io::Error| malformed("layer", err);
    let plain = decompress(input).map_err(bad)?;
    let mut archive = Archive::new(Hashed { inner: plain, hash: Sha256::new(), bytes: 0 });
    let root = OwnedFd::from(File::open(target).map_err(crate::error::io_error("open", target))?);
    let mut directories = Vec::new();
    let mut count = 0;
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        count += 1;
        if count > ENTRIES_MAX {
            return Err(malformed("layer", format!("more than {ENTRIES_MAX} entries")));
        }
        let path = safe_path(&entry.path_bytes())?;
        extract(&root, &mut entry, &path, &mut directories)
            .map_err(|err| malformed(format!("layer: {}", path.display()), err))?;
    }
    // Filling a directory has changed its time.
    for (path, seconds) in directories.iter().rev() {
        set_time(&root, path, *seconds)
            .map_err(|err| malformed(format!("layer: {}", path.display()), err))?;
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(bad)?;
    Ok((to_hex(rest.hash), rest.bytes))
}

pub fn to_hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The path below the root; a step up is refused.
fn safe_path(bytes: &[u8]) -> Result<PathBuf, ImageError> {
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let mut safe = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => safe.push(name),
            std::path::Component::ParentDir => {
                return Err(malformed(format!("layer: {}", path.display()), "leads out of the layer"));
            }
            _ => {}
        }
    }
    Ok(safe)
}

fn extract<R: Read>(
    root: &OwnedFd,
    entry: &mut Entry<'_, R>,
    path: &Path,
    directories: &mut Vec<(PathBuf, i64)>,
) -> io::Result<()> {
    let header = entry.header().clone();
    let (uid, gid) = (Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?));
    let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
    let seconds = i64::try_from(header.mtime()?).unwrap_or(0);
    let attributes = attributes(entry)?;
    let Some(name) = path.file_name() else {
        // The root itself.
        own(root, Path::new("."), uid, gid, Some(mode))?;
        directories.push((PathBuf::from("."), seconds));
        return Ok(());
    };
    let parent = make_dirs_in_root(root, path.parent().unwrap_or(Path::new("")))?;
    if name.as_bytes() == OPAQUE {
        let dir = File::from(open_in_root(
            root,
            path.parent().unwrap_or(Path::new("/")),
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
        )?);
        return dir.set_xattr("trusted.overlay.opaque", b"y");
    }
    if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
        let hidden = Path::new(std::ffi::OsStr::from_bytes(hidden));
        if hidden.components().count() != 1 || hidden.as_os_str().is_empty() || hidden == Path::new("..") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a whiteout that names nothing"));
        }
        remove(&parent, hidden)?;
        return Ok(mknodat(&parent, hidden, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?);
    }
    let name = Path::new(name);
    let kind = header.entry_type();
    if kind != EntryType::Directory {
        remove(&parent, name)?;
    }
    match kind {
        EntryType::Directory => {
            make_directory(&parent, name)?;
            directories.push((path.to_path_buf(), seconds));
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let mut file = create(&parent, name)?;
            io::copy(entry, &mut file)?;
        }
        EntryType::Symlink => symlinkat(link_target(entry)?.as_path(), &parent, name)?,
        EntryType::Link => {
            let target = safe_path(link_target(entry)?.as_os_str().as_bytes()).map_err(io::Error::other)?;
            let old = open_in_root(root, &target, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
            // The file has its owner and time already.
            return Ok(linkat(&old, Path::new(""), &parent, name, AtFlags::AT_EMPTY_PATH)?);
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => special(&parent, name, &header)?,
        // Global headers of PAX archives and the like describe, but are no file.
        _ => return Ok(()),
    }
    let followed = kind != EntryType::Symlink;
    own(&parent, name, uid, gid, followed.then_some(mode))?;
    if followed && !attributes.is_empty() && matches!(kind, EntryType::Directory | EntryType::Regular) {
        let file =
            File::from(open_in_root(root, path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)?);
        for (name, value) in attributes {
            file.set_xattr(name, &value)?;
        }
    }
    let time = TimeSpec::seconds(seconds);
    Ok(utimensat(&parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn id(id: u64) -> io::Result<u32> {
    u32::try_from(id)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("owner {id} is out of range")))
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    let target = entry
        .link_name_bytes()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a link without target"))?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(&target)))
}

/// Extended attributes, from PAX records `SCHILY.xattr.*`; those of overlayfs itself are not an image's to set.
fn attributes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(Vec::new()) };
    let mut attributes = Vec::new();
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
            && !name.starts_with("trusted.overlay.")
        {
            attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(attributes)
}

fn make_directory(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => {
            let there = nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if there.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                return Ok(());
            }
            remove(parent, name)?;
            Ok(nix::sys::stat::mkdirat(parent, name, Mode::from_bits_truncate(0o755))?)
        }
        made => Ok(made?),
    }
}

fn create(parent: &OwnedFd, name: &Path) -> io::Result<File> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .mode(Mode::from_bits_truncate(0o600))
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    Ok(File::from(openat2(parent, name, how)?))
}

fn special(parent: &OwnedFd, name: &Path, header: &tar::Header) -> io::Result<()> {
    let kind = match header.entry_type() {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let number = |part: Option<u32>| u64::from(part.unwrap_or(0));
    let device = makedev(number(header.device_major()?), number(header.device_minor()?));
    if kind == SFlag::S_IFCHR && device == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "device 0:0 is overlayfs's own"));
    }
    Ok(mknodat(parent, name, kind, Mode::from_bits_truncate(0o600), device)?)
}

fn own(parent: &OwnedFd, name: &Path, uid: Uid, gid: Gid, mode: Option<Mode>) -> io::Result<()> {
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    // After chown, which takes setuid bits away.
    mode.map_or(Ok(()), |mode| Ok(fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)?))
}

fn set_time(root: &OwnedFd, path: &Path, seconds: i64) -> io::Result<()> {
    let dir = match open_in_root(root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        // A later entry has taken its place.
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        dir => dir?,
    };
    let time = TimeSpec::seconds(seconds);
    Ok(nix::sys::stat::futimens(dir.as_fd(), &time, &time)?)
}

/// Removes what an earlier entry of the same name has made.
fn remove(parent: &OwnedFd, name: &Path) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => {
            // Opened without following, and removed from there: the name may be anything by now.
            let dir = runtime_sys::path::open_beneath(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            let own = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir)));
            for entry in std::fs::read_dir(&own)? {
                remove(&dir, Path::new(&entry?.file_name()))?;
            }
            Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
        }
        Err(err) => Err(err.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use tar::{Builder, Header};

    fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        header.set_mtime(1_000_000);
        header.set_uid(0);
        header.set_gid(0);
        // Written raw, because the builder refuses the names that attacks use.
        header.as_gnu_mut().expect("GNU").name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().expect("GNU").linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).expect("appended");
    }

    /// Kind, name, link target, content.
    type Row<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

    fn layer(entries: &[Row<'_>]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        entries
            .iter()
            .for_each(|(kind, name, link, content)| entry(&mut builder, *kind, name, link, content));
        builder.into_inner().expect("finished")
    }

    #[test]
    fn whiteouts_links_and_times_are_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let tar = layer(&[
            (EntryType::Directory, "a/", "", b""),
            (EntryType::Regular, "a/f", "", b"text"),
            (EntryType::Link, "a/hard", "a/f", b""),
            (EntryType::Symlink, "l", "a/f", b""),
            (EntryType::Regular, "a/.wh.gone", "", b""),
            (EntryType::Regular, "b/.wh..wh..opq", "", b""),
        ]);
        let (diff_id, bytes) = unpack(tar.as_slice(), dir.path()).expect("unpacks");
        assert_eq!((diff_id.len(), bytes), (64, tar.len() as u64));
        let gone = dir.path().join("a/gone").symlink_metadata().expect("a whiteout");
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let opaque = xattr::get(dir.path().join("b"), "trusted.overlay.opaque").expect("root may read it");
        assert_eq!(opaque.as_deref(), Some(b"y".as_slice()));
        assert_eq!(
            dir.path().join("a/f").metadata().expect("there").ino(),
            dir.path().join("a/hard").metadata().expect("there").ino()
        );
        assert_eq!(dir.path().join("a").metadata().expect("there").mtime(), 1_000_000);
        let packed = zstd::encode_all(tar.as_slice(), 1).expect("packed");
        let again = tempfile::tempdir().expect("temporary directory");
        assert_eq!(
            unpack(packed.as_slice(), again.path()).expect("unpacks").0,
            diff_id,
            "the diff id is of the plain tar"
        );
    }

    #[test]
    fn hostile_archives_stay_inside() {
        let outside = tempfile::tempdir().expect("temporary directory");
        let absolute = outside.path().to_str().expect("UTF-8").to_owned();
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "safe").expect("written");
        let attacks: [&[Row<'_>]; 6] = [
            &[(EntryType::Regular, "../victim", "", b"owned")],
            &[(EntryType::Symlink, "d", &absolute, b""), (EntryType::Regular, "d/victim", "", b"owned")],
            &[(EntryType::Symlink, "d", "../..", b""), (EntryType::Regular, "d/victim", "", b"owned")],
            &[(EntryType::Link, "h", "../victim", b""), (EntryType::Regular, "h", "", b"owned")],
            &[
                (EntryType::Symlink, "victim", &absolute, b""),
                (EntryType::Regular, "victim/.wh.victim", "", b""),
            ],
            &[(EntryType::Regular, "a/.wh...", "", b"")],
        ];
        for attack in attacks {
            let dir = tempfile::tempdir_in(outside.path()).expect("temporary directory");
            // Whether it is refused or done inside the layer: nothing outside changes.
            let _ = unpack(layer(attack).as_slice(), dir.path());
            assert_eq!(std::fs::read_to_string(&victim).expect("still there"), "safe", "{attack:?}");
            assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 2, "{attack:?}");
        }
    }

    #[test]
    fn cut_and_corrupt_layers_are_refused() {
        let tar = layer(&[(EntryType::Regular, "f", "", &[7; 5000])]);
        let packed = zstd::encode_all(tar.as_slice(), 1).expect("packed");
        for bytes in [&tar[..1000], &packed[..packed.len() / 2]] {
            let dir = tempfile::tempdir().expect("temporary directory");
            assert!(unpack(bytes, dir.path()).is_err());
        }
    }
}
