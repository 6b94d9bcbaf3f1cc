//! Kubernetes objects as JSON: what is served, how it is defaulted, checked, patched and shown. No I/O.
#![forbid(unsafe_code)]

mod defaults;
pub mod patch;
pub mod protobuf;
mod qos;
pub mod resource;
mod status;
mod validation;

pub use defaults::set_defaults;
pub use qos::qos_class;
pub use resource::Resource;
pub use status::{Cause, Details, FieldError, Status};
pub use validation::{undecodable, validate_create, validate_update};
