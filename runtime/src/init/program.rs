//! Finding the program in the container and running it.

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access, execve},
};
use runtime_spec::oci::Process;
use std::{
    convert::Infallible,
    ffi::{CString, NulError},
    path::{Path, PathBuf},
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("exec: {name:?}: executable file not found in $PATH")]
    NotFound { name: String },
    #[error("exec: {}", path.display())]
    Exec { path: PathBuf, source: Errno },
    #[error("exec: an argument or variable holds a NUL byte")]
    Nul(#[from] NulError),
}

impl ProgramError {
    /// 127 not found, 126 found but not executable.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } | Self::Exec { source: Errno::ENOENT, .. } => 127,
            _ => 126,
        }
    }
}

/// A program that was found, with everything made that exec needs.
pub struct Program {
    path: PathBuf,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks `args[0]` up as execvp(3) does, in the `PATH` of the process's own environment.
    pub fn find(process: &Process) -> Result<Self, ProgramError> {
        let strings = |list: &Option<Vec<String>>| -> Result<Vec<CString>, NulError> {
            list.iter().flatten().map(|text| CString::new(text.as_str())).collect()
        };
        let name = process.args().iter().flatten().next().cloned().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let path =
            env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let path = look_up(&name, path).ok_or(ProgramError::NotFound { name })?;
        Ok(Self { path, args: strings(process.args())?, env: strings(process.env())? })
    }

    /// Does not return when it succeeds.
    pub fn exec(self) -> Result<Infallible, ProgramError> {
        let path = CString::new(self.path.as_os_str().as_encoded_bytes())?;
        execve(&path, &self.args, &self.env).map_err(|source| ProgramError::Exec { path: self.path, source })
    }
}

fn look_up(name: &str, path: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let candidates =
        || path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name));
    let runnable = candidates().find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok());
    // One that is there but not executable gives the better error.
    runnable.or_else(|| candidates().find(|path| path.is_file()))
}
