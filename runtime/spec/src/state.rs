//! What `state` prints and hooks get on stdin, runtime.md "State".

use crate::{ContainerId, OCI_VERSION};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt, path::Path};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Stopped,
    Paused,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
        })
    }
}

/// The document itself; `pid` 0 is left out, as for a container that has stopped.
#[derive(Clone, Debug)]
pub struct State<'a> {
    pub id: &'a ContainerId,
    pub status: Status,
    pub pid: i32,
    pub bundle: &'a Path,
    pub annotations: &'a BTreeMap<String, String>,
}

impl State<'_> {
    pub fn to_json(&self) -> Value {
        let mut state = json!({
            "ociVersion": OCI_VERSION,
            "id": self.id.as_ref(),
            "status": self.status.to_string(),
            "bundle": self.bundle,
        });
        if self.pid != 0 {
            state["pid"] = json!(self.pid);
        }
        if !self.annotations.is_empty() {
            state["annotations"] = json!(self.annotations);
        }
        state
    }
}
