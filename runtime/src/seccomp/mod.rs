//! config.json's `linux.seccomp` as BPF programs.
//!
//! seccompiler knows one action per filter, and of several filters the kernel takes the most severe answer. So each action becomes a filter of its own that lets
//! everything else pass, and one last filter lets pass what any rule names and answers the rest with the default action.

mod table;

use runtime_spec::oci::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("linux.seccomp.{field}: {why}")]
    Unsupported { field: String, why: String },
    #[error("compile linux.seccomp")]
    Compile(#[source] seccompiler::BackendError),
    #[error("load the seccomp filter")]
    Load(#[source] seccompiler::Error),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The programs to load, in order.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<BpfProgram>, SeccompError> {
    let native = |arch: &Arch| [Arch::ScmpArchNative, NATIVE].contains(arch);
    let architectures = seccomp.architectures().as_deref().unwrap_or_default();
    if !architectures.is_empty() && !architectures.iter().any(native) {
        return Err(unsupported("architectures", "this host's own is not among them"));
    }
    if seccomp.listener_path().is_some() {
        return Err(unsupported("listenerPath", "is not supported"));
    }
    let default = action(seccomp.default_action(), seccomp.default_errno_ret(), "defaultAction")?;
    let mut passed = Rules::new();
    let mut by_action: Vec<(SeccompAction, Rules)> = Vec::new();
    for (index, syscall) in seccomp.syscalls().iter().flatten().enumerate() {
        let at = format!("syscalls[{index}]");
        let wanted = action(syscall.action(), syscall.errno_ret(), &at)?;
        add(&mut passed, syscall, &at, wanted == SeccompAction::Allow)?;
        if wanted != default && wanted != SeccompAction::Allow {
            let known = by_action.iter().position(|(action, _)| *action == wanted);
            let index = known.unwrap_or_else(|| {
                by_action.push((wanted.clone(), Rules::new()));
                by_action.len() - 1
            });
            add(&mut by_action[index].1, syscall, &at, true)?;
        }
    }
    let mut programs = Vec::new();
    if default != SeccompAction::Allow {
        programs.push(program(passed, default.clone(), SeccompAction::Allow)?);
    }
    for (action, rules) in by_action {
        programs.push(program(rules, SeccompAction::Allow, action)?);
    }
    if matches!(default, SeccompAction::Errno(_)) {
        // Of several errors the one of the filter loaded last counts.
        programs.push(unknown_is_absent());
    }
    Ok(programs)
}

/// Puts the programs into force for this process, for good.
pub fn load(programs: &[BpfProgram]) -> Result<(), SeccompError> {
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program)).map_err(SeccompError::Load)
}

/// Adds the rules of one entry. Where only the name counts (`exactly` false) its conditions are left out.
fn add(rules: &mut Rules, syscall: &LinuxSyscall, at: &str, exactly: bool) -> Result<(), SeccompError> {
    for name in syscall.names() {
        // A name this kernel's architecture does not have cannot be called either.
        let Some(number) = table::number(name) else { continue };
        let conditions = syscall.args().as_deref().filter(|_| exactly).unwrap_or_default();
        let slot = rules.entry(number);
        if conditions.is_empty() {
            // An empty list of rules matches every call.
            *slot.or_default() = Vec::new();
            continue;
        }
        match slot {
            std::collections::btree_map::Entry::Occupied(mut rules) if !rules.get().is_empty() => {
                rules.get_mut().push(rule(conditions, at)?)
            }
            std::collections::btree_map::Entry::Occupied(_) => {}
            std::collections::btree_map::Entry::Vacant(slot) => _ = slot.insert(vec![rule(conditions, at)?]),
        }
    }
    Ok(())
}

fn rule(conditions: &[LinuxSeccompArg], at: &str) -> Result<SeccompRule, SeccompError> {
    let condition = |arg: &LinuxSeccompArg| {
        let (value, op) = match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => (arg.value(), SeccompCmpOp::Ne),
            LinuxSeccompOperator::ScmpCmpLt => (arg.value(), SeccompCmpOp::Lt),
            LinuxSeccompOperator::ScmpCmpLe => (arg.value(), SeccompCmpOp::Le),
            LinuxSeccompOperator::ScmpCmpEq => (arg.value(), SeccompCmpOp::Eq),
            LinuxSeccompOperator::ScmpCmpGe => (arg.value(), SeccompCmpOp::Ge),
            LinuxSeccompOperator::ScmpCmpGt => (arg.value(), SeccompCmpOp::Gt),
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (arg.value_two().unwrap_or(0), SeccompCmpOp::MaskedEq(arg.value()))
            }
        };
        let index = u8::try_from(arg.index()).unwrap_or(u8::MAX);
        SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value)
            .map_err(|err| unsupported(&format!("{at}.args"), &err.to_string()))
    };
    let conditions = conditions.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    SeccompRule::new(conditions).map_err(|err| unsupported(&format!("{at}.args"), &err.to_string()))
}

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let filter = SeccompFilter::new(rules, otherwise, matched, TARGET).map_err(SeccompError::Compile)?;
    filter.try_into().map_err(SeccompError::Compile)
}

/// Calls that are newer than our table fail with `ENOSYS`, so that libraries fall back to what they used before, as under runc.
fn unknown_is_absent() -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The number is the first field of seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, table::NEWEST),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn action(action: LinuxSeccompAction, errno: Option<u32>, at: &str) -> Result<SeccompAction, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
        LinuxSeccompAction::ScmpActErrno => SeccompAction::Errno(errno),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => SeccompAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => SeccompAction::KillProcess,
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActTrace => SeccompAction::Trace(errno),
        LinuxSeccompAction::ScmpActNotify => return Err(unsupported(at, "SCMP_ACT_NOTIFY is not supported")),
    })
}

fn unsupported(field: &str, why: &str) -> SeccompError {
    SeccompError::Unsupported { field: field.to_owned(), why: why.to_owned() }
}

#[cfg(target_arch = "x86_64")]
const TARGET: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const TARGET: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::ScmpArchAarch64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_compiles_and_knows_its_names() {
        let profile = runtime_spec::seccomp::default_profile(&[]);
        let programs = compile(&profile).expect("compiles");
        assert_eq!(programs.len(), 3, "what is allowed, clone3 that is not there, and newer calls");
        let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names).count();
        assert!(names > 280, "{names} names");
        let privileged =
            compile(&runtime_spec::seccomp::default_profile(&["CAP_SYS_ADMIN"])).expect("compiles");
        assert_eq!(privileged.len(), 2);
        let unknown: Vec<&String> = profile
            .syscalls()
            .iter()
            .flatten()
            .flat_map(LinuxSyscall::names)
            .filter(|name| table::number(name).is_none())
            .collect();
        // Of 32-bit architectures alone.
        assert_eq!(unknown, ["chown32", "waitpid"]);
    }
}
