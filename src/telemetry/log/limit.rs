//! A bound on the log lines of callbacks: strangers on the public port could otherwise fill a disk.

use std::time::Instant;

use parking_lot::Mutex;

use crate::telemetry::outcome::{CallbackKind, CallbackOutcome, Listed};

/// Lines of one kind and outcome that are written at once, and then each second.
struct Rate {
    burst: f64,
    each_second: f64,
}

/// Outcomes that anybody on the internet can cause.
const UNVERIFIED: Rate = Rate {
    burst: 20.0,
    each_second: 2.0,
};
/// Outcomes that need a signature of the platform, which a customer's browser can bring again and again.
const VERIFIED: Rate = Rate {
    burst: 500.0,
    each_second: 100.0,
};

/// The lines of one kind and outcome that may still be written.
struct Bucket {
    lines: f64,
    filled_at: Instant,
    left_out: u64,
}

/// One bound for each kind and outcome, so that a flood of one hides no line of another.
pub struct LineLimits(Vec<Mutex<Bucket>>);

impl Default for LineLimits {
    fn default() -> Self {
        let places = CallbackKind::ALL.len() * CallbackOutcome::ALL.len();
        let bucket = |place: usize| {
            let outcome = CallbackOutcome::ALL[place % CallbackOutcome::ALL.len()];
            Mutex::new(Bucket {
                lines: rate(outcome).burst,
                filled_at: Instant::now(),
                left_out: 0,
            })
        };
        Self((0..places).map(bucket).collect())
    }
}

impl LineLimits {
    /// Counts a line. Returns how many were left out before it, or `None` where this one is left out too.
    pub fn admit(&self, kind: CallbackKind, outcome: CallbackOutcome) -> Option<u64> {
        self.admit_at(kind, outcome, Instant::now())
    }

    fn admit_at(&self, kind: CallbackKind, outcome: CallbackOutcome, now: Instant) -> Option<u64> {
        // Each is a commit, and each is a payment: as many as the store takes.
        if (kind, outcome) == (CallbackKind::Back, CallbackOutcome::Accepted) {
            return Some(0);
        }
        let place = kind.place() * CallbackOutcome::ALL.len() + outcome.place();
        let Rate { burst, each_second } = rate(outcome);
        let mut bucket = self.0[place].lock();
        // A thread that read the clock later may have locked first.
        let passed = now.saturating_duration_since(bucket.filled_at);
        bucket.lines = (bucket.lines + passed.as_secs_f64() * each_second).min(burst);
        bucket.filled_at = now;
        if bucket.lines < 1.0 {
            bucket.left_out += 1;
            return None;
        }
        bucket.lines -= 1.0;
        Some(std::mem::take(&mut bucket.left_out))
    }
}

fn rate(outcome: CallbackOutcome) -> Rate {
    match outcome.is_verified() {
        true => VERIFIED,
        false => UNVERIFIED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_writes_few_lines_and_says_how_many_it_left_out() {
        let limits = LineLimits::default();
        let start = Instant::now();
        let admit = |outcome, at| limits.admit_at(CallbackKind::None, outcome, start + at);
        let flood = |at| {
            let lines = (0..100_000).filter_map(|_| admit(CallbackOutcome::NotFound, at));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(flood(Duration::ZERO), [0; 20]);
        assert_eq!(flood(Duration::from_secs(1)), [99_980, 0]);
        // Another outcome has its own share.
        assert_eq!(admit(CallbackOutcome::BadRequest, Duration::ZERO), Some(0));
        let paid = (CallbackKind::Back, CallbackOutcome::Accepted);
        assert!((0..1000).all(|_| limits.admit_at(paid.0, paid.1, start) == Some(0)));
    }
}
