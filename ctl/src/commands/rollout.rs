//! `ctl rollout status|history|undo|restart DEPLOYMENT`.

use crate::{
    cli::Session,
    client::Patch,
    clock,
    error::{CtlError, failed},
    output::{
        note, print,
        table::{Options, Table},
    },
    resource::{self, encode},
};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const REVISION: &str = "deployment.kubernetes.io/revision";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Follow a roll-out until it is done
    Status { deployment: String },
    /// List the revisions that can be gone back to
    History { deployment: String },
    /// Go back to an earlier revision
    Undo {
        deployment: String,
        /// Which one [default: the one before the present]
        #[arg(long, value_name = "N")]
        to_revision: Option<u64>,
    },
    /// Replace every pod
    Restart { deployment: String },
}

/// `status` fails when the deployment exceeds its progress deadline.
pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    match &args.command {
        Command::Status { deployment } => status(name(deployment)?, session),
        Command::History { deployment } => history(name(deployment)?, session),
        Command::Undo { deployment, to_revision } => undo(name(deployment)?, *to_revision, session),
        Command::Restart { deployment } => restart(name(deployment)?, session),
    }
}

/// Accepts `web`, `deployment/web`, `deploy/web`.
fn name(word: &str) -> Result<&str, CtlError> {
    match word.split_once('/') {
        None => Ok(word),
        Some((kind, name)) if resource::find(kind)?.plural == "deployments" => Ok(name),
        Some((kind, _)) => Err(CtlError::Usage(format!("{kind} has no roll-outs; deployments have"))),
    }
}

fn path(deployment: &str, session: &Session) -> Result<String, CtlError> {
    Ok(resource::object(resource::find("deployments")?, &session.namespace, deployment))
}

fn status(deployment: &str, session: &Session) -> Result<(), CtlError> {
    let live = session.client.get(&path(deployment, session)?)?;
    let mut said = String::new();
    let mut look = |object: &Value| -> Result<bool, CtlError> {
        let (done, line) = progress(object).map_err(failed)?;
        if line != said {
            print(&format!("{line}\n"))?;
            said = line;
        }
        Ok(done)
    };
    if look(&live)? {
        return Ok(());
    }
    let collection = resource::collection(resource::find("deployments")?, Some(&session.namespace));
    let version = live["metadata"]["resourceVersion"].as_str().unwrap_or("0");
    let selector = encode(&format!("metadata.name={deployment}"));
    let watch = format!("{collection}?watch=true&fieldSelector={selector}&resourceVersion={version}");
    session.client.watch(&watch, "application/json", |event| match event["type"].as_str() {
        Some("DELETED") => Err(failed(format!("deployment {deployment:?} was deleted"))),
        Some("BOOKMARK") => Ok(true),
        _ => Ok(!look(&event["object"])?),
    })
}

/// Whether the roll-out is done, and a line about where it is; an error when it has given up.
fn progress(deployment: &Value) -> Result<(bool, String), String> {
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let status = &deployment["status"];
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    if status["observedGeneration"].as_u64() < deployment["metadata"]["generation"].as_u64() {
        return Ok((false, "Waiting for deployment spec update to be observed...".to_owned()));
    }
    let conditions = status["conditions"].as_array();
    if conditions.into_iter().flatten().any(|condition| condition["reason"] == "ProgressDeadlineExceeded") {
        return Err(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let (total, updated, available) =
        (count("replicas"), count("updatedReplicas"), count("availableReplicas"));
    let waiting =
        |what: String| Ok((false, format!("Waiting for deployment {name:?} rollout to finish: {what}...")));
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if total > updated {
        return waiting(format!("{} old replicas are pending termination", total - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok((true, format!("deployment {name:?} successfully rolled out")))
}

/// The replica sets of a deployment by revision, oldest first.
fn revisions(deployment: &Value, session: &Session) -> Result<Vec<(u64, Value)>, CtlError> {
    let list = session
        .client
        .get(&resource::collection(resource::find("replicasets")?, Some(&session.namespace)))?;
    let uid = &deployment["metadata"]["uid"];
    let owned = |set: &&Value| {
        set["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(|owner| owner["uid"] == *uid)
    };
    let mut revisions: Vec<(u64, Value)> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(owned)
        .filter_map(|set| {
            Some((set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?, set.clone()))
        })
        .collect();
    revisions.sort_by_key(|(revision, _)| *revision);
    Ok(revisions)
}

fn history(deployment: &str, session: &Session) -> Result<(), CtlError> {
    let live = session.client.get(&path(deployment, session)?)?;
    let rows: Vec<Value> = revisions(&live, session)?
        .iter()
        .map(|(revision, set)| {
            let cause =
                set["metadata"]["annotations"]["kubernetes.io/change-cause"].as_str().unwrap_or("<none>");
            let images: Vec<&str> = set["spec"]["template"]["spec"]["containers"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|container| container["image"].as_str())
                .collect();
            json!({ "cells": [revision, images.join(","), cause] })
        })
        .collect();
    let columns = ["Revision", "Images", "Change-cause"].map(|name| json!({ "name": name }));
    print(
        &Table::default()
            .render(&json!({ "columnDefinitions": columns, "rows": rows }), Options::for_stdout()),
    )
}

fn undo(deployment: &str, to_revision: Option<u64>, session: &Session) -> Result<(), CtlError> {
    let path = path(deployment, session)?;
    let live = session.client.get(&path)?;
    let revisions = revisions(&live, session)?;
    let known = || revisions.iter().map(|(revision, _)| revision.to_string()).collect::<Vec<_>>().join(", ");
    let chosen = match to_revision {
        Some(wanted) => revisions.iter().find(|(revision, _)| *revision == wanted),
        None => revisions.len().checked_sub(2).and_then(|index| revisions.get(index)),
    };
    let Some((revision, set)) = chosen else {
        return Err(failed(format!(
            "deployment {deployment:?} has no such revision to go back to; there are: {}",
            known()
        )));
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    if template == live["spec"]["template"] {
        note(&format!("Deployment {deployment:?} is at revision {revision} already."));
        return Ok(());
    }
    let patch = json!([{ "op": "replace", "path": "/spec/template", "value": template }]);
    session.client.patch(&path, Patch::Json, &patch)?;
    print(&format!("deployment.apps/{deployment} rolled back to revision {revision}\n"))
}

fn restart(deployment: &str, session: &Session) -> Result<(), CtlError> {
    let now = OffsetDateTime::from_unix_timestamp(clock::now_s())
        .map_err(|err| failed(format!("the clock: {err}")))?
        .format(&Rfc3339)
        .map_err(|err| failed(format!("the clock: {err}")))?;
    let annotations = json!({ "kubectl.kubernetes.io/restartedAt": now });
    let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
    session.client.patch(&path(deployment, session)?, Patch::Strategic, &patch)?;
    print(&format!("deployment.apps/{deployment} restarted\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roll_out_is_done_when_all_are_new_and_available() {
        let at = |observed: u64, total: u64, updated: u64, available: u64| {
            json!({
                "metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3},
                "status": {"observedGeneration": observed, "replicas": total, "updatedReplicas": updated, "availableReplicas": available},
            })
        };
        let cases = [
            (at(1, 3, 3, 3), false, "spec update"),
            (at(2, 4, 1, 3), false, "1 out of 3 new replicas"),
            (at(2, 4, 3, 3), false, "1 old replicas"),
            (at(2, 3, 3, 2), false, "2 of 3 updated"),
            (at(2, 3, 3, 3), true, "successfully rolled out"),
        ];
        for (deployment, done, text) in cases {
            let (got, line) = progress(&deployment).expect("goes on");
            assert!(got == done && line.contains(text), "{line}");
        }
        let mut late = at(2, 3, 1, 1);
        late["status"]["conditions"] = json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        assert!(progress(&late).is_err());
    }
}
