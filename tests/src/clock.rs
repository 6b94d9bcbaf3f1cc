//! The only place of the harness that looks at a clock.
#![allow(clippy::disallowed_methods)]

use std::time::{Duration, Instant, SystemTime};

/// How often a state is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Looks until `found` gives something; `None` when `limit` has passed.
pub fn poll<T>(limit: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = found() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(STEP);
    }
}

/// Lets time pass where the passing of time is what a test is about: the random moment of a fault.
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

pub fn now() -> Instant {
    Instant::now()
}

/// A seed that differs from run to run; tests print it and take it from `$SEED`.
pub fn seed() -> u64 {
    let fresh = || {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
    };
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(fresh)
}

/// A small generator (xorshift64*), so that a run can be repeated from its seed.
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit.max(1)
    }
}
