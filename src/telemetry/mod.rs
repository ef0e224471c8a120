//! Telemetry: one call, [`Telemetry::finish`], records the outcome of a call, a callback, a delivery or a query.

pub mod outcome;

pub mod log;

mod listed;

pub mod metrics;

pub mod trace;

pub mod activity;

pub mod finish;

pub use finish::Telemetry;
