//! What is known about an image, and how it is kept.

use crate::{ImageError, error::malformed};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// An image whose layers are all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Full names with tag.
    pub names: Vec<String>,
    /// Of the manifest: `sha256:…`.
    pub digest: String,
    pub size_bytes: u64,
    /// Uppermost first, as the overlay wants them.
    pub lower: Vec<PathBuf>,
    pub config: Config,
}

/// The parts of the image's configuration that a container starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// As in the image: name or number, with or without a group.
    pub user: String,
    pub working_dir: String,
    /// `SIGQUIT`, `3`, or empty.
    pub stop_signal: String,
    /// RFC 3339, or empty.
    pub created: String,
    /// The whole configuration as it came (JSON); empty in a store of an older version.
    #[serde(default)]
    pub whole: String,
}

/// `images/<digest>.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub names: Vec<String>,
    pub digest: String,
    pub size_bytes: u64,
    /// sha256 of each layer as a plain tar, lowest first, without `sha256:`.
    pub diff_ids: Vec<String>,
    pub config: Config,
}

/// Reads an image configuration (OCI image-spec `config.md`); gives it with the layers' diff ids.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<(Config, Vec<String>), ImageError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|err| malformed("image configuration", err))?;
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let config = &value["config"];
    let diff_ids = strings(&value["rootfs"]["diff_ids"])
        .into_iter()
        .map(|id| {
            hex(&id)
                .map(str::to_owned)
                .ok_or_else(|| malformed("image configuration", format!("diff id {id:?} is no sha256")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let config = Config {
        entrypoint: strings(&config["Entrypoint"]),
        cmd: strings(&config["Cmd"]),
        env: strings(&config["Env"]),
        user: text(&config["User"]),
        working_dir: text(&config["WorkingDir"]),
        stop_signal: text(&config["StopSignal"]),
        created: text(&value["created"]),
        whole: String::from_utf8_lossy(bytes).into_owned(),
    };
    Ok((config, diff_ids))
}

/// The hexadecimal part of a sha256 digest; `None` for anything else, so that it can be a file's name.
pub(crate) fn hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}

/// As image-spec names this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
