//! The monitor of one pod: parent of its containers, holder of its namespaces, writer of its logs, keeper of its exit codes.
//!
//! One process with one thread. What it is told and what it tells is [`runtime_protocol`]. It outlives the agent that started it; everything it
//! holds but its own namespaces is found again in its directory and in the containers' state.

mod connection;
mod containers;
mod event_loop;
mod log;
mod relay;
mod sandbox;
mod users;

use crate::container::ContainerError;
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{pipe2, read, setsid, write},
};
use runtime_protocol::{LOCK_FILE, SANDBOX_FILE, SOCKET_FILE, Sandbox};
use runtime_sys::process::{Clone, clone3};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

/// Starts the monitor of the pod whose directory is `dir`; returns once its socket listens.
pub fn daemonize(dir: &Path) -> Result<(), ContainerError> {
    let dir = dir.canonicalize().map_err(io_error("find", dir))?;
    let path = dir.join(SANDBOX_FILE);
    let text = fs::read(&path).map_err(io_error("read", &path))?;
    let sandbox: Sandbox =
        codec::from_bytes(&text).map_err(|err| io_error("parse", &path)(io::Error::other(err)))?;
    let lock = lock(&dir.join(LOCK_FILE))?;
    let (ready, tell) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|err| kernel("pipe")(err.into()))?;
    let monitors = sandbox::monitors(&sandbox)?;
    let cloned = clone3(0, Some(monitors.as_fd())).map_err(kernel("fork into the monitors' cgroup"))?;
    drop(monitors);
    if let Clone::Parent { .. } = cloned {
        // Dropped, it would unlock the description that the monitor shares.
        std::mem::forget(lock);
        drop(tell);
        let mut answer = vec![0; 4096];
        let len = read(&ready, &mut answer).map_err(|err| kernel("the monitor")(err.into()))?;
        return match &answer[..len] {
            [0, ..] => Ok(()),
            [] => Err(kernel("the monitor ended before it was ready")(io::ErrorKind::UnexpectedEof.into())),
            [_, message @ ..] => {
                Err(ContainerError::Init { code: 1, message: String::from_utf8_lossy(message).into_owned() })
            }
        };
    }
    drop(ready);
    let code = match prepare(&dir, &sandbox, lock) {
        Ok((listener, lock, users)) => {
            // Nobody listens any more if this fails, and then nobody waits either.
            let _ = write(&tell, &[0]);
            drop(tell);
            let outcome = event_loop::run(&dir, &sandbox, listener);
            drop((lock, users));
            i32::from(outcome.is_err())
        }
        Err(err) => {
            let message: Vec<u8> =
                std::iter::once(1).chain(crate::container::chain(&err).into_bytes()).take(4096).collect();
            let _ = write(&tell, &message);
            1
        }
    };
    std::process::exit(code)
}

type Locked = Flock<File>;

fn lock(path: &Path) -> Result<Locked, ContainerError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io_error("open", path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, err)| io_error("another monitor holds", path)(err.into()))
}

/// Everything before the event loop, in the process that stays.
fn prepare(
    dir: &Path,
    sandbox: &Sandbox,
    mut lock: Locked,
) -> Result<(UnixListener, Locked, Option<OwnedFd>), ContainerError> {
    setsid().map_err(|err| kernel("setsid")(err.into()))?;
    std::env::set_current_dir("/").map_err(kernel("chdir /"))?;
    lock.set_len(0)
        .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()))
        .map_err(kernel("write the lock file"))?;
    let users = sandbox::enter(sandbox)?;
    if let Some(users) = &users {
        users::link(users, dir)?;
    }
    let handle = File::open(dir).map_err(io_error("open", dir))?;
    // Through a descriptor: a socket's path may be no longer than 107 bytes.
    let socket = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd()));
    match fs::remove_file(&socket) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", dir.join(SOCKET_FILE))(err));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&socket).map_err(io_error("listen on", dir.join(SOCKET_FILE)))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(kernel("open /dev/null"))?;
    let quiet = nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .and_then(|()| nix::unistd::dup2_stderr(&null));
    quiet.map_err(|err| kernel("let go of the standard streams")(err.into()))?;
    Ok((listener, lock, users))
}

fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.into();
    move |source| ContainerError::Io { what, path, source }
}

fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> ContainerError {
    let what = what.into();
    move |source| ContainerError::Kernel { what, source }
}
