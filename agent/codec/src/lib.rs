//! Frames between Wherry's processes: hello, length prefix, bincode body.
//!
//! On the wire: each side first sends a fixed 8-byte hello (4 bytes of magic, oldest and newest version
//! it speaks, `u16` little endian). Then frames follow: a `u32` little-endian body length and the body.
//! The same encoding is used for the small state files that daemons keep.
//!
//! Invariants: a length over [`FRAME_BYTES_MAX`] is refused before anything is allocated; a body must be
//! consumed to its last byte; only this crate names bincode, so that it can be replaced.
//! Not here: what the frames mean (the `*-protocol` crates), sockets.
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
pub mod aio;
mod body;
mod frame;
mod hello;

pub use bincode::{Decode, Encode};
pub use body::{from_bytes, to_bytes};
pub use frame::{Decoder, FRAME_BYTES_MAX, encode, read_frame, write_frame};
pub use hello::{HELLO_BYTES, exchange, hello, negotiate, parse_hello};

use std::{io, ops::RangeInclusive};

/// Why a peer or a file could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The connection or file itself failed.
    #[error("read or write a frame")]
    Io(#[source] io::Error),
    /// The length prefix is over the limit; the connection is of no use any more.
    #[error("frame of {len} bytes, at most {FRAME_BYTES_MAX} are allowed")]
    TooLong { len: u64 },
    /// The body is not what this version of the type looks like.
    #[error("frame body: {0}")]
    Body(String),
    /// The peer speaks another protocol altogether.
    #[error("peer said {theirs:02x?} where {ours:02x?} was expected")]
    Magic { ours: [u8; 4], theirs: [u8; 4] },
    /// Both speak the protocol, but no version in common.
    #[error("no common version: we speak {ours:?}, the peer {theirs:?}")]
    Version { ours: RangeInclusive<u16>, theirs: RangeInclusive<u16> },
}

impl CodecError {
    /// True when the peer closed the connection between two frames.
    pub fn is_eof(&self) -> bool {
        matches!(self, Self::Io(err) if err.kind() == io::ErrorKind::UnexpectedEof)
    }
}
