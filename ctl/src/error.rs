//! What a command can fail with, and how that ends the program.

use std::{io, path::PathBuf};

/// One line for stderr; `main` prints it after `error: ` and picks the exit code.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The words of the command line make no sense together.
    #[error("{0}")]
    Usage(String),
    #[error("no cluster answers at {server}: {cause}; `ctl up` starts one on this host")]
    Unreachable { server: String, cause: String },
    /// The API server said no; its own words.
    #[error("{message}")]
    Api { message: String, reason: String },
    #[error("{what} {}", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{0}")]
    Failed(String),
    /// The remote process ended with this code; nothing to print.
    #[error("command terminated with exit code {0}")]
    Exit(u8),
}

impl CtlError {
    /// 2 for usage and connection, the process's own code for exec, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Unreachable { .. } => 2,
            Self::Exit(code) => *code,
            _ => 1,
        }
    }
}

/// A closure for `map_err` on file operations.
pub fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CtlError {
    let path = path.into();
    move |source| CtlError::File { what, path, source }
}

impl CtlError {
    /// Whether the API server gave this `Status.reason`.
    pub fn is(&self, expected: &str) -> bool {
        matches!(self, Self::Api { reason, .. } if reason == expected)
    }
}

pub fn failed(message: impl Into<String>) -> CtlError {
    CtlError::Failed(message.into())
}
