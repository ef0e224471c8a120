//! The limits that the rounds keep to: attempts in flight by standing, and the pace of failing merchants.

use std::time::Duration;

use super::merchant_queue::Standing;
use crate::time::Millis;

/// Attempts a second for all failing merchants together: a crowd of dead apps must not wear out the store.
const FAILING_PER_SECOND: f64 = 500.0;
/// Attempts that failing merchants may catch up with at once.
const FAILING_BURST: f64 = 50.0;
/// The pause until failing merchants may go on, once they have used up their pace.
pub(super) const PACE_PAUSE: Duration = Duration::from_millis(10);

/// The moment of a decision: the wall clock for what is due, and the time since the start for what took long.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Milliseconds since 1970, as the store counts.
    pub wall: Millis,
    /// Time since the delivery began; never goes back.
    pub elapsed: Duration,
}

/// Attempts in flight at most, by standing.
#[derive(Debug, Clone, Copy)]
pub struct Ceilings {
    failing: usize,
    unproven: usize,
    proven: usize,
    pub(super) aged: usize,
}

impl Ceilings {
    /// The ceilings for a process that may open this many descriptors; each attempt needs one.
    pub fn fitting(descriptors: usize) -> Self {
        Self {
            failing: (descriptors / 32).clamp(8, 256),
            unproven: (descriptors / 8).clamp(32, 1024),
            proven: (descriptors / 16).clamp(16, 512),
            aged: (descriptors / 8).clamp(32, 2048),
        }
    }

    pub(super) fn of(&self, standing: Standing) -> usize {
        match standing {
            Standing::Failing => self.failing,
            Standing::Unproven => self.unproven,
            Standing::Proven => self.proven,
        }
    }
}

/// The allowance of attempts for all failing merchants together: a token bucket.
pub(super) struct Pace {
    tokens: f64,
    at: Duration,
}

impl Pace {
    /// A full bucket.
    pub(super) fn new() -> Self {
        Self {
            tokens: FAILING_BURST,
            at: Duration::ZERO,
        }
    }

    /// Returns true where another attempt is allowed now.
    pub(super) fn is_open(&self) -> bool {
        self.tokens >= 1.0
    }

    /// Counts an attempt.
    pub(super) fn spend(&mut self) {
        self.tokens -= 1.0;
    }

    /// Adds what has accrued since the last time.
    pub(super) fn refill(&mut self, elapsed: Duration) {
        let passed = elapsed.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * FAILING_PER_SECOND).min(FAILING_BURST);
        self.at = elapsed;
    }
}
