//! Waiting for a process in the foreground: signals are passed on, and what happens at a terminal of ours happens at the container's.

use super::io_error;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
};
use runtime::container::{ContainerError, Created};
use runtime_sys::process::{pidfd_send_signal, set_window_size, window_size};
use std::{
    fs::File,
    io::{self, Read, Stdin, Write, stdin, stdout},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Not passed on: what is a fault of this process, what says that a child ended or that nobody reads, and what stops this process as a shell's job.
const OUR_OWN: [Signal; 10] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Signals that wait for [`attend`]. Held from before the process is made: one that comes between would end this command, and leave the process.
pub struct Held(SignalFd);

pub fn hold() -> Result<Held, ContainerError> {
    let mut passed = SigSet::all();
    OUR_OWN.into_iter().for_each(|signal| passed.remove(signal));
    passed.thread_block().map_err(failed("block signals"))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&passed, flags).map(Held).map_err(failed("read signals"))
}

/// Waits for the process; its exit code as a shell has it.
pub fn attend(created: &Created, Held(signals): &Held) -> Result<u8, ContainerError> {
    let mut desk = created.terminal.as_ref().map(Desk::new).transpose()?;
    loop {
        let pidfd = created.pidfd.as_fd();
        let mut fds =
            vec![PollFd::new(pidfd, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(desk.iter().flat_map(Desk::poll_fds));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            ready => ready.map_err(failed("wait"))?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        while let Ok(Some(info)) = signals.read_signal() {
            match &mut desk {
                Some(desk) if info.ssi_signo as i32 == libc::SIGWINCH => desk.resize(),
                // It may have ended between; the next look tells.
                _ => drop(pidfd_send_signal(pidfd, info.ssi_signo as i32)),
            }
        }
        if let Some(desk) = &mut desk {
            desk.relay(ready.get(2) == Some(&true), ready.get(3) == Some(&true))?;
        }
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        let code = match waitid(Id::PIDFd(pidfd), flags).map_err(failed("wait"))? {
            WaitStatus::Exited(_, code) => code as u8,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as u8,
            _ => continue,
        };
        return desk.map_or(Ok(()), Desk::finish).map(|()| code);
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> ContainerError {
    move |err| ContainerError::Kernel { what: what.to_owned(), source: err.into() }
}

/// Our terminal on one side, the container's on the other.
struct Desk {
    container: File,
    stdin: Stdin,
    /// Until nothing more is typed.
    typing: bool,
    /// Until the container's side is closed.
    printing: bool,
    before: Termios,
}

impl Desk {
    /// Ours hands on every key from now on, until this is dropped.
    fn new(master: &OwnedFd) -> Result<Self, ContainerError> {
        let container = master.try_clone().map_err(io_error("use", Path::new("the terminal")))?;
        let stdin = stdin();
        let before = tcgetattr(&stdin).map_err(failed("read the terminal's mode"))?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).map_err(failed("set the terminal's mode"))?;
        let desk = Self { container: container.into(), stdin, typing: true, printing: true, before };
        desk.resize();
        Ok(desk)
    }

    /// The container's terminal takes the size of ours, if that has one.
    fn resize(&self) {
        if let Ok((width, height)) = window_size(self.stdin.as_fd()) {
            // One that is closed has no size.
            let _ = set_window_size(self.container.as_fd(), width, height);
        }
    }

    /// The container's side, then ours; one that has ended is not waited for.
    fn poll_fds(&self) -> [PollFd<'_>; 2] {
        let wanted = |on: bool| if on { PollFlags::POLLIN } else { PollFlags::empty() };
        let of = |on: bool, fd| PollFd::new(if on { fd } else { self.stdin.as_fd() }, wanted(on));
        [of(self.printing, self.container.as_fd()), of(self.typing, self.stdin.as_fd())]
    }

    fn relay(&mut self, from_container: bool, from_us: bool) -> Result<(), ContainerError> {
        let mut bytes = [0; 4096];
        if from_container && self.printing {
            // EIO: nobody has the other end open.
            let len = self.container.read(&mut bytes).unwrap_or(0);
            self.printing = len > 0;
            show(&bytes[..len])?;
        }
        if from_us && self.typing {
            let len = self.stdin.lock().read(&mut bytes).unwrap_or(0);
            self.typing = len > 0 && self.container.write_all(&bytes[..len]).is_ok();
        }
        Ok(())
    }

    /// What was printed before the end is shown.
    fn finish(mut self) -> Result<(), ContainerError> {
        while self.printing {
            let mut fds = [PollFd::new(self.container.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::ZERO).map_err(failed("wait"))?;
            if ready == 0 {
                break;
            }
            self.relay(true, false)?;
        }
        Ok(())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(&self.stdin, SetArg::TCSANOW, &self.before);
    }
}

fn show(bytes: &[u8]) -> Result<(), ContainerError> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(io_error("write", Path::new("standard output"))(err))
        }
        _ => Ok(()),
    }
}
