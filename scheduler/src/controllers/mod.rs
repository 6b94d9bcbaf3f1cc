//! Controllers: pure functions from a snapshot ([`world`]) to a list of writes ([`plan`]).
//!
//! [`tasks`] says who has to look after which change. None of that does I/O or reads a clock; [`run`] starts the loop that
//! feeds the snapshot from the store ([`feed`]), runs what is due ([`queue`]) and carries the writes out ([`perform`]).

pub mod claim;
pub mod deployment;
pub mod endpoints;
mod event_loop;
mod feed;
pub mod garbage;
pub mod namespace;
pub mod node_lifecycle;
pub mod object;
pub mod perform;
pub mod plan;
pub mod pod_gc;
mod queue;
pub mod recorder;
pub mod replicaset;
#[cfg(test)]
mod simulation;
pub mod tasks;
pub mod world;

pub use event_loop::{Config, StartError, run};
