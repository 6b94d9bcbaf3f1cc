//! One peer: frames in, frames out, neither ever waited for.

use codec::{Decode, Decoder, Encode, HELLO_BYTES};
use mio::net::UnixStream;
use runtime_protocol::{MAGIC, VERSIONS};
use std::io::{self, Read, Write};

const READ_BYTES: usize = 16 << 10;
/// A peer that lets this much pile up is no longer served.
pub const OUT_BYTES_MAX: usize = 4 << 20;

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    /// The peer hung up, broke the protocol, or fell too far behind.
    Over,
}

#[derive(Debug)]
pub struct Connection {
    pub stream: UnixStream,
    decoder: Decoder,
    out: Vec<u8>,
    greeted: bool,
    /// Close once everything is written.
    pub closing: bool,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        let out = codec::hello(MAGIC, &VERSIONS).to_vec();
        Self { stream, decoder: Decoder::default(), out, greeted: false, closing: false }
    }

    /// Reads once what is there; false when nothing more is.
    pub fn fill(&mut self) -> Result<bool, Life> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Life::Over),
            Ok(len) => {
                self.decoder.push(&buffer[..len]);
                Ok(true)
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(_) => Err(Life::Over),
        }
    }

    /// The next whole frame, after the hello.
    pub fn next<T: Decode<()>>(&mut self) -> Result<Option<T>, Life> {
        if !self.greeted {
            let Some(bytes) = self.decoder.take_raw(HELLO_BYTES) else { return Ok(None) };
            let hello = bytes.try_into().map_err(|_| Life::Over)?;
            codec::parse_hello(hello, MAGIC, &VERSIONS).map_err(|_| Life::Over)?;
            self.greeted = true;
        }
        self.decoder.next_frame().map_err(|_| Life::Over)
    }

    /// Puts a frame behind what is still to be written.
    pub fn send<T: Encode>(&mut self, frame: &T) -> Life {
        match codec::encode(frame) {
            Ok(bytes) if self.out.len() + bytes.len() <= OUT_BYTES_MAX => {
                self.out.extend_from_slice(&bytes);
                self.flush()
            }
            _ => Life::Over,
        }
    }

    /// Bytes that the peer has not taken yet.
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Writes what the peer takes.
    pub fn flush(&mut self) -> Life {
        let mut done = 0;
        while done < self.out.len() {
            match self.stream.write(&self.out[done..]) {
                Ok(len) => done += len,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Life::Over,
            }
        }
        self.out.drain(..done);
        if self.out.is_empty() {
            self.out = Vec::new();
        }
        if self.closing && self.out.is_empty() { Life::Over } else { Life::Open }
    }
}
