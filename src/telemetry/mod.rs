//! Where a listener writes down what became of a request: counted, traced, and noted for the console.

pub mod log;

pub mod metrics;

pub mod trace;

pub mod activity;

use std::sync::Arc;

use activity::ActivityLog;
use metrics::Metrics;
use trace::Tracer;

/// All three; clones write to the same places.
#[derive(Clone)]
pub struct Telemetry {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Spans, where a collector is named.
    pub tracer: Arc<Tracer>,
    /// The steps of orders' stories.
    pub activity: Arc<ActivityLog>,
}
