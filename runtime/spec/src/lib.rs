//! config.json and state.json of the OCI runtime specification: types, reading and validation. No I/O but reading the file.
#![forbid(unsafe_code)]

mod container_id;
pub mod seccomp;
mod state;
mod validate;

pub use container_id::ContainerId;
pub use oci_spec::runtime as oci;
pub use state::{State, Status};
pub use validate::validate;

use oci::Spec;
use std::{fs, io, path::PathBuf};

/// Version of the specification that state.json names.
pub const OCI_VERSION: &str = "1.2.0";

#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    /// A field has a value that cannot be done; nothing was created.
    #[error("config.json: {field}: {why}")]
    Field { field: String, why: String },
    #[error("{what} {value:?}: {allowed}")]
    Name { what: &'static str, value: String, allowed: &'static str },
}

/// Reads and checks `<bundle>/config.json`.
pub fn load(bundle: &std::path::Path) -> Result<Spec, SpecError> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(|source| SpecError::Read { path: path.clone(), source })?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|source| SpecError::Parse { path, source })?;
    validate(&spec)?;
    Ok(spec)
}
