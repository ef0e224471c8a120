//! Bounds on the log lines that anybody can cause: a stranger on the public port, or a web page that found the app's, could
//! otherwise fill a disk.

use std::time::Instant;

use parking_lot::Mutex;

use crate::telemetry::outcome::{CallOutcome, CallbackKind, CallbackOutcome, Code, Listed};

/// Lines of one kind and outcome that are written at once, and then each second.
#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    each_second: f64,
}

/// Outcomes that anybody on the internet can cause.
const UNVERIFIED: Rate = Rate {
    burst: 20.0,
    each_second: 2.0,
};
/// Outcomes that need a signature of the platform, which a customer's browser can bring again and again, and calls that an
/// app got wrong.
const VERIFIED: Rate = Rate {
    burst: 500.0,
    each_second: 100.0,
};

/// The lines of one kind and outcome that may still be written.
struct Bucket {
    rate: Rate,
    lines: f64,
    filled_at: Instant,
    left_out: u64,
}

impl Bucket {
    fn full(rate: Rate) -> Mutex<Self> {
        Mutex::new(Self {
            lines: rate.burst,
            rate,
            filled_at: Instant::now(),
            left_out: 0,
        })
    }

    fn take(&mut self, now: Instant) -> Option<u64> {
        // A thread that read the clock later may have locked first.
        let passed = now.saturating_duration_since(self.filled_at);
        let filled = self.lines + passed.as_secs_f64() * self.rate.each_second;
        self.lines = filled.min(self.rate.burst);
        self.filled_at = now;
        if self.lines < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// One bound for each outcome, and for callbacks for each kind too, so that a flood of one hides no line of another.
pub struct LineLimits {
    callbacks: Vec<Mutex<Bucket>>,
    calls: Vec<Mutex<Bucket>>,
}

impl Default for LineLimits {
    fn default() -> Self {
        let kinds = CallbackKind::ALL.iter();
        let outcomes = kinds.flat_map(|_| CallbackOutcome::ALL);
        let calls = Code::ALL.iter().map(|code| call_rate(*code));
        Self {
            callbacks: outcomes.map(|it| Bucket::full(rate(*it))).collect(),
            calls: calls
                .map(|rate| Bucket::full(rate.unwrap_or(VERIFIED)))
                .collect(),
        }
    }
}

impl LineLimits {
    /// Counts the line of a call. Returns how many were left out before it, or `None` where this one is left out too.
    ///
    /// A call that reached the platform, or should have, is never left out.
    pub fn admit_call(&self, outcome: CallOutcome) -> Option<u64> {
        match outcome {
            CallOutcome::Failed(code) if call_rate(code).is_some() => {
                self.calls[code.place()].lock().take(Instant::now())
            }
            _ => Some(0),
        }
    }

    /// Counts the line of a callback, likewise.
    pub fn admit(&self, kind: CallbackKind, outcome: CallbackOutcome) -> Option<u64> {
        self.admit_at(kind, outcome, Instant::now())
    }

    fn admit_at(&self, kind: CallbackKind, outcome: CallbackOutcome, now: Instant) -> Option<u64> {
        // Each is a commit, and each is a payment: as many as the store takes.
        if (kind, outcome) == (CallbackKind::Back, CallbackOutcome::Accepted) {
            return Some(0);
        }
        let place = kind.place() * CallbackOutcome::ALL.len() + outcome.place();
        self.callbacks[place].lock().take(now)
    }
}

/// The bound of a rejection that no call of an app is behind, or a wrong one; `None` for what concerns an order.
fn call_rate(code: Code) -> Option<Rate> {
    match code {
        Code::BadRequest
        | Code::BrowserRequest
        | Code::NotFound
        | Code::MethodNotAllowed
        | Code::RequestTimeout
        | Code::BodyTooLarge
        | Code::Overloaded
        | Code::Draining => Some(UNVERIFIED),
        Code::InvalidJson | Code::DuplicateMember | Code::InvalidField | Code::UnknownMerchant => {
            Some(VERIFIED)
        }
        _ => None,
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
    fn a_flood_of_calls_leaves_out_no_line_about_an_order() {
        let limits = LineLimits::default();
        let written = |code| {
            let outcome = CallOutcome::Failed(code);
            (0..10_000)
                .filter_map(|_| limits.admit_call(outcome))
                .count()
        };
        assert!((20..40).contains(&written(Code::NotFound)));
        assert!((500..1000).contains(&written(Code::InvalidJson)));
        assert_eq!(written(Code::PlatformTimeout), 10_000);
        assert_eq!(written(Code::OrderConflict), 10_000);
    }

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
