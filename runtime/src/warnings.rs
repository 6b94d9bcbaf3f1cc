//! What goes wrong without ending anything, told where the caller wants to hear of it.

use std::{path::Path, sync::OnceLock};

type Sink = Box<dyn Fn(&str) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Warnings go to `sink` from now on; of several calls the first counts.
pub fn send_to(sink: impl Fn(&str) + Send + Sync + 'static) {
    let _ = SINK.set(Box::new(sink));
}

/// Of fields of a file that are none of the specification's.
pub fn unknown_field(file: &Path) -> impl FnMut(&str) {
    move |field| warn(&format!("{}: unknown field {field} is ignored", file.display()))
}

/// Tells of it, if anybody listens.
pub fn warn(message: &str) {
    if let Some(sink) = SINK.get() {
        sink(message);
    }
}
