//! Programs in the kernel that decide about device access of a cgroup; bpf(2), cgroup-v2.rst "Device controller".

use crate::check;
use std::{
    ffi::CStr,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const LICENSE: &CStr = c"Apache-2.0";

/// One instruction as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// Destination in the low four bits, source in the high.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// The head of `union bpf_attr` for a load; the kernel takes what follows as zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Makes `program` decide about every device that a process in `cgroup` opens or makes, besides the programs that already do.
///
/// Errors: `InvalidInput` when the kernel's verifier refuses the program, `EPERM`, and `EINVAL` or `ENOSYS` from a kernel without cgroup programs.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the kernel reads `size` bytes of `load`, `count` instructions and a C string, all alive across the call, and verifies the program.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, ptr::from_ref(&load), size_of::<Load>()) })?;
    // SAFETY: a new descriptor that nothing else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the kernel reads `size` bytes of `attach`, alive across the call; both descriptors in it are open.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, ptr::from_ref(&attach), size_of::<Attach>()) })
        .map(drop)
}
