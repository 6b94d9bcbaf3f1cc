//! The image that pulls are measured with: made from a seed, so that every machine has the same bytes.
//!
//! Eight layers of uneven size, 300 MB packed and 800 MB unpacked, 24,000 files whose sizes, names and compressibility are those of Debian's
//! packages: most are text of a few KiB, most bytes are in a few large files.

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};
use tar::{Builder, EntryType, Header};
use tests::clock::Random;

/// Plain bytes of file content in each layer, lowest first.
const LAYERS_MB: [u64; 8] = [240, 200, 130, 90, 70, 40, 25, 5];
const FILES_PER_DIRECTORY: u64 = 24;
const WORDS: usize = 4096;
const CHUNK: usize = 64;

/// Writes the image as an OCI layout into the empty directory `dir`, under the tag `latest`.
pub fn write_layout(dir: &Path) {
    fs::create_dir_all(dir.join("blobs/sha256")).expect("made");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    // One thread for each layer: packing is what takes long.
    let layers: Vec<Blob> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..LAYERS_MB.len()).map(|number| scope.spawn(move || layer(dir, number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a layer is made")).collect()
    });
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": { "Cmd": ["sh"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size }))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(dir, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()), "layers": layers,
    });
    let mut entry = blob(dir, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(dir.join("index.json"), index.to_string()).expect("written");
}

struct Blob {
    digest: String,
    diff_id: String,
    size: u64,
}

/// Keeps a small blob; gives its descriptor.
fn blob(dir: &Path, kind: &str, bytes: &[u8]) -> serde_json::Value {
    let hex = hex(Sha256::new_with_prefix(bytes));
    fs::write(dir.join("blobs/sha256").join(&hex), bytes).expect("written");
    json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len() })
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes what is written through it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hashed<W>(inner: W) -> Hashed<W> {
    Hashed { inner, hash: Sha256::new(), bytes: 0 }
}

fn layer(dir: &Path, number: usize) -> Blob {
    let path = dir.join(format!("layer-{number}"));
    let file = io::BufWriter::with_capacity(1 << 20, File::create(&path).expect("created"));
    let packed = GzEncoder::new(hashed(file), Compression::default());
    let mut archive = Builder::new(hashed(packed));
    fill(&mut archive, number, &mut Random(0x5eed + number as u64)).expect("a layer is written");
    let plain = archive.into_inner().expect("finished");
    let packed = plain.inner.finish().expect("packed");
    let digest = hex(packed.hash);
    packed.inner.into_inner().expect("written");
    fs::rename(&path, dir.join("blobs/sha256").join(&digest)).expect("renamed");
    Blob {
        digest: format!("sha256:{digest}"),
        diff_id: format!("sha256:{}", hex(plain.hash)),
        size: packed.bytes,
    }
}

fn fill(archive: &mut Builder<impl Write>, number: usize, random: &mut Random) -> io::Result<()> {
    let source = Source::new(random);
    let (mut left, mut files) = (LAYERS_MB[number] << 20, 0);
    let (mut directory, mut made) = (String::new(), BTreeSet::new());
    while left > 0 {
        if files % FILES_PER_DIRECTORY == 0 {
            directory = format!(
                "usr/share/layer-{number}/package-{}/part-{}",
                files / 400,
                files / FILES_PER_DIRECTORY
            );
            let mut path = String::new();
            for part in directory.split('/') {
                path = format!("{path}{part}/");
                if made.insert(path.clone()) {
                    member(archive, EntryType::Directory, &path, "", &[])?;
                }
            }
        }
        files += 1;
        if random.below(20) == 0 {
            let (path, target) = (format!("{directory}/link-{files}"), format!("file-{}.conf", files + 1));
            member(archive, EntryType::Symlink, &path, &target, &[])?;
            continue;
        }
        let size = file_size(random).min(left);
        left -= size;
        let content = source.content(random, size as usize);
        member(archive, EntryType::Regular, &format!("{directory}/file-{files}.conf"), "", &content)?;
    }
    Ok(())
}

/// Bytes of a file: 60 % up to 4 KiB, 25 % up to 32 KiB, 14 % up to 256 KiB, 1 % up to 4 MiB.
fn file_size(random: &mut Random) -> u64 {
    match random.below(100) {
        0..60 => random.below(4 << 10),
        60..85 => (4 << 10) + random.below(28 << 10),
        85..99 => (32 << 10) + random.below(224 << 10),
        _ => (256 << 10) + random.below(3840 << 10),
    }
}

fn member(
    archive: &mut Builder<impl Write>,
    kind: EntryType,
    path: &str,
    link: &str,
    content: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    if kind == EntryType::Symlink {
        header.set_link_name(link)?;
    }
    archive.append_data(&mut header, path, content)
}

/// What files are made of: words of a language, and pieces of machine code.
struct Source {
    words: Vec<Vec<u8>>,
    chunks: Vec<[u8; CHUNK]>,
}

impl Source {
    fn new(random: &mut Random) -> Self {
        let word = |random: &mut Random| {
            (0..2 + random.below(9)).map(|_| b'a' + random.below(26) as u8).chain([b' ']).collect()
        };
        let words = (0..WORDS).map(|_| word(random)).collect();
        let chunks = (0..512).map(|_| std::array::from_fn(|_| random.below(256) as u8)).collect();
        Self { words, chunks }
    }

    /// `size` bytes, half of the files text and half binary; either packs to some 40 %.
    fn content(&self, random: &mut Random, size: usize) -> Vec<u8> {
        let (text, mut bytes) = (random.below(2) == 0, Vec::with_capacity(size + CHUNK));
        while bytes.len() < size {
            if text {
                // Few words are frequent, as in any language.
                let rank = random.below(WORDS as u64).min(random.below(WORDS as u64));
                bytes.extend(&self.words[random.below(rank + 1) as usize]);
            } else {
                let start = bytes.len();
                bytes.extend(&self.chunks[random.below(self.chunks.len() as u64) as usize]);
                for _ in 0..8 {
                    bytes[start + random.below(CHUNK as u64) as usize] = random.below(256) as u8;
                }
            }
        }
        bytes.truncate(size);
        bytes
    }
}
