//! Kubernetes' protobuf bodies, turned into the JSON that other clients send.
//!
//! A body is the magic `k8s\0`, then `runtime.Unknown` (apimachinery `pkg/runtime/generated.proto`) around one message.
//! What the messages look like is in `schema.txt`, which `schema.py` makes from the Go types: field numbers never
//! change upstream, and fields that are not known are passed over, as Kubernetes does.

mod schema;
mod wire;

use schema::{Field, Kind};
use serde_json::{Map, Value};
use wire::{Reader, Wire};

const MAGIC: &[u8] = b"k8s\0";
/// Deeper nesting than any kind has.
const DEPTH_MAX: u32 = 64;

/// Why a body is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    #[error("the body does not begin with the magic number of Kubernetes' protobuf")]
    Magic,
    #[error("protobuf of kind {kind:?} in {api_version:?} is not known: send JSON or YAML")]
    Unknown { api_version: String, kind: String },
    #[error("the content encoding {0:?} of the object is not supported")]
    Encoding(String),
    #[error("{field}: {what}")]
    Malformed { field: String, what: &'static str },
}

fn malformed(field: &str, what: &'static str) -> ProtobufError {
    ProtobufError::Malformed { field: field.to_owned(), what }
}

/// The object in a body, with `apiVersion` and `kind` from its envelope.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?)?;
    if !envelope.encoding.is_empty() {
        return Err(ProtobufError::Encoding(envelope.encoding));
    }
    let mut object = match envelope.content_type.as_str() {
        "application/json" => match serde_json::from_slice(envelope.raw) {
            Ok(Value::Object(object)) => object,
            _ => return Err(malformed("raw", "is not a JSON object")),
        },
        _ => {
            let fields = schema::of_kind(&envelope.api_version, &envelope.kind).ok_or_else(|| {
                let (api_version, kind) = (envelope.api_version.clone(), envelope.kind.clone());
                ProtobufError::Unknown { api_version, kind }
            })?;
            let mut object = Map::new();
            message(envelope.raw, fields, &mut object, DEPTH_MAX)?;
            object
        }
    };
    object.insert("apiVersion".into(), envelope.api_version.into());
    object.insert("kind".into(), envelope.kind.into());
    Ok(object.into())
}

/// `runtime.Unknown`.
#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
    encoding: String,
    content_type: String,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next("envelope")? {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => {
                    let mut reader = Reader::new(meta);
                    while let Some((number, wire)) = reader.next("typeMeta")? {
                        match number {
                            1 => envelope.api_version = wire.text("apiVersion")?.to_owned(),
                            2 => envelope.kind = wire.text("kind")?.to_owned(),
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => envelope.raw = raw,
                (3, wire) => envelope.encoding = wire.text("contentEncoding")?.to_owned(),
                (4, wire) => envelope.content_type = wire.text("contentType")?.to_owned(),
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// Puts the fields of a message into `object`.
fn message(
    bytes: &[u8],
    fields: &[Field],
    object: &mut Map<String, Value>,
    depth: u32,
) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or_else(|| malformed("object", "is nested too deeply"))?;
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next("object")? {
        let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
        match &field.kind {
            Kind::Inline(name) => message(wire.bytes(name)?, schema::of_message(name), object, depth)?,
            Kind::List(kind) => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else { continue };
                match (&**kind, &wire) {
                    // Numbers may also come packed.
                    (Kind::Int, Wire::Bytes(packed)) => {
                        let mut reader = Reader::new(packed);
                        while !reader.is_empty() {
                            list.push(reader.varint(field.name)?.cast_signed().into());
                        }
                    }
                    _ => list.push(value(wire, kind, field.name, depth)?),
                }
            }
            Kind::Map(kind) => {
                let entries = object.entry(field.name).or_insert_with(|| Map::new().into());
                let Value::Object(entries) = entries else { continue };
                let (key, value) = entry(wire.bytes(field.name)?, kind, field.name, depth)?;
                entries.insert(key, value);
            }
            kind => {
                let value = value(wire, kind, field.name, depth)?;
                if !(field.omitted_when_zero && is_zero(&value)) {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

/// One entry of a map: key 1, value 2, either left out when it is zero.
fn entry(bytes: &[u8], kind: &Kind, field: &str, depth: u32) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next(field)? {
        match number {
            1 => key = wire.text(field)?.to_owned(),
            2 => found = Some(value(wire, kind, field, depth)?),
            _ => {}
        }
    }
    let zero = || value(Wire::Bytes(&[]), kind, field, depth);
    Ok((key, found.map_or_else(zero, Ok)?))
}

fn value(wire: Wire<'_>, kind: &Kind, field: &str, depth: u32) -> Result<Value, ProtobufError> {
    Ok(match kind {
        Kind::String => wire.text(field)?.into(),
        Kind::Int => wire.varint(field)?.cast_signed().into(),
        Kind::Bool => (wire.varint(field)? != 0).into(),
        Kind::Bytes => base64::Engine::encode(&base64::prelude::BASE64_STANDARD, wire.bytes(field)?).into(),
        Kind::Message(name) => {
            let mut object = Map::new();
            message(wire.bytes(field)?, schema::of_message(name), &mut object, depth)?;
            object.into()
        }
        Kind::Items(kind) => {
            let mut items = Vec::new();
            let mut reader = Reader::new(wire.bytes(field)?);
            while let Some((_, wire)) = reader.next(field)? {
                items.push(value(wire, kind, field, depth)?);
            }
            items.into()
        }
        Kind::Time { digits } => time(wire.bytes(field)?, *digits, field)?,
        Kind::Quantity => first(wire.bytes(field)?, field)?.map_or(Ok(""), |wire| wire.text(field))?.into(),
        Kind::IntOrString => int_or_string(wire.bytes(field)?, field)?,
        Kind::Json => match first(wire.bytes(field)?, field)? {
            Some(wire) => serde_json::from_slice(wire.bytes(field)?)
                .map_err(|_| malformed(field, "holds bytes that are not JSON"))?,
            None => Value::Null,
        },
        Kind::List(_) | Kind::Map(_) | Kind::Inline(_) => {
            return Err(malformed(field, "is of a kind that does not nest"));
        }
    })
}

/// Field 1 of a message that has no other.
fn first<'a>(bytes: &'a [u8], field: &str) -> Result<Option<Wire<'a>>, ProtobufError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next(field)? {
        if number == 1 {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

/// `Time` and `MicroTime`: seconds 1, nanoseconds 2; nothing at all is null.
fn time(bytes: &[u8], digits: usize, field: &str) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next(field)? {
        match number {
            1 => seconds = Some(wire.varint(field)?.cast_signed()),
            2 => nanos = wire.varint(field)?,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let at = time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .filter(|at| (0..=9999).contains(&at.year()) && nanos < 1_000_000_000)
        .ok_or_else(|| malformed(field, "is a time outside of the years 0 to 9999"))?;
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let fraction = if digits == 0 { String::new() } else { format!(".{:06}", nanos / 1000) };
    let text =
        format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z", u8::from(month));
    Ok(text.into())
}

/// Type 1 (0: number), number 2, text 3.
fn int_or_string(bytes: &[u8], field: &str) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((at, wire)) = reader.next(field)? {
        match at {
            1 => is_text = wire.varint(field)? != 0,
            2 => number = wire.varint(field)?.cast_signed(),
            3 => text = wire.text(field)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// What Go's `omitempty` leaves out.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests;
