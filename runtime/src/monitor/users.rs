//! A pod in a user namespace of its own: its other namespaces belong to it, and no process of the pod is a user of the host.
//!
//! The monitor itself stays the host's root, for what only that may do (cgroups, shifted mounts), and joins all of the pod's namespaces but this one.
//! user_namespaces(7), "Interaction of user namespaces and other types of namespaces".

use super::{
    kernel,
    sandbox::{leave_the_host, name_and_set, reap_forever},
};
use crate::{
    container::{ContainerError, chain, end_child, ids},
    init::{
        self, InitError,
        channel::{self, Channel, FromInit},
    },
};
use nix::sched::{CloneFlags, setns};
use runtime_protocol::{Ids, Sandbox, USERS_FILE};
use runtime_sys::process::{Clone, clone3};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

const FIRST: &str = "the first process of the pod's user namespace";

/// Makes the pod's namespaces, `new` and one of pids where they are shared, in a user namespace with these ids; joins all but that one, which lasts
/// as long as what is returned.
pub fn enter(sandbox: &Sandbox, ids: Ids, new: CloneFlags) -> Result<OwnedFd, ContainerError> {
    let others = if sandbox.share_pid { new | CloneFlags::CLONE_NEWPID } else { new };
    let all = others | CloneFlags::CLONE_NEWUSER;
    let (ours, theirs) = channel::pair().map_err(kernel("socketpair"))?;
    match clone3(all.bits(), None).map_err(kernel("clone3 with a user namespace"))? {
        Clone::Child => {
            drop(ours);
            inside(sandbox, new, theirs)
        }
        Clone::Parent { pid, pidfd } => {
            drop(theirs);
            let entered = bring_up(pid, ids, &ours).and_then(|users| {
                setns(&pidfd, others).map_err(|err| kernel("join the pod's namespaces")(err.into()))?;
                ours.go().map_err(kernel(FIRST))?;
                Ok(users)
            });
            // Where pids are shared it is the first of them, which the others end with.
            if entered.is_err() || !sandbox.share_pid {
                end_child(&pidfd);
            }
            entered
        }
    }
}

fn bring_up(pid: i32, ids: Ids, channel: &Channel) -> Result<OwnedFd, ContainerError> {
    let map = ids::range(ids.host, ids.count);
    ids::write(pid, &map, &map)?;
    channel.go().map_err(kernel(FIRST))?;
    if let (FromInit::Failed { code, message }, _) = channel.receive().map_err(kernel(FIRST))? {
        return Err(ContainerError::Init { code, message });
    }
    let path = PathBuf::from(format!("/proc/{pid}/ns/user"));
    File::open(&path).map(OwnedFd::from).map_err(super::io_error("open", path))
}

/// In the namespaces: what belongs to them is set by their own root, whom some of it belongs to.
fn inside(sandbox: &Sandbox, new: CloneFlags, channel: Channel) -> ! {
    let set = || -> Result<(), ContainerError> {
        channel.wait_go().map_err(kernel("wait for the monitor"))?;
        init::identity::become_root().map_err(InitError::from)?;
        // It has the host's files in reach, which root of this namespace must not get at through it.
        init::hide()?;
        name_and_set(sandbox, new)?;
        if sandbox.share_pid { leave_the_host() } else { Ok(()) }
    };
    let said = match set() {
        Ok(()) => channel.send(&FromInit::Ready),
        Err(err) => channel.send(&FromInit::Failed { code: 1, message: chain(&err) }),
    };
    if said.is_err() || !sandbox.share_pid {
        // The monitor joins what this process holds, and then ends it.
        let _ = channel.wait_go();
        std::process::exit(i32::from(said.is_err()));
    }
    reap_forever(channel)
}

/// Puts the link to the pod's user namespace into its directory.
pub fn link(users: &OwnedFd, dir: &Path) -> Result<(), ContainerError> {
    let (path, leads_to) =
        (dir.join(USERS_FILE), format!("/proc/{}/fd/{}", std::process::id(), users.as_raw_fd()));
    match fs::remove_file(&path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            return Err(super::io_error("remove", path)(err));
        }
        _ => {}
    }
    symlink(leads_to, &path).map_err(super::io_error("link", path))
}
