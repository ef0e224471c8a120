//! Figures of each minute, taken from the metrics and kept in the store: the plots of the console outlive a restart.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Metric;

use crate::inbox::minutes::{MINUTE, MinuteFigures};
use crate::inbox::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::outcome::{CallOutcome, CallbackOutcome};
use crate::time;
use crate::time::Millis;

/// Limit of minutes that wait for a store that fails.
const WAITING: usize = 360;

/// Reads the metrics once a minute.
pub struct Pulse {
    metrics: Arc<Metrics>,
    store: Arc<dyn Store>,
    state: Mutex<PulseState>,
}

#[derive(Default)]
struct PulseState {
    last: Totals,
    /// Minutes that are not in the store yet, oldest first.
    waiting: VecDeque<MinuteFigures>,
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
    /// Reads `metrics`, and writes to `store`.
    pub fn new(metrics: Arc<Metrics>, store: Arc<dyn Store>) -> Self {
        Self {
            metrics,
            store,
            state: Mutex::default(),
        }
    }

    /// Reads and writes until the task is dropped.
    pub async fn run(&self) {
        loop {
            // Minutes of the wall clock, so that the sidecars of a fleet write the same rows.
            let left = MINUTE - time::now().rem_euclid(MINUTE);
            tokio::time::sleep(Duration::from_millis(left.cast_unsigned())).await;
            self.write().await;
        }
    }

    /// Ends the minute, and writes what waits.
    pub async fn write(&self) {
        // The timer can fire a little before or after the turn of the minute; either way most of it lies before.
        let minute = (time::now() - MINUTE / 2).div_euclid(MINUTE);
        let minutes = self.end_minute(minute * MINUTE);
        if let Err(error) = self.store.add_minutes(minutes.clone()).await {
            // One that was committed too late to be confirmed counts twice then, which a plot can bear.
            tracing::debug!(%error, "figures for the console wait for the store");
            let mut state = self.state();
            let room = WAITING.saturating_sub(state.waiting.len());
            let older = minutes.len().saturating_sub(room);
            for minute in minutes.into_iter().skip(older).rev() {
                state.waiting.push_front(minute);
            }
        }
    }

    /// Returns the figures since the last call, behind those that wait.
    fn end_minute(&self, at: Millis) -> Vec<MinuteFigures> {
        // Read behind the lock: totals that are older than `last` would make negative figures.
        let mut state = self.state();
        let totals = Totals::read(&self.metrics);
        let minute = totals.since(&state.last, at);
        state.last = totals;
        let mut minutes: Vec<_> = state.waiting.drain(..).collect();
        minutes.push(minute);
        minutes
    }

    fn state(&self) -> MutexGuard<'_, PulseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn since(&self, last: &Self, at: Millis) -> MinuteFigures {
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
        MinuteFigures {
            at,
            minutes: 1,
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
