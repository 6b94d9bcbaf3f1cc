//! Where a container's processes are born: in new namespaces by flags, in others by path.

use super::{ContainerError, io_error, kernel};
use crate::{
    host,
    init::{
        self, InitError,
        channel::{self, FromInit},
    },
};
use nix::{
    sched::{CloneFlags, setns},
    sys::wait::{Id, WaitPidFlag, waitid},
};
use runtime_spec::{
    SpecError,
    oci::{LinuxNamespaceType, Spec},
};
use runtime_sys::process::{Clone, clone3, clone3_sibling, fork};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

/// New namespaces by flags, and those to join by path.
pub struct Namespaces {
    /// Those that the clone makes.
    new: i32,
    join: Vec<(CloneFlags, PathBuf)>,
    /// Whether the user namespace is joined by path.
    joins_users: bool,
}

/// Namespaces to go back to; the creating process may live on.
struct Back(Vec<(CloneFlags, File)>);

impl Namespaces {
    /// Those of config.json, but a new time namespace, and with `moved` a new cgroup namespace: these the child makes itself, when the clocks are
    /// set and when it is where its cgroup is.
    pub fn of(spec: &Spec, moved: bool) -> Self {
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let mut namespaces = Self { new: 0, join: Vec::new(), joins_users: false };
        for namespace in listed.into_iter().flatten() {
            let flag = flag(namespace.typ());
            match (namespace.path(), namespace.typ()) {
                (Some(path), kind) => {
                    namespaces.joins_users |= kind == LinuxNamespaceType::User;
                    namespaces.join.push((flag, path.clone()));
                }
                (None, LinuxNamespaceType::Time) => {}
                (None, LinuxNamespaceType::Cgroup) if moved => {}
                (None, _) => namespaces.new |= flag.bits(),
            }
        }
        // What belongs to a user namespace can be joined from inside it only.
        namespaces.join.sort_by_key(|(flag, _)| *flag != CloneFlags::CLONE_NEWUSER);
        namespaces
    }

    /// Makes the child, a child of this process, in all of them and in `cgroup`.
    pub fn clone(&self, spec: &Spec, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone, ContainerError> {
        let mut join = Vec::new();
        for (flag, path) in &self.join {
            join.push((*flag, path, File::open(path).map_err(io_error("open", path))?));
        }
        let enter = || -> Result<(), ContainerError> {
            join.iter().try_for_each(|(flag, path, namespace)| {
                setns(namespace, *flag)
                    .map_err(|err| io_error("join the namespace", path.as_path())(err.into()))
            })
        };
        if self.join.is_empty() {
            return self.plainly(cgroup);
        }
        // Only the host's root can go back to the host's namespaces.
        if self.joins_users || !host::is_root() {
            return inside(
                || {
                    if let Some(process) = spec.process() {
                        // Lowered with the host's rights only.
                        init::identity::oom_score(process).map_err(InitError::from)?;
                    }
                    enter()?;
                    // Whoever is in that namespace already may be hostile. An ordinary user's process hides when it has set what it sets in procfs.
                    if self.joins_users && host::is_root() { Ok(init::hide()?) } else { Ok(()) }
                },
                self.new,
                cgroup,
            );
        }
        let back = Back::to(self.join.iter().map(|(flag, _)| *flag))?;
        let cloned = enter().and_then(|()| self.plainly(cgroup));
        if !matches!(cloned, Ok(Clone::Child)) {
            back.restore()?;
        }
        cloned
    }

    fn plainly(&self, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone, ContainerError> {
        clone3(self.new, cgroup).map_err(kernel(format!("clone3 with namespaces {:#x}", self.new)))
    }
}

/// Refuses sysctls of a namespace that is joined by path and turns out to be this process's own, which is the host's.
pub fn expect_foreign_sysctls(spec: &Spec) -> Result<(), ContainerError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let kind = runtime_spec::sysctl::namespace(name);
        let listed = linux.namespaces().iter().flatten().find(|listed| Some(listed.typ()) == kind);
        let Some((kind, path)) = kind.zip(listed.and_then(|listed| listed.path().as_ref())) else { continue };
        let file = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
        let own = own_namespace(flag(kind));
        if file(path).map_err(io_error("open", path))? == file(&own).map_err(io_error("open", &own))? {
            let why = format!("{name:?} would be set for the host, whose {kind} namespace is joined");
            return Err(SpecError::Field { field: "linux.sysctl".to_owned(), why }.into());
        }
    }
    Ok(())
}

/// Makes a child of this process from inside namespaces that this process could not leave again: a process between enters them and makes its sibling.
pub fn inside(
    enter: impl FnOnce() -> Result<(), ContainerError>,
    new: i32,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Clone, ContainerError> {
    let (ours, theirs) = channel::pair().map_err(kernel("socketpair"))?;
    let Clone::Parent { pidfd: between, .. } = fork().map_err(kernel("fork"))? else {
        drop(ours);
        let born = enter().and_then(|()| {
            clone3_sibling(new, cgroup).map_err(kernel(format!("clone3 with namespaces {new:#x}")))
        });
        let said = match born {
            Ok(Clone::Child) => return Ok(Clone::Child),
            Ok(Clone::Parent { pidfd, .. }) => theirs.send_born(&pidfd),
            Err(err) => theirs.send(&FromInit::Failed { code: 1, message: super::chain(&err) }),
        };
        std::process::exit(i32::from(said.is_err()));
    };
    drop(theirs);
    let born = ours.receive();
    let _ = waitid(Id::PIDFd(between.as_fd()), WaitPidFlag::WEXITED);
    match born.map_err(kernel("the process between died"))? {
        (FromInit::Born, Some(pidfd)) => Ok(Clone::Parent { pid: pid_of(&pidfd)?, pidfd }),
        (FromInit::Failed { code, message }, _) => Err(ContainerError::Init { code, message }),
        _ => Err(kernel("the process between")(io::ErrorKind::InvalidData.into())),
    }
}

/// The process's pid here, which is not what the process between is told where that is in another pid namespace; proc_pid_fdinfo(5).
fn pid_of(pidfd: &OwnedFd) -> Result<i32, ContainerError> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| io_error("find a pid in", path)(io::ErrorKind::InvalidData.into()))
}

impl Back {
    fn to(flags: impl Iterator<Item = CloneFlags>) -> Result<Self, ContainerError> {
        let open = |flag| {
            let own = own_namespace(flag);
            Ok((flag, File::open(&own).map_err(io_error("open", own))?))
        };
        flags.map(open).collect::<Result<_, ContainerError>>().map(Self)
    }

    fn restore(self) -> Result<(), ContainerError> {
        for (flag, namespace) in self.0 {
            setns(&namespace, flag).map_err(|err| kernel("go back to the own namespace")(err.into()))?;
        }
        Ok(())
    }
}

/// The kind's `CLONE_NEW*` flag.
fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    CloneFlags::from_bits_retain(kind as i32)
}

fn own_namespace(flag: CloneFlags) -> PathBuf {
    let name = match flag {
        CloneFlags::CLONE_NEWNS => "mnt",
        CloneFlags::CLONE_NEWCGROUP => "cgroup",
        CloneFlags::CLONE_NEWUTS => "uts",
        CloneFlags::CLONE_NEWIPC => "ipc",
        CloneFlags::CLONE_NEWPID => "pid_for_children",
        CloneFlags::CLONE_NEWUSER => "user",
        CloneFlags::CLONE_NEWNET => "net",
        _ => "time",
    };
    Path::new("/proc/self/ns").join(name)
}
