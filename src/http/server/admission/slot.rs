//! One connection, as others see it: whom it belongs to, whether it waits, and the means to end it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::task::AbortHandle;

use super::listener_metrics::ShedCounter;
use crate::http::server::caller::Caller;

/// A request is being handled: the connection must not be ended from outside.
const BUSY: u64 = 0;
/// The connection has been ended from outside.
const CUT: u64 = 1;

/// The shared part of one open connection.
///
/// A connection is cut only while it waits for its client. Both sides decide that with one atomic word, so that a request
/// which has begun is finished, and a connection which has been cut begins no other.
pub(in crate::http::server) struct Slot {
    pub(in crate::http::server) id: u64,
    pub(in crate::http::server) counter: Arc<ShedCounter>,
    pub(in crate::http::server) caller: Caller,
    /// The caller is one that this listener is for.
    pub(in crate::http::server) is_known: bool,
    /// [`BUSY`], [`CUT`], or the time since which it waits, in milliseconds and 2 more.
    phase: AtomicU64,
    /// Bytes that it holds for a request that is not whole.
    pub(in crate::http::server) unfinished: AtomicUsize,
    task: OnceLock<AbortHandle>,
}

impl Slot {
    /// A new connection, which waits since `now`.
    pub(in crate::http::server) fn new(
        counter: Arc<ShedCounter>,
        caller: Caller,
        is_known: bool,
        now: u64,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            counter,
            caller,
            is_known,
            phase: AtomicU64::new(now + 2),
            unfinished: AtomicUsize::new(0),
            task: OnceLock::new(),
        }
    }

    /// Remembers the task that serves the connection; before that it cannot be cut.
    pub(in crate::http::server) fn set_task(&self, task: AbortHandle) {
        // Called once, by the one who has spawned the task.
        let _ = self.task.set(task);
    }

    /// Marks the beginning of a request. False where the connection has been cut.
    pub(in crate::http::server) fn begin(&self) -> bool {
        // A cut that came first is restored: the task is about to be dropped, and no request may begin on it.
        let before = self.phase.swap(BUSY, Ordering::AcqRel);
        if before == CUT {
            self.phase.store(CUT, Ordering::Release);
        }
        before != CUT
    }

    /// Marks the end of a request: from `now` on the connection waits for its client.
    pub(in crate::http::server) fn wait(&self, now: u64) {
        self.phase.store(now + 2, Ordering::Release);
    }

    /// Returns the time since which the connection waits; `None` where it does not.
    pub(in crate::http::server) fn waiting_since(&self) -> Option<u64> {
        self.phase.load(Ordering::Acquire).checked_sub(2)
    }

    /// Returns true after [`Slot::cut`].
    pub(in crate::http::server) fn is_cut(&self) -> bool {
        self.phase.load(Ordering::Acquire) == CUT
    }

    /// Ends the connection, if it waits. Its task is dropped with the socket at the next chance.
    pub(in crate::http::server) fn cut(&self) -> bool {
        let Some(task) = self.task.get() else {
            return false;
        };
        let phase = self.phase.load(Ordering::Acquire);
        let is_cut = phase > CUT
            && self
                .phase
                // Fails where a request has begun since: that one is finished, and another connection is cut.
                .compare_exchange(phase, CUT, Ordering::AcqRel, Ordering::Acquire)
                .is_ok();
        if is_cut {
            // Only after the phase: the task runs on to its next await, and must not begin a request on the way.
            task.abort();
        }
        is_cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::admission::listener_metrics::Unmeasured;

    #[tokio::test]
    async fn a_connection_is_cut_only_while_it_waits() {
        let counter = ShedCounter::new("app", Arc::new(Unmeasured));
        let slot = Slot::new(Arc::new(counter), Caller::Local, true, 7);
        assert_eq!(slot.waiting_since(), Some(7));
        assert!(!slot.cut(), "it has no task yet");
        let task = tokio::spawn(std::future::pending::<()>());
        slot.set_task(task.abort_handle());
        assert!(slot.begin());
        assert_eq!(slot.waiting_since(), None);
        assert!(!slot.cut(), "a request is being handled");
        slot.wait(9);
        assert!(slot.cut());
        assert!(!slot.begin() && slot.is_cut());
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
