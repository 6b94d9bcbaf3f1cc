//! `schema.txt` as a table; read at the first protobuf body, as most servers never see one.

use std::{collections::HashMap, sync::OnceLock};

const TEXT: &str = include_str!("schema.txt");

/// A field of a message.
pub struct Field {
    pub number: u32,
    /// In JSON.
    pub name: &'static str,
    pub kind: Kind,
    pub omitted_when_zero: bool,
}

pub enum Kind {
    String,
    Int,
    Bool,
    Bytes,
    Message(&'static str),
    /// The fields of another message, standing in this one.
    Inline(&'static str),
    List(Box<Kind>),
    /// From strings.
    Map(Box<Kind>),
    /// A message around a list.
    Items(Box<Kind>),
    Time {
        digits: usize,
    },
    Quantity,
    IntOrString,
    /// A message around JSON.
    Json,
}

type Messages = HashMap<&'static str, Vec<Field>>;

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| parse(TEXT))
}

/// Fields of a message of the schema.
pub fn of_message(name: &str) -> &'static [Field] {
    messages().get(name).map_or(&[], Vec::as_slice)
}

/// Fields of a top-level kind.
pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = group.split('.').next().unwrap_or(group);
    // Options of a deletion come in the group of what is deleted.
    let name = match kind {
        "DeleteOptions" => "meta/v1.DeleteOptions".to_owned(),
        _ => format!("{group}/{version}.{kind}"),
    };
    messages().get(name.as_str()).map(Vec::as_slice)
}

fn parse(text: &'static str) -> Messages {
    let mut messages = Messages::new();
    let mut current = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('.') {
            current = Some(messages.entry(name).or_default());
        } else if let (Some(fields), Some(field)) = (&mut current, field(line)) {
            fields.push(field);
        }
    }
    messages
}

fn field(line: &'static str) -> Option<Field> {
    let (number, rest) = line.split_once(' ')?;
    let (name, kind) = rest.split_once(' ')?;
    let bare = kind.trim_end_matches('?');
    Some(Field {
        number: number.parse().ok()?,
        name,
        kind: self::kind(bare),
        omitted_when_zero: bare.len() < kind.len(),
    })
}

fn kind(text: &'static str) -> Kind {
    let nested = |rest| Box::new(kind(rest));
    if let Some(rest) = text.strip_prefix("[]") {
        return Kind::List(nested(rest));
    }
    if let Some(rest) = text.strip_prefix("map:") {
        return Kind::Map(nested(rest));
    }
    if let Some(rest) = text.strip_prefix("items:") {
        return Kind::Items(nested(rest));
    }
    if let Some(rest) = text.strip_prefix("inline ") {
        return Kind::Inline(rest);
    }
    match text {
        "string" => Kind::String,
        "int" => Kind::Int,
        "bool" => Kind::Bool,
        "bytes" => Kind::Bytes,
        "time" => Kind::Time { digits: 0 },
        "microtime" => Kind::Time { digits: 6 },
        "quantity" => Kind::Quantity,
        "intorstring" => Kind::IntOrString,
        "raw" | "fields" => Kind::Json,
        message => Kind::Message(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_that_is_named_is_there() {
        fn check(kind: &Kind, inside: &str) {
            match kind {
                Kind::Message(name) | Kind::Inline(name) => {
                    assert!(messages().contains_key(name), "{name} in {inside}");
                }
                Kind::List(kind) | Kind::Map(kind) | Kind::Items(kind) => check(kind, inside),
                _ => {}
            }
        }
        assert!(messages().len() > 300, "{} messages", messages().len());
        for (name, fields) in messages() {
            fields.iter().for_each(|field| check(&field.kind, name));
        }
    }
}
