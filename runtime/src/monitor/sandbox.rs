//! What the containers of a pod share: namespaces, host name, sysctls, a cgroup.

use super::{kernel, users};
use crate::{
    cgroup::Cgroup,
    container::{ContainerError, chain, end_child},
    init::{
        InitError,
        channel::{self, Channel, FromInit},
    },
    mounts,
    procfs::Procfs,
};
use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        stat::Mode,
    },
};
use runtime_protocol::{Limits, Sandbox};
use runtime_spec::sysctl;
use runtime_sys::{
    mount::new_filesystem,
    process::{Clone, clone3, close_all_but},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// The cgroup that all monitors are in, beside those of their pods; to be born into, as moving a process takes the kernel many milliseconds.
pub fn monitors(sandbox: &Sandbox) -> Result<OwnedFd, ContainerError> {
    let parent = sandbox
        .cgroup
        .parent()
        .ok_or_else(|| kernel("sandbox.cgroup has no parent")(std::io::ErrorKind::InvalidInput.into()))?;
    Ok(Cgroup::create(&parent.join("monitors"))?.open()?)
}

/// Leaves the host's namespaces for new ones and makes the pod's cgroup; gives the pod's user namespace, where it has one. Idempotent but for the
/// namespaces, of which a new process has none.
pub fn enter(sandbox: &Sandbox) -> Result<Option<OwnedFd>, ContainerError> {
    let group = Cgroup::create(&sandbox.cgroup)?;
    if let Some(limits) = &sandbox.limits {
        limit(&group, limits)?;
    }
    let mut new = CloneFlags::empty();
    if !sandbox.host_network {
        new |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if !sandbox.host_ipc {
        new |= CloneFlags::CLONE_NEWIPC;
    }
    if let Some(ids) = sandbox.users {
        return users::enter(sandbox, ids, new).map(Some);
    }
    unshare(new).map_err(|err| kernel("unshare the pod's namespaces")(err.into()))?;
    name_and_set(sandbox, new)?;
    if sandbox.share_pid {
        shared_pids()?;
    }
    Ok(None)
}

/// Gives the `new` namespaces, which this process is in, their host name and sysctls.
pub fn name_and_set(sandbox: &Sandbox, new: CloneFlags) -> Result<(), ContainerError> {
    if !sandbox.host_network {
        nix::unistd::sethostname(&sandbox.hostname)
            .map_err(|err| kernel(format!("set hostname {:?}", sandbox.hostname))(err.into()))?;
        runtime_sys::net::loopback_up().map_err(kernel("switch lo on"))?;
    }
    sandbox.sysctls.iter().try_for_each(|(name, value)| set_sysctl(name, value, new))
}

/// Sets what belongs to one of the `new` namespaces.
fn set_sysctl(name: &str, value: &str, new: CloneFlags) -> Result<(), ContainerError> {
    let flag = sysctl::namespace(name).map(|kind| CloneFlags::from_bits_retain(kind as i32));
    if !flag.is_some_and(|flag| new.contains(flag)) {
        let why = "it is not of a namespace that the pod has for itself";
        return Err(kernel(format!("set sysctl {name}"))(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    let path = format!("sys/{}", sysctl::path(name));
    Procfs::open()
        .and_then(|proc| proc.write(&path, value))
        .map_err(kernel(format!("set sysctl {name} to {value:?}")))
}

fn limit(group: &Cgroup, limits: &Limits) -> Result<(), ContainerError> {
    let values = [
        ("cpu.weight", limits.cpu_weight),
        ("memory.max", limits.memory_max),
        ("memory.low", limits.memory_low),
        ("pids.max", limits.pids_max),
    ];
    for (file, value) in values {
        if let Some(value) = value {
            group.set(file, &value.to_string())?;
        }
    }
    if let Some((quota_us, period_us)) = limits.cpu_max {
        group.set("cpu.max", &format!("{quota_us} {period_us}"))?;
    }
    Ok(())
}

/// Makes a pid namespace whose init does nothing but reap, and has every later child be born there.
fn shared_pids() -> Result<(), ContainerError> {
    let (ours, theirs) = channel::pair().map_err(kernel("socketpair"))?;
    match clone3(libc::CLONE_NEWPID, None).map_err(kernel("clone3 with a pid namespace"))? {
        Clone::Parent { pidfd, .. } => {
            drop(theirs);
            let first = "the first process of the pod's pids";
            if let (FromInit::Failed { code, message }, _) = ours.receive().map_err(kernel(first))? {
                end_child(&pidfd);
                return Err(ContainerError::Init { code, message });
            }
            ours.go().map_err(kernel(first))?;
            setns(&pidfd, CloneFlags::CLONE_NEWPID)
                .map_err(|err| kernel("join the pod's pid namespace")(err.into()))
        }
        Clone::Child => {
            drop(ours);
            let said = match leave_the_host() {
                Ok(()) => theirs.send(&FromInit::Ready),
                Err(err) => theirs.send(&FromInit::Failed { code: 1, message: chain(&err) }),
            };
            if said.is_err() {
                std::process::exit(1);
            }
            reap_forever(theirs)
        }
    }
}

/// Takes this process, which is to be in a pod's pids, to an empty root of its own: who may trace there would be in the host's through
/// /proc/1/root.
pub fn leave_the_host() -> Result<(), ContainerError> {
    let failed = || kernel("leave the host's root");
    unshare(CloneFlags::CLONE_NEWNS).map_err(|err| failed()(err.into()))?;
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
        .map_err(|err| failed()(err.into()))?;
    let empty = new_filesystem("tmpfs", &[("size", Some("4k"))], 0).map_err(failed())?;
    // Any directory will do that is always there.
    let at = open("/proc", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|err| failed()(err.into()))?;
    let root = empty.attach(at.as_fd()).map_err(failed())?;
    Ok(mounts::pivot(&root).map_err(InitError::from)?)
}

/// The first process of the pod's pids, once the monitor lets it go on.
pub fn reap_forever(channel: Channel) -> ! {
    // With its parent gone there is no pod any more; it may be gone already.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if channel.wait_go().is_err() {
        std::process::exit(1);
    }
    // Whoever waits for the end of the monitor's output, or for its lock, waits for the monitor alone; and the pod gets at none of it here.
    let _ = close_all_but(0, &[]);
    std::mem::forget(channel);
    let mut child = SigSet::empty();
    child.add(Signal::SIGCHLD);
    let _ = child.thread_block();
    loop {
        while nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status != nix::sys::wait::WaitStatus::StillAlive)
        {}
        let _ = child.wait();
    }
}
