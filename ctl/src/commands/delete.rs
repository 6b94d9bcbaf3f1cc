//! `ctl delete (-f FILE… | TYPE NAME… | TYPE -l SELECTOR | TYPE --all)`.

use crate::{
    cli::Session,
    error::CtlError,
    manifest,
    output::print,
    resource::{self, encode},
};
use serde_json::Value;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME… or TYPE/NAME…
    what: Vec<String>,
    /// Delete what these files hold
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "what")]
    filename: Vec<PathBuf>,
    /// Objects of the type with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR", requires = "what")]
    selector: Option<String>,
    /// Every object of the type in the namespace
    #[arg(long, requires = "what", conflicts_with = "selector")]
    all: bool,
    /// Seconds a pod has to stop; 0 kills it at once
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Do not wait until the objects are gone
    #[arg(long)]
    no_wait: bool,
    /// It is no error when an object is not there
    #[arg(long)]
    ignore_not_found: bool,
}

/// One object to delete: its path, what to call it, and its collection with a selector for the watch.
struct Doomed {
    path: String,
    label: String,
    collection: String,
    name: String,
}

pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    let doomed = doomed(args, session)?;
    let mut query = "?propagationPolicy=Background".to_owned();
    query.extend(args.grace_period.map(|seconds| format!("&gracePeriodSeconds={seconds}")));
    for object in &doomed {
        match session.client.delete(&format!("{}{query}", object.path)) {
            Err(err) if err.is("NotFound") && args.ignore_not_found => continue,
            deleted => deleted?,
        };
        print(&format!("{} deleted\n", object.label))?;
    }
    if args.no_wait {
        return Ok(());
    }
    doomed.iter().try_for_each(|object| wait_gone(object, session))
}

fn doomed(args: &Args, session: &Session) -> Result<Vec<Doomed>, CtlError> {
    let doom = |resource, namespace: &str, name: &str| Doomed {
        path: resource::object(resource, namespace, name),
        label: resource::label(resource, name),
        collection: resource::collection(resource, Some(namespace)),
        name: name.to_owned(),
    };
    if !args.filename.is_empty() {
        let objects = manifest::read(&args.filename, &session.namespace, None)?;
        return Ok(objects
            .iter()
            .map(|object| doom(object.resource, &object.namespace, &object.name))
            .collect());
    }
    let mut doomed = Vec::new();
    for target in resource::targets(&args.what)? {
        match &target.name {
            Some(name) => doomed.push(doom(target.resource, &session.namespace, name)),
            None if args.all || args.selector.is_some() => {
                let selector = args
                    .selector
                    .as_deref()
                    .map(|s| format!("?labelSelector={}", encode(s)))
                    .unwrap_or_default();
                let path = resource::collection(target.resource, Some(&session.namespace));
                let list = session.client.get(&format!("{path}{selector}"))?;
                let names = list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|item| item["metadata"]["name"].as_str());
                doomed.extend(names.map(|name| doom(target.resource, &session.namespace, name)));
            }
            None => {
                return Err(CtlError::Usage(format!(
                    "name the {} to delete, or say --all or -l",
                    target.resource.plural
                )));
            }
        }
    }
    Ok(doomed)
}

/// Follows the object until it is gone (or replaced by another of the same name).
fn wait_gone(object: &Doomed, session: &Session) -> Result<(), CtlError> {
    loop {
        let live: Value = match session.client.get(&object.path) {
            Err(err) if err.is("NotFound") => return Ok(()),
            live => live?,
        };
        if live["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let version = live["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let selector = encode(&format!("metadata.name={}", object.name));
        let path =
            format!("{}?watch=true&fieldSelector={selector}&resourceVersion={version}", object.collection);
        session.client.watch(&path, "application/json", |event| Ok(event["type"] != "DELETED"))?;
    }
}
