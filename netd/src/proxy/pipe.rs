//! Pipes that bytes are spliced through, kept for the next connection.

use nix::{
    fcntl::{OFlag, SpliceFFlags, splice},
    unistd::pipe2,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

const KEPT_MAX: usize = 64;
/// What a pipe holds by default, and what one splice asks for.
const PIPE_BYTES: usize = 64 << 10;

/// A pipe and how much is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    pub held: usize,
}

/// What moving bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    Bytes,
    /// Not now: nothing to read, or no room.
    Wait,
    End,
}

#[derive(Debug, Default)]
pub struct Pipes(Vec<Pipe>);

impl Pipes {
    pub fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Pipe { read, write, held: 0 })
    }

    /// Takes back a pipe, if nothing is left in it.
    pub fn give(&mut self, pipe: Pipe) {
        if pipe.held == 0 && self.0.len() < KEPT_MAX {
            self.0.push(pipe);
        }
    }
}

const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);

impl Pipe {
    /// From a socket into the pipe.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<Moved> {
        if self.held >= PIPE_BYTES {
            return Ok(Moved::Wait);
        }
        match splice(from, None, &self.write, None, PIPE_BYTES - self.held, FLAGS) {
            Ok(0) => Ok(Moved::End),
            Ok(len) => {
                self.held += len;
                Ok(Moved::Bytes)
            }
            // Small segments can fill all slots of a pipe before it is full of bytes.
            Err(nix::Error::EAGAIN) => Ok(Moved::Wait),
            Err(err) => Err(err.into()),
        }
    }

    /// From the pipe into a socket.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<Moved> {
        while self.held > 0 {
            match splice(&self.read, None, to.as_fd(), None, self.held, FLAGS) {
                Ok(len) => self.held -= len,
                Err(nix::Error::EAGAIN) => return Ok(Moved::Wait),
                Err(err) => return Err(err.into()),
            }
        }
        Ok(Moved::Bytes)
    }
}
