//! The first process of a container, from clone to exec. Runs in the child only.
//!
//! Order: wait for the parent (id maps, cgroup), where there is something to wait for -> mounts, devices, masks, names and sysctls, pivot -> tell the
//! parent, with the terminal -> wait until it has saved the container, then for `start` -> hooks, limits, identity, seccomp -> exec. Every failure
//! goes to whoever waits: first the parent, then `start`. A parent that dies takes the process with it, until it is saved.

pub mod channel;
pub mod identity;
mod program;
pub mod scheduling;

use crate::{
    hooks, host,
    lsm::{LsmError, OnExec},
    mounts::{self, MountError, Overlay, devices, idmap::Mapped, masked},
    procfs::Procfs,
    seccomp::{Filter, Listener, SeccompError},
};
use channel::{Channel, FromInit};
use nix::{
    sched::{CloneFlags, unshare},
    sys::{signal::SigSet, stat::Mode},
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};
use runtime_spec::{
    ContainerId, State, Status,
    oci::{LinuxNamespaceType, Process, Spec},
};
use runtime_sys::process::{
    close_all_but, set_controlling_terminal, set_window_size, terminal_peer, terminal_unlock,
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error(transparent)]
    Lsm(#[from] LsmError),
    #[error(transparent)]
    Hook(#[from] hooks::HookError),
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    #[error("{what}")]
    Io { what: String, source: io::Error },
}

impl InitError {
    /// 127 and 126 as a shell has them for a program that is missing or cannot be run; 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Program(err) => err.exit_code(),
            _ => 1,
        }
    }
}

/// Where the standard streams of a process lead.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
}

/// What the first process needs to know.
pub struct Init<'a> {
    pub id: &'a ContainerId,
    pub spec: &'a Spec,
    pub annotations: &'a BTreeMap<String, String>,
    pub bundle: &'a Path,
    pub root: &'a Path,
    pub overlay: Option<&'a Overlay>,
    pub stdio: Option<Stdio>,
    /// Accepts the one connection of `start`; without it the program runs at once.
    pub start: Option<UnixListener>,
    pub channel: Channel,
    /// Descriptors after stdio that the program keeps.
    pub preserve_fds: u32,
    pub new_keyring: bool,
    pub filter: Option<Filter>,
    pub mapped: Mapped,
    /// Look for the program before it is started.
    pub find_program: bool,
    /// The parent has something to do first.
    pub waits: bool,
    /// The cgroup comes after the process, and its namespace after it.
    pub moved: bool,
}

/// What is opened while the host's paths are in reach, for the time after.
#[derive(Default)]
pub struct FromHost {
    pub labels: OnExec,
    pub listener: Option<Listener>,
}

/// Becomes the container's program; returns only to end the process.
pub fn run(mut init: Init<'_>) -> u8 {
    let ready = set_up(&mut init).and_then(|host| {
        let ready = init.channel.send(&FromInit::Ready).and_then(|()| init.channel.wait_go());
        ready
            .map(|()| host)
            .map_err(|source| InitError::Io { what: "report to the parent".to_owned(), source })
    });
    let failed = |err: &InitError| (err.exit_code(), crate::container::chain(err));
    let (code, message) = match ready {
        Err(err) => failed(&err),
        Ok(host) => match init.start.take() {
            None => {
                let Err(err) = start(&init, host, &[init.channel.as_fd()]);
                failed(&err)
            }
            Some(listener) => {
                let Ok((mut starter, _)) = listener.accept() else { return 1 };
                drop(listener);
                let Err(err) = start(&init, host, &[starter.as_fd(), init.channel.as_fd()]);
                let (code, message) = failed(&err);
                // The peer reads the code and the message, or, when exec has closed the connection, nothing.
                let _ = starter.write_all(&[code]).and_then(|()| starter.write_all(message.as_bytes()));
                return code;
            }
        },
    };
    let _ = init.channel.send(&FromInit::Failed { code, message });
    code
}

fn set_up(init: &mut Init<'_>) -> Result<FromHost, InitError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| InitError::Io { what, source }
    };
    if init.waits {
        init.channel.wait_go().map_err(io("wait for the parent"))?;
    }
    if init.moved && has_new_namespace(init.spec, LinuxNamespaceType::Cgroup) {
        unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|err| io("make a cgroup namespace")(err.into()))?;
    }
    nix::sys::stat::umask(Mode::empty());
    // Whatever the caller blocks or ignores, the program starts with the defaults.
    SigSet::empty().thread_set_mask().map_err(|err| io("reset the signal mask")(err.into()))?;
    let process = init.spec.process().as_ref();
    let terminal = process.is_some_and(|process| process.terminal() == Some(true));
    if init.stdio.is_some() || terminal {
        setsid().map_err(|err| io("setsid")(err.into()))?;
    }
    if let Some(process) = process {
        identity::oom_score(process)?;
    }
    let user_namespace = has_namespace(init.spec, LinuxNamespaceType::User);
    settle(init, user_namespace)?;
    let profile = init.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let host = FromHost {
        labels: process.map(OnExec::open).transpose()?.unwrap_or_default(),
        listener: Listener::connect(profile)?,
    };
    let null = devices::host_null()?;
    let propagation = init.spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref());
    let root = mounts::prepare_root(init.root, init.overlay, init.mapped.root.take(), propagation)?;
    mounts::mount_all(&root, init.spec, init.bundle, &mut init.mapped)?;
    mounts::verify_proc(&root, init.spec)?;
    devices::create(&root, init.spec, user_namespace || !host::is_root())?;
    let hooks = init.spec.hooks().as_ref();
    hooks::run(
        "createContainer",
        hooks.and_then(|hooks| hooks.create_container().as_ref()),
        &state(init, Status::Creating),
    )?;
    if terminal {
        let master = open_terminal(&root, process)?;
        init.channel.send_terminal(&master).map_err(io("hand over the terminal"))?;
    } else if let Some(stdio) = init.stdio.take() {
        attach_stdio(stdio).map_err(io("attach the standard streams"))?;
    }
    name_host(init.spec)?;
    sysctls(init.spec)?;
    // Before the pivot: afterwards the host's null device is out of reach.
    masked::apply(&root, init.spec, &null)?;
    if init.spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
        mounts::make_read_only(&root)?;
    }
    mounts::pivot(&root)?;
    mounts::propagate_root(&root, propagation)?;
    if let Some(process) = process.filter(|_| init.find_program) {
        program::Program::find(process)?.expect_runnable()?;
    }
    Ok(host)
}

/// Makes the namespaces that this process is in the container's: clocks, ids, loopback, keys.
fn settle(init: &Init<'_>, user_namespace: bool) -> Result<(), InitError> {
    // Another user's files in procfs are root's, whom a user namespace may not have.
    scheduling::clocks(init.spec)?;
    if user_namespace {
        identity::become_root()?;
        hide()?;
    }
    if has_new_namespace(init.spec, LinuxNamespaceType::Network) {
        let failed = |source| InitError::Io { what: "switch lo on".to_owned(), source };
        runtime_sys::net::loopback_up().map_err(failed)?;
    }
    if init.new_keyring { new_keyring() } else { Ok(()) }
}

/// Keeps this process, which still has the host's files in reach, from others in its user namespace, where any root may trace: they could go
/// through /proc/PID/root and /proc/PID/fd (CVE-2016-9962). Ends with exec.
pub fn hide() -> Result<(), InitError> {
    nix::sys::prctl::set_dumpable(false)
        .map_err(|err| InitError::Io { what: "make this process undumpable".to_owned(), source: err.into() })
}

/// The keys of whoever made the container are not the container's. The keyring has no name: one that is joined by name may be one that a hostile
/// container has made and let others search.
pub fn new_keyring() -> Result<(), InitError> {
    match runtime_sys::process::new_session_keyring() {
        // A kernel without keys, or a host that filters the call, has none to hide.
        Err(err) if matches!(err.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        joined => {
            joined.map_err(|source| InitError::Io { what: "make a session keyring".to_owned(), source })
        }
    }
}

fn start(init: &Init<'_>, host: FromHost, reports: &[BorrowedFd<'_>]) -> Result<Infallible, InitError> {
    let hooks = init.spec.hooks().as_ref();
    hooks::run(
        "startContainer",
        hooks.and_then(|hooks| hooks.start_container().as_ref()),
        &state(init, Status::Created),
    )?;
    let process = init.spec.process().as_ref().ok_or_else(|| InitError::Io {
        what: "start".to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "config.json has no process"),
    })?;
    scheduling::personality(init.spec)?;
    scheduling::memory_policy(init.spec)?;
    // The supervisor of a seccomp listener is outside: it is told the pid that it sees.
    let mut running = state(init, Status::Running);
    running.pid = host.listener.as_ref().map_or(running.pid, |listener| listener.pid);
    let keep = Keep { preserve_fds: init.preserve_fds, reports };
    become_program(process, init.filter.as_ref(), host, &running, &keep)
}

/// Descriptors that stay open on the way to the program.
pub struct Keep<'a> {
    /// After stdio, for the program.
    pub preserve_fds: u32,
    /// For its failure, until exec.
    pub reports: &'a [BorrowedFd<'a>],
}

/// Takes on the process's limits and identity and runs its program.
pub fn become_program(
    process: &Process,
    filter: Option<&Filter>,
    mut host: FromHost,
    state: &State<'_>,
    keep: &Keep<'_>,
) -> Result<Infallible, InitError> {
    // Now, not on exec: through what is open, working directory, program and `#!` line would lead out of the root (CVE-2024-21626).
    let own = host.labels.files().chain(host.listener.as_ref().map(AsFd::as_fd));
    let open: Vec<BorrowedFd<'_>> = keep.reports.iter().copied().chain(own).collect();
    close_all_but(3 + keep.preserve_fds as i32, &open)
        .map_err(|source| InitError::Io { what: "close descriptors".to_owned(), source })?;
    identity::limits(process)?;
    scheduling::apply(process)?;
    let load = || -> Result<(), InitError> {
        let listener = filter.map(Filter::load).transpose()?.flatten();
        match (&host.listener, &listener) {
            (Some(supervisor), Some(listener)) => Ok(supervisor.send(listener, state)?),
            _ => Ok(()),
        }
    };
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        identity::no_new_privileges()?;
    } else {
        // Loading a filter needs CAP_SYS_ADMIN here, which the next step may take away.
        load()?;
    }
    identity::assume(process)?;
    let program = program::Program::find(process)?;
    if no_new_privileges {
        load()?;
    }
    host.labels.apply()?;
    runtime_sys::process::default_sigpipe()
        .map_err(|source| InitError::Io { what: "reset SIGPIPE".to_owned(), source })?;
    Ok(program.exec()?)
}

/// A terminal of the container's own devpts as standard streams; gives the master.
fn open_terminal(root: &OwnedFd, process: Option<&Process>) -> Result<OwnedFd, InitError> {
    let io = |source| InitError::Io { what: "open a terminal".to_owned(), source };
    let master = devices::open_ptmx(root)?;
    terminal_unlock(master.as_fd()).map_err(io)?;
    let slave = terminal_peer(master.as_fd()).map_err(io)?;
    devices::console(root, &slave)?;
    attach_terminal(&master, &slave, process).map_err(io)?;
    Ok(master)
}

/// Makes `slave` the controlling terminal and the standard streams.
pub fn attach_terminal(master: &OwnedFd, slave: &OwnedFd, process: Option<&Process>) -> io::Result<()> {
    if let Some(size) = process.and_then(|process| process.console_size()) {
        set_window_size(master.as_fd(), size.width() as u16, size.height() as u16)?;
    }
    set_controlling_terminal(slave.as_fd())?;
    dup2_stdin(slave)?;
    dup2_stdout(slave)?;
    dup2_stderr(slave)?;
    Ok(())
}

pub fn attach_stdio(stdio: Stdio) -> io::Result<()> {
    if let Stdio::Pipes { stdin, stdout, stderr } = stdio {
        dup2_stdin(stdin)?;
        dup2_stdout(stdout)?;
        dup2_stderr(stderr)?;
    }
    Ok(())
}

fn name_host(spec: &Spec) -> Result<(), InitError> {
    if !has_namespace(spec, LinuxNamespaceType::Uts) {
        return Ok(());
    }
    if let Some(name) = spec.hostname() {
        nix::unistd::sethostname(name)
            .map_err(|err| InitError::Io { what: format!("set hostname {name:?}"), source: err.into() })?;
    }
    let Some(name) = spec.domainname() else { return Ok(()) };
    runtime_sys::process::set_domain_name(name)
        .map_err(|source| InitError::Io { what: format!("set domainname {name:?}"), source })
}

/// Sets what belongs to the container's namespaces, which this process is in.
fn sysctls(spec: &Spec) -> Result<(), InitError> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    for (name, value) in listed.into_iter().flatten() {
        let path = format!("sys/{}", runtime_spec::sysctl::path(name));
        Procfs::open()
            .and_then(|proc| proc.write(&path, value))
            .map_err(|source| InitError::Io { what: format!("set sysctl {name} to {value:?}"), source })?;
    }
    Ok(())
}

/// Whether the container makes a namespace of this kind, not joins one.
pub fn has_new_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    listed.into_iter().flatten().any(|namespace| namespace.typ() == kind && namespace.path().is_none())
}

pub fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    listed.into_iter().flatten().any(|namespace| namespace.typ() == kind)
}

fn state<'a>(init: &'a Init<'_>, status: Status) -> State<'a> {
    State {
        id: init.id,
        status,
        pid: std::process::id() as i32,
        bundle: init.bundle,
        annotations: init.annotations,
    }
}
