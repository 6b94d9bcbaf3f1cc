//! Length-prefixed frames over any byte stream, blocking or fed from an event loop.

use crate::{CodecError, from_bytes, to_bytes};
use bincode::{Decode, Encode};
use std::io::{Read, Write};

/// Longest body, in bytes. A pod with a full-size ConfigMap and Secret (1 MiB each) fits several times.
pub const FRAME_BYTES_MAX: u32 = 16 << 20;
pub(crate) const PREFIX_BYTES: usize = 4;

/// One frame, prefix included, ready to be written.
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    let body = to_bytes(value)?;
    let len = checked_len(body.len() as u64)?;
    let mut frame = Vec::with_capacity(PREFIX_BYTES + body.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Writes one frame and flushes.
pub fn write_frame<T: Encode>(writer: &mut impl Write, value: &T) -> Result<(), CodecError> {
    let frame = encode(value)?;
    writer.write_all(&frame).and_then(|()| writer.flush()).map_err(CodecError::Io)
}

/// Reads one frame; blocks until it is whole. End of file before the prefix is [`CodecError::is_eof`].
pub fn read_frame<T: Decode<()>>(reader: &mut impl Read) -> Result<T, CodecError> {
    let mut prefix = [0; PREFIX_BYTES];
    reader.read_exact(&mut prefix).map_err(CodecError::Io)?;
    let len = checked_len(u64::from(u32::from_le_bytes(prefix)))?;
    let mut body = vec![0; len as usize];
    reader.read_exact(&mut body).map_err(CodecError::Io)?;
    from_bytes(&body)
}

pub(crate) fn checked_len(len: u64) -> Result<u32, CodecError> {
    u32::try_from(len).ok().filter(|&len| len <= FRAME_BYTES_MAX).ok_or(CodecError::TooLong { len })
}

/// Collects bytes as they arrive and hands out whole frames; for non-blocking sockets.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Appends what was read from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Appends nothing and takes `n` raw bytes, for a hello that precedes the frames.
    pub fn take_raw(&mut self, n: usize) -> Option<Vec<u8>> {
        let bytes = self.buffer.get(self.start..self.start + n)?.to_vec();
        self.start += n;
        Some(bytes)
    }

    /// The next whole frame, `None` when more bytes are needed. After an error the stream is useless.
    pub fn next_frame<T: Decode<()>>(&mut self) -> Result<Option<T>, CodecError> {
        let pending = &self.buffer[self.start..];
        let Some(prefix) = pending.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let len = checked_len(u64::from(u32::from_le_bytes(*prefix)))? as usize;
        let Some(body) = pending.get(PREFIX_BYTES..PREFIX_BYTES + len) else { return Ok(None) };
        let value = from_bytes(body)?;
        self.start += PREFIX_BYTES + len;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_split_anywhere_come_out_whole() {
        let bytes: Vec<u8> = (0..50u32).flat_map(|n| encode(&vec![n; n as usize]).expect("small")).collect();
        for step in [1, 3, 7, 1000] {
            let mut decoder = Decoder::default();
            let mut seen = 0;
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame::<Vec<u32>>().expect("valid") {
                    assert_eq!(frame, vec![seen; seen as usize]);
                    seen += 1;
                }
            }
            assert_eq!(seen, 50);
        }
    }

    #[test]
    fn hostile_length_is_refused_before_allocation() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.next_frame::<u8>(), Err(CodecError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame::<(String, Vec<u64>, Option<bool>)>() {}
        }
    }
}
