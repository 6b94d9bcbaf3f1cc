//! The only place of netd that looks at a clock.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

pub fn now() -> Instant {
    Instant::now()
}
