//! Making a container: everything up to its program, or with it.

use super::{
    ContainerError, Created, Record, Stdio,
    birth::{Namespaces, expect_foreign_sysctls},
    ids, io_error, kernel,
    place::Place,
    record::start_ticks,
};
use crate::{
    cgroup::Cgroup,
    clock, hooks,
    init::{
        self, Init,
        channel::{self, Channel, FromInit},
        has_new_namespace,
    },
    lsm,
    mounts::{self, Overlay, idmap},
    net_devices, seccomp, warnings,
};
use runtime_spec::{
    ContainerId, Status,
    oci::{LinuxNamespaceType, Process, Spec},
};
use runtime_sys::process::Clone;
use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::DirBuilderExt, net::UnixListener},
    },
    path::Path,
};

/// What to create.
pub struct CreateOptions<'a> {
    pub id: &'a ContainerId,
    /// Directory with config.json, absolute.
    pub bundle: &'a Path,
    pub state_root: &'a Path,
    /// Layers to mount on `root.path` inside the container, instead of what is there.
    pub overlay: Option<Overlay>,
    pub stdio: Stdio,
    /// Descriptors from 3 on that the program keeps.
    pub preserve_fds: u32,
    /// `NAME=value` besides those of config.json.
    pub env: Vec<String>,
    /// Who takes the terminal, should config.json ask for one.
    pub terminal: TerminalTo,
    /// A session keyring of its own, instead of this process's.
    pub new_keyring: bool,
    /// `linux.cgroupsPath` is `slice:prefix:name`, and systemd makes the cgroup.
    pub systemd_cgroup: bool,
    /// A program that is missing is an error of create, as under runc; else of start.
    pub find_program: bool,
    /// Run the program at once, instead of on [`super::start`].
    pub at_once: bool,
}

/// Who takes the master of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalTo {
    Nobody,
    /// Whoever listens on a socket, who expects one.
    Socket,
    /// The caller, should there be one.
    Caller,
}

impl TerminalTo {
    /// Refuses a terminal without a taker, and a taker without a terminal.
    pub fn check(self, process: Option<&Process>) -> Result<(), ContainerError> {
        let asked = process.is_some_and(|process| process.terminal() == Some(true));
        let why = match (self, asked) {
            (Self::Nobody, true) => {
                "process.terminal is set, but no --console-socket is given, nor is standard input a terminal to use"
            }
            (Self::Socket, false) => "--console-socket is given, but process.terminal is not set",
            _ => return Ok(()),
        };
        Err(ContainerError::Refused(why.to_owned()))
    }
}

/// Creates a container; its first process waits for [`super::start`], or with `at_once` runs its program. On an error nothing is left.
///
/// This process becomes the parent of the container's first process, and must have no other thread. Net, ipc and uts namespaces that config.json
/// does not list are this process's own.
pub fn create(options: CreateOptions<'_>) -> Result<Created, ContainerError> {
    let mut unknown = warnings::unknown_field(Path::new("config.json"));
    let (mut spec, text) = runtime_spec::load_text(options.bundle, &mut unknown)?;
    options.terminal.check(spec.process().as_ref())?;
    if let Some(process) = spec.process() {
        init::identity::warn_of_limits(process);
        if !init::has_namespace(&spec, LinuxNamespaceType::User) {
            init::identity::warn_of_capabilities(process);
        }
    }
    if let Some(process) = spec.process_mut().as_mut().filter(|_| !options.env.is_empty()) {
        process.env_mut().get_or_insert_default().extend(options.env.iter().cloned());
    }
    // What cannot be done is known before anything is made.
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = profile.map(seccomp::compile).transpose().map_err(init::InitError::from)?;
    lsm::check(&spec).map_err(init::InitError::from)?;
    mounts::check(&spec).map_err(init::InitError::from)?;
    expect_foreign_sysctls(&spec)?;
    let place = Place::choose(&options, &spec)?;
    let (id, state_root) = (options.id, options.state_root);
    let dir = Record::dir(state_root, id);
    // Nobody else may connect to the socket in it, which starts the container.
    let make = || fs::DirBuilder::new().mode(0o700).create(&dir);
    match make() {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            return Err(ContainerError::Exists { id: id.clone() });
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(state_root).map_err(io_error("create", state_root))?;
            make().map_err(io_error("create", &dir))?;
        }
        made => made.map_err(io_error("create", &dir))?,
    }
    let created = create_in(options, (&spec, &text), &place, filter);
    if created.is_err() {
        // The error that made us give up says more than one of clearing up; `delete` can try again.
        let _ = super::delete(state_root, id, true);
    }
    created
}

fn create_in(
    options: CreateOptions<'_>,
    (spec, text): (&Spec, &[u8]),
    place: &Place,
    filter: Option<seccomp::Filter>,
) -> Result<Created, ContainerError> {
    let (id, state_root, at_once) = (options.id, options.state_root, options.at_once);
    let root = spec.root().as_ref().map(|root| options.bundle.join(root.path())).unwrap_or_default();
    let mut record = Record {
        id: id.clone(),
        bundle: options.bundle.to_path_buf(),
        root: root.clone(),
        pid: 0,
        ready: false,
        started_ticks: 0,
        cgroup: place.path()?,
        systemd: options.systemd_cgroup,
        created_ns: clock::now_ns(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        owner: nix::unistd::getuid().as_raw(),
        hooks: spec.hooks().clone(),
    };
    Cgroup::at(&record.cgroup).expect_unoccupied()?;
    // On disk before there is anything to remove.
    record.save(state_root)?;
    let group = place.prepare(spec)?.map(|group| group.open()).transpose()?;
    ids::give_streams(&options.stdio, spec.process().as_ref(), spec)?;
    let (parent, child) = channel::pair().map_err(kernel("socketpair"))?;
    let start = if at_once { None } else { Some(listen(state_root, id)?) };
    let mapped = idmap::prepare(spec, options.bundle, &root, options.overlay.as_ref())?;
    let moved = matches!(place, Place::Systemd(_));
    let cloned = Namespaces::of(spec, moved).clone(spec, group.as_ref().map(AsFd::as_fd))?;
    let Clone::Parent { pid, pidfd } = cloned else {
        drop((parent, group));
        let waits = moved || needs_parent(spec);
        let init = Init {
            id,
            spec,
            annotations: &record.annotations,
            bundle: options.bundle,
            root: &root,
            overlay: options.overlay.as_ref(),
            stdio: Some(options.stdio),
            start,
            channel: child,
            preserve_fds: options.preserve_fds,
            new_keyring: options.new_keyring,
            filter,
            mapped,
            find_program: options.find_program,
            waits,
            moved,
        };
        std::process::exit(i32::from(init::run(init)));
    };
    drop((child, start, mapped));
    record.pid = pid;
    // While the first process sets itself up.
    let kept = record.save_config(state_root, text);
    match kept.and_then(|()| bring_up(&mut record, state_root, spec, place, &parent, at_once)) {
        Ok(terminal) => Ok(Created { pid, pidfd, terminal }),
        Err(err) => {
            super::end_child(&pidfd);
            Err(err)
        }
    }
}

/// Whether the child has to wait for this process before it sets itself up.
fn needs_parent(spec: &Spec) -> bool {
    let hooks = spec.hooks().as_ref();
    let has = |list: Option<&Vec<runtime_spec::oci::Hook>>| list.is_some_and(|list| !list.is_empty());
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    has_new_namespace(spec, LinuxNamespaceType::User)
        || devices.is_some_and(|devices| !devices.is_empty())
        || has(hooks.and_then(|hooks| prestart(hooks)))
        || has(hooks.and_then(|hooks| hooks.create_runtime().as_ref()))
}

/// The parent's part while the first process sets itself up; gives the terminal's master if there is one.
fn bring_up(
    record: &mut Record,
    state_root: &Path,
    spec: &Spec,
    place: &Place,
    channel: &Channel,
    at_once: bool,
) -> Result<Option<OwnedFd>, ContainerError> {
    record.started_ticks = start_ticks(record.pid).unwrap_or(0);
    if has_new_namespace(spec, LinuxNamespaceType::User) {
        ids::map(record.pid, spec)?;
        if let Some(process) = spec.process() {
            init::identity::raise_limits(record.pid, process);
        }
    }
    place.join(record, spec)?;
    net_devices::give(record.pid, spec)?;
    let hooks = spec.hooks().as_ref();
    let state = record.oci(Status::Creating);
    hooks::run("prestart", hooks.and_then(|hooks| prestart(hooks)), &state)?;
    hooks::run("createRuntime", hooks.and_then(|hooks| hooks.create_runtime().as_ref()), &state)?;
    let first = "the container's first process";
    if matches!(place, Place::Systemd(_)) || needs_parent(spec) {
        channel.go().map_err(kernel(first))?;
    }
    if at_once {
        // It need not wait for us to hear of it; without us it would end, not go on. One that has ended has said why.
        record.save(state_root)?;
        match channel.go() {
            Err(err) if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&err.kind()) => {
            }
            told => told.map_err(kernel(first))?,
        }
    }
    let mut terminal = None;
    loop {
        match channel.receive().map_err(kernel(format!("{first} died before it was set up")))? {
            (FromInit::Terminal, master) => terminal = master,
            (FromInit::Failed { code, message }, _) => return Err(ContainerError::Init { code, message }),
            (FromInit::Ready | FromInit::Born | FromInit::Mounted, _) => break,
        }
    }
    if record.started_ticks == 0 {
        // It would pass for one that has ended.
        return Err(kernel(format!("read when process {} started", record.pid))(
            io::ErrorKind::NotFound.into(),
        ));
    }
    // From here on it is a container: `exec` finds it inside its root, and without us it goes on.
    record.ready = true;
    record.save(state_root)?;
    if !at_once {
        channel.go().map_err(kernel(first))?;
        return Ok(terminal);
    }
    match channel.receive() {
        Ok((FromInit::Failed { code, message }, _)) => return Err(ContainerError::Init { code, message }),
        // exec has closed the other end.
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {}
        other => drop(other.map_err(kernel(first))?),
    }
    record.run_poststart()?;
    Ok(terminal)
}

#[allow(deprecated, reason = "config.json files still have it")]
fn prestart(hooks: &runtime_spec::oci::Hooks) -> Option<&Vec<runtime_spec::oci::Hook>> {
    hooks.prestart().as_ref()
}

/// The socket that `start` connects to.
fn listen(state_root: &Path, id: &ContainerId) -> Result<UnixListener, ContainerError> {
    Record::with_start_socket(state_root, id, |path| UnixListener::bind(path))
        .map_err(io_error("listen on", Record::start_socket(state_root, id)))
}
