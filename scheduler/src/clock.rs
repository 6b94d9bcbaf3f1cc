//! The time of day, the one place that asks for it; tests set it by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A clock. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds since the epoch; `None` is the machine's clock.
    manual_ms: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// A clock that stands still until [`Clock::advance`].
    pub fn manual(start: SystemTime) -> Self {
        let ms = start.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Self { manual_ms: Some(Arc::new(AtomicU64::new(ms))) }
    }

    /// Moves a manual clock on; the machine's clock moves by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(ms) = &self.manual_ms {
            ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
        }
    }

    #[allow(clippy::disallowed_methods)]
    pub fn now(&self) -> SystemTime {
        match &self.manual_ms {
            Some(ms) => UNIX_EPOCH + Duration::from_millis(ms.load(Ordering::Relaxed)),
            None => SystemTime::now(),
        }
    }

    /// Now as `metav1.Time` is written: RFC 3339 in UTC, whole seconds.
    pub fn timestamp(&self) -> String {
        timestamp(self.now())
    }
}

/// RFC 3339 in UTC, whole seconds.
pub fn timestamp(at: SystemTime) -> String {
    let whole = OffsetDateTime::from(at).replace_nanosecond(0).expect("0 is a nanosecond");
    whole.format(&Rfc3339).expect("years of this clock have four digits")
}

/// RFC 3339 in UTC with microseconds: `metav1.MicroTime`.
pub fn timestamp_micros(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let seconds = timestamp(at.into());
    format!("{}.{:06}Z", seconds.trim_end_matches('Z'), at.microsecond())
}

/// Reads what [`timestamp`] and other RFC 3339 writers wrote.
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_back() {
        let at = UNIX_EPOCH + Duration::from_micros(1_800_000_000_123_456);
        assert_eq!(timestamp(at), "2027-01-15T08:00:00Z");
        assert_eq!(timestamp_micros(at), "2027-01-15T08:00:00.123456Z");
        assert_eq!(parse_timestamp(&timestamp_micros(at)), Some(at));
    }
}
