//! scheduler ↔ agent, and ctl ↔ agent on one host: plain structs, nothing of Kubernetes.
//!
//! The agent dials the scheduler (Unix socket on the same host). After the hello of [`MAGIC`] it sends one [`Dial`]:
//! - [`Dial::Session`]: the scheduler answers [`ToAgent::Welcome`], then the whole desired state between
//!   [`ToAgent::SyncBegin`] and [`ToAgent::SyncEnd`], then changes. Each carries a sequence number one higher than the last;
//!   an agent that sees a gap hangs up and dials again. The agent first reports every pod it has, then changes.
//! - [`Dial::Stream`]: answers [`ToAgent::OpenStream`] on a connection of its own, so that the socket's own flow control applies;
//!   [`StreamFrame`]s both ways.
//!
//! `ctl` dials the agent's socket with the same hello and one [`LocalRequest`].
//!
//! Everything a pod refers to is resolved by the scheduler before it is sent: an agent needs no API access.
//! Times are nanoseconds since the Unix epoch unless the name says otherwise. Enums are append-only.
#![forbid(unsafe_code)]

mod local;
mod node;
mod pod;
mod service;
mod status;
mod stream;

pub use local::{ImageDetails, ImageFormat, ImageInfo, LocalReply, LocalRequest, PodInfo, PullProgress};
pub use node::{ClusterConfig, LimitsEnforced, NodeInfo, NodeStatus};
pub use pod::{
    Container, Deletion, DownwardField, EmptyDirMedium, EnvValue, EnvVar, File, FileContent, Handler,
    HostAlias, HostPathType, HttpHeader, Mount, Pod, PodDns, Port, Probe, Protocol, PullPolicy, QosClass,
    RegistryCredential, Resources, RestartPolicy, Seccomp, Security, TerminationMessagePolicy, Volume,
    VolumeSource,
};
pub use service::{Service, ServicePort};
pub use status::{ContainerState, ContainerStatus, Event, Phase, PodStatus, Terminated};
pub use stream::{StreamFrame, StreamRequest};

use codec::{Decode, Encode};
use std::ops::RangeInclusive;

/// First bytes of every connection.
pub const MAGIC: [u8; 4] = *b"WhAg";
/// Versions this build speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;

/// First frame of an agent's connection to the scheduler.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Dial {
    /// The node's session.
    Session(Box<NodeInfo>),
    /// The stream that [`ToAgent::OpenStream`] asked for.
    Stream { token: u64 },
}

/// Scheduler to agent, on the session.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ToAgent {
    /// First frame: the node is accepted under this configuration.
    Welcome(ClusterConfig),
    /// The connection is refused; the agent logs why and dials again later.
    Refused {
        reason: String,
    },
    /// The whole desired state follows; what it does not name is to go.
    SyncBegin {
        seq: u64,
    },
    /// The desired state is complete.
    SyncEnd {
        seq: u64,
    },
    /// Add or replace a pod, found by uid.
    PutPod {
        seq: u64,
        pod: Box<Pod>,
    },
    /// The pod is gone from the API: stop it (at once if it still runs) and forget it.
    RemovePod {
        seq: u64,
        uid: String,
    },
    /// Add or replace a service, found by namespace and name.
    PutService {
        seq: u64,
        service: Service,
    },
    RemoveService {
        seq: u64,
        namespace: String,
        name: String,
    },
    /// Dial [`Dial::Stream`] with this token and serve the request there.
    OpenStream {
        token: u64,
        request: StreamRequest,
    },
    /// Are you there? Answered by [`FromAgent::Pong`].
    Ping {
        nonce: u64,
    },
}

/// Agent to scheduler, on the session.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum FromAgent {
    /// Everything up to this sequence number is on the agent's disk.
    Applied {
        seq: u64,
    },
    /// What the pod is like now.
    Status(Box<PodStatus>),
    /// Nothing of the pod is left on the node (after a [`Deletion`] or [`ToAgent::RemovePod`]).
    Gone {
        uid: String,
    },
    Event(Event),
    Node(NodeStatus),
    Pong {
        nonce: u64,
    },
}
