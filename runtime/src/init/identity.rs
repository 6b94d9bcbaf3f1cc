//! Who a process is: limits, ids, capabilities, working directory. In an order that is pinned by what the kernel still allows.

use crate::{host, procfs::Procfs, warnings::warn};
use caps::{CapSet, Capability as Cap, CapsHashSet};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag},
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, fchdir, getcwd, setgroups, setresgid, setresuid},
};
use runtime_spec::oci::{Capabilities, PosixRlimit, PosixRlimitType, Process};
use runtime_sys::{
    path::{make_dirs_in_root, open_in_root},
    process::set_limit,
};
use std::{fs, io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("process.rlimits: {kind} soft {soft} hard {hard}{}", hint(source))]
    Rlimit { kind: String, soft: u64, hard: u64, source: Errno },
    #[error("process.oomScoreAdj: {value}")]
    OomScore { value: i32, source: io::Error },
    #[error("process.user: {what}")]
    User { what: String, source: Errno },
    #[error("process.capabilities: {set:?}")]
    Capabilities { set: CapSet, source: caps::errors::CapsError },
    #[error("process.capabilities: bounding: take away capability {number}")]
    Bounding { number: u8, source: io::Error },
    #[error("process.capabilities: ambient {name}")]
    Ambient { name: String, source: io::Error },
    #[error("process.cwd: {}", path.display())]
    Cwd { path: PathBuf, source: io::Error },
    #[error("process.noNewPrivileges")]
    NoNewPrivileges(#[source] Errno),
}

/// The kernel keeps capabilities in 64 bits.
const CAPABILITIES_MAX: u8 = 64;

fn hint(source: &Errno) -> &'static str {
    if *source == Errno::EPERM {
        ": raising a hard limit needs CAP_SYS_RESOURCE, which this host does not give"
    } else {
        ""
    }
}

pub fn limits(process: &Process) -> Result<(), IdentityError> {
    process.rlimits().iter().flatten().try_for_each(rlimit)
}

/// Sets the OOM score, through the host's procfs.
pub fn oom_score(process: &Process) -> Result<(), IdentityError> {
    let Some(value) = process.oom_score_adj() else { return Ok(()) };
    Procfs::open()
        .and_then(|proc| proc.write("self/oom_score_adj", &value.to_string()))
        .map_err(|source| IdentityError::OomScore { value, source })
}

/// Gives a process in a user namespace, where no capability raises a limit, the hard limits that it is to have; from the host, where one does.
pub fn raise_limits(pid: i32, process: &Process) {
    for limit in process.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        let Ok((soft, most)) = getrlimit(resource) else { continue };
        if limit.hard() > most {
            // Where that is refused, the process itself says so, and which.
            let _ = set_limit(pid, resource as u32, soft, limit.hard());
        }
    }
}

fn rlimit(limit: &PosixRlimit) -> Result<(), IdentityError> {
    let resource = resource(limit.typ());
    let (soft, hard) = (limit.soft(), limit.hard());
    let mut set = setrlimit(resource, soft, hard);
    if set == Err(Errno::EPERM)
        && let Some((soft, hard)) = within_own(limit)
    {
        set = setrlimit(resource, soft, hard);
    }
    set.map_err(|source| IdentityError::Rlimit { kind: limit.typ().to_string(), soft, hard, source })
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// What of a limit of locked memory this process has itself, where that is less. Programs ask for more locked memory than they need, so a container
/// has as much as there is rather than none at all. `None`: enough, or another limit.
fn within_own(limit: &PosixRlimit) -> Option<(u64, u64)> {
    if limit.typ() != PosixRlimitType::RlimitMemlock {
        return None;
    }
    let (_, most) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    (limit.hard() > most).then(|| (limit.soft().min(most), most))
}

/// Tells of limits that the process will not have in full. On the host: in a user namespace no capability raises a limit.
pub fn warn_of_limits(process: &Process) {
    for limit in process.rlimits().iter().flatten() {
        let Some((soft, hard)) = within_own(limit) else { continue };
        if host::is_root()
            && caps::has_cap(None, CapSet::Effective, Cap::CAP_SYS_RESOURCE).is_ok_and(|has| has)
        {
            continue;
        }
        let (kind, asked_soft, asked_hard) = (limit.typ(), limit.soft(), limit.hard());
        warn(&format!(
            "process.rlimits: {kind} soft {asked_soft} hard {asked_hard}: it is soft {soft} hard {hard}, \
             as raising a hard limit needs CAP_SYS_RESOURCE, which this host does not give"
        ));
    }
}

/// Tells of capabilities that the process will not have, as this one lacks them (config.md, "Linux Process"). Not where the container has a user
/// namespace, whose root has all of them.
pub fn warn_of_capabilities(process: &Process) {
    let Some(listed) = process.capabilities() else { return };
    let has = |set, capability| caps::has_cap(None, set, capability).unwrap_or(true);
    let asked = |names: &Option<Capabilities>| named(names.as_ref());
    let (permitted, inheritable) = (asked(listed.permitted()), asked(listed.inheritable()));
    let mut missing: Vec<Cap> =
        asked(listed.bounding()).into_iter().filter(|&cap| !has(CapSet::Bounding, cap)).collect();
    let used = permitted.iter().chain(&inheritable).copied().chain(asked(listed.effective()));
    missing.extend(used.filter(|&cap| !has(CapSet::Permitted, cap)));
    tell_left_out("", missing, "this process does not have them itself");
    let inert = asked(listed.ambient());
    let inert = inert.into_iter().filter(|cap| !(permitted.contains(cap) && inheritable.contains(cap)));
    tell_left_out("ambient ", inert.collect(), "they are not both permitted and inheritable");
}

fn tell_left_out(set: &str, capabilities: Vec<Cap>, why: &str) {
    let mut names: Vec<String> = capabilities.iter().map(Cap::to_string).collect();
    names.sort();
    names.dedup();
    if !names.is_empty() {
        warn(&format!("process.capabilities: {set}{} are left out: {why}", names.join(", ")));
    }
}

/// What of a set this program knows.
fn named(names: Option<&Capabilities>) -> CapsHashSet {
    names
        .into_iter()
        .flatten()
        .filter_map(|name| caps::to_canonical(&name.to_string()).parse::<Cap>().ok())
        .collect()
}

pub fn no_new_privileges() -> Result<(), IdentityError> {
    prctl::set_no_new_privs().map_err(IdentityError::NoNewPrivileges)
}

/// Root of a new user namespace, once it has its maps.
pub fn become_root() -> Result<(), IdentityError> {
    let user = |what: &str| {
        let what = what.to_owned();
        move |source| IdentityError::User { what, source }
    };
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(user("gid 0"))?;
    setresuid(uid, uid, uid).map_err(user("uid 0"))
}

/// Takes on capabilities, groups, ids and the working directory of config.json. After it the process may do no more than its program.
pub fn assume(process: &Process) -> Result<(), IdentityError> {
    let user = process.user();
    let failed = |what: String| move |source| IdentityError::User { what, source };
    let listed = process.capabilities().as_ref();
    let set = |names: Option<&Option<Capabilities>>| named(names.and_then(Option::as_ref));
    // A process that lists no capabilities has none, as under runc and crun.
    bound(&set(listed.map(|listed| listed.bounding())))?;
    // Without this, setuid would empty the permitted set.
    prctl::set_keepcaps(true).map_err(failed("keep capabilities".to_owned()))?;
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|&gid| Gid::from_raw(gid)).collect();
    set_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    setresgid(gid, gid, gid).map_err(failed(format!("gid {gid}")))?;
    setresuid(uid, uid, uid).map_err(failed(format!("uid {uid}")))?;
    prctl::set_keepcaps(false).map_err(failed("keep capabilities".to_owned()))?;
    if let Some(umask) = user.umask() {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
    } else {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    }
    enter(process)?;
    let effective = set(listed.map(|listed| listed.effective()));
    let inheritable = set(listed.map(|listed| listed.inheritable()));
    let permitted = set(listed.map(|listed| listed.permitted()));
    // What goes is dropped last from permitted, or the others could not be set.
    for (kind, value) in [
        (CapSet::Effective, &effective),
        (CapSet::Permitted, &permitted),
        (CapSet::Inheritable, &inheritable),
    ] {
        let now = caps::read(None, CapSet::Permitted).unwrap_or_default();
        let allowed: CapsHashSet = value.intersection(&now).copied().collect();
        caps::set(None, kind, &allowed)
            .map_err(|source| IdentityError::Capabilities { set: kind, source })?;
    }
    // The caller's own would be kept wherever they are permitted and inheritable.
    runtime_sys::process::clear_ambient()
        .map_err(|source| IdentityError::Ambient { name: "none".to_owned(), source })?;
    for capability in set(listed.map(|listed| listed.ambient())) {
        match runtime_sys::process::raise_ambient(capability.index()) {
            // Not permitted and inheritable: what cannot be granted is left out (config.md, "Linux Process").
            Err(err) if err.raw_os_error() == Some(libc::EPERM) => {}
            raised => {
                raised.map_err(|source| IdentityError::Ambient { name: capability.to_string(), source })?
            }
        }
    }
    Ok(())
}

/// Limits the bounding set for good; by number, so that what a newer kernel has besides goes, too. What the host itself lacks cannot be given.
fn bound(wanted: &CapsHashSet) -> Result<(), IdentityError> {
    let kept = wanted.iter().fold(0u64, |kept, capability| kept | 1 << capability.index());
    for number in (0..CAPABILITIES_MAX).filter(|number| kept & 1 << number == 0) {
        match runtime_sys::process::drop_bounding(number) {
            Ok(true) => {}
            Ok(false) => break,
            Err(source) => return Err(IdentityError::Bounding { number, source }),
        }
    }
    Ok(())
}

fn set_groups(groups: &[Gid]) -> Result<(), IdentityError> {
    match setgroups(groups) {
        // A user namespace whose maps an ordinary user wrote.
        Err(Errno::EPERM)
            if groups.is_empty()
                && fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny") =>
        {
            Ok(())
        }
        Err(source) => Err(IdentityError::User { what: format!("groups {groups:?}"), source }),
        Ok(()) => Ok(()),
    }
}

/// Goes to the working directory, as the user that it is now; made if it is not there, as the other runtimes do. Called in `/`.
///
/// The way leads through no magic link: one of those in /proc ends outside the root, and so does what is made behind it (CVE-2024-21626).
fn enter(process: &Process) -> Result<(), IdentityError> {
    let failed = |source: io::Error| IdentityError::Cwd { path: process.cwd().clone(), source };
    let open = || open_in_root(AT_FDCWD, process.cwd(), OFlag::O_PATH | OFlag::O_DIRECTORY);
    let dir = match open() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            // Refused where the root is read-only or the user may not; the next line then tells.
            let _ = make_dirs_in_root(AT_FDCWD, process.cwd());
            open()
        }
        opened => opened,
    };
    fchdir(dir.map_err(failed)?).map_err(|err| failed(err.into()))?;
    // A directory that getcwd cannot name lies outside the root.
    getcwd().map_err(|err| failed(err.into()))?;
    Ok(())
}
