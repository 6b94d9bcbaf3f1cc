//! Running a further process in a container.

use super::{ContainerError, Created, Record, Stdio, birth, ids, io_error, kernel};
use crate::{
    cgroup::Cgroup,
    host,
    init::{
        self, FromHost, InitError,
        channel::{self, Channel, FromInit},
        has_namespace,
    },
    lsm::{self, OnExec},
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
    ContainerId, SpecError, Status,
    oci::{LinuxNamespaceType, Process, Spec},
};
use runtime_sys::process::{Clone, clone3, pidfd_open, terminal_peer, terminal_unlock};
use std::{
    convert::Infallible,
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
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
    /// A cgroup below the container's own, that is there.
    pub cgroup: Option<&'a Path>,
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
    let spec = record.config(options.state_root)?;
    let mut options = options;
    inherit(&mut options.process, &spec);
    // Its fields are not those of config.json.
    runtime_spec::validate_process(&options.process).map_err(|err| match err {
        SpecError::Field { field, why } => ContainerError::Refused(format!("{field}: {why}")),
        err => err.into(),
    })?;
    lsm::check_process(&options.process).map_err(InitError::from)?;
    init::identity::warn_of_limits(&options.process);
    if !has_namespace(&spec, LinuxNamespaceType::User) {
        init::identity::warn_of_capabilities(&options.process);
    }
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
    let cgroup = place(&record, options.cgroup)?.map(|group| group.open()).transpose()?;
    ids::give_streams(&options.stdio, Some(&options.process), &spec)?;
    let (parent, child) = channel::pair().map_err(kernel("socketpair"))?;
    let asked = has_namespace(&spec, LinuxNamespaceType::User).then(|| options.process.clone());
    let cloned = clone_into(&container, &spec, &options.process, cgroup.as_ref().map(AsFd::as_fd))?;
    let Clone::Parent { pid, pidfd } = cloned else {
        drop((parent, cgroup));
        let Err(err) = run(options, &spec, &record, &container, filter.as_ref(), &child);
        // Whoever waits sees the end of this process, if not this.
        let _ = child.send(&FromInit::Failed { code: err.exit_code(), message: super::chain(&err) });
        std::process::exit(i32::from(err.exit_code()));
    };
    drop(child);
    if let Some(process) = asked {
        init::identity::raise_limits(pid, &process);
    }
    match wait_exec(&parent) {
        Ok(terminal) => Ok(Created { pid, pidfd, terminal }),
        Err(err) => {
            super::end_child(&pidfd);
            Err(err)
        }
    }
}

/// The cgroup for the new process; `below` is relative to the container's own.
fn place(record: &Record, below: Option<&Path>) -> Result<Option<Cgroup>, ContainerError> {
    let none = record.cgroup.as_os_str().is_empty();
    match below {
        Some(_) if none => {
            Err(ContainerError::NoCgroup { what: "exec with --cgroup in", id: record.id.clone() })
        }
        Some(below) => {
            let climbs = below.components().any(|part| part == Component::ParentDir);
            let below = below.strip_prefix("/").unwrap_or(below);
            let why = io::Error::new(io::ErrorKind::InvalidInput, "it is not below the container's own");
            if climbs {
                Err(io_error("use the cgroup", below)(why))
            } else {
                Ok(Some(Cgroup::at(record.cgroup.join(below))))
            }
        }
        None if none => Ok(None),
        None => Ok(Some(Cgroup::at(&record.cgroup).beside(record.pid)?)),
    }
}

/// Makes a child in the container's pid namespace. Only children are born into one that is joined, so it is joined for as long as one is made; where
/// that could not be undone (a user namespace is joined, or this is not the host's root) a process between does it.
fn clone_into(
    container: &OwnedFd,
    spec: &Spec,
    process: &Process,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Clone, ContainerError> {
    let enter = |flags: CloneFlags| {
        setns(container, flags).map_err(|err| kernel("join the container's pid namespace")(err.into()))
    };
    if has_namespace(spec, LinuxNamespaceType::User) {
        let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID;
        return birth::inside(
            || {
                // Once it is hidden, its files in procfs are the host's root's.
                init::identity::oom_score(process).map_err(InitError::from)?;
                enter(both)?;
                Ok(init::hide()?)
            },
            0,
            cgroup,
        );
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
    if process.apparmor_profile().is_none() {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().is_none() {
        process.set_selinux_label(own.selinux_label().clone());
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

/// The namespaces of the container that this process is not in already; joining one that it is in takes rights in it.
fn others(spec: &Spec, pid: i32) -> CloneFlags {
    let kinds = [
        (LinuxNamespaceType::Mount, CloneFlags::CLONE_NEWNS, "mnt"),
        (LinuxNamespaceType::Cgroup, CloneFlags::CLONE_NEWCGROUP, "cgroup"),
        (LinuxNamespaceType::Ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
        (LinuxNamespaceType::Network, CloneFlags::CLONE_NEWNET, "net"),
        (LinuxNamespaceType::Uts, CloneFlags::CLONE_NEWUTS, "uts"),
        (LinuxNamespaceType::Time, CloneFlags::from_bits_retain(libc::CLONE_NEWTIME), "time"),
    ];
    let same = |name: &str| {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{name}")).ok();
        // A kind that this kernel does not have is everybody's.
        of("self").is_none_or(|own| Some(own) == of(&pid.to_string()))
    };
    kinds
        .into_iter()
        .filter(|(kind, _, name)| has_namespace(spec, *kind) || !same(name))
        .map(|(_, flag, _)| flag)
        .collect()
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
    if !has_namespace(spec, LinuxNamespaceType::User) {
        init::identity::oom_score(&options.process)?;
    }
    SigSet::empty().thread_set_mask().map_err(|err| io("reset the signal mask")(err.into()))?;
    if let Some(affinity) = options.process.exec_cpu_affinity() {
        init::scheduling::pin(affinity.initial().as_ref())?;
        init::scheduling::pin(affinity.cpu_affinity_final().as_ref())?;
    }
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let host =
        FromHost { labels: OnExec::open(&options.process)?, listener: seccomp::Listener::connect(profile)? };
    let namespaces = others(spec, record.pid);
    setns(container, namespaces).map_err(|err| io("join the container's namespaces")(err.into()))?;
    if has_namespace(spec, LinuxNamespaceType::User) {
        init::identity::become_root()?;
    }
    init::new_keyring()?;
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
    init::scheduling::memory_policy(spec)?;
    let keep = init::Keep { preserve_fds: options.preserve_fds, reports: &[channel.as_fd()] };
    init::become_program(&options.process, filter, host, &record.oci(Status::Running), &keep)
}
