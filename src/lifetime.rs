//! The end of the process: requests in flight are finished, new ones are told to go elsewhere, and it is
//! over as soon as nobody needs us, at the latest when its time is up.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

/// From the first SIGTERM to the end at the latest; a process that was replaced may take longer.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);
/// This shortly before the end, new requests are refused, and nobody waits for the platform any longer.
const LAST_CALL: Duration = Duration::from_millis(500);
/// This shortly before the end, what is still in flight is answered for its handler.
const CUT: Duration = Duration::from_millis(150);
/// How often it is looked whether the end has come.
const TICK: Duration = Duration::from_millis(20);
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
    replaced: watch::Sender<bool>,
    over: AtomicBool,
    last_call: Notify,
    cut: Notify,
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
            replaced: watch::Sender::new(false),
            over: AtomicBool::new(false),
            last_call: Notify::new(),
            cut: Notify::new(),
        }
    }
}

impl Lifetime {
    /// Counts a request until the guard is dropped.
    pub fn enter(&self) -> Busy<'_> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        Busy(self)
    }

    /// Requests that are being handled, on whichever listener.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Connections are to be closed after the response that is being made.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Too late for another request.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ready when a handler that has not answered by now is not going to.
    pub async fn until_cut(&self) {
        self.cut.notified().await;
    }

    /// Ready when the platform can be waited for no longer.
    pub async fn until_over(&self) {
        let last_call = self.last_call.notified();
        if !self.is_over() {
            last_call.await;
        }
    }

    /// Another process serves in our place.
    pub fn replace(&self) {
        self.replaced.send_replace(true);
    }

    /// Ready when another process serves in our place.
    pub async fn until_replaced(&self) {
        // The sender is ours, so that it is there.
        let _ = self.replaced.subscribe().wait_for(|it| *it).await;
    }

    /// Begins the end and returns when it has come, after `time` at the latest.
    pub async fn drain(&self, time: Duration) {
        self.draining.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + time;
        self.touch();
        loop {
            let late = Instant::now() + LAST_CALL > deadline;
            if late || self.is_quiet() {
                self.over.store(true, Ordering::SeqCst);
                self.last_call.notify_waiters();
            }
            if Instant::now() + CUT > deadline {
                self.cut.notify_waiters();
            }
            // Who came in before `over` was seen is counted by now, and is answered first.
            tokio::time::sleep(TICK).await;
            if self.is_over()
                && (self.in_flight.load(Ordering::SeqCst) == 0 || Instant::now() > deadline)
            {
                return;
            }
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
