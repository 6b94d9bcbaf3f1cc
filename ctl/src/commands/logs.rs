//! `ctl logs [TYPE/]NAME`: what a container wrote.

use crate::{
    cli::Session,
    error::CtlError,
    output,
    resource::{self, encode},
};
use std::io::{Read, Write};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pod, or TYPE/NAME of something that owns pods
    pod: String,
    /// Container; needed when the pod has several
    #[arg(short, long)]
    container: Option<String>,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
    /// The run before the present one
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what is younger than this many seconds
    #[arg(long, value_name = "SECONDS")]
    since_seconds: Option<u64>,
    /// Put the time before each line
    #[arg(long)]
    timestamps: bool,
}

pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    let pod = pod_of(&args.pod, session)?;
    let mut query: Vec<String> = Vec::new();
    query.extend(args.container.as_ref().map(|name| format!("container={}", encode(name))));
    query.extend(args.tail.map(|lines| format!("tailLines={lines}")));
    query.extend(args.since_seconds.map(|seconds| format!("sinceSeconds={seconds}")));
    for (flag, name) in
        [(args.follow, "follow"), (args.previous, "previous"), (args.timestamps, "timestamps")]
    {
        query.extend(flag.then(|| format!("{name}=true")));
    }
    let pods = resource::find("pods")?;
    let path = format!("{}/log?{}", resource::object(pods, &session.namespace, &pod), query.join("&"));
    let mut body = session.client.stream(&path, "text/plain, */*")?;
    let mut out = std::io::stdout().lock();
    let mut buffer = vec![0; 32 << 10];
    loop {
        let len = body.read(&mut buffer).map_err(|err| session.client.unreachable(&err.to_string()))?;
        if len == 0 {
            return Ok(());
        }
        if out.write_all(&buffer[..len]).and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
    }
}

/// The pod that `word` names, or the first of the object that it names.
pub fn pod_of(word: &str, session: &Session) -> Result<String, CtlError> {
    let Some((kind, name)) = word.split_once('/') else { return Ok(word.to_owned()) };
    let owner = resource::find(kind)?;
    if owner.plural == "pods" {
        return Ok(name.to_owned());
    }
    let object = session.client.get(&resource::object(owner, &session.namespace, name))?;
    let labels = match owner.plural {
        "services" => &object["spec"]["selector"],
        _ => &object["spec"]["selector"]["matchLabels"],
    };
    let selector: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default()))
        .collect();
    if selector.is_empty() {
        return Err(CtlError::Usage(format!("{word} selects no pods")));
    }
    let pods = resource::collection(resource::find("pods")?, Some(&session.namespace));
    let list = session.client.get(&format!("{pods}?labelSelector={}", encode(&selector.join(","))))?;
    let names: Vec<&str> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| pod["metadata"]["name"].as_str())
        .collect();
    let Some(&first) = names.first() else { return Err(CtlError::Failed(format!("{word} has no pods"))) };
    if names.len() > 1 {
        output::note(&format!("{} pods, using {first}", names.len()));
    }
    Ok(first.to_owned())
}
