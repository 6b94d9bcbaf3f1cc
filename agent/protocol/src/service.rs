//! Services as the nodes' proxies need them.

use crate::Protocol;
use codec::{Decode, Encode};
use std::net::{Ipv4Addr, SocketAddr};

/// A service with the endpoints that are ready for it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// `None`: headless.
    pub cluster_ip: Option<Ipv4Addr>,
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    /// Ready endpoints of a headless service: host name (may be empty) and address.
    pub hosts: Vec<(String, Ipv4Addr)>,
    /// `sessionAffinity: ClientIP`, seconds.
    pub affinity_s: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServicePort {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    pub endpoints: Vec<SocketAddr>,
}
