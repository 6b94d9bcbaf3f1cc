//! The control process: API server, store, placement, controllers and node sessions.
#![forbid(unsafe_code)]

pub mod api_server;
pub mod clock;
pub mod controllers;
pub mod pki;
pub mod placement;
pub mod registry;
pub mod sessions;
pub mod store;
