//! Kubernetes objects as JSON: what is served, how it is defaulted, checked, patched and shown. No I/O.
#![forbid(unsafe_code)]

pub mod resource;
mod status;

pub use resource::Resource;
pub use status::{Cause, Details, FieldError, Status};
