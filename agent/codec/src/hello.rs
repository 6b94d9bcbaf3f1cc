//! The fixed first bytes of every connection, and the choice of a version.

use crate::CodecError;
use std::{
    io::{Read, Write},
    ops::RangeInclusive,
};

/// Length of a hello: magic, oldest, newest.
pub const HELLO_BYTES: usize = 8;

/// The bytes to send first on a connection of the protocol called `magic`.
pub fn hello(magic: [u8; 4], versions: &RangeInclusive<u16>) -> [u8; HELLO_BYTES] {
    let (m, [o0, o1], [n0, n1]) = (magic, versions.start().to_le_bytes(), versions.end().to_le_bytes());
    [m[0], m[1], m[2], m[3], o0, o1, n0, n1]
}

/// Checks the peer's hello and picks the newest version both speak.
pub fn parse_hello(
    bytes: [u8; HELLO_BYTES],
    magic: [u8; 4],
    ours: &RangeInclusive<u16>,
) -> Result<u16, CodecError> {
    let [m0, m1, m2, m3, o0, o1, n0, n1] = bytes;
    let theirs_magic = [m0, m1, m2, m3];
    if theirs_magic != magic {
        return Err(CodecError::Magic { ours: magic, theirs: theirs_magic });
    }
    let theirs = u16::from_le_bytes([o0, o1])..=u16::from_le_bytes([n0, n1]);
    negotiate(ours, &theirs).ok_or(CodecError::Version { ours: ours.clone(), theirs })
}

/// Newest version both sides speak; `None` when the ranges do not meet.
pub fn negotiate(ours: &RangeInclusive<u16>, theirs: &RangeInclusive<u16>) -> Option<u16> {
    let newest = *ours.end().min(theirs.end());
    (ours.contains(&newest) && theirs.contains(&newest)).then_some(newest)
}

/// Sends our hello and reads the peer's, blocking; returns the version to speak.
pub fn exchange(
    stream: &mut (impl Read + Write),
    magic: [u8; 4],
    ours: &RangeInclusive<u16>,
) -> Result<u16, CodecError> {
    stream.write_all(&hello(magic, ours)).map_err(CodecError::Io)?;
    let mut theirs = [0; HELLO_BYTES];
    stream.read_exact(&mut theirs).map_err(CodecError::Io)?;
    parse_hello(theirs, magic, ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_wins() {
        let cases =
            [(1..=3, 2..=5, Some(3)), (1..=1, 1..=1, Some(1)), (4..=5, 1..=3, None), (1..=9, 2..=4, Some(4))];
        for (ours, theirs, expected) in cases {
            assert_eq!(negotiate(&ours, &theirs), expected, "{ours:?} and {theirs:?}");
            assert_eq!(negotiate(&theirs, &ours), expected, "{theirs:?} and {ours:?}");
        }
    }

    #[test]
    fn another_protocol_is_named_in_the_error() {
        let err = parse_hello(*b"GET / HT", *b"WhAg", &(1..=1)).expect_err("not ours");
        assert!(matches!(err, CodecError::Magic { theirs: [b'G', b'E', b'T', b' '], .. }));
    }
}
