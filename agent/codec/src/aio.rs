//! The same frames over tokio streams.

use crate::{
    CodecError,
    frame::{PREFIX_BYTES, checked_len, encode},
    from_bytes,
    hello::{HELLO_BYTES, hello, parse_hello},
};
use bincode::{Decode, Encode};
use std::ops::RangeInclusive;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes one frame and flushes.
pub async fn write_frame<T: Encode>(
    writer: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> Result<(), CodecError> {
    let frame = encode(value)?;
    writer.write_all(&frame).await.map_err(CodecError::Io)?;
    writer.flush().await.map_err(CodecError::Io)
}

/// Reads one frame. Not safe to cancel: give it a task of its own, or never drop it half way.
pub async fn read_frame<T: Decode<()>>(reader: &mut (impl AsyncRead + Unpin)) -> Result<T, CodecError> {
    let mut prefix = [0; PREFIX_BYTES];
    reader.read_exact(&mut prefix).await.map_err(CodecError::Io)?;
    let len = checked_len(u64::from(u32::from_le_bytes(prefix)))?;
    let mut body = vec![0; len as usize];
    reader.read_exact(&mut body).await.map_err(CodecError::Io)?;
    from_bytes(&body)
}

/// Sends our hello and reads the peer's; returns the version to speak.
pub async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    magic: [u8; 4],
    ours: &RangeInclusive<u16>,
) -> Result<u16, CodecError> {
    stream.write_all(&hello(magic, ours)).await.map_err(CodecError::Io)?;
    let mut theirs = [0; HELLO_BYTES];
    stream.read_exact(&mut theirs).await.map_err(CodecError::Io)?;
    parse_hello(theirs, magic, ours)
}
