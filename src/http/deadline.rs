//! A point in time that moves with every request, on a timer that does not.
//!
//! Setting a timer costs more than signing a message. Deadlines here nearly always move away before they come, so the
//! timer is left where it is and set anew only when it fires too early.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// When something that is waited for is given up.
pub struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    /// Comes at `at`.
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

    /// What `future` gives, or `None` where the deadline comes first.
    pub async fn limit<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| match future.as_mut().poll(context) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn comes_when_it_was_moved_to_and_not_before() {
        let begun = Instant::now();
        let mut deadline = Deadline::new(begun + SOON);
        deadline.set(begun + 3 * SOON);
        assert_eq!(deadline.limit(std::future::pending::<()>()).await, None);
        assert!(begun.elapsed() >= 3 * SOON);
        let begun = Instant::now();
        deadline.set(begun + 100 * SOON);
        deadline.set(begun + SOON);
        assert_eq!(deadline.limit(std::future::pending::<()>()).await, None);
        assert!(begun.elapsed() < 50 * SOON);
    }

    #[tokio::test]
    async fn what_is_ready_is_given_even_late() {
        let mut deadline = Deadline::new(Instant::now());
        assert_eq!(deadline.limit(std::future::ready(7)).await, Some(7));
    }
}
