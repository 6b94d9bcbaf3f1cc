//! x
pub mod identity;
pub mod object;
