//! A bound on how many there are at once.

use std::sync::atomic::{AtomicUsize, Ordering};

/// So many places, and how many of them are taken.
pub struct Permits {
    taken: AtomicUsize,
    max: usize,
}

/// One of them, until it is dropped.
pub struct Permit<'p>(&'p Permits);

impl Permits {
    /// None is taken.
    pub fn new(max: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            max,
        }
    }

    /// `None` where all are taken.
    pub fn take(&self) -> Option<Permit<'_>> {
        // Counted before it is known to be free: one that is not is dropped, and no longer counts.
        let place = Permit(self);
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.max).then_some(place)
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
    fn there_are_so_many_and_each_comes_back() {
        let places = Permits::new(2);
        let first = places.take();
        let second = places.take();
        assert!(first.is_some() && second.is_some());
        for _ in 0..3 {
            assert!(places.take().is_none());
        }
        drop(first);
        assert!(places.take().is_some());
        drop(second);
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }
}
