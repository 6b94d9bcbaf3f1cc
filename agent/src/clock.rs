//! The only place of the agent that looks at the clock of the wall. Waiting is tokio's.
#![allow(clippy::disallowed_methods)]

use std::time::SystemTime;

/// Nanoseconds since the Unix epoch.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

pub const SECOND_NS: u64 = 1_000_000_000;
