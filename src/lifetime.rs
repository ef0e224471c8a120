//! The end of the process: requests in flight are finished, new ones are told to go elsewhere, and it is
//! over as soon as nobody needs us, at the latest after [`DRAIN_TIME`].

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// From the first SIGTERM to the end at the latest.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);
/// Requests that come this shortly before the end are refused, because they could not be finished.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Nobody needs us once nothing was asked for this long.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// Counts what is in flight, and knows whether the end has begun.
#[derive(Debug)]
pub struct Lifetime {
    started: Instant,
    in_flight: AtomicUsize,
    /// When a request last began or ended, in milliseconds since `started`.
    last_busy: AtomicU64,
    draining: AtomicBool,
    over: AtomicBool,
}

/// One request in flight.
pub struct Busy<'a>(&'a Lifetime);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Lifetime {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            in_flight: AtomicUsize::new(0),
            last_busy: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }
}

impl Lifetime {
    /// Counts a request until the guard is dropped.
    pub fn enter(&self) -> Busy<'_> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.touch();
        Busy(self)
    }

    /// Connections are to be closed after the response that is being made.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Too late for another request.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Begins the end and returns when it has come.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + DRAIN_TIME;
        self.touch();
        while Instant::now() < deadline && !self.is_quiet() {
            if Instant::now() + LAST_CALL > deadline {
                self.over.store(true, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_quiet(&self) -> bool {
        let last_busy = Duration::from_millis(self.last_busy.load(Ordering::SeqCst));
        self.in_flight.load(Ordering::SeqCst) == 0
            && self.started.elapsed() > last_busy + QUIET_TIME
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_busy.store(now, Ordering::SeqCst);
    }
}
