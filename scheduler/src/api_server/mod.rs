//! The Kubernetes REST API over HTTPS.

pub mod streams;
