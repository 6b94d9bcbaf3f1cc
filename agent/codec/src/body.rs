//! The encoding of one body. The only file that knows bincode.

use crate::{CodecError, frame::FRAME_BYTES_MAX};
use bincode::{Decode, Encode, config};

fn format() -> impl config::Config {
    config::standard().with_limit::<{ FRAME_BYTES_MAX as usize }>()
}

/// Encodes `value` without a length prefix, for a state file or a frame body.
pub fn to_bytes<T: Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    bincode::encode_to_vec(value, format()).map_err(|err| CodecError::Body(err.to_string()))
}

/// Decodes exactly `bytes`; bytes left over are an error, so a newer writer is noticed.
pub fn from_bytes<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) =
        bincode::decode_from_slice(bytes, format()).map_err(|err| CodecError::Body(err.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Body(format!("{} bytes left over", bytes.len() - used)));
    }
    Ok(value)
}
