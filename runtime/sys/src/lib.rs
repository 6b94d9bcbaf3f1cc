//! System calls that no safe crate offers. The only crate with `unsafe`.
//!
//! Each function is safe to call with any arguments: what only the caller could promise is checked instead
//! ([`process::clone3`] and [`process::fork`] refuse a process with threads), descriptors are owned or borrowed, and paths go in as C strings made here.
//! Linux 5.12 or newer.

pub mod bpf;
pub mod file;
pub mod mount;
pub mod net;
pub mod path;
pub mod process;
pub mod scheduling;
pub mod seccomp;
pub mod start;

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

/// Turns the return value of a system call into a result.
fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Errors: `InvalidInput` when the path holds a NUL byte.
fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
