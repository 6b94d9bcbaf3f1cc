//! From the bytes of a layer blob to a directory, in one pass: decompress, hash, unpack.

use crate::{
    ImageError,
    error::malformed,
    tarball::Archive,
    unpack::{Limits, unpack as fill},
};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::{
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

const BUFFER_BYTES: usize = 64 << 10;

/// What went by while a layer was unpacked; digests are sha256 in hexadecimal, without a prefix.
#[derive(Debug)]
pub struct Unpacked {
    /// Of the plain archive.
    pub diff_id: String,
    /// Of the bytes as they came.
    pub blob: String,
    /// Length of the plain archive.
    pub bytes: u64,
}

/// Unpacks the layer read from `input` (gzip, zstd or neither, told by its first bytes) into the empty directory `target`.
///
/// `input` is read to its end. Whether the digests are the expected ones is for the caller to see.
pub fn unpack(input: impl Read, target: &Path, limits: Limits) -> Result<Unpacked, ImageError> {
    let bad = |err: io::Error| malformed("layer", err);
    // Archive headers and padding are at most as long as what a limit on entries and their names allows.
    let plain_bytes_max = limits.bytes_max.saturating_mul(2);
    let packed_bytes = AtomicU64::new(0);
    let mut packed = Hashed::new(Counted { inner: input, bytes: &packed_bytes }, u64::MAX);
    let plain = {
        let plain = Expansion {
            inner: decompress(&mut packed).map_err(bad)?,
            bytes: 0,
            packed_bytes: &packed_bytes,
            limits,
        };
        let plain = Hashed::new(plain, plain_bytes_max);
        let mut archive = Archive::new(BufReader::with_capacity(BUFFER_BYTES, plain));
        fill(&mut archive, target, limits)?;
        archive.into_inner().into_inner().finish().map_err(bad)?
    };
    let (blob, _) = packed.finish().map_err(bad)?;
    Ok(Unpacked { diff_id: plain.0, blob, bytes: plain.1 })
}

pub fn to_hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The plain bytes of a blob.
pub(crate) fn decompress<'a>(blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut blob = BufReader::with_capacity(BUFFER_BYTES, blob);
    let start = blob.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(blob)),
        // zstd, or a frame of metadata before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(blob)?)
        }
        _ => Box::new(blob),
    })
}

/// Counts and hashes what is read.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
    bytes_max: u64,
}

impl<R: Read> Hashed<R> {
    fn new(inner: R, bytes_max: u64) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0, bytes_max }
    }

    /// Reads what is left; gives the digest and the number of all bytes.
    fn finish(mut self) -> io::Result<(String, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((to_hex(self.hash), self.bytes))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        if self.bytes > self.bytes_max {
            let message = format!("unpacks to more than {} bytes", self.bytes_max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(count)
    }
}

/// Tells the other end of decompression how far this one is.
struct Counted<'a, R> {
    inner: R,
    bytes: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Plain bytes, as long as they are not out of all proportion to the packed ones.
struct Expansion<'a, R> {
    inner: R,
    bytes: u64,
    packed_bytes: &'a AtomicU64,
    limits: Limits,
}

impl<R: Read> Read for Expansion<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        let packed = self.packed_bytes.load(Ordering::Relaxed);
        let most = packed.saturating_mul(self.limits.expansion_max).max(self.limits.expansion_free_bytes);
        if self.bytes > most {
            let message = format!("unpacks to more than {} times its size", self.limits.expansion_max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use tar::{Builder, EntryType, Header};

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
        let Unpacked { diff_id, blob, bytes } =
            unpack(tar.as_slice(), dir.path(), Limits::default()).expect("unpacks");
        assert_eq!((&diff_id, bytes), (&blob, tar.len() as u64));
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
            unpack(packed.as_slice(), again.path(), Limits::default()).expect("unpacks").diff_id,
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
            let _ = unpack(layer(attack).as_slice(), dir.path(), Limits::default());
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
            assert!(unpack(bytes, dir.path(), Limits::default()).is_err());
        }
    }
}
