//! The id maps of a user namespace; user_namespaces(7), newuidmap(1).

use super::{ContainerError, Stdio, io_error, kernel};
use crate::{host, init::channel};
use nix::{
    sys::stat::fstat,
    unistd::{Uid, fchown, getgid, getuid},
};
use runtime_spec::oci::{LinuxIdMapping, LinuxIdMappingBuilder, Process, Spec};
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

/// Ids `host..host + count` of the host as `0..count`.
pub fn range(host: u32, count: u32) -> Vec<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default().container_id(0u32).host_id(host).size(count).build();
    vec![mapping.expect("every field is given")]
}

/// Gives the pipes that are to be the process's standard streams to its user, who may otherwise not open them again as `/dev/stdout`.
pub fn give_streams(stdio: &Stdio, process: Option<&Process>, spec: &Spec) -> Result<(), ContainerError> {
    let (Stdio::Pipes { stdin, stdout, stderr }, Some(process), true) = (stdio, process, host::is_root())
    else {
        return Ok(());
    };
    let listed = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_ref());
    let uid = process.user().uid();
    let mapped = listed.filter(|list| !list.is_empty()).map_or(Some(uid), |list| {
        list.iter().find_map(|part| {
            let above = uid.checked_sub(part.container_id()).filter(|above| *above < part.size())?;
            Some(part.host_id() + above)
        })
    });
    let Some(uid) = mapped else { return Ok(()) };
    for stream in [stdin, stdout, stderr] {
        let is_pipe = fstat(stream).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO);
        if is_pipe {
            fchown(stream, Some(Uid::from_raw(uid)), None)
                .map_err(|err| kernel("give the standard streams to the process's user")(err.into()))?;
        }
    }
    Ok(())
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

/// Writes these maps for the user namespace of `pid`.
pub fn write(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), ContainerError> {
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
