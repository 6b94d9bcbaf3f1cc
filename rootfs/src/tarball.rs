//! Reads tar archives as image layers have them: ustar, GNU long names, PAX (paths, links, ids, times, sizes, xattrs).
//!
//! Nothing in an archive is trusted: extension headers have a limit, sizes are only counters, names are bytes.
//! Not here: what an entry may do to a directory ([`crate::unpack`]), the maps of sparse files ([`crate::sparse`]).

use crate::sparse::{self, Region};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};
use tar::{EntryType, Header};

pub(crate) const BLOCK: usize = 512;
/// Most bytes of one extension header (a long name, or PAX records).
pub(crate) const EXTENSION_BYTES_MAX: u64 = 1 << 20;

/// Most bytes of what global headers say together, because every member after them gets it.
const GLOBAL_BYTES_MAX: usize = 4 << 10;

/// One member of an archive; its content is read from the [`Archive`] before the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    /// Target of a symlink (any text) or a hard link (a path in the archive).
    pub(crate) link: PathBuf,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification time: seconds since the epoch and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// Of the file, holes included.
    pub(crate) size: u64,
    /// What of the file the content is, one after the other; `None`: all of it.
    pub(crate) regions: Option<Vec<Region>>,
    /// (major, minor) of a device.
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// A PAX record: key and value.
type Record = (Vec<u8>, Vec<u8>);

/// A stream of entries.
pub(crate) struct Archive<R> {
    inner: R,
    /// Content of the current entry not read yet, and padding after it.
    left: u64,
    padding: u64,
    /// What global headers said so far.
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Archive<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, global: BTreeMap::new() }
    }

    /// The reader below, to read what follows the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member; `None` at the end mark. A stream that stops before it is an error.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let (mut long_path, mut long_link, mut pax) = (None, None, Vec::new());
        loop {
            let Some(header) = self.next_header()? else { return Ok(None) };
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => long_path = Some(trimmed(self.extension()?)),
                EntryType::GNULongLink => long_link = Some(trimmed(self.extension()?)),
                EntryType::XHeader => pax = records(&self.extension()?)?,
                EntryType::XGlobalHeader => {
                    let content = self.extension()?;
                    self.globally(records(&content)?)?;
                }
                _ => {
                    let mut entry = plain(&header)?;
                    if let Some(path) = long_path {
                        entry.path = path;
                    }
                    if let Some(link) = long_link {
                        entry.link = link;
                    }
                    return self.member(&header, entry, &pax).map(Some);
                }
            }
        }
    }

    /// Adds to what earlier global headers said, key by key; an empty value takes a key back (POSIX, pax, "pax Header Block").
    fn globally(&mut self, records: Vec<Record>) -> io::Result<()> {
        for (key, value) in records {
            if key.starts_with(b"GNU.sparse.") {
                return Err(bad("a global header says where files have holes"));
            }
            if value.is_empty() {
                self.global.remove(&key)
            } else {
                self.global.insert(key, value)
            };
        }
        let bytes: usize = self.global.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > GLOBAL_BYTES_MAX {
            return Err(bad(&format!("global headers of {bytes} bytes, at most {GLOBAL_BYTES_MAX}")));
        }
        Ok(())
    }

    /// Adds to `entry` what `pax` and the kind of the member say, and gets ready to read its content.
    fn member(&mut self, header: &Header, mut entry: Entry, pax: &[Record]) -> io::Result<Entry> {
        let mut holes = None;
        let own = pax.iter().map(|(key, value)| (key, value));
        for (key, value) in self.global.iter().chain(own) {
            match key.strip_prefix(b"GNU.sparse.") {
                Some(key) => holes.get_or_insert_with(sparse::Records::default).take(key, value)?,
                None => apply(&mut entry, key, value)?,
            }
        }
        if let Some(name) = holes.as_mut().and_then(|holes| holes.name.take()) {
            entry.path = path(text(b"GNU.sparse.name", &name)?);
        }
        if [entry.uid, entry.gid].contains(&u32::MAX) {
            // To chown(2) that is "leave it as it is".
            return Err(bad("an owner does not fit 32 bits"));
        }
        let kind = header.entry_type();
        entry.kind = kind_of(kind, &mut entry)?;
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            // Writers leave these fields blank for everything else.
            entry.device = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        }
        self.left = entry.size;
        self.padding = padding(entry.size);
        if entry.kind != Kind::File {
            return Ok(entry);
        }
        let regions = match (kind, header.as_gnu(), holes) {
            (EntryType::GNUSparse, Some(gnu), _) => {
                entry.size = gnu.real_size()?;
                sparse::old_map(gnu, &mut self.inner)?
            }
            (EntryType::GNUSparse, None, _) => return Err(bad("a sparse file without its map")),
            (_, _, Some(holes)) => {
                entry.size = holes.size.unwrap_or(entry.size);
                holes.map(self)?
            }
            _ => return Ok(entry),
        };
        sparse::check(&regions, entry.size, self.left)?;
        entry.regions = Some(regions);
        Ok(entry)
    }

    fn next_header(&mut self) -> io::Result<Option<Header>> {
        self.skip(self.left)?;
        self.skip(self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut header = Header::new_old();
        if !self.fill(header.as_mut_bytes())? {
            return Err(bad("stops before the end of the archive"));
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum = header.as_bytes().iter().enumerate();
        let sum: u32 =
            sum.map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) }).sum();
        if header.cksum()? != sum {
            return Err(bad("header checksum is wrong"));
        }
        self.left = header.entry_size()?;
        self.padding = padding(self.left);
        Ok(Some(header))
    }

    /// The content of an extension header.
    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.left > EXTENSION_BYTES_MAX {
            return Err(bad(&format!("extension header of {} bytes", self.left)));
        }
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        if self.left > 0 { Err(bad("stops in an extension header")) } else { Ok(content) }
    }

    /// Fills `buffer`; false when the stream ends right at the start of it.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut done = 0;
        while done < buffer.len() {
            match self.inner.read(&mut buffer[done..]) {
                Ok(0) if done == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => done += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(true)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.inner.by_ref().take(bytes), &mut io::sink())?;
        if skipped < bytes { Err(bad("stops in the middle of an entry")) } else { Ok(()) }
    }
}

/// The content of the current entry. Ends early only when the stream does; [`Archive::next`] then reports it.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

pub(crate) fn bad(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn trimmed(mut name: Vec<u8>) -> PathBuf {
    if let Some(end) = name.iter().position(|&byte| byte == 0) {
        name.truncate(end);
    }
    path(name)
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

fn plain(header: &Header) -> io::Result<Entry> {
    let id = |value: u64| u32::try_from(value).map_err(|_| bad("an owner does not fit 32 bits"));
    // Some writers leave fields blank that do not matter to them.
    let blank = |field: &[u8]| field.iter().all(|byte| matches!(byte, 0 | b' '));
    let old = header.as_old();
    Ok(Entry {
        path: path(header.path_bytes().into_owned()),
        kind: Kind::File,
        link: path(header.link_name_bytes().unwrap_or_default().into_owned()),
        mode: header.mode()? & 0o7777,
        uid: if blank(&old.uid) { 0 } else { id(header.uid()?)? },
        gid: if blank(&old.gid) { 0 } else { id(header.gid()?)? },
        mtime: (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        size: header.entry_size()?,
        regions: None,
        device: (0, 0),
        xattrs: Vec::new(),
    })
}

fn kind_of(kind: EntryType, entry: &mut Entry) -> io::Result<Kind> {
    let kind = match kind {
        // Before POSIX a directory was a file whose name ends in a slash.
        EntryType::Regular if entry.path.as_os_str().as_encoded_bytes().ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Char => Kind::CharDevice,
        EntryType::Block => Kind::BlockDevice,
        EntryType::Fifo => Kind::Fifo,
        other => {
            return Err(bad(&format!("entries of type {:?} are not supported", other.as_byte() as char)));
        }
    };
    // Some writers note the size of a hard link's target; no content follows.
    if kind != Kind::File {
        entry.size = 0;
    }
    Ok(kind)
}

/// Splits PAX records: `<length> <key>=<value>\n`, the length counting itself.
fn records(content: &[u8]) -> io::Result<Vec<Record>> {
    let wrong = || bad("PAX header is malformed");
    let (mut records, mut rest) = (Vec::new(), content);
    while !rest.is_empty() {
        let space = rest.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
        let length: usize = number(&rest[..space])?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        rest = &rest[length..];
    }
    Ok(records)
}

/// Decimal digits, after a minus where `T` has one.
pub(crate) fn number<T: std::str::FromStr>(digits: &[u8]) -> io::Result<T> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'));
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| bad(&format!("{:?} is no number", String::from_utf8_lossy(digits))))
}

/// A value that the kernel is given as a string.
fn text(key: &[u8], value: &[u8]) -> io::Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(bad(&format!("PAX header {} has a NUL", String::from_utf8_lossy(key))));
    }
    Ok(value.to_vec())
}

fn apply(entry: &mut Entry, key: &[u8], value: &[u8]) -> io::Result<()> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        entry.xattrs.push((OsString::from_vec(text(key, name)?), value.to_vec()));
        return Ok(());
    }
    match key {
        // POSIX: an empty value stands for the header's.
        _ if value.is_empty() => {}
        b"path" => entry.path = path(text(key, value)?),
        b"linkpath" => entry.link = path(text(key, value)?),
        b"size" => entry.size = number(value)?,
        b"uid" => entry.uid = number(value)?,
        b"gid" => entry.gid = number(value)?,
        b"mtime" => entry.mtime = time(value)?,
        _ => {}
    }
    Ok(())
}

/// `[-]seconds[.fraction]`, to nanoseconds, towards the past.
fn time(value: &[u8]) -> io::Result<(i64, i64)> {
    let dot = value.iter().position(|&byte| byte == b'.').unwrap_or(value.len());
    let seconds: i64 = number(&value[..dot])?;
    let mut digits: Vec<u8> = value.get(dot + 1..).unwrap_or_default().iter().copied().take(9).collect();
    digits.resize(9, b'0');
    let nanos: u32 = number(&digits)?;
    Ok(match (value.first(), i64::from(nanos)) {
        (Some(b'-'), nanos) if nanos > 0 => (seconds.saturating_sub(1), 1_000_000_000 - nanos),
        (_, nanos) => (seconds, nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(kind: EntryType, name: &[u8], content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(content.len() as u64);
        header.set_mtime(5);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut content = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length = (body..).find(|n| n.to_string().len() + body == *n).expect("a fixed point");
            content.extend(format!("{length} {key}=").bytes().chain(value.iter().copied()).chain([b'\n']));
        }
        member(EntryType::XHeader, b"pax", &content)
    }

    fn all(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let (mut archive, mut entries) = (Archive::new(bytes), Vec::new());
        while let Some(entry) = archive.next()? {
            let mut content = Vec::new();
            archive.read_to_end(&mut content)?;
            entries.push((entry, content));
        }
        Ok(entries)
    }

    const END: [u8; 1024] = [0; 1024];

    #[test]
    fn global_headers_add_up_and_have_a_limit() {
        let global = |records: &[(&str, &[u8])]| {
            let mut bytes = pax(records);
            bytes[156] = b'g';
            // The sum of the header's bytes, with blanks in its own place.
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes[..BLOCK].iter().map(|&byte| u32::from(byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes
        };
        let file = || member(EntryType::Regular, b"f", b"");
        let bytes = [
            global(&[("uid", b"1"), ("gid", b"2")]),
            global(&[("uid", b"3")]),
            file(),
            global(&[("gid", b"")]),
            file(),
            END.to_vec(),
        ];
        let owners: Vec<(u32, u32)> =
            all(&bytes.concat()).expect("read").iter().map(|(entry, _)| (entry.uid, entry.gid)).collect();
        assert_eq!(owners, [(3, 2), (3, 8)]);
        let long = global(&[("SCHILY.xattr.user.a", &[b'x'; 3000])]);
        let other = global(&[("SCHILY.xattr.user.b", &[b'x'; 3000])]);
        assert!(all(&[&long[..], &long, &file(), &END].concat()).is_ok(), "the same again");
        let error = all(&[&long[..], &other, &file(), &END].concat()).expect_err("too much");
        assert!(error.to_string().contains("global headers of 6038 bytes"), "{error}");
        let holes = global(&[("GNU.sparse.size", b"1")]);
        assert!(all(&[&holes[..], &file(), &END].concat()).is_err());
    }

    #[test]
    fn members_keep_name_owner_mode_time_and_content() {
        let bytes = [member(EntryType::Regular, b"a/\xff", b"hello"), END.to_vec()].concat();
        let (entry, content) = all(&bytes).expect("read").remove(0);
        assert_eq!((entry.path, entry.mode, entry.uid, entry.gid), (path(b"a/\xff".to_vec()), 0o4755, 7, 8));
        assert_eq!((entry.mtime, entry.size, content.as_slice()), ((5, 0), 5, &b"hello"[..]));
    }

    #[test]
    fn extensions_override_the_header() {
        let long = vec![b'x'; 300];
        let bytes = [
            member(EntryType::GNULongName, b"././@LongLink", &[long.as_slice(), b"\0"].concat()),
            member(EntryType::Regular, b"short", b""),
            pax(&[
                ("path", b"p\xc3\xa9"),
                ("uid", b"70000"),
                ("mtime", b"-1.25"),
                ("SCHILY.xattr.user.k", b"v=\n\0"),
                ("comment", b"ignored"),
            ]),
            member(EntryType::Symlink, b"q", b""),
            member(EntryType::Directory, b"d", b""),
            END.to_vec(),
        ]
        .concat();
        let entries = all(&bytes).expect("read");
        assert_eq!(entries[0].0.path, path(long));
        let second = &entries[1].0;
        assert_eq!((second.path.to_str(), second.uid, second.mtime), (Some("pé"), 70_000, (-2, 750_000_000)));
        assert_eq!(second.xattrs, [("user.k".into(), b"v=\n\0".to_vec())]);
        assert_eq!((entries[2].0.uid, entries[2].0.kind), (7, Kind::Directory), "PAX is for one member");
    }

    #[test]
    fn damaged_archives_are_refused() {
        let good = [member(EntryType::Regular, b"f", &[1; 700]), END.to_vec()].concat();
        let mut flipped = good.clone();
        flipped[0] ^= 1;
        let mut huge = Header::new_ustar();
        huge.set_entry_type(EntryType::GNULongName);
        huge.set_size(1 << 40);
        huge.set_cksum();
        let cases: [(&str, Vec<u8>); 8] = [
            ("nothing at all", vec![]),
            ("no end mark", good[..1536].to_vec()),
            ("cut in a header", good[..100].to_vec()),
            ("cut in the content", good[..700].to_vec()),
            ("checksum", flipped),
            ("a name of a terabyte", huge.as_bytes().to_vec()),
            ("sparse without a map", [member(EntryType::GNUSparse, b"s", b""), END.to_vec()].concat()),
            ("PAX length", [member(EntryType::XHeader, b"x", b"99999 a=b\n"), END.to_vec()].concat()),
        ];
        for (name, bytes) in cases {
            assert!(all(&bytes).is_err(), "{name}");
        }
        assert_eq!(all(&good).expect("whole").len(), 1);
    }
}
