//! Handing a filter's listener to the supervisor of `SCMP_ACT_NOTIFY`; config-linux.md, "The Container Process State".

use super::SeccompError;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use runtime_spec::{State, oci::LinuxSeccomp};
use serde_json::json;
use std::{
    fs,
    io::{self, IoSlice},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

/// A connection to the supervisor, made while the host's paths are in reach.
#[derive(Debug)]
pub struct Listener {
    stream: UnixStream,
    path: String,
    metadata: Option<String>,
    /// This process as the host sees it.
    pub pid: i32,
}

impl Listener {
    /// Connects where the profile names a supervisor. In the new process, before it leaves the host's mounts.
    pub fn connect(seccomp: Option<&LinuxSeccomp>) -> Result<Option<Self>, SeccompError> {
        let Some((seccomp, path)) =
            seccomp.and_then(|seccomp| Some((seccomp, seccomp.listener_path().as_ref()?)))
        else {
            return Ok(None);
        };
        let text = path.display().to_string();
        let failed = |source| SeccompError::Listener { path: text.clone(), source };
        let stream = UnixStream::connect(path).map_err(failed)?;
        let own = fs::read_link("/proc/self").map_err(failed)?;
        let pid = own
            .to_str()
            .and_then(|pid| pid.parse().ok())
            .ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        Ok(Some(Self { stream, metadata: seccomp.listener_metadata().clone(), pid, path: text }))
    }

    /// Sends the listener, with the state of the container as the supervisor gets it.
    pub fn send(&self, listener: &OwnedFd, state: &State<'_>) -> Result<(), SeccompError> {
        let message = json!({
            "ociVersion": runtime_spec::OCI_VERSION, "fds": ["seccompFd"], "pid": self.pid,
            "metadata": self.metadata.as_deref().unwrap_or_default(), "state": state.to_json(),
        });
        let (text, fds) = (message.to_string(), [listener.as_raw_fd()]);
        sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(text.as_bytes())],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map(drop)
        .map_err(|err| SeccompError::Listener { path: self.path.clone(), source: err.into() })
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
