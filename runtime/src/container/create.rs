//! Making a container: everything up to, but not, its program.

use super::{ContainerError, Created, Record, Stdio, io_error, kernel, record::start_ticks};
use crate::{
    cgroup::Cgroup,
    clock, device_rules, hooks,
    init::{
        self, Init,
        channel::{self, Channel, FromInit},
        has_namespace,
    },
    mounts::Overlay,
    seccomp,
};
use nix::sched::{CloneFlags, setns};
use runtime_spec::{
    ContainerId, Status,
    oci::{LinuxIdMapping, LinuxNamespaceType, Spec},
};
use runtime_sys::process::{Clone, clone3};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
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
    /// A session keyring of its own, instead of this process's.
    pub new_keyring: bool,
}

/// Creates a container; its first process waits for [`super::start`]. On an error nothing is left.
///
/// This process becomes the parent of the container's first process, and must have no other thread. Net, ipc and uts namespaces that config.json
/// does not list are this process's own.
pub fn create(options: CreateOptions<'_>) -> Result<Created, ContainerError> {
    let spec = runtime_spec::load(options.bundle)?;
    // What cannot be compiled is known before anything is made.
    if let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        seccomp::compile(profile).map_err(init::InitError::from)?;
    }
    let (id, state_root) = (options.id, options.state_root);
    let dir = Record::dir(state_root, id);
    fs::create_dir_all(state_root).map_err(io_error("create", state_root))?;
    match fs::create_dir(&dir) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {
            return Err(ContainerError::Exists { id: id.clone() });
        }
        made => made.map_err(io_error("create", &dir))?,
    }
    let created = create_in(options, &spec);
    if created.is_err() {
        // The error that made us give up says more than one of clearing up; `delete` can try again.
        let _ = super::delete(state_root, id, true);
    }
    created
}

fn create_in(options: CreateOptions<'_>, spec: &Spec) -> Result<Created, ContainerError> {
    let (id, state_root) = (options.id, options.state_root);
    let linux = spec.linux().as_ref();
    let path = linux
        .and_then(|linux| linux.cgroups_path().clone())
        .unwrap_or_else(|| Path::new("wherry-runtime").join(id.as_ref()));
    let mut record = Record {
        id: id.clone(),
        bundle: options.bundle.to_path_buf(),
        pid: 0,
        started_ticks: 0,
        cgroup: absolute_cgroup(&path)?,
        created_ns: clock::now_ns(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        owner: nix::unistd::getuid().as_raw(),
    };
    record.save(state_root)?;
    let cgroup = Cgroup::create(&path)?;
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    if let Some(resources) = resources {
        cgroup.limit(resources)?;
    }
    device_rules::apply(&cgroup, resources.and_then(|resources| resources.devices().as_deref()))?;
    let (parent, child) = channel::pair().map_err(kernel("socketpair"))?;
    let start = listen(&Record::dir(state_root, id))?;
    let root = spec.root().as_ref().map(|root| options.bundle.join(root.path())).unwrap_or_default();
    let namespaces = Namespaces::of(spec);
    let back = namespaces.join()?;
    let cloned = clone3(namespaces.new, Some(cgroup.open()?.as_fd()));
    if let Ok(Clone::Child) = cloned {
        drop(parent);
        let (overlay, stdio) = (options.overlay.as_ref(), Some(options.stdio));
        let (preserve_fds, new_keyring) = (options.preserve_fds, options.new_keyring);
        let init = Init {
            id,
            spec,
            bundle: options.bundle,
            root: &root,
            overlay,
            stdio,
            start,
            channel: child,
            preserve_fds,
            new_keyring,
        };
        std::process::exit(i32::from(init::run(init)));
    }
    back.restore()?;
    drop((child, start));
    let Clone::Parent { pid, pidfd } =
        cloned.map_err(kernel(format!("clone3 with namespaces {:#x}", namespaces.new)))?
    else {
        return Err(kernel("clone3")(io::ErrorKind::Other.into()));
    };
    record.pid = pid;
    match bring_up(&mut record, state_root, spec, &parent) {
        Ok(terminal) => Ok(Created { pid, pidfd, terminal }),
        Err(err) => {
            super::end_child(&pidfd);
            Err(err)
        }
    }
}

/// The parent's part while the first process sets itself up; gives the terminal's master if there is one.
fn bring_up(
    record: &mut Record,
    state_root: &Path,
    spec: &Spec,
    parent: &Channel,
) -> Result<Option<OwnedFd>, ContainerError> {
    record.started_ticks = start_ticks(record.pid).unwrap_or(0);
    record.save(state_root)?;
    if has_namespace(spec, LinuxNamespaceType::User) {
        map_ids(record.pid, spec)?;
    }
    let hooks = spec.hooks().as_ref();
    let state = record.oci(Status::Creating);
    hooks::run("prestart", hooks.and_then(|hooks| prestart(hooks)), &state)?;
    hooks::run("createRuntime", hooks.and_then(|hooks| hooks.create_runtime().as_ref()), &state)?;
    wait_ready(parent)
}

#[allow(deprecated, reason = "config.json files still have it")]
fn prestart(hooks: &runtime_spec::oci::Hooks) -> Option<&Vec<runtime_spec::oci::Hook>> {
    hooks.prestart().as_ref()
}

/// Lets the child go on and waits until it is set up; gives the terminal's master if there is one.
fn wait_ready(channel: &Channel) -> Result<Option<OwnedFd>, ContainerError> {
    channel.go().map_err(kernel("the container's first process"))?;
    let mut terminal = None;
    loop {
        match channel.receive().map_err(kernel("the container's first process died before it was set up"))? {
            (FromInit::Terminal, master) => terminal = master,
            (FromInit::Ready, _) => return Ok(terminal),
            (FromInit::Failed { code, message }, _) => return Err(ContainerError::Init { code, message }),
        }
    }
}

/// The socket that `start` connects to. Bound through the directory's descriptor: a socket's path may be no longer than 107 bytes.
fn listen(dir: &Path) -> Result<UnixListener, ContainerError> {
    let handle = File::open(dir).map_err(io_error("open", dir))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/start.sock", handle.as_raw_fd()));
    UnixListener::bind(path).map_err(io_error("listen in", dir))
}

fn absolute_cgroup(path: &Path) -> Result<PathBuf, ContainerError> {
    let root = crate::cgroup::mount_point()?;
    let below = path.strip_prefix(&root).unwrap_or(path);
    Ok(root.join(below.strip_prefix("/").unwrap_or(below)))
}

/// New namespaces by flags, and those to join by path.
struct Namespaces {
    new: i32,
    join: Vec<(CloneFlags, PathBuf)>,
}

/// Namespaces to go back to; the creating process may live on.
struct Back(Vec<(CloneFlags, File)>);

impl Namespaces {
    fn of(spec: &Spec) -> Self {
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let mut namespaces = Self { new: 0, join: Vec::new() };
        for namespace in listed.into_iter().flatten() {
            let flag = flag(namespace.typ());
            match namespace.path() {
                Some(path) => namespaces.join.push((flag, path.clone())),
                None => namespaces.new |= flag.bits(),
            }
        }
        namespaces
    }

    /// Joins by path, so that the child is born inside.
    fn join(&self) -> Result<Back, ContainerError> {
        let mut back = Back(Vec::new());
        for (flag, path) in &self.join {
            let own = own_namespace(*flag);
            back.0.push((*flag, File::open(&own).map_err(io_error("open", &own))?));
            let namespace = File::open(path).map_err(io_error("open", path))?;
            if let Err(err) = setns(&namespace, *flag) {
                let failed = io_error("join the namespace", path)(err.into());
                back.restore()?;
                return Err(failed);
            }
        }
        Ok(back)
    }
}

impl Back {
    fn restore(self) -> Result<(), ContainerError> {
        for (flag, namespace) in self.0 {
            setns(&namespace, flag).map_err(|err| kernel("go back to the own namespace")(err.into()))?;
        }
        Ok(())
    }
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    CloneFlags::from_bits_retain(kind as i32)
}

fn own_namespace(flag: CloneFlags) -> PathBuf {
    let name = match flag {
        CloneFlags::CLONE_NEWNS => "mnt",
        CloneFlags::CLONE_NEWCGROUP => "cgroup",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWPID => "pid_for_children",
        _ => "net",
    };
    Path::new("/proc/self/ns").join(name)
}

/// Writes the id maps of the child's user namespace.
fn map_ids(pid: i32, spec: &Spec) -> Result<(), ContainerError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let text = |mappings: &Option<Vec<LinuxIdMapping>>| -> String {
        let line = |mapping: &LinuxIdMapping| {
            format!("{} {} {}\n", mapping.container_id(), mapping.host_id(), mapping.size())
        };
        mappings.iter().flatten().map(line).collect()
    };
    let proc = PathBuf::from(format!("/proc/{pid}"));
    for (file, text) in [("uid_map", text(linux.uid_mappings())), ("gid_map", text(linux.gid_mappings()))] {
        let path = proc.join(file);
        if !text.is_empty() {
            fs::write(&path, text).map_err(io_error("write", path))?;
        }
    }
    Ok(())
}
