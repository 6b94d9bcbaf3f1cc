//! What can be done with a container that exists.

use super::{ContainerError, Record, View, chain, io_error, kernel};
use crate::{
    cgroup::{Cgroup, Scope, limits},
    clock,
    warnings::warn,
};
use runtime_spec::{ContainerId, Status, oci::LinuxResources};
use runtime_sys::process::{pidfd_open, pidfd_send_signal};
use std::{
    fs, io,
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

/// Numbers of signals, real-time ones too; signal(7).
pub const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;
/// How long a killed first process may take to end.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Runs the program of a created container; returns when exec has succeeded, or with its error (126, 127).
pub fn start(state_root: &Path, id: &ContainerId) -> Result<(), ContainerError> {
    let record = expect(state_root, id, "start", |status| status == Status::Created)?;
    let mut init = Record::with_start_socket(state_root, id, |path| UnixStream::connect(path))
        .map_err(kernel("the container's first process does not answer"))?;
    // From here on it is started, whatever becomes of us.
    let socket = Record::start_socket(state_root, id);
    fs::remove_file(&socket).map_err(io_error("remove", socket))?;
    let mut answer = Vec::new();
    init.read_to_end(&mut answer).map_err(kernel("the container's first process"))?;
    if let Some((&code, message)) = answer.split_first() {
        return Err(ContainerError::Init { code, message: String::from_utf8_lossy(message).into_owned() });
    }
    Ok(record.run_poststart()?)
}

/// Sends a signal, by its number, to the first process, or with `all` to every process; a stopped container is an error unless `all`.
///
/// SIGKILL is for all of them also where the end of the first one is not the end of the others, as it is in a pid namespace of its own.
pub fn signal(state_root: &Path, id: &ContainerId, signal: i32, all: bool) -> Result<(), ContainerError> {
    let running = |status| matches!(status, Status::Created | Status::Running | Status::Paused);
    let record = if all { Record::load(state_root, id)? } else { expect(state_root, id, "signal", running)? };
    let everyone = all || signal == libc::SIGKILL && !leads_namespace(record.pid);
    if everyone && signal == libc::SIGKILL && !record.cgroup.as_os_str().is_empty() {
        return Ok(Cgroup::at(&record.cgroup).kill()?);
    }
    if all {
        for pid in record.processes() {
            // One that has just ended needs no signal, and whoever has its pid now is none of ours.
            let Ok(pidfd) = pidfd_open(pid) else { continue };
            if record.processes().contains(&pid) {
                let _ = pidfd_send_signal(pidfd.as_fd(), signal);
            }
        }
        return Ok(());
    }
    let pidfd = pidfd_open(record.pid).map_err(kernel(format!("pidfd_open {}", record.pid)))?;
    // The descriptor is of the right process if that one still is after it was opened.
    expect(state_root, id, "signal", running)?;
    pidfd_send_signal(pidfd.as_fd(), signal).map_err(kernel(format!("send signal {signal}")))
}

/// Whether the process is the first of a pid namespace, whose end ends all in it; proc_pid_status(5) `NSpid`.
fn leads_namespace(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    pids.split_whitespace().next_back() == Some("1")
}

/// Removes a container whose program does not run, or with `force` any: processes, cgroup, then what is on disk. With `force`, absent is success.
///
/// One that was created and never started counts as one that does not run, as under runc: only its first process waits.
pub fn delete(state_root: &Path, id: &ContainerId, force: bool) -> Result<(), ContainerError> {
    let record = match Record::load(state_root, id) {
        Err(ContainerError::Absent { .. }) if force => return Ok(()),
        record => record?,
    };
    let status = record.status(state_root);
    if !force && !matches!(status, Status::Stopped | Status::Creating | Status::Created) {
        return Err(ContainerError::WrongState { what: "delete", id: id.clone(), status });
    }
    if status != Status::Stopped && record.pid != 0 {
        stop(&record, state_root)?;
    }
    if let Some(unit) = record.unit().filter(|_| record.cgroup.is_dir()) {
        Cgroup::at(&record.cgroup).kill()?;
        // One that has ended by itself is not loaded any more; whatever else, the cgroup goes below.
        let _ = Scope::stop(unit);
    }
    if !record.cgroup.as_os_str().is_empty() {
        Cgroup::at(&record.cgroup).remove()?;
    }
    record.run_poststop();
    let dir = Record::dir(state_root, id);
    match fs::remove_dir_all(&dir) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io_error("remove", dir)(err)),
        _ => Ok(()),
    }
}

/// Kills the first process by descriptor and waits for its end.
fn stop(record: &Record, state_root: &Path) -> Result<(), ContainerError> {
    let cgroup = Cgroup::at(&record.cgroup);
    if !record.cgroup.as_os_str().is_empty() && cgroup.frozen() {
        cgroup.freeze(false)?;
    }
    if let Ok(pidfd) = pidfd_open(record.pid)
        && record.status(state_root) != Status::Stopped
    {
        match pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
            Err(err) if err.raw_os_error() != Some(libc::ESRCH) => return Err(kernel("send SIGKILL")(err)),
            _ => {}
        }
    }
    if clock::retry(STOP_WAIT, || record.status(state_root) == Status::Stopped) {
        return Ok(());
    }
    let why = io::Error::new(
        io::ErrorKind::TimedOut,
        "it does not end, not even by SIGKILL; it may wait for a device",
    );
    Err(kernel(format!("kill process {}", record.pid))(why))
}

/// The container and its status now.
pub fn state(state_root: &Path, id: &ContainerId) -> Result<View, ContainerError> {
    let record = Record::load(state_root, id)?;
    let status = record.status(state_root);
    Ok(View { record, status })
}

/// Every container below `state_root`, by id.
pub fn list(state_root: &Path) -> Result<Vec<View>, ContainerError> {
    let entries = match fs::read_dir(state_root) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", state_root))?,
    };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<ContainerId>().ok());
    let read = |id: ContainerId| match state(state_root, &id) {
        Ok(view) => Some(view),
        // Deleted meanwhile.
        Err(ContainerError::Absent { .. }) => None,
        Err(err) => {
            warn(&format!("container {id} is not listed: {}", chain(&err)));
            None
        }
    };
    let mut views: Vec<View> = names.filter_map(read).collect();
    views.sort_by(|a, b| a.record.id.cmp(&b.record.id));
    Ok(views)
}

/// Freezes every process of a running container.
pub fn pause(state_root: &Path, id: &ContainerId) -> Result<(), ContainerError> {
    let record =
        expect(state_root, id, "pause", |status| matches!(status, Status::Running | Status::Created))?;
    Ok(own_cgroup(&record, "pause")?.freeze(true)?)
}

pub fn resume(state_root: &Path, id: &ContainerId) -> Result<(), ContainerError> {
    let record = expect(state_root, id, "resume", |status| status == Status::Paused)?;
    Ok(own_cgroup(&record, "resume")?.freeze(false)?)
}

/// Changes the limits of a container that has not ended; what `resources` does not name stays.
pub fn update(state_root: &Path, id: &ContainerId, resources: &LinuxResources) -> Result<(), ContainerError> {
    let record = expect(state_root, id, "update", |status| status != Status::Stopped)?;
    let group = own_cgroup(&record, "update")?;
    let resources = group.complete(resources);
    group.limit(&resources)?;
    record.unit().map_or(Ok(()), |unit| Ok(Scope::update(unit, &limits::properties(&resources)?)?))
}

fn own_cgroup(record: &Record, what: &'static str) -> Result<Cgroup, ContainerError> {
    if record.cgroup.as_os_str().is_empty() {
        return Err(ContainerError::NoCgroup { what, id: record.id.clone() });
    }
    Ok(Cgroup::at(&record.cgroup))
}

fn expect(
    state_root: &Path,
    id: &ContainerId,
    what: &'static str,
    allowed: impl Fn(Status) -> bool,
) -> Result<Record, ContainerError> {
    let record = Record::load(state_root, id)?;
    let status = record.status(state_root);
    if allowed(status) {
        Ok(record)
    } else {
        Err(ContainerError::WrongState { what, id: id.clone(), status })
    }
}
