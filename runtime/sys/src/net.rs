//! The one thing about networks that needs no netlink.

use crate::check;
use std::{io, net::UdpSocket, os::fd::AsRawFd};

/// Switches the loopback interface of this network namespace on; netdevice(7) `SIOCSIFFLAGS`.
pub fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain bytes and integers, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one ifreq, whose name ends in a NUL byte and which lives across the call.
    check(i64::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_ref(&request))
    }))
    .map(drop)
}
