//! Giving images away as files that this store, docker, podman and skopeo take: an OCI layout or what `docker save` writes.
//!
//! Layers are kept unpacked, so their archives are made again ([`crate::pack`]): the exported image has the same content and configuration, but
//! other digests. Each layer is packed twice, first for its digest, then into the archive, so that nothing is kept on disk meanwhile.

use crate::{
    Image, ImageError, ImageStore,
    error::{io_error, malformed},
    image::{Config, Record, architecture},
    layer::to_hex,
    pack,
    store::{Pin, find},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout in a tar archive.
    Oci,
    /// What `docker save` writes and `docker load` takes.
    Docker,
}

/// All that is known about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    pub image: Image,
    /// Digest of each layer's plain archive (`sha256:…`), lowest first, and the disk it takes.
    pub layers: Vec<(String, u64)>,
    /// Seconds since the epoch; `None`: no container was made from it yet.
    pub last_used_s: Option<u64>,
}

/// A layer as it is packed.
#[derive(Clone, Debug)]
struct Layer {
    path: PathBuf,
    hex: String,
    bytes: u64,
}

impl ImageStore {
    /// What `reference` (a name, a digest, or eight or more digits of one) is. Blocks.
    pub fn inspect(&self, reference: &str) -> Result<Details, ImageError> {
        let (record, _, _pin) = self.hold(reference)?;
        let layers = record
            .diff_ids
            .iter()
            .map(|id| Ok((format!("sha256:{id}"), self.layer_bytes(id)?)))
            .collect::<Result<_, ImageError>>()?;
        Ok(Details { image: self.image(&record), layers, last_used_s: self.last_used_s(&record.digest) })
    }

    /// Writes an image to `out`. One asked for by name has that name in the archive, one by digest all that it has. Blocks.
    pub fn export(&self, reference: &str, format: Format, mut out: impl Write) -> Result<(), ImageError> {
        let (record, name, _pin) = self.hold(reference)?;
        let names = name.map_or_else(|| record.names.clone(), |name| vec![name]);
        let layers = self.layers(&record)?;
        let config = configuration(&record.config, &layers)?;
        let written = match format {
            Format::Oci => write_layout(&mut out, &config, &layers, &names),
            Format::Docker => write_saved(&mut out, &config, &layers, &names),
        };
        written.and_then(|()| out.flush()).map_err(|source| ImageError::Io {
            what: "export",
            path: PathBuf::from(reference),
            source,
        })
    }

    /// The record of an image, the name it was asked for by, and its layers kept from being swept.
    fn hold(&self, reference: &str) -> Result<(Record, Option<String>, Pin), ImageError> {
        let images = self.inner.images.lock().expect("no panic while locked");
        let (digest, name) = find(&images, reference)?;
        let record = images[&digest].clone();
        let pin = self.pin(&record.diff_ids);
        Ok((record, name, pin))
    }

    /// Digest and length of each layer as it will be packed, lowest first.
    fn layers(&self, record: &Record) -> Result<Vec<Layer>, ImageError> {
        let mut known: BTreeMap<&String, Layer> = BTreeMap::new();
        for id in &record.diff_ids {
            if !known.contains_key(id) {
                let path = self.layer_path(id);
                let mut hashed = Hashed { hash: Sha256::new(), bytes: 0 };
                pack::pack(&path, &mut hashed).map_err(io_error("pack", &path))?;
                known.insert(id, Layer { path, hex: to_hex(hashed.hash), bytes: hashed.bytes });
            }
        }
        Ok(record.diff_ids.iter().map(|id| known[id].clone()).collect())
    }
}

/// The image's configuration with the new layers' digests.
fn configuration(config: &Config, layers: &[Layer]) -> Result<Vec<u8>, ImageError> {
    let wrong = |err| malformed("image configuration", err);
    let mut whole: Value = if config.whole.is_empty() {
        made_up(config)
    } else {
        serde_json::from_str(&config.whole).map_err(wrong)?
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.hex)).collect();
    whole["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    serde_json::to_vec(&whole).map_err(wrong)
}

/// For an image whose configuration was not kept.
fn made_up(config: &Config) -> Value {
    let mut whole = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": config.env,
            "User": config.user,
            "WorkingDir": config.working_dir,
            "StopSignal": config.stop_signal,
        },
    });
    if !config.created.is_empty() {
        whole["created"] = json!(config.created);
    }
    whole
}

fn write_layout(out: &mut impl Write, config: &[u8], layers: &[Layer], names: &[String]) -> io::Result<()> {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let describe = |kind: &str, hex: &str, size: u64| json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": size });
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| describe("application/vnd.oci.image.layer.v1.tar", &layer.hex, layer.bytes))
        .collect();
    let config_hex = to_hex(Sha256::new_with_prefix(config));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe("application/vnd.oci.image.config.v1+json", &config_hex, config.len() as u64),
        "layers": descriptors,
    })
    .to_string();
    let manifest_hex = to_hex(Sha256::new_with_prefix(&manifest));
    let entry = describe(MANIFEST, &manifest_hex, manifest.len() as u64);
    let named = |name: &String| {
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let mut entry = entry.clone();
        entry["annotations"] =
            json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
        entry
    };
    let entries: Vec<Value> =
        if names.is_empty() { vec![entry.clone()] } else { names.iter().map(named).collect() };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    })
    .to_string();
    member(out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    member(out, "index.json", index.as_bytes())?;
    member(out, &format!("blobs/sha256/{manifest_hex}"), manifest.as_bytes())?;
    member(out, &format!("blobs/sha256/{config_hex}"), config)?;
    write_layers(out, layers, |hex| format!("blobs/sha256/{hex}"))
}

fn write_saved(out: &mut impl Write, config: &[u8], layers: &[Layer], names: &[String]) -> io::Result<()> {
    let path = |hex: &str| format!("{hex}.tar");
    let config_path = format!("{}.json", to_hex(Sha256::new_with_prefix(config)));
    let paths: Vec<String> = layers.iter().map(|layer| path(&layer.hex)).collect();
    let manifest = json!([{ "Config": config_path, "RepoTags": names, "Layers": paths }]).to_string();
    member(out, "manifest.json", manifest.as_bytes())?;
    member(out, &config_path, config)?;
    write_layers(out, layers, path)
}

/// Each layer once, then the end mark.
fn write_layers(out: &mut impl Write, layers: &[Layer], path: impl Fn(&str) -> String) -> io::Result<()> {
    let mut written = BTreeSet::new();
    for layer in layers.iter().filter(|layer| written.insert(&layer.hex)) {
        pack::plain_file(out, &path(&layer.hex), layer.bytes)?;
        write_layer(out, &layer.path, layer)?;
        pack::padding(out, layer.bytes)?;
    }
    pack::end(out)
}

fn write_layer(out: &mut impl Write, path: &Path, expected: &Layer) -> io::Result<()> {
    let mut copied = Hashed { hash: Sha256::new(), bytes: 0 };
    pack::pack(path, Both { out, copied: &mut copied })?;
    if to_hex(copied.hash) != expected.hex {
        return Err(io::Error::other(format!("layer {} changed while it was exported", path.display())));
    }
    Ok(())
}

fn member(out: &mut impl Write, path: &str, content: &[u8]) -> io::Result<()> {
    pack::plain_file(out, path, content.len() as u64)?;
    out.write_all(content)?;
    pack::padding(out, content.len() as u64)
}

struct Hashed {
    hash: Sha256,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes through, and hashes what was taken.
struct Both<'a, W> {
    out: &'a mut W,
    copied: &'a mut Hashed,
}

impl<W: Write> Write for Both<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.copied.write_all(&bytes[..count])?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
