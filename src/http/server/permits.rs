//! Permits: a bound on the number of things at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of permits, some of them taken.
pub struct Permits {
    taken: AtomicUsize,
    max: usize,
}

/// A permit, taken until this is dropped.
pub struct Permit<'p>(&'p Permits);

impl Permits {
    /// `max` permits, none of them taken.
    pub fn new(max: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            max,
        }
    }

    /// Takes a permit, or returns `None` where all are taken.
    pub fn take(&self) -> Option<Permit<'_>> {
        // Counted before it is known to be free. Where it is not, the drop takes it back.
        let permit = Permit(self);
        // Relaxed is enough: a permit guards no memory, only a number.
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.max).then_some(permit)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_can_be_taken_again() {
        let permits = Permits::new(2);
        let first = permits.take();
        let second = permits.take();
        assert!(first.is_some() && second.is_some());
        for _ in 0..3 {
            assert!(permits.take().is_none());
        }
        drop(first);
        assert!(permits.take().is_some());
        drop(second);
        assert_eq!(permits.taken.load(Ordering::Relaxed), 0);
    }
}
