//! Making processes, and handles on them that a recycled pid cannot fool.

use crate::check;
use std::{
    fs, io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    ptr,
};

/// libc has it as an `int`, into which it does not fit (clone3(2)).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Clone {
    /// The new process. It must end by exec or exit, not by returning to the caller's caller.
    Child,
    /// The old one.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Makes a child as fork(2) does, in new namespaces and, with `cgroup`, in that cgroup v2 from its first instruction.
///
/// - `namespaces`: `CLONE_NEW*` flags.
/// - Errors: `InvalidInput` when this process has other threads (their locks would stay held in the child),
///   otherwise as clone3(2). Linux 5.7+.
pub fn clone3(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Clone> {
    clone(namespaces as u32 as u64, libc::SIGCHLD, cgroup)
}

/// As [`clone3`], but the new process is a sibling of this one: a child of this one's parent, which is told of its end as of this one's own
/// (`CLONE_PARENT`).
pub fn clone3_sibling(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Clone> {
    // clone(2): with CLONE_PARENT the signal is that of this process.
    clone(namespaces as u32 as u64 | libc::CLONE_PARENT as u64, 0, cgroup)
}

fn clone(flags: u64, exit_signal: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Clone> {
    refuse_threads()?;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain integers, for which all zeroes is the documented default.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = exit_signal as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with no stack given this is fork: the child gets a copy of everything. There is only
    // this thread, so no lock is held by one that does not exist in the child. `args` and `pidfd` live across the call.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut args), mem::size_of_val(&args)) })?;
    if pid == 0 {
        return Ok(Clone::Child);
    }
    // SAFETY: the kernel has stored a new descriptor that nothing else owns.
    Ok(Clone::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// fork(2) with a pidfd. Errors as [`clone3`].
pub fn fork() -> io::Result<Clone> {
    clone3(0, None)
}

fn refuse_threads() -> io::Result<()> {
    // A directory has two links and one more for each directory in it; proc(5).
    let threads = fs::metadata("/proc/self/task")?.nlink() - 2;
    if threads == 1 {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "fork in a process with threads"))
    }
}

/// A descriptor for the process, pidfd_open(2). Errors: `ESRCH` no such process. Linux 5.3+.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends `signal` to the process behind `pidfd`, so a recycled pid is never hit.
///
/// Errors: `ESRCH` already reaped, `EPERM` not ours. Linux 5.1+; pidfd_send_signal(2).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let (fd, no_info, flags) = (pidfd.as_raw_fd(), ptr::null::<libc::siginfo_t>(), 0u32);
    // SAFETY: `fd` is open for the whole call because `pidfd` borrows it; a null siginfo and zero flags are allowed by the
    // man page; the kernel writes to no memory of ours.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, flags) }).map(drop)
}

/// Closes every descriptor from `first` on but those in `keep`, also such as have an owner: for a process that is about to exec, so that nothing on the
/// way there can be reached through `/proc/self/fd`. close_range(2), Linux 5.9+.
///
/// Owners of what is closed must not be dropped any more: the caller ends by exec or exit.
pub fn close_all_but(first: i32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().map(|fd| fd.as_raw_fd()).filter(|&fd| fd >= first).map(|fd| fd as u32).collect();
    keep.sort_unstable();
    let mut from = first as u32;
    for last in keep.into_iter().map(|kept| kept.checked_sub(1)).chain([Some(u32::MAX)]) {
        match last {
            Some(last) if last >= from => {
                // SAFETY: takes three integers and touches no memory of ours.
                check(unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) })?;
            }
            _ => {}
        }
        from = last.map_or(1, |last| last.saturating_add(2));
    }
    Ok(())
}

/// Makes the terminal behind `fd` the controlling one of this session, ioctl_tty(2) `TIOCSCTTY`.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the ioctl takes an integer and touches no memory of ours.
    check(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// Sets the size of a terminal in characters, ioctl_tty(2) `TIOCSWINSZ`.
pub fn set_window_size(fd: BorrowedFd<'_>, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize, which lives across the call.
    check(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, ptr::from_ref(&size)) })).map(drop)
}

/// Width and height of a terminal in characters, ioctl_tty(2) `TIOCGWINSZ`. Errors: `ENOTTY` it is none.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize, which lives across the call.
    check(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, ptr::from_mut(&mut size)) }))?;
    Ok((size.ws_col, size.ws_row))
}

/// Takes ownership of a descriptor that recvmsg(2) has delivered in `SCM_RIGHTS`.
///
/// Panics when no such descriptor is open, or when it is one of the standard streams.
pub fn own_received(fd: i32) -> OwnedFd {
    assert!(fd > 2, "descriptor {fd} was not received");
    // SAFETY: takes two integers and touches no memory of ours.
    check(i64::from(unsafe { libc::fcntl(fd, libc::F_GETFD) })).expect("a received descriptor is open");
    // SAFETY: it is open, and the kernel installed it for the receiver of the message alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Opens the other end of the pseudoterminal `master`, without a path that could lead elsewhere; ioctl_tty(2) `TIOCGPTPEER`.
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (fd, flags) = (master.as_raw_fd(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
    // SAFETY: the ioctl takes an integer and touches no memory of ours.
    let peer = check(i64::from(unsafe { libc::ioctl(fd, libc::TIOCGPTPEER, flags) }))?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(peer as i32) })
}

/// Unlocks the pseudoterminal `master`; ioctl_tty(2) `TIOCSPTLCK`.
pub fn terminal_unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: the kernel reads one int, which lives across the call.
    check(i64::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, ptr::from_ref(&locked)) }))
        .map(drop)
}

/// Gives SIGPIPE its default action, which Rust's start took from it and exec would not give back.
pub fn default_sigpipe() -> io::Result<()> {
    // SAFETY: the default action runs no code of ours.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes a session keyring without a name for this process; keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`.
pub fn new_session_keyring() -> io::Result<()> {
    let name = ptr::null::<libc::c_char>();
    // SAFETY: without a name the operation reads no memory.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) }).map(drop)
}

/// Sets the NIS domain name of this uts namespace; setdomainname(2).
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `len` bytes of `name`, which lives across the call.
    check(i64::from(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) })).map(drop)
}

/// Sets a limit of another process, prlimit(2). `resource`: `RLIMIT_*`. Errors: `EPERM` a hard limit is raised without CAP_SYS_RESOURCE on the host.
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let old = ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the kernel reads one rlimit64, which lives across the call, and writes none.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, ptr::from_ref(&limit), old) }).map(drop)
}

/// Adds a capability to the ambient set, capabilities(7). Errors: `EPERM` not permitted and inheritable.
pub fn raise_ambient(capability: u8) -> io::Result<()> {
    // SAFETY: prctl with integers only.
    check(i64::from(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            libc::c_ulong::from(capability),
            0,
            0,
        )
    }))
    .map(drop)
}

/// Empties the ambient set, capabilities(7), which an exec would keep.
pub fn clear_ambient() -> io::Result<()> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong;
    // SAFETY: prctl with integers only.
    check(i64::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0) })).map(drop)
}

/// Takes a capability, by its number, out of the bounding set for good; `false` when the kernel knows none of this number.
///
/// Errors: `EPERM` without CAP_SETPCAP, unless it is not in the set.
pub fn drop_bounding(capability: u8) -> io::Result<bool> {
    let number = libc::c_ulong::from(capability);
    // SAFETY: prctl with integers only.
    match check(i64::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) })) {
        Ok(_) => Ok(true),
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        // SAFETY: prctl with integers only.
        Err(err) => match unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } {
            0 => Ok(true),
            _ => Err(err),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receive.recv());
        let err = fork().expect_err("there is a second thread");
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
        drop(send);
        assert!(thread.join().expect("ends").is_err());
    }

    #[test]
    fn a_reaped_process_is_not_signalled() {
        let mut child = std::process::Command::new("true").spawn().expect("starts");
        let pidfd = pidfd_open(child.id() as i32).expect("opened");
        child.wait().expect("waited");
        let err = pidfd_send_signal(std::os::fd::AsFd::as_fd(&pidfd), 0).expect_err("gone");
        assert_eq!(err.raw_os_error(), Some(libc::ESRCH));
    }
}
