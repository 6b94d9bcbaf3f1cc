//! The containers of the pod, as the monitor holds them.

use super::log::{Log, Stream};
use crate::{
    cgroup::Cgroup,
    clock,
    container::{self, ContainerError, CreateOptions, Stdio, TerminalTo},
    mounts::Overlay,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl, open},
    sys::{
        stat::Mode,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::pipe2,
};
use runtime_protocol::{ContainerState, Create, Exit};
use runtime_spec::ContainerId;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// One container and the ends of its streams that are ours.
#[derive(Debug)]
pub struct Container {
    pub id: ContainerId,
    pub state: ContainerState,
    pub pidfd: OwnedFd,
    pub log: Log,
    /// (which, our end); a terminal gives only stdout.
    pub outputs: Vec<(Stream, OwnedFd)>,
    pub stdin: Option<OwnedFd>,
    pub stdin_once: bool,
    pub terminal: bool,
}

/// Creates the container (OCI `create`) with its streams leading here.
pub fn create(request: &Create, state_root: &Path) -> Result<Container, ContainerError> {
    let id: ContainerId = request.container.parse()?;
    let kernel = |what: &str| {
        let what = what.to_owned();
        move |err: nix::Error| ContainerError::Kernel { what, source: err.into() }
    };
    let log = Log::open(&request.log, request.log_bytes_max, request.log_files)
        .map_err(|source| ContainerError::Io { what: "open the log", path: request.log.clone(), source })?;
    let terminal = runtime_spec::load(&request.bundle, &mut |_| ())?
        .process()
        .as_ref()
        .is_some_and(|process| process.terminal() == Some(true));
    let (stdin, their_stdin) = if request.stdin && !terminal {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).map_err(kernel("pipe"))?;
        (Some(ours), theirs)
    } else {
        (
            None,
            open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(kernel("open /dev/null"))?,
        )
    };
    let (stdout, their_stdout) = pipe2(OFlag::O_CLOEXEC).map_err(kernel("pipe"))?;
    let (stderr, their_stderr) = pipe2(OFlag::O_CLOEXEC).map_err(kernel("pipe"))?;
    let overlay = request.overlay.as_ref().map(|overlay| Overlay {
        lower: overlay.lower.clone(),
        upper: overlay.upper.clone(),
        work: overlay.work.clone(),
    });
    let stdio = Stdio::Pipes { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
    let options = CreateOptions {
        id: &id,
        bundle: &request.bundle,
        state_root,
        overlay,
        stdio,
        preserve_fds: 0,
        env: Vec::new(),
        terminal: TerminalTo::Caller,
        new_keyring: true,
        systemd_cgroup: false,
        find_program: false,
        at_once: false,
    };
    let created = container::create(options)?;
    let (outputs, stdin) = match created.terminal {
        Some(master) => {
            let input = request.stdin.then(|| master.try_clone()).transpose();
            let input = input.map_err(|source| ContainerError::Kernel { what: "dup".to_owned(), source })?;
            (vec![(Stream::Stdout, master)], input)
        }
        None => (vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)], stdin),
    };
    for fd in outputs.iter().map(|(_, fd)| fd).chain(&stdin) {
        nonblocking(fd).map_err(kernel("fcntl"))?;
    }
    let state = ContainerState::Created { pid: created.pid as u32 };
    Ok(Container {
        id,
        state,
        pidfd: created.pidfd,
        log,
        outputs,
        stdin,
        stdin_once: request.stdin_once,
        terminal,
    })
}

pub fn nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// How the process behind `pidfd` ended; `None` while it runs.
pub fn reap(pidfd: impl AsFd) -> Option<Exit> {
    let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).ok()?;
    let (code, signal) = match status {
        WaitStatus::Exited(_, code) => (code, None),
        WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
        _ => return None,
    };
    Some(Exit { code, signal, oom_killed: false, started_ns: 0, finished_ns: clock::now_ns() })
}

impl Container {
    pub fn start(&mut self, state_root: &Path) -> Result<(), ContainerError> {
        let started_ns = clock::now_ns();
        container::start(state_root, &self.id)?;
        if let ContainerState::Created { pid } = self.state {
            self.state = ContainerState::Running { pid, started_ns };
        }
        Ok(())
    }

    /// Takes note of the end of the first process; true if it had not been noted before.
    pub fn note_exit(&mut self, state_root: &Path) -> bool {
        let started_ns = match self.state {
            ContainerState::Exited(_) => return false,
            ContainerState::Created { .. } => 0,
            ContainerState::Running { started_ns, .. } => started_ns,
        };
        let Some(exit) = reap(&self.pidfd) else { return false };
        let oom_killed = container::state(state_root, &self.id)
            .is_ok_and(|view| Cgroup::at(view.record.cgroup).oom_kills() > 0);
        self.state = ContainerState::Exited(Exit { started_ns, oom_killed, ..exit });
        true
    }

    /// What the protocol says of it.
    pub fn view(&self) -> runtime_protocol::Container {
        runtime_protocol::Container { container: self.id.to_string(), state: self.state.clone() }
    }
}

/// Reads once without waiting: `None` when nothing is there now, an empty slice at the end.
pub fn read_some<'a>(fd: &OwnedFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        match nix::unistd::read(fd, buffer) {
            Ok(len) => return Some(&buffer[..len]),
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => return None,
            // A terminal whose last process is gone answers EIO.
            Err(_) => return Some(&[]),
        }
    }
}

/// Writes what is taken without waiting; an error means that nobody reads any more.
pub fn write_some(fd: &OwnedFd, pending: &mut Vec<u8>) -> io::Result<()> {
    while !pending.is_empty() {
        match nix::unistd::write(fd, pending) {
            Ok(len) => drop(pending.drain(..len)),
            Err(nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => return Ok(()),
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}
