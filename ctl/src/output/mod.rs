//! What commands print: results on stdout, everything said beside them on stderr.

pub mod describe;
pub mod table;

use crate::{error::CtlError, resource};
use api::Resource;
use serde_json::Value;
use std::io::Write;

/// How `get` shows objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// More columns
    Wide,
    Yaml,
    Json,
    /// `type/name`, a line each
    Name,
}

/// One line about what was done, for people.
pub fn note(message: &str) {
    anstream::eprintln!("{message}");
}

/// The one line that a failed command ends with.
pub fn error(message: &str) {
    anstream::eprintln!("\u{1b}[31merror:\u{1b}[0m {message}");
}

/// Writes to stdout; a reader that went away ends the program quietly, as `head` expects.
pub fn print(text: &str) -> Result<(), CtlError> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Err(CtlError::Exit(0)),
        Err(source) => Err(CtlError::File { what: "write", path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}

/// Prints one object or list as data.
pub fn data(value: &Value, format: Format, resource: &Resource) -> Result<(), CtlError> {
    match format {
        Format::Json => print(&format!("{value:#}\n")),
        Format::Yaml => print(&yaml(value)?),
        Format::Name | Format::Wide => {
            let objects = value["items"].as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let line = |object: &Value| {
                format!(
                    "{}\n",
                    resource::label(resource, object["metadata"]["name"].as_str().unwrap_or_default())
                )
            };
            print(&objects.iter().map(line).collect::<String>())
        }
    }
}

fn yaml(value: &Value) -> Result<String, CtlError> {
    let mut text =
        serde_saphyr::to_string(value).map_err(|err| CtlError::Failed(format!("as YAML: {err}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
