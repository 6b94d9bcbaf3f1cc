//! As much of D-Bus as asks systemd for a unit: one call, one answer. D-Bus specification, "Message Protocol".
//!
//! A library would bring an executor and its threads, and a process with threads cannot make containers. Every wait has an end: a bus that stalls
//! is an error, never a start that hangs.

use crate::clock::Deadline;
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt},
    time::TimeVal,
};
use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

/// Longest that a connection may last, with everything that is asked over it: a bus may stall, or talk without answering.
const LIMIT: Duration = Duration::from_secs(25);
/// Longest answer that is read.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_DESTINATION: u8 = 6;
const FIELD_SIGNATURE: u8 = 8;

/// What a property may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Bool(bool),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Bytes(Vec<u8>),
    Pids(Vec<u32>),
    Texts(Vec<String>),
}

impl Value {
    /// Reads GVariant's text: `true`, `37`, `uint64 5`, `'text'`, `['a', 'b']`; as annotations have it. `None`: another kind of value.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some((kind, number)) =
            text.split_once(' ').filter(|(kind, _)| kind.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        {
            let number = number.trim();
            return match kind {
                "int32" => number.parse().ok().map(Self::I32),
                "uint32" => number.parse().ok().map(Self::U32),
                "int64" => number.parse().ok().map(Self::I64),
                "uint64" => number.parse().ok().map(Self::U64),
                _ => None,
            };
        }
        if let Some(list) = text.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
            let quoted = |text: &str| match Self::parse(text) {
                Some(Self::Text(text)) => Some(text),
                _ => None,
            };
            return list.split(',').map(quoted).collect::<Option<_>>().map(Self::Texts);
        }
        let inner = |quote| {
            text.strip_prefix(quote)?.strip_suffix(quote).filter(|text| !text.contains([quote, '\\']))
        };
        match text {
            "true" => Some(Self::Bool(true)),
            "false" => Some(Self::Bool(false)),
            text => inner('\'')
                .or_else(|| inner('"'))
                .map(|text| Self::Text(text.to_owned()))
                .or(text.parse().ok().map(Self::I32)),
        }
    }

    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Bool(_) => "b",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Bytes(_) => "ay",
            Self::Pids(_) => "au",
            Self::Texts(_) => "as",
        }
    }
}

/// Bytes of a message, each value at its own alignment from the start.
#[derive(Debug, Default)]
pub struct Body {
    bytes: Vec<u8>,
}

impl Body {
    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    pub fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub fn text(&mut self, text: &str) {
        self.u32(text.len() as u32);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    /// An array whose elements are aligned to `element` bytes.
    pub fn array(&mut self, element: usize, fill: impl FnOnce(&mut Self)) {
        self.u32(0);
        let length_at = self.bytes.len() - 4;
        self.align(element);
        let start = self.bytes.len();
        fill(self);
        let len = (self.bytes.len() - start) as u32;
        self.bytes[length_at..length_at + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// `a(sv)`.
    pub fn properties(&mut self, properties: &[(&str, Value)]) {
        self.array(8, |body| {
            for (name, value) in properties {
                body.align(8);
                body.text(name);
                body.signature(value.signature());
                body.value(value);
            }
        });
    }

    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Text(text) => self.text(text),
            Value::Bool(on) => self.u32(u32::from(*on)),
            Value::I32(number) => self.u32(number.cast_unsigned()),
            Value::U32(number) => self.u32(*number),
            Value::I64(number) => self.value(&Value::U64(number.cast_unsigned())),
            Value::U64(number) => {
                self.align(8);
                self.bytes.extend(number.to_le_bytes());
            }
            Value::Bytes(bytes) => self.array(1, |body| body.bytes.extend(bytes)),
            Value::Pids(pids) => self.array(4, |body| pids.iter().for_each(|&pid| body.u32(pid))),
            Value::Texts(texts) => self.array(4, |body| texts.iter().for_each(|text| body.text(text))),
        }
    }
}

/// A call of a method.
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub signature: &'a str,
    pub body: Body,
}

/// A connection that has introduced itself.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    deadline: Deadline,
}

impl Connection {
    /// Connects to the message bus that listens on `socket`.
    pub fn open(socket: &Path) -> io::Result<Self> {
        let mut connection =
            Self { stream: connect_to(socket)?, serial: 0, deadline: Deadline::after(LIMIT) };
        connection.authenticate()?;
        let hello = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            signature: "",
            body: Body::default(),
        };
        connection.call(hello)?;
        Ok(connection)
    }

    /// SASL `EXTERNAL`: who we are, the kernel tells the other side.
    fn authenticate(&mut self) -> io::Result<()> {
        // No uid: in a user namespace we see another than the bus does.
        self.write(b"\0AUTH EXTERNAL\r\n")?;
        self.expect(b"DATA")?;
        self.write(b"DATA\r\n")?;
        self.expect(b"OK ")?;
        self.write(b"BEGIN\r\n")
    }

    /// Reads the next line of the introduction.
    fn expect(&mut self, start: &[u8]) -> io::Result<()> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the bus answers no D-Bus"));
            }
        }
        if line.starts_with(start) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the bus refuses this user"))
    }

    /// Calls and waits for the answer. Errors: the other side's own words.
    pub fn call(&mut self, call: Call<'_>) -> io::Result<()> {
        self.serial += 1;
        let serial = self.serial;
        self.write(&encode(&call, serial))?;
        loop {
            let (kind, fields, body) = self.receive()?;
            match kind {
                METHOD_RETURN if reply_serial(&fields) == Some(serial) => return Ok(()),
                ERROR if reply_serial(&fields) == Some(serial) => {
                    let len = body.get(..4).map_or(0, word) as usize;
                    let said = String::from_utf8_lossy(body.get(4..4 + len).unwrap_or_default()).into_owned();
                    return Err(io::Error::other(said));
                }
                _ => {}
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(self.left()?))?;
            match self.stream.write(bytes) {
                Ok(len) => bytes = &bytes[len..],
                Err(err) => again(err)?,
            }
        }
        Ok(())
    }

    fn read(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => bytes = &mut bytes[len..],
                Err(err) => again(err)?,
            }
        }
        Ok(())
    }

    fn left(&self) -> io::Result<Duration> {
        let late = || {
            let why = format!("the bus gives no answer within {} s", LIMIT.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, why)
        };
        self.deadline.left().ok_or_else(late)
    }

    /// The next message: kind, header fields, body.
    fn receive(&mut self) -> io::Result<(u8, Vec<u8>, Vec<u8>)> {
        let mut head = [0; 16];
        self.read(&mut head)?;
        let (body_len, fields_len) = (word(&head[4..8]) as usize, word(&head[12..16]) as usize);
        if head[0] != b'l' || body_len > MESSAGE_BYTES_MAX || fields_len > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the bus answers no D-Bus"));
        }
        let mut rest = vec![0; fields_len.next_multiple_of(8) + body_len];
        self.read(&mut rest)?;
        let body = rest.split_off(fields_len.next_multiple_of(8));
        Ok((head[1], rest, body))
    }
}

/// What is no failure: the clock is asked again.
fn again(err: io::Error) -> io::Result<()> {
    if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        Ok(())
    } else {
        Err(err)
    }
}

fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Bounds connect(2), too.
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(LIMIT.as_secs() as i64, 0))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

fn encode(call: &Call<'_>, serial: u32) -> Vec<u8> {
    let mut message = Body::default();
    message.bytes.extend([b'l', METHOD_CALL, 0, 1]);
    message.u32(call.body.bytes.len() as u32);
    message.u32(serial);
    message.array(8, |fields| {
        let mut field = |code: u8, kind: &str, text: &str| {
            fields.align(8);
            fields.bytes.push(code);
            fields.signature(kind);
            if kind == "g" { fields.signature(text) } else { fields.text(text) }
        };
        field(FIELD_PATH, "o", call.path);
        field(FIELD_INTERFACE, "s", call.interface);
        field(FIELD_MEMBER, "s", call.member);
        field(FIELD_DESTINATION, "s", call.destination);
        if !call.signature.is_empty() {
            field(FIELD_SIGNATURE, "g", call.signature);
        }
    });
    message.align(8);
    message.bytes.extend(&call.body.bytes);
    message.bytes
}

/// Finds the serial that an answer is for; fields are structs of a code and a variant.
fn reply_serial(fields: &[u8]) -> Option<u32> {
    let mut at = 0usize;
    while at < fields.len() {
        at = at.next_multiple_of(8);
        let (code, kind) = (*fields.get(at)?, *fields.get(at + 2)?);
        // The code, one letter of signature with its length and its NUL.
        at += 4;
        match kind {
            b'u' => {
                at = at.next_multiple_of(4);
                let value = word(fields.get(at..at + 4)?);
                if code == FIELD_REPLY_SERIAL {
                    return Some(value);
                }
                at += 4;
            }
            b'g' => at += usize::from(*fields.get(at)?) + 2,
            b's' | b'o' => {
                at = at.next_multiple_of(4);
                at += 4 + word(fields.get(at..at + 4)?) as usize + 1;
            }
            _ => return None,
        }
    }
    None
}

fn word(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_specification_says() {
        let mut body = Body::default();
        body.text("a.scope");
        body.properties(&[("Delegate", Value::Bool(true)), ("PIDs", Value::Pids(vec![7]))]);
        // Length, text, NUL; length of the array; its first struct at a multiple of 8.
        assert_eq!(&body.bytes[..12], b"\x07\0\0\0a.scope\0");
        assert_eq!(word(&body.bytes[12..16]) as usize, body.bytes.len() - 16);
        assert_eq!(&body.bytes[16..28], b"\x08\0\0\0Delegate");
        let call =
            Call { destination: "d", path: "/p", interface: "i", member: "m", signature: "sa(sv)", body };
        let message = encode(&call, 3);
        let fields = word(&message[12..16]) as usize;
        assert_eq!(&message[16 + fields.next_multiple_of(8)..], &call.body.bytes);
    }

    #[test]
    fn values_are_read_from_text() {
        let cases = [
            ("true", Value::Bool(true)),
            ("37", Value::I32(37)),
            ("uint64 10000000", Value::U64(10_000_000)),
            ("int64 -1", Value::I64(-1)),
            ("'inactive-or-failed'", Value::Text("inactive-or-failed".to_owned())),
            ("['a.service', \"b\"]", Value::Texts(vec!["a.service".to_owned(), "b".to_owned()])),
        ];
        for (text, value) in cases {
            assert_eq!(Value::parse(text), Some(value), "{text}");
        }
        for text in ["", "word", "uint64 x", "'open", "[1]", "(1, 2)", "{}", "byte 1"] {
            assert_eq!(Value::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_answer_is_matched_by_its_serial() {
        let mut fields = Body::default();
        for (code, kind) in [(FIELD_DESTINATION, "s"), (FIELD_REPLY_SERIAL, "u")] {
            fields.align(8);
            fields.bytes.push(code);
            fields.signature(kind);
            if kind == "s" { fields.text(":1.23") } else { fields.u32(9) }
        }
        assert_eq!(reply_serial(&fields.bytes), Some(9));
        assert_eq!(reply_serial(&fields.bytes[..5]), None);
    }
}
