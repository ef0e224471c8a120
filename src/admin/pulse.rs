//! Figures of each of the last minutes, taken from the metrics. They live in memory and begin with the process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Metric;
use tokio::time::MissedTickBehavior;

use crate::telemetry::metrics::Metrics;
use crate::telemetry::outcome::{CallOutcome, CallbackOutcome};
use crate::time;
use crate::time::Millis;

/// Minutes that are kept: six hours.
pub const MINUTES: usize = 360;
const MINUTE: Duration = Duration::from_secs(60);

/// The figures of one minute.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Minute {
    /// The end of the minute.
    pub until: Millis,
    /// Calls of apps.
    pub calls: u64,
    /// Rejected calls.
    pub calls_rejected: u64,
    /// Callbacks.
    pub callbacks: u64,
    /// Rejected callbacks.
    pub callbacks_rejected: u64,
    /// The median duration of calls in seconds; `None` without calls.
    pub median: Option<f64>,
    /// The 99th percentile of the duration of calls in seconds.
    pub p99: Option<f64>,
}

/// Reads the metrics once a minute.
pub struct Pulse {
    metrics: Arc<Metrics>,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    last: Totals,
    minutes: VecDeque<Minute>,
}

/// The counters at one moment.
#[derive(Default, Clone)]
struct Totals {
    calls: [u64; 2],
    callbacks: [u64; 2],
    /// Upper bounds in seconds, and calls that took at most as long.
    times: Vec<(f64, u64)>,
}

impl Pulse {
    /// Reads `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            ring: Mutex::default(),
        }
    }

    /// Reads until the task is dropped.
    pub async fn run(&self) {
        let mut minutes = tokio::time::interval(MINUTE);
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick of an interval comes at once (tokio).
        minutes.tick().await;
        loop {
            minutes.tick().await;
            self.end_minute();
        }
    }

    fn end_minute(&self) {
        let mut ring = self.ring();
        let totals = Totals::read(&self.metrics);
        let minute = totals.since(&ring.last, time::now());
        if ring.minutes.len() == MINUTES {
            ring.minutes.pop_front();
        }
        ring.minutes.push_back(minute);
        ring.last = totals;
    }

    /// Returns the complete minutes, oldest first, and the current one.
    pub fn minutes(&self) -> (Vec<Minute>, Minute) {
        // Read behind the lock: totals that are older than `ring.last` would make negative figures.
        let ring = self.ring();
        let totals = Totals::read(&self.metrics);
        let begun = totals.since(&ring.last, time::now());
        (ring.minutes.iter().cloned().collect(), begun)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn read(metrics: &Metrics) -> Self {
        let mut times: Vec<(f64, u64)> = Vec::new();
        for histogram in metrics.call_seconds.all() {
            let metric = histogram.metric();
            let histogram = metric.get_histogram();
            let mut buckets: Vec<_> = histogram
                .get_bucket()
                .iter()
                .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                .collect();
            // The library keeps no bucket for +Inf; its text format makes one of the sample count.
            buckets.push((f64::INFINITY, histogram.get_sample_count()));
            times.resize(buckets.len(), (0.0, 0));
            for ((bound, sum), (upper, count)) in times.iter_mut().zip(buckets) {
                (*bound, *sum) = (upper, *sum + count);
            }
        }
        let (calls, callbacks) = (&metrics.calls, &metrics.callbacks);
        Self {
            calls: [
                calls.sum(|_| true),
                calls.sum(|outcome| outcome != CallOutcome::Ok),
            ],
            callbacks: [
                callbacks.sum(|_| true),
                callbacks.sum(CallbackOutcome::is_rejection),
            ],
            times,
        }
    }

    fn since(&self, last: &Self, until: Millis) -> Minute {
        let [calls, calls_rejected] = [0, 1].map(|i| self.calls[i] - last.calls[i]);
        let [callbacks, callbacks_rejected] = [0, 1].map(|i| self.callbacks[i] - last.callbacks[i]);
        let before = last
            .times
            .iter()
            .map(|(_, count)| *count)
            .chain(std::iter::repeat(0));
        let times: Vec<_> = self
            .times
            .iter()
            .zip(before)
            .map(|((bound, count), before)| (*bound, count - before))
            .collect();
        Minute {
            until,
            calls,
            calls_rejected,
            callbacks,
            callbacks_rejected,
            median: quantile(&times, 0.5),
            p99: quantile(&times, 0.99),
        }
    }
}

/// Computes a quantile as `histogram_quantile` of Prometheus does: linear within a bucket, and the last bound for values
/// beyond it.
fn quantile(times: &[(f64, u64)], share: f64) -> Option<f64> {
    let all = times.last()?.1;
    let rank = share * all as f64;
    let (mut lower, mut below) = (0.0, 0);
    for (upper, count) in times {
        if all > 0 && *count as f64 >= rank {
            let within = (count - below).max(1) as f64;
            return Some(if upper.is_finite() {
                lower + (upper - lower) * (rank - below as f64) / within
            } else {
                lower
            });
        }
        (lower, below) = (*upper, *count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::outcome::{CallKind, CallbackKind, Code};

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let inf = f64::INFINITY;
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[(1.0, 0), (inf, 0)], 0.5), None);
        assert_eq!(quantile(&[(1.0, 10), (2.0, 10), (inf, 10)], 0.5), Some(0.5));
        assert_eq!(quantile(&[(1.0, 4), (2.0, 8), (inf, 8)], 0.75), Some(1.5));
        assert_eq!(quantile(&[(1.0, 0), (2.0, 0), (inf, 5)], 0.99), Some(2.0));
    }

    #[test]
    fn a_minute_that_ends_while_a_page_is_shown_has_no_negative_figures() {
        let metrics = Arc::new(Metrics::default());
        let pulse = Pulse::new(metrics.clone());
        let calls = metrics.calls.of(CallKind::Query, CallOutcome::Ok);
        const ROUNDS: u64 = 2000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    calls.inc();
                    pulse.end_minute();
                }
            });
            for _ in 0..ROUNDS {
                assert!(pulse.minutes().1.calls <= 1);
            }
        });
    }

    #[test]
    fn a_minute_is_what_was_added_to_the_counters() {
        let metrics = Arc::new(Metrics::default());
        let count = |outcome, n| {
            metrics.calls.of(CallKind::Query, outcome).inc_by(n);
            metrics.call_seconds.of(CallKind::Query).observe(0.002);
        };
        count(CallOutcome::Ok, 3);
        let first = Totals::read(&metrics);
        count(CallOutcome::Ok, 4);
        count(CallOutcome::Failed(Code::BadSignature), 1);
        for outcome in [CallbackOutcome::Repeated, CallbackOutcome::Malformed] {
            metrics.callbacks.of(CallbackKind::Back, outcome).inc();
        }
        let minute = Totals::read(&metrics).since(&first, 7);
        assert_eq!((minute.calls, minute.calls_rejected), (5, 1));
        assert_eq!((minute.callbacks, minute.callbacks_rejected), (2, 1));
        assert!(
            minute
                .median
                .is_some_and(|it| (0.001..0.0025).contains(&it))
        );
    }
}
