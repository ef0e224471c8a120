//! Figures of minutes, for the plots of the console. They outlive the process, and a fleet adds up its own.

use crate::time::Millis;

/// Minutes that are kept, the newest: seven days.
pub const KEPT_MINUTES: u32 = 7 * 24 * 60;
/// A minute, in milliseconds.
pub const MINUTE: Millis = 60_000;

/// The figures of a minute, or of several together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MinuteFigures {
    /// The time at which it began; a multiple of [`MINUTE`].
    pub at: Millis,
    /// The number of minutes with figures in it.
    pub minutes: u32,
    /// Calls of apps.
    pub calls: u64,
    /// Rejected calls.
    pub calls_rejected: u64,
    /// Callbacks.
    pub callbacks: u64,
    /// Rejected callbacks.
    pub callbacks_rejected: u64,
    /// The median duration of calls in seconds, or the mean of the medians of several; `None` without calls.
    pub median: Option<f64>,
    /// The 99th percentile of the duration of calls in seconds, or the highest of several.
    pub p99: Option<f64>,
}

/// A selection of figures.
#[derive(Debug, Clone, Copy)]
pub struct MinuteRange {
    /// The first minute.
    pub from: Millis,
    /// The end, which is not part of it.
    pub until: Millis,
    /// Minutes that are put together, from a multiple of their number on.
    pub step: u32,
}
