//! A container's life: create, start, signal, exec, delete; and what of it is on disk.
//!
//! On disk: `<state root>/<id>/{state.json, config.json, start.sock}`. The directory is made first and removed last, so whatever a crash leaves is found by
//! [`delete`]. A created container's first process waits in accept(2) on `start.sock`, which works from any process; once nobody listens there
//! the program runs.

mod birth;
mod create;
mod exec;
pub(crate) mod ids;
mod lifecycle;
mod place;
mod record;

pub use crate::{init::Stdio, mounts::Overlay};
pub use create::{CreateOptions, TerminalTo, create};
pub use exec::{ExecOptions, exec, process_like};
pub use lifecycle::{SIGNALS, delete, list, pause, resume, signal, start, state, update};
pub use record::{Record, View};

use crate::{cgroup::CgroupError, hooks::HookError, init::InitError, net_devices::NetDeviceError};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use runtime_spec::{ContainerId, SpecError, Status};
use runtime_sys::process::pidfd_send_signal;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

/// A process that was made.
#[derive(Debug)]
pub struct Created {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Master of the terminal, when config.json asks for one.
    pub terminal: Option<OwnedFd>,
}

#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    NetDevice(#[from] NetDeviceError),
    #[error("container with given ID already exists: {id}")]
    Exists { id: ContainerId },
    #[error("container does not exist: {id}")]
    Absent { id: String },
    #[error("{}", wrong_state(what, id, *status))]
    WrongState { what: &'static str, id: ContainerId, status: Status },
    /// What the caller asks for does not go together.
    #[error("{0}")]
    Refused(String),
    #[error("cannot {what} container {id}: it has no cgroup of its own")]
    NoCgroup { what: &'static str, id: ContainerId },
    /// The container's first process, or the process of an exec, could not be made ready or run; its own words.
    #[error("{message}")]
    Init { code: u8, message: String },
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what}")]
    Kernel { what: String, source: io::Error },
}

/// In runc's words, some of which containerd, docker and podman look for.
fn wrong_state(what: &str, id: &ContainerId, status: Status) -> String {
    match (what, status) {
        ("start", Status::Running) => "cannot start an already running container".to_owned(),
        ("start", Status::Stopped) => "cannot start a container that has stopped".to_owned(),
        ("start", status) => format!("cannot start a container in the {status} state"),
        ("exec in", Status::Stopped) => {
            "cannot exec in a stopped container: container not running".to_owned()
        }
        ("exec in", Status::Paused) => {
            "cannot exec in a paused container (use --ignore-paused to override)".to_owned()
        }
        ("delete", status) => format!("cannot delete container {id} that is not stopped: {status}"),
        ("pause", status) => format!("container not running or created: {status}"),
        ("resume", _) => "container not paused".to_owned(),
        (what, Status::Stopped) => format!("cannot {what} container {id}: container not running"),
        (what, status) => format!("cannot {what} container {id}: it is {status}"),
    }
}

impl ContainerError {
    /// As a shell has it of a program: 127 where it is missing, 126 where it cannot be run; 1 of anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Init { code, .. } => *code,
            _ => 1,
        }
    }
}

impl From<InitError> for ContainerError {
    fn from(err: InitError) -> Self {
        Self::Init { code: err.exit_code(), message: chain(&err) }
    }
}

/// An error and its causes in one line.
pub fn chain(err: &dyn std::error::Error) -> String {
    let mut line = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

/// Kills and reaps a process of which nobody can be told.
pub fn end(created: &Created) {
    end_child(&created.pidfd);
}

/// Kills and reaps a child that is of no use. A zombie of ours in a container's pid namespace would keep its first process from ending.
pub(crate) fn end_child(pidfd: &OwnedFd) {
    // One that has ended by itself is as good.
    let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED);
}

fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.into();
    move |source| ContainerError::Io { what, path, source }
}

pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> ContainerError {
    let what = what.into();
    move |source| ContainerError::Kernel { what, source }
}
