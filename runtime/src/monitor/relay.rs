//! Bytes between a peer and a process, a container or a port of the pod, with back-pressure both ways.

use super::{
    connection::{Connection, Life},
    containers::{nonblocking, read_some, reap, write_some},
};
use crate::{
    clock,
    container::{self, ContainerError, ExecOptions, Stdio},
};
use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::pipe2,
};
use runtime_protocol::{CHUNK_BYTES_MAX, Exec, Exit, StreamFrame};
use runtime_spec::ContainerId;
use runtime_sys::process::set_window_size;
use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

/// What may wait on either side before the other is no longer read.
const WAITING_BYTES_MAX: usize = 256 << 10;
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// What the bytes lead to.
#[derive(Debug)]
pub enum End {
    /// A process of ours; killed when the peer goes.
    Process { pidfd: OwnedFd, started_ns: u64, exit: Option<Exit> },
    /// A connection to a port of the pod: over when both directions are.
    Socket,
    /// A container's first process, whose output the log gets too.
    Container { name: String, once: bool },
}

#[derive(Debug)]
pub struct Relay {
    pub end: End,
    /// (channel, descriptor); taken away at its end.
    pub outputs: Vec<(u8, OwnedFd)>,
    pub input: Option<OwnedFd>,
    /// Terminal to resize.
    pub terminal: Option<OwnedFd>,
    pending: Vec<u8>,
    input_ends: bool,
}

impl Relay {
    fn new(end: End, outputs: Vec<(u8, OwnedFd)>, input: Option<OwnedFd>, terminal: Option<OwnedFd>) -> Self {
        Self { end, outputs, input, terminal, pending: Vec::new(), input_ends: false }
    }

    /// Runs a process in a container.
    pub fn exec(exec: &Exec, state_root: &Path) -> Result<Self, ContainerError> {
        let kernel = |err: nix::Error| ContainerError::Kernel {
            what: "make the streams of an exec".to_owned(),
            source: err.into(),
        };
        let dup = |source| ContainerError::Kernel { what: "dup".to_owned(), source };
        let id: ContainerId = exec.container.parse()?;
        let spec = container::state(state_root, &id)?.record.config(state_root)?;
        let process = container::process_like(&spec, exec.args.clone(), exec.tty);
        let (stdin, ours) = if exec.stdin && !exec.tty {
            let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).map_err(kernel)?;
            (theirs, Some(ours))
        } else {
            (open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(kernel)?, None)
        };
        let (out, stdout) = pipe2(OFlag::O_CLOEXEC).map_err(kernel)?;
        let (err, stderr) = pipe2(OFlag::O_CLOEXEC).map_err(kernel)?;
        let stdio = Stdio::Pipes { stdin, stdout, stderr };
        let started_ns = clock::now_ns();
        let created = container::exec(ExecOptions {
            id: &id,
            state_root,
            process,
            stdio,
            preserve_fds: 0,
            paused: false,
            cgroup: None,
        })?;
        let end = End::Process { pidfd: created.pidfd, started_ns, exit: None };
        let relay = match created.terminal {
            Some(master) => {
                let input = exec.stdin.then(|| master.try_clone()).transpose().map_err(dup)?;
                let terminal = master.try_clone().map_err(dup)?;
                Self::new(end, vec![(1, master)], input, Some(terminal))
            }
            None => Self::new(end, vec![(1, out), (2, err)], ours, None),
        };
        for fd in relay.outputs.iter().map(|(_, fd)| fd).chain(&relay.input) {
            nonblocking(fd).map_err(kernel)?;
        }
        Ok(relay)
    }

    /// Joins the streams of a container.
    pub fn attach(name: String, input: Option<OwnedFd>, terminal: Option<OwnedFd>, once: bool) -> Self {
        Self::new(End::Container { name, once }, Vec::new(), input, terminal)
    }

    /// Connects to a port on the pod's loopback.
    pub fn forward(port: u16) -> Result<Self, String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connect = TcpStream::connect_timeout(&address, CONNECT_WAIT);
        let socket = connect.map_err(|err| format!("connect to port {port} of the pod: {err}"))?;
        let fds = socket
            .set_nonblocking(true)
            .and_then(|()| Ok((OwnedFd::from(socket.try_clone()?), OwnedFd::from(socket))));
        let (output, input) = fds.map_err(|err| format!("port {port} of the pod: {err}"))?;
        Ok(Self::new(End::Socket, vec![(1, output)], Some(input), None))
    }

    /// Moves everything that can be moved now, both ways; `Over` when the last frame is on its way and taken.
    pub fn pump(&mut self, connection: &mut Connection) -> Life {
        if self.pull(connection) == Life::Over || self.push(connection) == Life::Over {
            return Life::Over;
        }
        let done = match &mut self.end {
            End::Process { pidfd, started_ns, exit } => {
                if exit.is_none() {
                    *exit = reap(pidfd).map(|exit| Exit { started_ns: *started_ns, ..exit });
                    if exit.is_some() {
                        // What it wrote at last is still in the pipes.
                        return self.pump(connection);
                    }
                }
                exit.clone().filter(|_| connection.waiting() < WAITING_BYTES_MAX)
            }
            End::Socket => (self.outputs.is_empty() && self.input.is_none()).then(Exit::default),
            End::Container { .. } => None,
        };
        match done {
            Some(exit) if !connection.closing => finish(connection, &StreamFrame::Exit(exit)),
            _ => connection.flush(),
        }
    }

    /// From the process to the peer, until nothing is there or the peer takes no more.
    fn push(&mut self, connection: &mut Connection) -> Life {
        let mut buffer = [0; CHUNK_BYTES_MAX];
        let mut index = 0;
        while index < self.outputs.len() {
            let (channel, fd) = &self.outputs[index];
            let channel = *channel;
            let mut ended = false;
            while connection.waiting() < WAITING_BYTES_MAX && !ended {
                let frame = match read_some(fd, &mut buffer) {
                    None => break,
                    Some([]) => {
                        ended = true;
                        StreamFrame::Close { channel }
                    }
                    Some(bytes) => StreamFrame::Data { channel, bytes: bytes.to_vec() },
                };
                if connection.send(&frame) == Life::Over {
                    return Life::Over;
                }
            }
            if ended {
                self.outputs.remove(index);
            } else {
                index += 1;
            }
        }
        Life::Open
    }

    /// From the peer to the process, until nothing is there or the process takes no more.
    fn pull(&mut self, connection: &mut Connection) -> Life {
        loop {
            if let Some(input) = &self.input {
                // Where nobody reads any more, what is typed goes nowhere.
                let open = write_some(input, &mut self.pending).is_ok();
                if !open || (self.input_ends && self.pending.is_empty()) {
                    self.close_input();
                }
            } else {
                self.pending.clear();
            }
            if self.pending.len() >= WAITING_BYTES_MAX {
                return Life::Open;
            }
            match connection.next::<StreamFrame>() {
                Err(life) => return life,
                Ok(Some(frame)) => self.obey(frame),
                Ok(None) => match connection.fill() {
                    Ok(true) => {}
                    Ok(false) => return Life::Open,
                    Err(life) => return life,
                },
            }
        }
    }

    fn close_input(&mut self) {
        if let (Some(input), End::Socket) = (&self.input, &self.end) {
            // The other direction of the connection stays open.
            let _ = nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(input),
                nix::sys::socket::Shutdown::Write,
            );
        }
        self.input = None;
    }

    fn obey(&mut self, frame: StreamFrame) {
        match frame {
            StreamFrame::Data { channel: 0, bytes } if self.input.is_some() => {
                self.pending.extend_from_slice(&bytes)
            }
            StreamFrame::Close { channel: 0 } => self.input_ends = true,
            StreamFrame::Resize { width, height } => {
                if let Some(terminal) = &self.terminal {
                    // A terminal that has just closed has no size.
                    let _ = set_window_size(terminal.as_fd(), width, height);
                }
            }
            _ => {}
        }
    }
}

/// Sends the last frame; `Over` if it is gone already.
pub fn finish(connection: &mut Connection, frame: &StreamFrame) -> Life {
    connection.closing = true;
    connection.send(frame)
}
