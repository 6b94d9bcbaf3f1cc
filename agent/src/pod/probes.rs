//! Startup, readiness and liveness probes of one run of a container, with kubelet's thresholds.

use agent_protocol::{Container, Probe};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As Events say it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

pub fn of(container: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup.as_ref(),
        Kind::Readiness => container.readiness.as_ref(),
        Kind::Liveness => container.liveness.as_ref(),
    }
}

/// Successes and failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    successes: u32,
    failures: u32,
}

/// What a result has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The thresholds are not reached.
    Undecided,
    Good,
    Bad,
}

impl Streak {
    /// Counts one result against the probe's thresholds.
    pub fn count(&mut self, probe: &Probe, success: bool) -> Verdict {
        if success {
            *self = Self { successes: self.successes + 1, failures: 0 };
        } else {
            *self = Self { successes: 0, failures: self.failures + 1 };
        }
        match () {
            () if self.successes >= probe.success_threshold.max(1) => Verdict::Good,
            () if self.failures >= probe.failure_threshold.max(1) => Verdict::Bad,
            () => Verdict::Undecided,
        }
    }
}

pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::from(probe.period_s.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::Handler;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let handler = Handler::Sleep { seconds: 0 };
        let probe = Probe {
            handler,
            initial_delay_s: 0,
            timeout_s: 1,
            period_s: 1,
            success_threshold: 2,
            failure_threshold: 3,
            grace_s: None,
        };
        let mut streak = Streak::default();
        let results = [true, true, false, false, true, false, false, false];
        let verdicts: Vec<Verdict> = results.iter().map(|&success| streak.count(&probe, success)).collect();
        use Verdict::*;
        assert_eq!(verdicts, [Undecided, Good, Undecided, Undecided, Undecided, Undecided, Undecided, Bad]);
    }
}
