//! What `ctl` asks the agent of its own host; also works while the control plane is away.

use crate::{StreamRequest, status::Phase};
use codec::{Decode, Encode};
use std::{net::Ipv4Addr, path::PathBuf};

/// The one request of a connection.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum LocalRequest {
    /// Answered by [`LocalReply::Images`].
    Images,
    /// [`LocalReply::Progress`] now and again, then `Done` (the image's digest) or `Failed`.
    Pull { reference: String },
    /// Import an OCI layout or `docker save` archive, a file on this host. `name` overrides the name in it.
    Import { path: PathBuf, name: Option<String> },
    /// Remove an image by name or digest; refused while a container uses it.
    RemoveImage { reference: String },
    /// Answered by [`LocalReply::Pods`].
    Pods,
    /// [`crate::StreamFrame`]s follow, both ways.
    Stream(StreamRequest),
    /// Stop every pod and forget the desired state (`ctl down`); `Progress` while pods stop, then `Done`.
    Drain { grace_s: u32 },
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum LocalReply {
    Images(Vec<ImageInfo>),
    Pods(Vec<PodInfo>),
    Progress(PullProgress),
    /// One line about what was done.
    Done(String),
    /// One line about what went wrong.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ImageInfo {
    /// Full names with tag.
    pub names: Vec<String>,
    /// Manifest digest, `sha256:…`.
    pub digest: String,
    pub size_bytes: u64,
    /// Seconds since the epoch; 0 when the image does not say.
    pub created_s: i64,
}

/// State of one layer (or of a pod that stops).
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PullProgress {
    /// Digest of the layer, or the pod's name.
    pub item: String,
    /// `waiting`, `downloading`, `unpacking`, `done`, `present`.
    pub state: String,
    pub bytes: u64,
    /// 0 when unknown.
    pub bytes_total: u64,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PodInfo {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub phase: Phase,
    pub ip: Option<Ipv4Addr>,
    /// Name, ready, restarts, whether it runs, and the first process's pid (0: none).
    pub containers: Vec<(String, bool, u32, bool, u32)>,
}
