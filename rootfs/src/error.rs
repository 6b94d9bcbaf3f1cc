//! Why an image is not to be had.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("couldn't parse image name {name:?}: {why}")]
    InvalidName { name: String, why: &'static str },
    #[error("{reference}: not found")]
    NotFound { reference: String },
    #[error("{reference}: the registry refuses: {why}")]
    Unauthorized { reference: String, why: String },
    #[error("{reference}: {why}")]
    Registry { reference: String, why: String },
    /// What was received is not what its digest says; nothing was kept.
    #[error("{what}: digest is {actual}, expected {expected}")]
    Digest { what: String, expected: String, actual: String },
    #[error("{what}: {why}")]
    Malformed { what: String, why: String },
    #[error("image {reference} is used by {by}")]
    InUse { reference: String, by: String },
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

pub(crate) fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.into();
    move |source| ImageError::Io { what, path, source }
}

pub(crate) fn malformed(what: impl Into<String>, why: impl ToString) -> ImageError {
    ImageError::Malformed { what: what.into(), why: why.to_string() }
}
