//! agent ↔ netd: plain structs, nothing of Kubernetes.
//!
//! netd listens on a Unix socket (`/run/wherry/netd.sock`). A connection starts with the hello of [`MAGIC`]; then the
//! agent sends [`Request`]s and gets one [`Reply`] each, in order. Every request is idempotent: after a crash of
//! either side the agent repeats what it wants. netd keeps what it was told under its run directory, so that after its own restart
//! the proxy and DNS serve again before the agent has reconnected.
#![forbid(unsafe_code)]

use codec::{Decode, Encode};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

/// First bytes of every connection.
pub const MAGIC: [u8; 4] = *b"WhNe";
/// Versions this build speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Cidr {
    pub address: Ipv4Addr,
    /// 0..=32.
    pub prefix: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    pub tag: u64,
    pub body: RequestBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RequestBody {
    /// Bring the node's network into this shape: bridge, routes, masquerade, DNS. Comes first.
    Configure(Node),
    /// Give the pod an interface `eth0` and an address; repeating it gives the same address.
    Attach(Attach),
    /// Take the pod's interface and address away; absent is success.
    Detach { pod: String },
    /// All services, whole: what is not listed goes.
    SetServices(Vec<Service>),
    /// Add or replace one service, found by namespace and name.
    PutService(Service),
    /// Remove one service; absent is success.
    RemoveService { namespace: String, name: String },
    /// Which pods are attached.
    Attachments,
    /// Drop every pod not listed (after a restart of the agent).
    Retain { pods: Vec<String> },
    /// Remove bridge, routes, rules and state files, then exit (`ctl down`).
    Teardown,
}

/// The node's network.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Node {
    /// Addresses for this node's pods; the bridge holds the first.
    pub pod_cidr: Cidr,
    /// Cluster-wide pod network: traffic to it is not masqueraded.
    pub cluster_cidr: Cidr,
    /// Made local by the AnyIP route.
    pub service_cidr: Cidr,
    /// Address inside `service_cidr` on which DNS is answered.
    pub dns: Ipv4Addr,
    /// For example `cluster.local`.
    pub domain: String,
    /// Where names outside the domain are asked; empty means the servers of the host's `resolv.conf`.
    pub upstream_dns: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Attach {
    /// uid of the pod.
    pub pod: String,
    /// Namespace file, `/proc/<pid>/ns/net`.
    pub netns: PathBuf,
    /// Inode the namespace file must have, so that a recycled pid is never used.
    pub netns_inode: u64,
    /// `hostPort` mappings: host port → container port.
    pub host_ports: Vec<HostPort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HostPort {
    pub protocol: Protocol,
    pub host: u16,
    pub container: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A service with the endpoints that are ready for it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// `None` for a headless service: DNS then answers with the endpoints themselves.
    pub cluster_ip: Option<Ipv4Addr>,
    /// `ExternalName`: DNS answers with a CNAME.
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    /// For headless services: every ready endpoint with its host name (may be empty).
    pub hosts: Vec<(String, Ipv4Addr)>,
    /// Stick to one endpoint per client for this many seconds (`sessionAffinity: ClientIP`).
    pub affinity_s: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServicePort {
    /// Empty when the service has one unnamed port.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    /// Ready endpoints.
    pub endpoints: Vec<SocketAddr>,
}

/// Answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reply {
    pub tag: u64,
    pub result: Result<ReplyBody, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ReplyBody {
    Done,
    Attached { address: Ipv4Addr, gateway: Ipv4Addr },
    Attachments(Vec<(String, Ipv4Addr)>),
}
