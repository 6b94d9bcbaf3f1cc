//! One pod on this host.
//!
//! [`state`] is what is known of it, [`decide`] what is to be done next (no I/O), [`worker`] the task that owns the state and does it.
//! [`status`] says it in Kubernetes' words.

pub mod config;
pub mod decide;
pub mod env;
#[cfg(test)]
mod fixtures;
pub mod handler;
pub mod probes;
pub mod sandbox;
pub mod state;
pub mod status;
pub mod volumes;
pub mod worker;
