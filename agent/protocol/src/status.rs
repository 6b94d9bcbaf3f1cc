//! What a pod is like on its node.

use codec::{Decode, Encode};
use std::net::Ipv4Addr;

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct PodStatus {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub phase: Phase,
    /// CamelCase, for a pod that failed as a whole (`Evicted`, `DeadlineExceeded`, `UnexpectedAdmissionError`); else empty.
    pub reason: String,
    pub message: String,
    pub pod_ip: Option<Ipv4Addr>,
    /// When the agent first saw the pod.
    pub start_ns: Option<u64>,
    /// The sandbox exists and has its network.
    pub sandbox_ready: bool,
    /// Every init container is through.
    pub initialized: bool,
    /// In the order of the pod's spec, one each.
    pub init_containers: Vec<ContainerStatus>,
    pub containers: Vec<ContainerStatus>,
}

/// `status.phase`, decided by the agent, which also acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ContainerStatus {
    pub name: String,
    pub state: ContainerState,
    /// How the attempt before the present one ended.
    pub last: Option<Terminated>,
    pub ready: bool,
    /// `None` until it is known (no startup probe result yet, or not running).
    pub started: bool,
    pub restarts: u32,
    /// As in the pod's spec, with registry and tag filled in.
    pub image: String,
    /// `registry/name@sha256:…`, empty before the image is there.
    pub image_id: String,
    /// `wherry://<container>`, empty before there is one.
    pub container_id: String,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum ContainerState {
    /// Kubernetes' reasons: ContainerCreating, PodInitializing, ErrImagePull, ImagePullBackOff, ErrImageNeverPull, InvalidImageName,
    /// CreateContainerConfigError, CreateContainerError, RunContainerError, CrashLoopBackOff.
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        started_ns: u64,
    },
    Terminated(Terminated),
}

#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Terminated {
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// Completed, Error, OOMKilled, ContainerCannotRun, ContainerStatusUnknown.
    pub reason: String,
    /// The termination message.
    pub message: String,
    pub started_ns: u64,
    pub finished_ns: u64,
    pub container_id: String,
}

/// Something that happened to a pod on its node; becomes a Kubernetes Event, counted by the scheduler.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Event {
    /// `None`: about the node itself.
    pub pod_uid: Option<String>,
    pub namespace: String,
    pub pod: String,
    /// `spec.containers{name}`, or empty.
    pub field_path: String,
    pub warning: bool,
    /// As kubelet says it: Pulling, Pulled, Created, Started, Killing, BackOff, Failed, Unhealthy, FailedMount, …
    pub reason: String,
    pub message: String,
    pub at_ns: u64,
}
