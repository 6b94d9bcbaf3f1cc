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
    /// Answered by [`LocalReply::Image`]. A name, a digest, or eight or more digits of one (`sha256:…`).
    InspectImage { reference: String },
    /// Remove images that nothing uses: those without a name, or every one. Answered by [`LocalReply::Pruned`].
    PruneImages { all: bool },
    /// [`LocalReply::Data`] as often as it takes, then `Done`. The archive is whole only after `Done`.
    ExportImage { reference: String, format: ImageFormat },
    /// Import from [`crate::StreamFrame::Data`] that follow, up to [`crate::StreamFrame::Close`]; a connection that ends before imports nothing.
    ImportStream { name: Option<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ImageFormat {
    /// An OCI image layout in a tar archive.
    Oci,
    /// What `docker save` writes.
    Docker,
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
    Image(Box<ImageDetails>),
    /// Digest and names of what was removed, and the disk that it took.
    Pruned {
        removed: Vec<(String, Vec<String>)>,
        freed_bytes: u64,
    },
    /// The next bytes of an archive.
    Data(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ImageDetails {
    pub info: ImageInfo,
    /// Digest of each layer's plain archive, lowest first, and the disk it takes unpacked.
    pub layers: Vec<(String, u64)>,
    /// Seconds since the epoch; `None`: no container was made from it yet.
    pub last_used_s: Option<u64>,
    /// What needs it: `pod namespace/name`.
    pub used_by: Vec<String>,
    /// The image's configuration: JSON as it came, or empty where it was not kept.
    pub config: String,
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
