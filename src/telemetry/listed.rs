//! Counters and histograms over closed lists, each resolved when the process starts and initialised to 0.
//!
//! Looking a counter up by its labels costs more than counting, and a rate does not see a series that begins at 1.

use std::marker::PhantomData;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use super::outcome::Listed;

/// Upper bounds of the histograms: from a signed link to `platform.timeout` with room above.
const REQUEST_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// One counter for each outcome.
pub struct Counters<O> {
    counters: Vec<IntCounter>,
    outcomes: PhantomData<O>,
}

impl<O: Listed> Counters<O> {
    pub(super) fn register(
        registry: &Registry,
        name: &str,
        help: &str,
    ) -> prometheus::Result<Self> {
        let metric = IntCounterVec::new(Opts::new(name, help), &["outcome"])?;
        registry.register(Box::new(metric.clone()))?;
        let counter = |outcome: &O| metric.with_label_values(&[outcome.name()]);
        Ok(Self {
            counters: O::ALL.iter().map(counter).collect(),
            outcomes: PhantomData,
        })
    }

    /// The counter of an outcome.
    pub fn of(&self, outcome: O) -> &IntCounter {
        &self.counters[outcome.place()]
    }
}

/// One counter for each kind and outcome.
pub struct CounterTable<K, O> {
    counters: Vec<IntCounter>,
    lists: PhantomData<(K, O)>,
}

impl<K: Listed, O: Listed> CounterTable<K, O> {
    pub(super) fn register(
        registry: &Registry,
        name: &str,
        help: &str,
        kind: &str,
    ) -> prometheus::Result<Self> {
        let metric = IntCounterVec::new(Opts::new(name, help), &[kind, "outcome"])?;
        registry.register(Box::new(metric.clone()))?;
        let row = |kind: &K| {
            let kind = kind.name();
            let counter = |outcome: &O| metric.with_label_values(&[kind, outcome.name()]);
            O::ALL.iter().map(counter).collect::<Vec<_>>()
        };
        Ok(Self {
            counters: K::ALL.iter().flat_map(row).collect(),
            lists: PhantomData,
        })
    }

    /// The counter of an outcome.
    pub fn of(&self, kind: K, outcome: O) -> &IntCounter {
        &self.counters[kind.place() * O::ALL.len() + outcome.place()]
    }

    /// The sum over all kinds, of those outcomes that are `wanted`.
    pub fn sum(&self, wanted: impl Fn(O) -> bool) -> u64 {
        let outcomes = O::ALL.iter().cycle();
        let wanted = self
            .counters
            .iter()
            .zip(outcomes)
            .filter(|(_, outcome)| wanted(**outcome));
        wanted.map(|(counter, _)| counter.get()).sum()
    }
}

/// One histogram of durations for each kind.
pub struct Durations<K> {
    histograms: Vec<Histogram>,
    kinds: PhantomData<K>,
}

impl<K: Listed> Durations<K> {
    pub(super) fn register(
        registry: &Registry,
        name: &str,
        help: &str,
        kind: &str,
    ) -> prometheus::Result<Self> {
        let options = HistogramOpts::new(name, help).buckets(REQUEST_SECONDS.to_vec());
        let metric = HistogramVec::new(options, &[kind])?;
        registry.register(Box::new(metric.clone()))?;
        let histogram = |kind: &K| metric.with_label_values(&[kind.name()]);
        Ok(Self {
            histograms: K::ALL.iter().map(histogram).collect(),
            kinds: PhantomData,
        })
    }

    /// The histogram of a kind.
    pub fn of(&self, kind: K) -> &Histogram {
        &self.histograms[kind.place()]
    }

    /// All histograms, in the order of the kinds.
    pub fn all(&self) -> &[Histogram] {
        &self.histograms
    }
}
