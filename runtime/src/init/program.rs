//! Finding the program in the container and running it.

use nix::{
    errno::Errno,
    fcntl::OFlag,
    unistd::{AccessFlags, access, execve},
};
use runtime_spec::oci::Process;
use std::{
    convert::Infallible,
    ffi::{CString, NulError},
    fs::{File, Metadata},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("exec: {name:?}: executable file not found in $PATH")]
    NotFound { name: String },
    #[error("exec: {path:?}")]
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
        let name = process.args().iter().flatten().next().cloned().unwrap_or_default();
        let env = environment(process);
        let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let path = look_up(&name, path).ok_or(ProgramError::NotFound { name })?;
        let args = process.args().iter().flatten().map(|text| CString::new(text.as_str()));
        let env = env.into_iter().map(CString::new);
        Ok(Self { path, args: args.collect::<Result<_, _>>()?, env: env.collect::<Result<_, _>>()? })
    }

    /// Whether exec has anything to run, so far as a look tells.
    pub fn expect_runnable(&self) -> Result<(), ProgramError> {
        let errno = |err: std::io::Error| Errno::from_raw(err.raw_os_error().unwrap_or(libc::EIO));
        let found = self.path.metadata().map_err(errno).and_then(|metadata| match metadata.is_dir() {
            true => Err(Errno::EACCES),
            false => access(&self.path, AccessFlags::X_OK),
        });
        found.map_err(|source| ProgramError::Exec { path: self.path.clone(), source })
    }

    /// Does not return when it succeeds.
    pub fn exec(self) -> Result<Infallible, ProgramError> {
        let path = CString::new(self.path.as_os_str().as_encoded_bytes())?;
        execve(&path, &self.args, &self.env).map_err(|source| ProgramError::Exec { path: self.path, source })
    }
}

/// Of a name that is listed twice the last counts, and without `HOME` it is the user's, as under runc.
fn environment(process: &Process) -> Vec<String> {
    let listed = process.env().as_deref().unwrap_or_default();
    fn name(variable: &str) -> &str {
        variable.split_once('=').map_or(variable, |(name, _)| name)
    }
    let again = |index: usize| listed[index + 1..].iter().any(|later| name(later) == name(&listed[index]));
    let mut env: Vec<String> =
        (0..listed.len()).filter(|&index| !again(index)).map(|index| listed[index].clone()).collect();
    if !env.iter().any(|variable| name(variable) == "HOME") {
        let home = home(process.user().uid());
        env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
    }
    env
}

/// Longest part of /etc/passwd that is looked at.
const USERS_BYTES_MAX: u64 = 1 << 20;

/// The user's home by the container's own passwd(5), which may be anything: a pipe is not waited for.
fn home(uid: u32) -> Option<String> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = File::options().read(true).custom_flags(flags).open("/etc/passwd").ok()?;
    let mut text = Vec::new();
    file.metadata().ok().filter(Metadata::is_file)?;
    file.take(USERS_BYTES_MAX).read_to_end(&mut text).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let of_user = fields.next()?.parse() == Ok(uid);
        fields.nth(2).filter(|home| of_user && !home.is_empty() && !home.contains('\0')).map(str::to_owned)
    })
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
