//! A host as the scheduler sees it, and the cluster as the host does.

use codec::{Decode, Encode};
use std::net::Ipv4Addr;

/// What a node is; sent once per session.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct NodeInfo {
    pub name: String,
    /// Addresses of the host itself; the first is its InternalIP.
    pub addresses: Vec<Ipv4Addr>,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// Size of the filesystem that holds images and pods.
    pub ephemeral_bytes: u64,
    pub pods_max: u32,
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// As Kubernetes names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Version of this agent.
    pub version: String,
    pub machine_id: String,
    pub boot_id: String,
    pub labels: Vec<(String, String)>,
    pub limits: LimitsEnforced,
}

/// Whether cgroup v2 can hold containers to their limits on this host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LimitsEnforced {
    Yes,
    /// A pod with a limit is refused with this reason.
    No {
        reason: String,
    },
    /// `--allow-unenforced-limits`: such pods run, unlimited.
    Waived {
        reason: String,
    },
}

/// What changes about a node; sent on connect and then now and again.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct NodeStatus {
    pub memory_available_bytes: u64,
    pub disk_available_bytes: u64,
    /// Each image present: its names and size in bytes.
    pub images: Vec<(Vec<String>, u64)>,
    /// False while netd or the image store does not answer; the message says which.
    pub ready: bool,
    pub message: String,
}

/// What the cluster tells a node on connect.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct ClusterConfig {
    /// The node's share of the pod network: address and prefix length.
    pub pod_cidr: (Ipv4Addr, u8),
    pub cluster_cidr: (Ipv4Addr, u8),
    pub service_cidr: (Ipv4Addr, u8),
    pub dns: Ipv4Addr,
    /// For example `cluster.local`.
    pub domain: String,
    /// Version of the scheduler.
    pub version: String,
}
