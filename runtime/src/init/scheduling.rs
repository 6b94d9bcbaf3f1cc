//! `process.scheduler`, `process.ioPriority`, `process.execCPUAffinity`, `linux.personality`, `linux.timeOffsets`.

use super::{InitError, has_new_namespace};
use crate::procfs::Procfs;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use runtime_spec::oci::{
    IOPriorityClass, LinuxNamespaceType, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler, Spec,
};
use runtime_sys::scheduling::{
    Scheduling, set_io_priority, set_memory_policy, set_personality, set_scheduler,
};
use std::{fs::File, io};

/// linux/personality.h.
const PER_LINUX32: u64 = 8;

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> InitError {
    let what = what.into();
    move |source| InitError::Io { what, source }
}

/// How and when the process runs.
pub fn apply(process: &Process) -> Result<(), InitError> {
    if let Some(scheduler) = process.scheduler() {
        let asked = scheduling(scheduler);
        set_scheduler(asked).map_err(failed(format!("process.scheduler: {:?}", scheduler.policy())))?;
    }
    let Some(priority) = process.io_priority() else { return Ok(()) };
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority()).unwrap_or(u32::MAX >> 14);
    set_io_priority(class, level).map_err(failed(format!("process.ioPriority: {} {level}", priority.class())))
}

fn scheduling(scheduler: &Scheduler) -> Scheduling {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Scheduling {
        size: 0,
        policy,
        flags: scheduler.flags().iter().flatten().map(flag).sum(),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().and_then(|priority| u32::try_from(priority).ok()).unwrap_or(0),
        runtime_ns: scheduler.runtime().unwrap_or(0),
        deadline_ns: scheduler.deadline().unwrap_or(0),
        period_ns: scheduler.period().unwrap_or(0),
    }
}

/// Keeps an exec's process on these CPUs; `list` as in `0-3,7`.
pub fn pin(list: Option<&String>) -> Result<(), InitError> {
    let Some(list) = list else { return Ok(()) };
    let mut set = CpuSet::new();
    let pinned = runtime_spec::numbers(list)
        .ok_or(nix::errno::Errno::EINVAL)
        .and_then(|cpus| cpus.into_iter().try_for_each(|cpu| set.set(cpu)))
        .and_then(|()| sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
    pinned.map_err(|err| failed(format!("process.execCPUAffinity: {list:?}"))(err.into()))
}

/// The execution domain that the program starts in.
pub fn personality(spec: &Spec) -> Result<(), InitError> {
    let Some(asked) = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) else {
        return Ok(());
    };
    let domain = match asked.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    set_personality(domain).map_err(failed(format!("linux.personality: {}", asked.domain())))
}

/// The modes of `linux.memoryPolicy` and their numbers; linux/mempolicy.h.
pub const MEMORY_MODES: [(&str, MemoryPolicyModeType, i32); 7] = [
    ("MPOL_BIND", MemoryPolicyModeType::MpolBind, 2),
    ("MPOL_DEFAULT", MemoryPolicyModeType::MpolDefault, 0),
    ("MPOL_INTERLEAVE", MemoryPolicyModeType::MpolInterleave, 3),
    ("MPOL_LOCAL", MemoryPolicyModeType::MpolLocal, 4),
    ("MPOL_PREFERRED", MemoryPolicyModeType::MpolPreferred, 1),
    ("MPOL_PREFERRED_MANY", MemoryPolicyModeType::MpolPreferredMany, 5),
    ("MPOL_WEIGHTED_INTERLEAVE", MemoryPolicyModeType::MpolWeightedInterleave, 6),
];
pub const MEMORY_FLAGS: [(&str, MemoryPolicyFlagType, i32); 3] = [
    ("MPOL_F_NUMA_BALANCING", MemoryPolicyFlagType::MpolFNumaBalancing, 1 << 13),
    ("MPOL_F_RELATIVE_NODES", MemoryPolicyFlagType::MpolFRelativeNodes, 1 << 14),
    ("MPOL_F_STATIC_NODES", MemoryPolicyFlagType::MpolFStaticNodes, 1 << 15),
];

/// The NUMA nodes that the program's memory is from.
pub fn memory_policy(spec: &Spec) -> Result<(), InitError> {
    let Some(asked) = spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref()) else {
        return Ok(());
    };
    let (name, _, mode) =
        MEMORY_MODES.iter().find(|(_, mode, _)| *mode == asked.mode()).unwrap_or(&MEMORY_MODES[1]);
    let flags = asked.flags().iter().flatten();
    let flags: i32 = flags
        .filter_map(|flag| MEMORY_FLAGS.iter().find(|(_, known, _)| known == flag))
        .map(|(.., bit)| bit)
        .sum();
    let list = asked.nodes().as_deref().unwrap_or_default();
    let nodes = runtime_spec::numbers(list).unwrap_or_default();
    set_memory_policy(mode | flags, &nodes).map_err(failed(format!("linux.memoryPolicy: {name} {list:?}")))
}

/// A new time namespace with its clocks set, time_namespaces(7): they can be set only as long as nobody is inside.
pub fn clocks(spec: &Spec) -> Result<(), InitError> {
    if !has_new_namespace(spec, LinuxNamespaceType::Time) {
        return Ok(());
    }
    let time = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
    unshare(time).map_err(|err| failed("make a time namespace")(err.into()))?;
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    for (clock, offset) in offsets.into_iter().flatten() {
        let line = format!("{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        Procfs::open()
            .and_then(|proc| proc.write("self/timens_offsets", &line))
            .map_err(failed(format!("linux.timeOffsets: {line:?}")))?;
    }
    let path = "/proc/self/ns/time_for_children";
    let namespace = File::open(path).map_err(failed("open the time namespace"))?;
    setns(&namespace, time).map_err(|err| failed("join the time namespace")(err.into()))
}
