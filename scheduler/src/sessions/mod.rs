//! Sessions.
pub mod resolve;
