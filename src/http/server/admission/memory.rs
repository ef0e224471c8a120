//! The memory that unfinished requests may take, on all listeners together.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::listener_metrics::ShedReason;
use super::slot::Slot;
use crate::http::server::caller::Caller;

/// A number of bytes that connections share for requests that are not whole.
///
/// Every connection may begin a request, so its own bound says little: 4,096 connections with 16 KiB each are 64 MiB. At the
/// bound, the stranger who holds most loses the largest of its connections. Callers that a listener is for are shed only
/// where no stranger holds anything.
pub struct MemoryBudget {
    max: usize,
    total: AtomicUsize,
    holders: Mutex<HashMap<u64, Arc<Slot>>>,
}

impl MemoryBudget {
    /// A budget of `max` bytes, all of them free.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            total: AtomicUsize::new(0),
            holders: Mutex::default(),
        }
    }

    /// Sets the bytes that a connection holds, and sheds others where that is too much.
    pub(in crate::http::server) fn hold(&self, slot: &Arc<Slot>, bytes: usize) {
        // The swap decides who gives back the bytes before: this call, or `shed`, which swaps in 0 at any time.
        let before = slot.unfinished.swap(bytes, Ordering::AcqRel);
        match (before, bytes) {
            (0, 1..) => drop(self.holders.lock().insert(slot.id, slot.clone())),
            (1.., 0) => drop(self.holders.lock().remove(&slot.id)),
            _ => {}
        }
        let total = if bytes >= before {
            let added = bytes - before;
            self.total.fetch_add(added, Ordering::AcqRel) + added
        } else {
            let freed = before - bytes;
            self.total.fetch_sub(freed, Ordering::AcqRel) - freed
        };
        if total > self.max {
            self.shed();
        }
    }

    fn shed(&self) {
        let mut holders = self.holders.lock();
        while self.total.load(Ordering::Acquire) > self.max {
            let Some(largest) = largest(&holders) else {
                return;
            };
            // Even where it turns out to be busy: each round must have one holder fewer, or the loop would not end.
            holders.remove(&largest.id);
            if largest.cut() {
                let freed = largest.unfinished.swap(0, Ordering::AcqRel);
                self.total.fetch_sub(freed, Ordering::AcqRel);
                largest.counter.shed(ShedReason::Memory, largest.caller);
            }
        }
    }
}

/// Finds the largest connection of the caller that holds most. Strangers come first.
fn largest(holders: &HashMap<u64, Arc<Slot>>) -> Option<Arc<Slot>> {
    let held = |slot: &Slot| slot.unfinished.load(Ordering::Acquire);
    let mut sums = HashMap::<(bool, Caller), usize>::new();
    for slot in holders.values() {
        *sums.entry((!slot.is_known, slot.caller)).or_default() += held(slot);
    }
    let most = sums
        .into_iter()
        .max_by_key(|((is_stranger, _), sum)| (*is_stranger, *sum));
    let ((is_stranger, caller), _) = most?;
    let of_caller = holders
        .values()
        .filter(|slot| slot.caller == caller && slot.is_known != is_stranger);
    of_caller.max_by_key(|slot| held(slot)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::admission::listener_metrics::{ShedCounter, Unmeasured};

    fn slot(last: u8, is_known: bool) -> Arc<Slot> {
        let caller = Caller::Address([192, 0, 2, last].into());
        let counter = ShedCounter::new("callbacks", Arc::new(Unmeasured));
        let slot = Slot::new(Arc::new(counter), caller, is_known, 0);
        slot.set_task(tokio::spawn(std::future::pending::<()>()).abort_handle());
        Arc::new(slot)
    }

    #[tokio::test]
    async fn the_largest_stranger_is_shed_first_and_the_known_last() {
        let budget = MemoryBudget::new(100);
        let known = slot(1, true);
        budget.hold(&known, 60);
        let small = slot(2, false);
        budget.hold(&small, 15);
        // One caller with two connections holds more than another one with a larger one.
        let many = [slot(3, false), slot(3, false)];
        budget.hold(&many[0], 8);
        budget.hold(&many[1], 10);
        assert_eq!(budget.total.load(Ordering::Relaxed), 93);
        budget.hold(&small, 17);
        budget.hold(&many[0], 16);
        assert!(many[0].is_cut() && !many[1].is_cut() && !small.is_cut());
        assert_eq!(budget.total.load(Ordering::Relaxed), 87);
        budget.hold(&known, 95);
        assert!(small.is_cut() && many[1].is_cut() && !known.is_cut());
        budget.hold(&known, 101);
        assert!(known.is_cut());
        assert_eq!(budget.total.load(Ordering::Relaxed), 0);
        // What a connection gives back when it ends was counted off before.
        budget.hold(&known, 0);
        assert_eq!(budget.total.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_request_that_is_whole_gives_its_bytes_back() {
        let budget = MemoryBudget::new(100);
        let slot = slot(1, false);
        for _ in 0..3 {
            budget.hold(&slot, 90);
            budget.hold(&slot, 0);
        }
        assert!(!slot.is_cut());
        assert!(budget.holders.lock().is_empty());
    }
}
