//! Protobuf's wire format: tags, varints, and runs of bytes.

use super::{ProtobufError, malformed};

/// The value of one field.
#[derive(Clone, Copy, Debug)]
pub enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed 32 or 64 bits, which no field of Kubernetes has.
    Fixed,
}

impl<'a> Wire<'a> {
    pub fn varint(self, field: &str) -> Result<u64, ProtobufError> {
        match self {
            Self::Varint(number) => Ok(number),
            // The zero of an entry whose value was left out.
            Self::Bytes([]) => Ok(0),
            _ => Err(malformed(field, "is not a number")),
        }
    }

    pub fn bytes(self, field: &str) -> Result<&'a [u8], ProtobufError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(malformed(field, "is a number where a text or message belongs")),
        }
    }

    pub fn text(self, field: &str) -> Result<&'a str, ProtobufError> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| malformed(field, "is not UTF-8"))
    }
}

pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number and value of the next field; `inside` is named when it is malformed.
    pub fn next(&mut self, inside: &str) -> Result<Option<(u32, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint(inside)?;
        let number =
            u32::try_from(tag >> 3).map_err(|_| malformed(inside, "has a field number too large"))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint(inside)?),
            1 => self.take(8, inside).map(|_| Wire::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint(inside)?).unwrap_or(usize::MAX);
                Wire::Bytes(self.take(len, inside)?)
            }
            5 => self.take(4, inside).map(|_| Wire::Fixed)?,
            _ => return Err(malformed(inside, "has a field of a wire type that is not known")),
        };
        Ok(Some((number, wire)))
    }

    /// Little-endian groups of seven bits, ten at most.
    pub fn varint(&mut self, inside: &str) -> Result<u64, ProtobufError> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let [byte, rest @ ..] = self.0 else { return Err(malformed(inside, "ends too early")) };
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(malformed(inside, "has a number of more than ten bytes"))
    }

    fn take(&mut self, len: usize, inside: &str) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or_else(|| malformed(inside, "ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }
}
