//! Between the process that creates a container and the container's first process: one socket pair, small messages.

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
        socketpair,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// Longest message; a longer error text is cut.
const MESSAGE_BYTES_MAX: usize = 4096;

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What the first process says.
#[derive(Debug, PartialEq, Eq)]
pub enum FromInit {
    /// The terminal's master comes with it.
    Terminal,
    /// Everything is set up; it waits for [`Channel::go`].
    Ready,
    /// A process between says that the first process exists; its pidfd comes with it.
    Born,
    /// A process between has made a mount, which comes with it.
    Mounted,
    Failed {
        code: u8,
        message: String,
    },
}

/// The parent's end and the child's.
pub fn pair() -> io::Result<(Channel, Channel)> {
    let (parent, child) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Channel(parent), Channel(child)))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Parent: the child may go on.
    pub fn go(&self) -> io::Result<()> {
        self.write(b"G", None)
    }

    /// Child: waits for [`Channel::go`]. Errors: `UnexpectedEof` when the parent is gone.
    pub fn wait_go(&self) -> io::Result<()> {
        let mut buffer = [0; 1];
        match nix::unistd::read(&self.0, &mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    pub fn send(&self, message: &FromInit) -> io::Result<()> {
        match message {
            FromInit::Terminal => self.write(b"T", None),
            FromInit::Ready => self.write(b"R", None),
            FromInit::Mounted => self.write(b"M", None),
            FromInit::Born => self.write(b"B", None),
            FromInit::Failed { code, message } => {
                let mut bytes = vec![b'F', *code];
                bytes.extend(message.bytes().take(MESSAGE_BYTES_MAX - 2));
                self.write(&bytes, None)
            }
        }
    }

    pub fn send_terminal(&self, master: &OwnedFd) -> io::Result<()> {
        self.write(b"T", Some(master.as_raw_fd()))
    }

    pub fn send_born(&self, pidfd: &OwnedFd) -> io::Result<()> {
        self.write(b"B", Some(pidfd.as_raw_fd()))
    }

    pub fn send_mount(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        self.write(b"M", Some(mount.as_raw_fd()))
    }

    fn write(&self, bytes: &[u8], fd: Option<RawFd>) -> io::Result<()> {
        let fds: Vec<RawFd> = fd.into_iter().collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Parent: the next message, and the descriptor that came with it. Errors: `UnexpectedEof` when the child died in silence.
    pub fn receive(&self) -> io::Result<(FromInit, Option<OwnedFd>)> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let mut control = cmsg_space!(RawFd);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut control), flags) {
                // Said once, of an end that was closed with a message unread; what it had sent before comes next.
                Err(Errno::ECONNRESET) => {}
                received => break received?,
            }
        };
        let len = received.bytes;
        let fds = received.cmsgs()?.filter_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let fd = fds.last().map(runtime_sys::process::own_received);
        let message = match buffer.get(..len) {
            Some([b'T', ..]) => FromInit::Terminal,
            Some([b'R', ..]) => FromInit::Ready,
            Some([b'M', ..]) => FromInit::Mounted,
            Some([b'B', ..]) => FromInit::Born,
            Some([b'F', code, message @ ..]) => {
                FromInit::Failed { code: *code, message: String::from_utf8_lossy(message).into_owned() }
            }
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        Ok((message, fd))
    }
}
