//! What no safe crate offers for open files.

use crate::check;
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Has the kernel begin to write `length` bytes of `file` from byte `from` on to disk, and does not wait for it: a sync later has less to do.
///
/// Promises nothing about what is on disk. sync_file_range(2) with `SYNC_FILE_RANGE_WRITE`; a file that is not on a disk is left alone.
pub fn start_writing(file: &File, from: u64, length: u64) -> io::Result<()> {
    let offset = |bytes| i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let (from, length) = (offset(from)?, offset(length)?);
    let fd = file.as_fd();
    // SAFETY: `fd` is open for the whole call because it borrows `file`; the other arguments are integers.
    let started = unsafe { libc::sync_file_range(fd.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE) };
    match check(started.into()) {
        // A filesystem that knows no such thing (man page: `ESPIPE` for other kinds of files).
        Err(err) if matches!(err.raw_os_error(), Some(libc::ESPIPE | libc::ENOSYS)) => Ok(()),
        done => done.map(drop),
    }
}
