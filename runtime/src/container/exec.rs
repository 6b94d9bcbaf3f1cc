//! Running a further process in a container.

use super::{ContainerError, Created, Record, Stdio, birth, io_error, kernel};
use crate::{
    cgroup::Cgroup,
    host,
    init::{
        self, FromHost, InitError,
        channel::{self, Channel, FromInit},
        has_namespace,
    },
    lsm::OnExec,
    mounts::devices,
    seccomp,
};
use nix::{
    fcntl::{OFlag, open},
    sched::{CloneFlags, setns},
    sys::{signal::SigSet, stat::Mode},
    unistd::setsid,
};
use runtime_spec::{
    ContainerId, Status,
    oci::{LinuxNamespaceType, Process, Spec},
};
use runtime_sys::process::{Clone, clone3, pidfd_open, terminal_peer, terminal_unlock};
use std::{
    convert::Infallible,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// What to run, and where.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    pub id: &'a ContainerId,
    pub state_root: &'a Path,
    pub process: Process,
    pub stdio: Stdio,
    pub preserve_fds: u32,
    /// Also while the container is paused.
    pub paused: bool,
}

/// The process of the container's own config.json with other arguments.
pub fn process_like(spec: &Spec, args: Vec<String>, terminal: bool) -> Process {
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args)).set_terminal(Some(terminal)).set_console_size(None);
    process
}

/// Runs a process in a running container, in all its namespaces and its cgroup; returns when exec has succeeded, or with its error.
///
/// The new process is a child of this one, which must have no other thread.
pub fn exec(options: ExecOptions<'_>) -> Result<Created, ContainerError> {
    let record = Record::load(options.state_root, options.id)?;
    let status = record.status(options.state_root);
    let ready = matches!(status, Status::Running | Status::Created);
    if !(ready || status == Status::Paused && options.paused) {
        return Err(ContainerError::WrongState { what: "exec in", id: options.id.clone(), status });
    }
    let spec = runtime_spec::load(&record.bundle)?;
    let mut options = options;
    inherit(&mut options.process, &spec);
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = profile.map(seccomp::compile).transpose().map_err(InitError::from)?;
    let container = pidfd_open(record.pid).map_err(kernel(format!("pidfd_open {}", record.pid)))?;
    if record.status(options.state_root) == Status::Stopped {
        return Err(ContainerError::WrongState {
            what: "exec in",
            id: options.id.clone(),
            status: Status::Stopped,
        });
    }
    let cgroup = match record.cgroup.as_os_str().is_empty() {
        true => None,
        false => Some(Cgroup::at(&record.cgroup).open()?),
    };
    let (parent, child) = channel::pair().map_err(kernel("socketpair"))?;
    let cloned = clone_into(&container, &spec, cgroup.as_ref().map(AsFd::as_fd))?;
    let Clone::Parent { pid, pidfd } = cloned else {
        drop(parent);
        let Err(err) = run(options, &spec, &record, &container, filter.as_ref(), &child);
        // Whoever waits sees the end of this process, if not this.
        let _ = child.send(&FromInit::Failed { code: err.exit_code(), message: super::chain(&err) });
        std::process::exit(i32::from(err.exit_code()));
    };
    drop(child);
    match wait_exec(&parent) {
        Ok(terminal) => Ok(Created { pid, pidfd, terminal }),
        Err(err) => {
            super::end_child(&pidfd);
            Err(err)
        }
    }
}

/// Makes a child in the container's pid namespace. Only children are born into one that is joined, so it is joined for as long as one is made; where
/// that could not be undone (a user namespace is joined, or this is not the host's root) a process between does it.
fn clone_into(
    container: &OwnedFd,
    spec: &Spec,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Clone, ContainerError> {
    let enter = |flags: CloneFlags| {
        setns(container, flags).map_err(|err| kernel("join the container's pid namespace")(err.into()))
    };
    if has_namespace(spec, LinuxNamespaceType::User) {
        let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID;
        return birth::inside(|| enter(both), 0, cgroup);
    }
    if !host::is_root() {
        return birth::inside(|| enter(CloneFlags::CLONE_NEWPID), 0, cgroup);
    }
    let own = Path::new("/proc/self/ns/pid_for_children");
    let own_pids = File::open(own).map_err(io_error("open", own))?;
    enter(CloneFlags::CLONE_NEWPID)?;
    let cloned = clone3(0, cgroup).map_err(kernel("clone3"));
    if !matches!(cloned, Ok(Clone::Child)) {
        setns(&own_pids, CloneFlags::CLONE_NEWPID)
            .map_err(|err| kernel("go back to the own pid namespace")(err.into()))?;
    }
    cloned
}

/// What a process.json does not say about privileges is as for the container's own process, never more.
fn inherit(process: &mut Process, spec: &Spec) {
    let Some(own) = spec.process() else { return };
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.no_new_privileges().is_none() {
        process.set_no_new_privileges(own.no_new_privileges());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    if process.rlimits().is_none() {
        process.set_rlimits(own.rlimits().clone());
    }
}

/// Waits until exec has closed the child's end of the channel.
fn wait_exec(channel: &Channel) -> Result<Option<OwnedFd>, ContainerError> {
    channel.go().map_err(kernel("the new process"))?;
    let mut terminal = None;
    loop {
        match channel.receive() {
            Ok((FromInit::Failed { code, message }, _)) => {
                return Err(ContainerError::Init { code, message });
            }
            Ok((_, master)) => terminal = master.or(terminal),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(terminal),
            Err(err) => return Err(kernel("the new process")(err)),
        }
    }
}

/// In the child: joins the container and becomes the program.
fn run(
    options: ExecOptions<'_>,
    spec: &Spec,
    record: &Record,
    container: &OwnedFd,
    filter: Option<&seccomp::Filter>,
    channel: &Channel,
) -> Result<Infallible, InitError> {
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| InitError::Io { what, source }
    };
    channel.wait_go().map_err(io("wait for the parent"))?;
    init::identity::oom_score(&options.process)?;
    SigSet::empty().thread_set_mask().map_err(|err| io("reset the signal mask")(err.into()))?;
    let affinity = options.process.exec_cpu_affinity().as_ref();
    init::scheduling::pin(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref()))?;
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let host =
        FromHost { labels: OnExec::open(&options.process)?, listener: seccomp::Listener::connect(profile)? };
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS;
    if has_namespace(spec, LinuxNamespaceType::Time) {
        namespaces |= CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    }
    setns(container, namespaces).map_err(|err| io("join the container's namespaces")(err.into()))?;
    if has_namespace(spec, LinuxNamespaceType::User) {
        init::identity::become_root()?;
    }
    init::new_keyring(&format!("_ses.{}", options.id))?;
    setsid().map_err(|err| io("setsid")(err.into()))?;
    if options.process.terminal() == Some(true) {
        let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|err| io("open the container's root")(err.into()))?;
        let master = devices::open_ptmx(&root)?;
        terminal_unlock(master.as_fd()).map_err(io("open a terminal"))?;
        let slave = terminal_peer(master.as_fd()).map_err(io("open a terminal"))?;
        channel.send_terminal(&master).map_err(io("hand over the terminal"))?;
        init::attach_terminal(&master, &slave, Some(&options.process)).map_err(io("attach the terminal"))?;
    } else {
        init::attach_stdio(options.stdio).map_err(io("attach the standard streams"))?;
    }
    init::scheduling::personality(spec)?;
    init::become_program(&options.process, filter, host, &record.oci(Status::Running), options.preserve_fds)
}
