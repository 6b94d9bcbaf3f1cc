//! `linux.seccomp` compiled to one filter and loaded.
//!
//! Of several rules about a call the first in config.json whose conditions hold decides, and one without conditions is asked last. Conditions on the
//! same argument in one rule are alternatives, as runc and crun have it. Only this host's own architecture is served; calls of another kill the
//! process.

mod listener;
mod table;
mod tree;

pub use listener::Listener;

use runtime_spec::oci::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use runtime_sys::seccomp::{Instruction, NEW_LISTENER};
use std::{collections::BTreeMap, io, os::fd::OwnedFd};
use tree::{Condition, Test, Verdict};

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("linux.seccomp.{field}: {why}")]
    Unsupported { field: String, why: String },
    #[error("linux.seccomp: {count} instructions, the kernel takes {INSTRUCTIONS_MAX}")]
    Size { count: usize },
    #[error("load the seccomp filter")]
    Load(#[source] io::Error),
    #[error("linux.seccomp.listenerPath: {path}")]
    Listener { path: String, source: io::Error },
}

/// `BPF_MAXINSNS`.
const INSTRUCTIONS_MAX: usize = 4096;

/// A compiled profile.
#[derive(Debug)]
pub struct Filter {
    program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
}

impl Filter {
    /// Puts the filter into force for this process, for good; gives the listener if a rule asks a supervisor.
    pub fn load(&self) -> Result<Option<OwnedFd>, SeccompError> {
        runtime_sys::seccomp::load(&self.program, self.flags).map_err(SeccompError::Load)
    }
}

/// Checks and compiles the profile.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let native = |arch: &Arch| [Arch::ScmpArchNative, NATIVE].contains(arch);
    let architectures = seccomp.architectures().as_deref().unwrap_or_default();
    if !architectures.is_empty() && !architectures.iter().any(native) {
        return Err(unsupported("architectures", "this host's own is not among them"));
    }
    let default = action(seccomp.default_action(), seccomp.default_errno_ret(), "defaultAction")?;
    let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
    for (index, syscall) in seccomp.syscalls().iter().flatten().enumerate() {
        let at = format!("syscalls[{index}]");
        let value = action(syscall.action(), syscall.errno_ret(), &at)?;
        let rules = rules(syscall, &at)?;
        for name in syscall.names() {
            // A name that this architecture does not have cannot be called either.
            let Some(number) = table::number(name).and_then(|number| u32::try_from(number).ok()) else {
                continue;
            };
            let call = calls.entry(number).or_default();
            match &rules[..] {
                [] => call.always = call.always.or(Some(value)),
                _ => call.rules.extend(rules.iter().map(|conditions| (conditions.clone(), value))),
            }
        }
    }
    let (notifies, flags) = flags(seccomp)?;
    let program =
        tree::program(ARCHITECTURE, libc::SECCOMP_RET_KILL_PROCESS, &ranges(calls, default, seccomp));
    if program.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::Size { count: program.len() });
    }
    Ok(Filter { program, flags: flags | if notifies { NEW_LISTENER } else { 0 } })
}

/// What was said about one call.
#[derive(Default)]
struct Call {
    rules: Vec<(Vec<Condition>, u32)>,
    always: Option<u32>,
}

/// Neighbours that are treated alike become one range.
fn ranges(calls: BTreeMap<u32, Call>, default: u32, seccomp: &LinuxSeccomp) -> Vec<(u32, Verdict)> {
    let plain = |otherwise| Verdict { rules: Vec::new(), otherwise };
    let mut ranges = vec![(0, plain(default))];
    let mut add = |first: u32, verdict: Verdict| match ranges.last_mut() {
        Some((_, last)) if *last == verdict => {}
        Some((at, last)) if *at == first => *last = verdict,
        _ => ranges.push((first, verdict)),
    };
    for (number, call) in calls {
        add(number, Verdict { rules: call.rules, otherwise: call.always.unwrap_or(default) });
        add(number + 1, plain(default));
    }
    if seccomp.default_action() == LinuxSeccompAction::ScmpActErrno {
        // Calls newer than the table are absent, not forbidden, so that libraries fall back to what they used before, as under runc.
        add(table::NEWEST + 1, plain(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    }
    ranges
}

/// Whether a rule asks a supervisor, and the flags.
fn flags(seccomp: &LinuxSeccomp) -> Result<(bool, u32), SeccompError> {
    let notify = |action| action == LinuxSeccompAction::ScmpActNotify;
    if notify(seccomp.default_action()) {
        return Err(unsupported("defaultAction", "SCMP_ACT_NOTIFY would wait for itself"));
    }
    let notifies = seccomp.syscalls().iter().flatten().any(|syscall| notify(syscall.action()));
    if seccomp.listener_metadata().is_some() && seccomp.listener_path().is_none() {
        return Err(unsupported("listenerMetadata", "is for a listener, but listenerPath is missing"));
    }
    if notifies && seccomp.listener_path().is_none() {
        return Err(unsupported("listenerPath", "is missing, but SCMP_ACT_NOTIFY needs it"));
    }
    // The supervisor is told through the channel's own calls; they cannot wait for it.
    let blocked = ["sendmsg", "write", "exit_group"];
    for (index, syscall) in seccomp.syscalls().iter().flatten().enumerate() {
        if let Some(name) = syscall.names().iter().find(|name| blocked.contains(&name.as_str()))
            && notify(syscall.action())
        {
            return Err(unsupported(
                &format!("syscalls[{index}]"),
                &format!("{name} cannot be SCMP_ACT_NOTIFY"),
            ));
        }
    }
    let mut bits = 0;
    for flag in seccomp.flags().iter().flatten() {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
            // There is one thread, and a listener excludes it.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            // Only with a listener.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => {
                libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        };
    }
    Ok((notifies, bits))
}

/// The alternatives of one entry; none: it fits every call.
fn rules(syscall: &LinuxSyscall, at: &str) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let listed = syscall.args().as_deref().unwrap_or_default();
    let conditions = listed.iter().map(|arg| condition(arg, at)).collect::<Result<Vec<_>, _>>()?;
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(index, one)| conditions[..index].iter().any(|other| other.argument == one.argument));
    Ok(match conditions.len() {
        0 => Vec::new(),
        _ if repeated => conditions.into_iter().map(|condition| vec![condition]).collect(),
        _ => vec![conditions],
    })
}

fn condition(arg: &LinuxSeccompArg, at: &str) -> Result<Condition, SeccompError> {
    let value = arg.value();
    let test = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => Test::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Test::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Test::NotGreater(value),
        LinuxSeccompOperator::ScmpCmpEq => Test::Equal(value),
        LinuxSeccompOperator::ScmpCmpGe => Test::NotLess(value),
        LinuxSeccompOperator::ScmpCmpGt => Test::Greater(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Test::MaskedEqual { mask: value, value: arg.value_two().unwrap_or(0) }
        }
    };
    match u8::try_from(arg.index()) {
        Ok(argument @ 0..=5) => Ok(Condition { argument, test }),
        _ => Err(unsupported(&format!("{at}.args"), &format!("index {}: a call has 0 to 5", arg.index()))),
    }
}

/// The kernel's value for an action.
fn action(action: LinuxSeccompAction, errno: Option<u32>, at: &str) -> Result<u32, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    if errno > libc::SECCOMP_RET_DATA {
        return Err(unsupported(at, &format!("errno {errno}: at most {}", libc::SECCOMP_RET_DATA)));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | errno,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | errno,
        LinuxSeccompAction::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
    })
}

fn unsupported(field: &str, why: &str) -> SeccompError {
    SeccompError::Unsupported { field: field.to_owned(), why: why.to_owned() }
}

/// `AUDIT_ARCH_*` of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::ScmpArchAarch64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_small_and_knows_its_names() {
        let profile = runtime_spec::seccomp::default_profile(&[]);
        let filter = compile(&profile).expect("compiles");
        assert!(filter.program.len() < 400, "{} instructions", filter.program.len());
        let names = || profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
        assert!(names().count() > 280, "{} names", names().count());
        let unknown: Vec<&String> = names().filter(|name| table::number(name).is_none()).collect();
        // Of 32-bit architectures alone.
        assert_eq!(unknown, ["chown32", "waitpid"]);
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let json = |text: &str| serde_json::from_str::<LinuxSeccomp>(text).expect("parses");
        let cases = [
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "defaultAction"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PPC"]}"#, "architectures"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#,
                "listenerPath",
            ),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}"#, "listenerMetadata"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x",
                    "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}"#,
                "syscalls[0]",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
                "syscalls[0].args",
            ),
            (r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}"#, "defaultAction"),
        ];
        for (text, field) in cases {
            let err = compile(&json(text)).expect_err(text).to_string();
            assert!(err.starts_with(&format!("linux.seccomp.{field}: ")), "{err}");
        }
    }
}
