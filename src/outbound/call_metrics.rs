//! What is counted of a call. The common outcomes' figures are at hand; looking one up costs more than counting.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use super::rejection::Code;
use super::reply::OK;
use super::route::Endpoint;
use crate::telemetry::metrics::Metrics;

/// Outcomes so rare and so grave that the first one counts. Their counters stand at nought from the start, because a
/// rate does not see a series that begins at 1.
const GRAVE: [Code; 6] = [
    Code::Internal,
    Code::Overloaded,
    Code::BadSignature,
    Code::UnsignedAnswer,
    Code::MalformedAnswer,
    Code::ForeignAnswer,
];

/// The figures of every endpoint.
pub(super) struct CallMetrics {
    metrics: Arc<Metrics>,
    endpoints: [EndpointMetrics; Endpoint::ALL.len()],
}

struct EndpointMetrics {
    answered: IntCounter,
    seconds: Histogram,
}

impl CallMetrics {
    /// All at nought.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let endpoints = Endpoint::ALL.map(|endpoint| {
            for code in GRAVE {
                let labels = [endpoint.name(), code.name()];
                metrics.calls.with_label_values(&labels);
            }
            EndpointMetrics {
                answered: metrics.calls.with_label_values(&[endpoint.name(), OK]),
                seconds: metrics.call_seconds.with_label_values(&[endpoint.name()]),
            }
        });
        Self { metrics, endpoints }
    }

    /// Counts a call.
    pub(super) fn count(&self, endpoint: Option<Endpoint>, outcome: &str, took: Duration) {
        let name = Endpoint::name_of(endpoint);
        let meter = endpoint.map(|endpoint| &self.endpoints[endpoint.place()]);
        match meter {
            Some(meter) if outcome == OK => meter.answered.inc(),
            _ => {
                let labels = [name, outcome];
                self.metrics.calls.with_label_values(&labels).inc();
            }
        }
        let seconds = took.as_secs_f64();
        match meter {
            Some(meter) => meter.seconds.observe(seconds),
            None => {
                let durations = &self.metrics.call_seconds;
                durations.with_label_values(&[name]).observe(seconds);
            }
        }
    }
}
