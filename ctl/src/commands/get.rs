//! `ctl get TYPE [NAME…]`: show objects.

use crate::{
    cli::Session,
    client::TABLE,
    error::CtlError,
    output::{
        self, Format, note, print,
        table::{Options, Table},
    },
    resource::{self, Target, encode},
};
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME…, TYPE/NAME…, TYPE,TYPE or `all`
    #[arg(required = true)]
    what: Vec<String>,
    /// Form of the output
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    /// Go on showing changes
    #[arg(short, long)]
    watch: bool,
    /// Objects of every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    #[arg(long)]
    no_headers: bool,
}

pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    let targets = resource::targets(&args.what)?;
    if args.watch && targets.len() > 1 {
        return Err(CtlError::Usage("--watch follows one type or one object".to_owned()));
    }
    match args.output {
        Some(format @ (Format::Json | Format::Yaml | Format::Name)) => {
            as_data(args, session, &targets, format)
        }
        _ => as_table(args, session, &targets),
    }
}

fn as_data(args: &Args, session: &Session, targets: &[Target], format: Format) -> Result<(), CtlError> {
    for target in targets {
        let mut value = session.client.get(&path(args, session, target, ""))?;
        name_items(&mut value, target);
        output::data(&value, format, target.resource)?;
    }
    let [target] = targets else { return Ok(()) };
    if !args.watch {
        return Ok(());
    }
    session.client.watch(&path(args, session, target, "watch=true"), "application/json", |event| {
        output::data(&event["object"], format, target.resource)?;
        Ok(true)
    })
}

/// Items of a list need not name their kind; people who read them alone want it.
fn name_items(list: &mut Value, target: &Target) {
    let version = match target.resource.group {
        "" => target.resource.version.to_owned(),
        group => format!("{group}/{}", target.resource.version),
    };
    for item in list["items"].as_array_mut().into_iter().flatten() {
        item["apiVersion"] = json!(version);
        item["kind"] = json!(target.resource.kind);
    }
}

fn as_table(args: &Args, session: &Session, targets: &[Target]) -> Result<(), CtlError> {
    let mut types: Vec<&str> = targets.iter().map(|target| target.resource.plural).collect();
    types.dedup();
    let several = types.len() > 1;
    let (mut printed, mut empty) = (false, true);
    let mut table = Table::default();
    for (index, target) in targets.iter().enumerate() {
        let options = Options {
            wide: args.output == Some(Format::Wide),
            namespaces: args.all_namespaces && target.resource.namespaced,
            no_headers: args.no_headers,
            kind_prefix: several.then_some(target.resource.singular),
            ..Options::for_stdout()
        };
        if index > 0 && targets[index - 1].resource.plural != target.resource.plural {
            table = Table::default();
        }
        let rows = session.client.get_table(&path(args, session, target, ""))?;
        if rows["rows"].as_array().is_some_and(|rows| !rows.is_empty()) {
            let new_table = index == 0 || targets[index - 1].resource.plural != target.resource.plural;
            let gap = if printed && several && new_table { "\n" } else { "" };
            print(&format!("{gap}{}", table.render(&rows, options)))?;
            (printed, empty) = (true, false);
        }
        if args.watch {
            return watch(args, session, target, &rows, table, options);
        }
    }
    if empty {
        let place =
            if args.all_namespaces { String::new() } else { format!(" in {} namespace", session.namespace) };
        note(&format!("No resources found{place}."));
    }
    Ok(())
}

fn watch(
    args: &Args,
    session: &Session,
    target: &Target,
    listed: &Value,
    mut table: Table,
    options: Options,
) -> Result<(), CtlError> {
    let from = listed["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let query = format!("watch=true&resourceVersion={}", encode(from));
    session.client.watch(&path(args, session, target, &query), TABLE, |event| {
        if event["type"] != "BOOKMARK" {
            print(&table.render(&event["object"], options))?;
        }
        Ok(true)
    })
}

/// The path of a target; one object that is watched is a collection with a field selector.
fn path(args: &Args, session: &Session, target: &Target, query: &str) -> String {
    let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
    let mut parts: Vec<String> = Vec::new();
    let mut fields = args.field_selector.clone();
    let path = match &target.name {
        Some(name) if !query.contains("watch=") => {
            resource::object(target.resource, &session.namespace, name)
        }
        Some(name) => {
            fields = Some(format!("metadata.name={name}"));
            resource::collection(target.resource, namespace)
        }
        None => resource::collection(target.resource, namespace),
    };
    parts.extend(args.selector.as_ref().map(|selector| format!("labelSelector={}", encode(selector))));
    parts.extend(fields.map(|selector| format!("fieldSelector={}", encode(&selector))));
    if !query.is_empty() {
        parts.push(query.to_owned());
    }
    if parts.is_empty() { path } else { format!("{path}?{}", parts.join("&")) }
}
