//! Servers that sent a response to nothing: for an hour each of their connections carries one request.
//!
//! HTTP/1.1 pairs a response with its request by its place on the connection alone. A stray that comes while the next
//! request is on its way is taken for the response to it, and no look at the connection can prevent that: it may come
//! a microsecond after the look. A server that sent one stray sends more, so its connections are not used again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The time for which a server's connections are used once after a stray response.
const LASTS: Duration = Duration::from_secs(60 * 60);

/// Counts connections, for the metrics.
pub trait Count: Send + Sync {
    /// Counts a connection that was opened (`false`) or taken from the pool (`true`).
    fn connection(&self, reused: bool);

    /// Counts a response that belongs to no request.
    fn stray(&self);
}

/// The standing of one server.
pub(super) struct Distrust {
    origin: String,
    count: Arc<dyn Count>,
    /// None while no stray has come.
    until: Mutex<Option<Instant>>,
}

impl Distrust {
    /// No stray has come from `origin` yet.
    pub(super) fn of(origin: String, count: Arc<dyn Count>) -> Self {
        Self {
            origin,
            count,
            until: Mutex::default(),
        }
    }

    /// Returns true while connections to the server are not to be used again.
    pub(super) fn applies(&self, now: Instant) -> bool {
        self.until.lock().is_some_and(|until| now < until)
    }

    /// Counts a stray, and begins the hour anew.
    pub(super) fn begin(&self, now: Instant) {
        self.count.stray();
        let before = self.until.lock().replace(now + LASTS);
        if before.is_none_or(|until| until <= now) {
            tracing::warn!(
                origin = self.origin,
                "the server sent a response to no request; its connections carry one request each for an hour, because a \
                 stray response could be taken for that of the next one. Look at the server, or at a proxy before it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Strays(AtomicUsize);

    impl Count for Strays {
        fn connection(&self, _reused: bool) {}

        fn stray(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn distrust_lasts_an_hour_from_the_last_stray() {
        let (strays, now) = (Arc::new(Strays::default()), Instant::now());
        let distrust = Distrust::of("http://shop".to_owned(), strays.clone());
        assert!(!distrust.applies(now));
        distrust.begin(now);
        distrust.begin(now + LASTS / 2);
        assert!(distrust.applies(now + LASTS));
        assert!(!distrust.applies(now + LASTS / 2 + LASTS));
        assert_eq!(strays.0.load(Ordering::Relaxed), 2);
    }
}
