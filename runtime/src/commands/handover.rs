//! What a command hands on: descriptors to the container, its pid and its terminal to whoever asked for them.

use super::{io_error, refused};
use clap::Args;
use nix::{
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
    unistd::{AccessFlags, access},
};
use runtime::container::{ContainerError, Created, TerminalTo};
use std::{
    env, fs,
    io::{self, IsTerminal},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process,
};

#[derive(Debug, Args)]
pub struct HandoverArgs {
    /// Write the process's pid to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that is sent the terminal's master
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Socket that is sent a descriptor of the process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Pass this many descriptors on, from 3
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
}

impl HandoverArgs {
    /// `attended`: the command waits for the process, and can lend it its own terminal if it has one.
    pub fn terminal(&self, attended: bool) -> TerminalTo {
        match (&self.console_socket, attended && io::stdin().is_terminal()) {
            (Some(_), _) => TerminalTo::Socket,
            (None, true) => TerminalTo::Caller,
            (None, false) => TerminalTo::Nobody,
        }
    }

    /// How many descriptors from 3 on are the container's: those of `listeners` and --preserve-fds. Each must be open, or one of ours would take
    /// its number.
    pub fn descriptors(&self, listeners: u32) -> Result<u32, ContainerError> {
        let count = self.preserve_fds.saturating_add(listeners);
        for fd in (3..).take(count as usize) {
            if fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
                return Err(refused(&format!(
                    "--preserve-fds {}: descriptor {fd} is not open",
                    self.preserve_fds
                )));
            }
        }
        Ok(count)
    }

    /// Before the process is made, which may do things that cannot be taken back: whether whatever is to be told of it is there.
    pub fn check(&self) -> Result<(), ContainerError> {
        if let Some(path) = &self.pid_file {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let allowed = access(dir, AccessFlags::W_OK | AccessFlags::X_OK);
            allowed.map_err(|err| io_error("write", path)(err.into()))?;
        }
        for socket in self.console_socket.iter().chain(&self.pidfd_socket) {
            fs::metadata(socket).map_err(io_error("connect to the socket", socket))?;
        }
        Ok(())
    }

    /// After the process was made: its pid, its descriptor, and its terminal if a socket was named for it.
    pub fn give(&self, created: &mut Created) -> Result<(), ContainerError> {
        if let Some(path) = &self.pid_file {
            write_pid(path, created.pid)?;
        }
        if let Some(socket) = &self.pidfd_socket {
            send(socket, b"pidfd", &created.pidfd)?;
        }
        match (&self.console_socket, created.terminal.take()) {
            (Some(socket), Some(master)) => send(socket, b"/dev/ptmx", &master),
            (_, master) => {
                created.terminal = master;
                Ok(())
            }
        }
    }
}

/// How many sockets systemd or the like passes on to this process, sd_listen_fds(3).
pub fn listeners() -> u32 {
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    let ours = number("LISTEN_PID") == Some(process::id());
    number("LISTEN_FDS").filter(|_| ours).unwrap_or(0)
}

/// Whole or not at all: who waits for the file may read it at any moment.
fn write_pid(path: &Path, pid: i32) -> Result<(), ContainerError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = fs::write(&new, pid.to_string()).and_then(|()| fs::rename(&new, path));
    written.map_err(io_error("write", path))
}

fn send(socket: &Path, name: &[u8], fd: &OwnedFd) -> Result<(), ContainerError> {
    let stream = UnixStream::connect(socket).map_err(io_error("connect to the socket", socket))?;
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_raw_fd(), &[io::IoSlice::new(name)], &rights, MsgFlags::MSG_NOSIGNAL, None)
        .map(drop)
        .map_err(|err| io_error("send a descriptor to", socket)(err.into()))
}
