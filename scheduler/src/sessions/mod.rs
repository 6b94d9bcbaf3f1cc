//! Sessions with the nodes' agents: what they are to run goes out, what they do run comes back.
//!
//! An agent dials the Unix socket ([`listener`]); its node's object is made or refreshed ([`register`]); then it gets the
//! whole desired state and, from then on, what changes ([`hub`]). A pod is sent with every reference resolved
//! ([`resolve`], [`fetch`]). Statuses, Events and endings come back through [`intake`].
//!
//! Invariants: one session per node, the newest; per pod one status write at a time, always the latest report; an agent
//! that does not keep up is disconnected and starts over from the whole state.

mod fetch;
mod hub;
mod intake;
mod jobs;
mod listener;
mod node;
mod register;
pub mod resolve;
mod service;
mod status;
mod streams;

pub(crate) use hub::Hub;
pub(crate) use jobs::Done;
pub use listener::ListenError;
pub(crate) use listener::{Inbox, serve};
pub use streams::NodeStreams;

use std::net::Ipv4Addr;

/// What sessions have to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where agents dial: `<run>/scheduler.sock`.
    pub socket: std::path::PathBuf,
    pub cluster_cidr: (Ipv4Addr, u8),
    pub service_cidr: (Ipv4Addr, u8),
    pub dns: Ipv4Addr,
    /// `cluster.local`.
    pub domain: String,
}

#[cfg(test)]
mod tests;
