//! Controllers: pure functions from a snapshot ([`world`]) to a list of writes ([`plan`]).
//!
//! [`tasks`] says who has to look after which change. None of this does I/O or reads a clock.
pub mod claim;
pub mod deployment;
pub mod endpoints;
pub mod garbage;
pub mod namespace;
pub mod node_lifecycle;
pub mod object;
pub mod plan;
pub mod pod_gc;
pub mod replicaset;
pub mod tasks;
pub mod world;
