//! `ctl apply -f FILE…`: make objects be as files say.

use super::Files;
use crate::{
    apply::{annotated, last_applied, patch},
    cli::Session,
    client::Patch,
    error::CtlError,
    manifest::{self, Object},
    output::print,
    resource,
};
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// Let the server check everything but keep nothing
    #[arg(long)]
    dry_run: bool,
}

/// A line for each object; stops at the first that fails.
pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    for object in manifest::read(&args.files.filename, &session.namespace, None)? {
        let done = apply(&object, session, args.dry_run)?;
        print(&format!("{} {done}{suffix}\n", object.label()))?;
    }
    Ok(())
}

fn apply(object: &Object, session: &Session, dry_run: bool) -> Result<&'static str, CtlError> {
    let query = if dry_run { "&dryRun=All" } else { "" };
    let query = format!("?fieldManager=ctl&fieldValidation=Strict{query}");
    let wanted = annotated(&object.value);
    let live = match session.client.get(&object.path()) {
        Err(err) if err.is("NotFound") => {
            let path = resource::collection(object.resource, Some(&object.namespace));
            session.client.create(&format!("{path}{query}"), &wanted)?;
            return Ok("created");
        }
        live => live?,
    };
    let merge_key = |path: &[&str]| api::patch::merge_key(path).map(str::to_owned);
    let patch = patch(&last_applied(&live), &wanted, &live, &merge_key);
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok("unchanged");
    }
    let patched: Value =
        session.client.patch(&format!("{}{query}", object.path()), Patch::Strategic, &patch)?;
    Ok(if patched["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"] {
        "unchanged"
    } else {
        "configured"
    })
}
