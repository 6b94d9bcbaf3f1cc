//! Putting a system call filter into force; seccomp(2).

use crate::check;
use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    ptr,
};

const SET_MODE_FILTER: libc::c_uint = 1;
/// A descriptor for the supervisor of `SECCOMP_RET_USER_NOTIF`.
pub const NEW_LISTENER: u32 = 1 << 3;

/// One instruction of classic BPF, `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// Instructions to skip when a jump's test holds, and when not.
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Loads the filter for this process and its children, for good; with [`NEW_LISTENER`] in `flags` gives the listener.
///
/// - `flags`: `SECCOMP_FILTER_FLAG_*`.
/// - Errors: `EACCES` without no_new_privs or CAP_SYS_ADMIN, `EINVAL` when the kernel's checker refuses the program or a flag.
pub fn load(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads `len` instructions, laid out as `sock_filter`, alive across the call, and checks them before they run.
    let fd =
        check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, ptr::from_ref(&program)) })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with this flag the result is a new descriptor that nothing else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}
