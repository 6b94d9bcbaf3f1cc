//! When and on what a process runs: scheduler, I/O priority, personality, NUMA apart. No safe crate has these calls.

use crate::check;
use std::{io, mem, ptr};

/// `struct sched_attr` of sched_setattr(2), first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, of `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// 1 to 99, of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds, of `SCHED_DEADLINE`, as the two below.
    pub runtime_ns: u64,
    pub deadline_ns: u64,
    pub period_ns: u64,
}

/// Sets how this process is scheduled. Errors as sched_setattr(2): `EPERM` without CAP_SYS_NICE, `EINVAL` for a value out of range.
pub fn set_scheduler(scheduling: Scheduling) -> io::Result<()> {
    let attr = Scheduling { size: mem::size_of::<Scheduling>() as u32, ..scheduling };
    // SAFETY: the kernel reads `size` bytes of `attr`, alive across the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(&attr), 0) }).map(drop)
}

/// Sets this process's I/O priority; ioprio_set(2). `class`: 1 real time, 2 best effort, 3 idle. `level`: 0 to 7, 0 first.
pub fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    let value = class << CLASS_SHIFT | level;
    // SAFETY: takes three integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) }).map(drop)
}

/// Sets from which NUMA nodes this process gets memory; set_mempolicy(2). `mode`: `MPOL_*` with its flags. Errors: `EINVAL` nodes that the mode does
/// not take, or that are not there.
pub fn set_memory_policy(mode: i32, nodes: &[usize]) -> io::Result<()> {
    const BITS: usize = u64::BITS as usize;
    let mut mask = [0u64; 16];
    for &node in nodes {
        *mask.get_mut(node / BITS).ok_or(io::ErrorKind::InvalidInput)? |= 1 << (node % BITS);
    }
    let (pointer, bits) =
        if nodes.is_empty() { (ptr::null(), 0) } else { (mask.as_ptr(), mask.len() * BITS) };
    // SAFETY: the kernel reads no more bits of `mask` than it has, and it lives across the call; without nodes it reads nothing.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}

/// Sets this process's execution domain, `PER_LINUX` and the like; personality(2).
pub fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(i64::from(unsafe { libc::personality(domain as libc::c_ulong) })).map(drop)
}
