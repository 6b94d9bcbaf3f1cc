//! Taking images from files: an OCI layout (directory or tar) or what `docker save` writes, plain, gzip or zstd.

use crate::{
    Image, ImageError, ImageStore, Reference,
    error::{io_error, malformed},
    image::{Record, architecture, hex, parse_config},
    layer::{decompress, to_hex},
    remove,
    store::verify,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

impl ImageStore {
    /// Takes every image of the archive at `path`; `name` is for one that brings none, or instead of the one it brings. Blocks.
    pub fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        if path.is_dir() {
            return self.import_dir(path, path, name);
        }
        let file = File::open(path).map_err(io_error("open", path))?;
        self.import_stream(file, path, name)
    }

    /// The same from an archive's bytes, plain or packed with gzip or zstd; they are read to their end. `given`: what they are called in errors.
    pub fn import_stream(
        &self,
        input: impl Read,
        given: &Path,
        name: Option<&str>,
    ) -> Result<Vec<Image>, ImageError> {
        let staged = self.stage();
        fs::create_dir(&staged).map_err(io_error("create", &staged))?;
        let images = unpack(input, given, &staged).and_then(|()| self.import_dir(&staged, given, name));
        // Staging is emptied at the next start at the latest.
        let _ = remove::tree(&staged);
        images
    }

    /// `given`: what the user named, for errors.
    fn import_dir(&self, dir: &Path, given: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let name = name.map(str::parse::<Reference>).transpose()?;
        if dir.join("index.json").is_file() {
            return self.import_layout(dir, name.as_ref());
        }
        if dir.join("manifest.json").is_file() {
            return self.import_saved(dir, name.as_ref());
        }
        Err(malformed(
            given.display().to_string(),
            "is neither an OCI layout (index.json) nor a docker archive (manifest.json)",
        ))
    }

    fn import_layout(&self, dir: &Path, name: Option<&Reference>) -> Result<Vec<Image>, ImageError> {
        let index = read_json(&dir.join("index.json"))?;
        let mut images = Vec::new();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let digest = entry["digest"].as_str().unwrap_or_default();
            let own = [CONTAINERD_NAME, REF_NAME].iter().find_map(|key| entry["annotations"][*key].as_str());
            // A bare tag, which the layout's specification allows, names nothing on its own.
            let own =
                own.filter(|own| own.contains(['/', ':'])).and_then(|own| own.parse::<Reference>().ok());
            let Some(reference) = name.cloned().or(own) else {
                return Err(malformed(
                    dir.display().to_string(),
                    "an image without a name: give one with --name",
                ));
            };
            images.push(self.import_manifest(dir, digest, &reference)?);
        }
        Ok(images)
    }

    fn import_manifest(&self, dir: &Path, digest: &str, reference: &Reference) -> Result<Image, ImageError> {
        let bytes = document(dir, "manifest", digest)?;
        let manifest: Value = serde_json::from_slice(&bytes).map_err(|err| malformed("manifest", err))?;
        if let Some(entries) = manifest["manifests"].as_array() {
            let fits = |entry: &&Value| {
                entry["platform"]["architecture"] == architecture() && entry["platform"]["os"] == "linux"
            };
            let entry = entries
                .iter()
                .find(fits)
                .ok_or_else(|| malformed(reference.to_string(), "no image for this architecture"))?;
            return self.import_manifest(dir, entry["digest"].as_str().unwrap_or_default(), reference);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let config = document(dir, "image configuration", &text(&manifest["config"]["digest"]))?;
        let layers = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|layer| blob(dir, &text(&layer["digest"])))
            .collect::<Result<Vec<_>, _>>()?;
        self.add(&config, &layers, digest.to_owned(), vec![reference.to_string()])
    }

    fn import_saved(&self, dir: &Path, name: Option<&Reference>) -> Result<Vec<Image>, ImageError> {
        let list = read_json(&dir.join("manifest.json"))?;
        let mut images = Vec::new();
        for entry in list.as_array().into_iter().flatten() {
            let path = |value: &Value| inside(dir, value.as_str().unwrap_or_default());
            let config = path(&entry["Config"])?;
            let layers =
                entry["Layers"].as_array().into_iter().flatten().map(path).collect::<Result<Vec<_>, _>>()?;
            let tags = entry["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let names = match name {
                Some(name) => vec![name.to_string()],
                None => tags
                    .map(|tag| tag.parse::<Reference>().map(|tag| tag.to_string()))
                    .collect::<Result<Vec<_>, _>>()?,
            };
            if names.is_empty() {
                return Err(malformed(
                    dir.display().to_string(),
                    "an image without a name: give one with --name",
                ));
            }
            // The archive has no manifest; the configuration names the image as well.
            let bytes = fs::read(&config).map_err(io_error("read", &config))?;
            images.push(self.add(
                &bytes,
                &layers,
                format!("sha256:{}", to_hex(Sha256::new_with_prefix(&bytes))),
                names,
            )?);
        }
        Ok(images)
    }

    fn add(
        &self,
        config: &[u8],
        layers: &[PathBuf],
        digest: String,
        names: Vec<String>,
    ) -> Result<Image, ImageError> {
        let (config, diff_ids) = parse_config(config)?;
        if diff_ids.len() != layers.len() {
            return Err(malformed(
                names.join(", "),
                format!("{} layers but {} diff ids", layers.len(), diff_ids.len()),
            ));
        }
        let _pin = self.pin(&diff_ids);
        let mut size_bytes = 0;
        for (layer, diff_id) in layers.iter().zip(&diff_ids) {
            let file = File::open(layer).map_err(io_error("open", layer))?;
            size_bytes += file.metadata().map_or(0, |meta| meta.len());
            self.add_layer(diff_id, None, file)?;
        }
        self.add_image(Record { names, digest, size_bytes, diff_ids, config })
    }
}

fn read_json(path: &Path) -> Result<Value, ImageError> {
    let bytes = fs::read(path).map_err(io_error("read", path))?;
    serde_json::from_slice(&bytes).map_err(|err| malformed(path.display().to_string(), err))
}

/// A small blob of a layout, verified.
fn document(dir: &Path, what: &str, digest: &str) -> Result<Vec<u8>, ImageError> {
    let path = blob(dir, digest)?;
    let bytes = fs::read(&path).map_err(io_error("read", path))?;
    verify(what, digest, &to_hex(Sha256::new_with_prefix(&bytes)))?;
    Ok(bytes)
}

fn blob(dir: &Path, digest: &str) -> Result<PathBuf, ImageError> {
    let hex = hex(digest)
        .ok_or_else(|| malformed(dir.display().to_string(), format!("{digest:?} is no sha256 digest")))?;
    inside(dir, &format!("blobs/sha256/{hex}"))
}

/// A regular file below `dir`, by a relative path that the archive gave.
fn inside(dir: &Path, path: &str) -> Result<PathBuf, ImageError> {
    let plain =
        !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let full = dir.join(path);
    if plain && full.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return Ok(full);
    }
    Err(malformed(dir.display().to_string(), format!("has no file {path:?}")))
}

/// Unpacks the regular files of an archive of images; links of `docker save` become copies.
fn unpack(input: impl Read, given: &Path, target: &Path) -> Result<(), ImageError> {
    let bad = |err: std::io::Error| {
        if let Some(source) = of_this_host(&err) {
            return ImageError::Io { what: "unpack", path: given.to_path_buf(), source };
        }
        // tar quotes what it could not read, which may be anything.
        let why = err.to_string();
        let why = why.lines().next().unwrap_or_default();
        malformed(given.display().to_string(), format!("is not a tar archive of images: {why}"))
    };
    let mut archive = tar::Archive::new(decompress(input).map_err(bad)?);
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        // unpack_in refuses paths and links that lead out.
        if entry.header().entry_type().is_file() || entry.header().entry_type().is_dir() {
            entry.unpack_in(target).map_err(bad)?;
        }
    }
    // What follows is padding, and with it the checksum of a packed archive.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(bad)?;
    Ok(())
}

/// What the kernel refused, if that is the cause: a full disk is no fault of the archive.
fn of_this_host(err: &io::Error) -> Option<io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(err);
    while let Some(err) = cause {
        if let Some(errno) = err.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(io::Error::from_raw_os_error(errno));
        }
        cause = err.source();
    }
    None
}
