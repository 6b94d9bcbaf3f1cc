//! config.json and state.json of the OCI runtime specification: types, reading and validation. No I/O but reading the file.
#![forbid(unsafe_code)]

mod capabilities;
mod container_id;
mod place;
mod process;
pub mod seccomp;
mod state;
pub mod sysctl;
mod validate;

pub use container_id::ContainerId;
pub use oci_spec::runtime as oci;
pub use process::{numbers, validate_process};
pub use state::{State, Status};
pub use validate::validate;

use oci::Spec;
use serde::de::DeserializeOwned;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Version of the specification that state.json names.
pub const OCI_VERSION: &str = "1.3.0";

/// Name of a container's configuration in its bundle.
pub const CONFIG: &str = "config.json";

#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// `field` is as in `process.user.uid`, or empty where the text is no JSON.
    #[error("{}{}", path.display(), if field.is_empty() { String::new() } else { format!(": {field}") })]
    Parse { path: PathBuf, field: String, source: serde_json::Error },
    /// A field has a value that cannot be done; nothing was created.
    #[error("config.json: {field}: {why}")]
    Field { field: String, why: String },
    #[error("{what} {value:?}: {allowed}")]
    Name { what: &'static str, value: String, allowed: &'static str },
}

/// Reads and checks `<bundle>/config.json`; `unknown` is told the fields that it has beyond the specification, which are to be ignored (config.md,
/// "Extensibility").
pub fn load(bundle: &Path, unknown: &mut dyn FnMut(&str)) -> Result<Spec, SpecError> {
    load_text(bundle, unknown).map(|(spec, _)| spec)
}

/// As [`load`], with the text that was read.
pub fn load_text(bundle: &Path, unknown: &mut dyn FnMut(&str)) -> Result<(Spec, Vec<u8>), SpecError> {
    let path = bundle.join(CONFIG);
    let text = read_text(&path)?;
    let spec: Spec = parse(&path, &text, unknown)?;
    validate(&spec)?;
    Ok((spec, text))
}

/// Reads a JSON file of the specification's types, as [`load`] does.
pub fn read<T: DeserializeOwned>(path: &Path, unknown: &mut dyn FnMut(&str)) -> Result<T, SpecError> {
    parse(path, &read_text(path)?, unknown)
}

fn read_text(path: &Path) -> Result<Vec<u8>, SpecError> {
    fs::read(path).map_err(|source| SpecError::Read { path: path.to_owned(), source })
}

/// `path` is where the text is from. Errors name it, the field as in `process.user.uid`, the line and the column.
pub fn parse<T: DeserializeOwned>(
    path: &Path,
    text: &[u8],
    unknown: &mut dyn FnMut(&str),
) -> Result<T, SpecError> {
    let failed = |text: &[u8], source: serde_json::Error| {
        let field =
            if source.is_data() { place::at(text, source.line(), source.column()) } else { String::new() };
        SpecError::Parse { path: path.to_owned(), field, source }
    };
    parse_text(text, unknown).or_else(|err| {
        // Looked for only now, because it takes reading the text once more.
        let known = capabilities::without_unknown(text, unknown).ok_or_else(|| failed(text, err))?;
        parse_text(&known, &mut |_| {}).map_err(|err| failed(&known, err))
    })
}

fn parse_text<T: DeserializeOwned>(text: &[u8], unknown: &mut dyn FnMut(&str)) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    // It writes `?` for a value that may be absent.
    let parsed = serde_ignored::deserialize(&mut json, |field| unknown(&field.to_string().replace(".?", "")));
    parsed.and_then(|value| json.end().map(|()| value))
}
