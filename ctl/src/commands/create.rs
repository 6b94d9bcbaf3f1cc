//! `ctl create -f FILE…`: create objects; one that exists is an error.

use super::Files;
use crate::{cli::Session, error::CtlError, manifest, output::print, resource};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
}

pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    for object in manifest::read(&args.files.filename, &session.namespace, None)? {
        let path = resource::collection(object.resource, Some(&object.namespace));
        let query = "?fieldManager=ctl-create&fieldValidation=Strict";
        let created = session.client.create(&format!("{path}{query}"), &object.value)?;
        let name = created["metadata"]["name"].as_str().unwrap_or(&object.name);
        print(&format!("{} created\n", resource::label(object.resource, name)))?;
    }
    Ok(())
}
