//! The id maps of a user namespace; user_namespaces(7), newuidmap(1).

use super::{ContainerError, io_error, kernel};
use crate::init::channel;
use nix::unistd::{getgid, getuid};
use runtime_spec::oci::{LinuxIdMapping, Spec};
use runtime_sys::process::{Clone, clone3};
use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Command,
};

/// Writes the maps of config.json for the user namespace of `pid`.
pub fn map(pid: i32, spec: &Spec) -> Result<(), ContainerError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let listed = |list: &Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    write(pid, &listed(linux.uid_mappings()), &listed(linux.gid_mappings()))
}

/// A user namespace that nobody is in, with these maps; for idmapped mounts.
pub fn namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd, ContainerError> {
    let (ours, theirs) = channel::pair().map_err(kernel("socketpair"))?;
    match clone3(libc::CLONE_NEWUSER, None).map_err(kernel("clone3 with a user namespace"))? {
        Clone::Child => {
            drop(ours);
            // Ends with this process's parent, should that one die before it has killed it.
            let _ = theirs.wait_go();
            std::process::exit(0)
        }
        Clone::Parent { pid, pidfd } => {
            drop(theirs);
            let path = PathBuf::from(format!("/proc/{pid}/ns/user"));
            let opened =
                write(pid, uids, gids).and_then(|()| File::open(&path).map_err(io_error("open", path)));
            // It ends by this alone, should it not be killed.
            drop(ours);
            super::end_child(&pidfd);
            opened.map(OwnedFd::from)
        }
    }
}

fn write(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), ContainerError> {
    if !getuid().is_root() {
        return write_as_user(pid, uids, gids);
    }
    for (file, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let path = PathBuf::from(format!("/proc/{pid}/{file}"));
        if !mappings.is_empty() {
            let text: String = mappings.iter().map(|mapping| format!("{}\n", line(mapping))).collect();
            fs::write(&path, text).map_err(io_error("write", path))?;
        }
    }
    Ok(())
}

/// An ordinary user may map only itself; for more, setuid programs look into /etc/subuid and /etc/subgid.
fn write_as_user(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), ContainerError> {
    let only = |mappings: &[LinuxIdMapping], own: u32| matches!(mappings, [one] if one.size() == 1 && one.host_id() == own);
    let proc = PathBuf::from(format!("/proc/{pid}"));
    if only(uids, getuid().as_raw()) && only(gids, getgid().as_raw()) {
        for (file, text) in
            [("setgroups", "deny".to_owned()), ("uid_map", line(&uids[0])), ("gid_map", line(&gids[0]))]
        {
            let path = proc.join(file);
            fs::write(&path, text).map_err(io_error("write", path))?;
        }
        return Ok(());
    }
    for (program, mappings) in [("newuidmap", uids), ("newgidmap", gids)] {
        let mut command = Command::new(program);
        command.arg(pid.to_string());
        for mapping in mappings {
            command.args(line(mapping).split(' '));
        }
        let output = command.output().map_err(|err| {
            let hint =
                io::Error::new(err.kind(), format!("{err} (an ordinary user needs it to map several ids)"));
            kernel(format!("run {program}"))(hint)
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(kernel("map the ids of linux.uidMappings and gidMappings")(io::Error::other(said)));
        }
    }
    Ok(())
}

fn line(mapping: &LinuxIdMapping) -> String {
    format!("{} {} {}", mapping.container_id(), mapping.host_id(), mapping.size())
}
