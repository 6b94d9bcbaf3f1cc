//! `ctl describe TYPE [NAME…]`: one object in full, with its events.

use crate::{
    cli::Session,
    error::CtlError,
    output::{
        describe::describe,
        print,
        table::{Options, Table},
    },
    resource::{self, encode},
};
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME… or TYPE/NAME…
    #[arg(required = true)]
    what: Vec<String>,
}

pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    let mut first = true;
    for target in resource::targets(&args.what)? {
        let path = match &target.name {
            Some(name) => resource::object(target.resource, &session.namespace, name),
            None => resource::collection(target.resource, Some(&session.namespace)),
        };
        let value = session.client.get(&path)?;
        let objects = value["items"].as_array().map_or(std::slice::from_ref(&value), Vec::as_slice);
        for object in objects {
            let gap = if std::mem::take(&mut first) { "" } else { "\n\n" };
            print(&format!("{gap}{}{}", describe(object), events(object, session)?))?;
        }
    }
    Ok(())
}

fn events(object: &Value, session: &Session) -> Result<String, CtlError> {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let selector = encode(&format!("involvedObject.uid={uid}"));
    let table = session.client.get_table(&format!("/api/v1/events?fieldSelector={selector}"))?;
    if table["rows"].as_array().is_none_or(Vec::is_empty) {
        return Ok("Events:  <none>\n".to_owned());
    }
    Ok(format!("Events:\n{}", Table::default().render(&table, Options::default())))
}
