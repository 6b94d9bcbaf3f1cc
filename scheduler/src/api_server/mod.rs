//! The Kubernetes REST API over HTTPS.
//!
//! `listener` takes connections and their client certificates, `request` reads what is asked for, `router` picks one of
//! `read`, `watch`, `write`, `discovery`, `reviews` and the streams. Answers are the stored bytes wherever possible.
//! Errors are `metav1.Status`, made by the crate `api`.
//!
//! Not here: what a write means (`registry`), and how objects are checked and patched (`api`).

mod body;
mod discovery;
mod exec;
mod listener;
mod logs;
mod openapi;
mod port_forward;
mod query;
mod read;
mod request;
mod response;
mod reviews;
mod router;
mod scale;
mod selection;
pub mod streams;
mod strict;
mod table;
mod watch;
mod write;

pub use listener::{Certificates, Listener, ListenerError};

use crate::registry::Registry;
use std::sync::Arc;
use streams::Streams;

/// Everything a request needs.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    registry: Registry,
    streams: Arc<dyn Streams>,
    discovery: discovery::Documents,
}

impl Server {
    pub fn new(registry: Registry, streams: Arc<dyn Streams>) -> Self {
        Self(Arc::new(Inner { registry, streams, discovery: discovery::Documents::new() }))
    }

    fn registry(&self) -> &Registry {
        &self.0.registry
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
