//! A point in time that moves with every request, on a timer that does not.
//!
//! Setting a timer costs more than signing a message. Deadlines here nearly always move away before they come, so the
//! timer is left where it is and set anew only when it fires too early.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until, timeout};

/// A point in time at which waiting for something is given up.
pub struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    /// A deadline at `at`.
    pub fn new(at: Instant) -> Self {
        Self {
            at,
            timer: Box::pin(sleep_until(at.into())),
        }
    }

    /// Moves it to `at`.
    pub fn set(&mut self, at: Instant) {
        self.at = at;
        if at < self.timer.deadline().into_std() {
            self.timer.as_mut().reset(at.into());
        }
    }

    /// Moves it to `at` where that is earlier.
    pub fn bring_forward(&mut self, at: Instant) {
        if at < self.at {
            self.set(at);
        }
    }

    /// Returns the output of `future`, or `None` where the deadline comes first.
    pub async fn limit<F: Future>(&mut self, mut future: Pin<&mut F>) -> Option<F::Output> {
        // The future first: what has come by now counts, even where the deadline has passed as well.
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll(context).map(|()| None),
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at.into());
        }
    }
}

/// Returns the output of `future` within `time`, or `None`. A future that is ready at once costs no timer and no look at
/// the clock.
pub async fn within<F: Future>(time: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
    let at_once = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    match at_once {
        Poll::Ready(output) => Some(output),
        Poll::Pending => timeout(time, future).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::pin::pin;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn comes_when_it_was_moved_to_and_not_before() {
        let begun = Instant::now();
        let mut deadline = Deadline::new(begun + SOON);
        deadline.set(begun + 3 * SOON);
        assert_eq!(deadline.limit(pin!(pending::<()>())).await, None);
        assert!(begun.elapsed() >= 3 * SOON);
        let begun = Instant::now();
        deadline.set(begun + 100 * SOON);
        deadline.set(begun + SOON);
        assert_eq!(deadline.limit(pin!(pending::<()>())).await, None);
        assert!(begun.elapsed() < 50 * SOON);
    }

    #[tokio::test]
    async fn what_is_ready_is_given_even_late() {
        let mut deadline = Deadline::new(Instant::now());
        assert_eq!(deadline.limit(pin!(ready(7))).await, Some(7));
    }

    #[tokio::test]
    async fn a_time_bounds_what_is_not_ready_at_once() {
        assert_eq!(within(Duration::ZERO, pin!(ready(7))).await, Some(7));
        assert_eq!(within(SOON, pin!(pending::<()>())).await, None);
        let later = async {
            tokio::time::sleep(SOON).await;
            7
        };
        assert_eq!(within(100 * SOON, pin!(later)).await, Some(7));
    }
}
