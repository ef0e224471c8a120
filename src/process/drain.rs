//! The graceful shutdown: requests in flight are finished, new ones are sent elsewhere, and the process ends as soon as it
//! is idle, at the latest when its time is up.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::{Duration, Instant};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

/// Limit from the first SIGTERM to the end. A replaced process may take longer.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);
/// Time before the end from which new requests are rejected and waits for the platform end.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Time before the end from which requests in flight are answered in place of their handlers.
const CUT: Duration = Duration::from_millis(150);
/// Interval at which the drain checks whether it may end.
const TICK: Duration = Duration::from_millis(20);
/// Time without a request after which the process counts as idle.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// Counts requests in flight and knows the stage of the shutdown.
#[derive(Debug)]
pub struct Drain {
    started: Instant,
    in_flight: AtomicUsize,
    /// The time at which the shutdown began, or a request last ended since then; in milliseconds since `started`.
    last_busy: AtomicU64,
    is_serving: AtomicBool,
    draining: AtomicBool,
    replaced: watch::Sender<bool>,
    over: DrainStep,
    cut: DrainStep,
}

/// A stage of the shutdown, and the tasks that wait for it.
#[derive(Debug, Default)]
struct DrainStep {
    has_come: AtomicBool,
    waiting: Notify,
}

impl DrainStep {
    fn has_come(&self) -> bool {
        self.has_come.load(Ordering::SeqCst)
    }

    /// Enters the stage and wakes all waiting tasks, the first time.
    fn come(&self) {
        if !self.has_come.swap(true, Ordering::SeqCst) {
            self.waiting.notify_waiters();
        }
    }
}

/// One request in flight.
pub struct Busy<'a>(&'a Drain);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        // Before the shutdown begins the time is not needed.
        if self.0.is_draining() {
            self.0.touch();
        }
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            in_flight: AtomicUsize::new(0),
            last_busy: AtomicU64::new(0),
            is_serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            replaced: watch::Sender::new(false),
            over: DrainStep::default(),
            cut: DrainStep::default(),
        }
    }
}

impl Drain {
    /// Counts a request until the guard is dropped.
    pub fn enter(&self) -> Busy<'_> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        Busy(self)
    }

    /// Returns the number of requests in flight on all listeners.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Notes that the start is over: a signal begins the drain from here on, and another process can take over.
    pub fn serving(&self) {
        self.is_serving.store(true, Ordering::SeqCst);
    }

    /// Returns true where the start is over, and the drain has not begun or has.
    pub fn is_serving(&self) -> bool {
        self.is_serving.load(Ordering::SeqCst)
    }

    /// Returns true where connections must be closed after the current response.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Returns true where it is too late for another request and for waiting for the platform.
    pub fn is_over(&self) -> bool {
        self.over.has_come()
    }

    /// Returns true where a handler that has not answered by now will not.
    pub fn is_cut(&self) -> bool {
        self.cut.has_come()
    }

    /// Waits until it is too late for another request.
    pub async fn until_over(&self) {
        // Made before the check: tokio promises a `Notified` every `notify_waiters` from its creation on, so that none
        // is missed in between.
        let over = self.over.waiting.notified();
        if !self.is_over() {
            over.await;
        }
    }

    /// Subscribes a task that must wake when [`Drain::is_over`] or [`Drain::is_cut`] becomes true.
    pub fn subscribe(&self) -> Subscription<'_> {
        Subscription {
            drain: self,
            waiting: None,
        }
    }

    /// Marks this process as replaced by another.
    pub fn replace(&self) {
        self.replaced.send_replace(true);
    }

    /// Waits until another process serves in place of this one.
    pub async fn until_replaced(&self) {
        // `self` owns the sender, so the channel is open.
        let _ = self.replaced.subscribe().wait_for(|it| *it).await;
    }

    /// Begins the shutdown and returns when it is complete, after `time` at the latest.
    pub async fn drain(&self, time: Duration) {
        self.draining.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + time;
        self.touch();
        loop {
            let late = Instant::now() + LAST_CALL > deadline;
            if late || self.is_quiet() {
                self.over.come();
            }
            if Instant::now() + CUT > deadline {
                self.cut.come();
            }
            // Requests that came in before `over` was seen are counted by now, and are answered first.
            tokio::time::sleep(TICK).await;
            if self.is_over()
                && (self.in_flight.load(Ordering::SeqCst) == 0 || Instant::now() > deadline)
            {
                return;
            }
        }
    }

    fn is_quiet(&self) -> bool {
        // In this order: a request that ends in between has set the time before it gave up its count.
        if self.in_flight.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let last_busy = Duration::from_millis(self.last_busy.load(Ordering::SeqCst));
        self.started.elapsed() > last_busy + QUIET_TIME
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_busy.store(now, Ordering::SeqCst);
    }
}

/// A task that wakes when the shutdown advances. Registering takes a lock that all tasks share, so it is done once a
/// connection, not for every request.
pub struct Subscription<'l> {
    drain: &'l Drain,
    /// One waker slot for each stage, once the task is registered.
    waiting: Option<[Pin<Box<Notified<'l>>>; 2]>,
}

impl Subscription<'_> {
    /// Registers the task for the stages that are still ahead. It must be the same task each time.
    pub fn register(&mut self, context: &mut Context<'_>) {
        let drain = self.drain;
        self.waiting.get_or_insert_with(|| {
            [&drain.over, &drain.cut].map(|step| {
                let mut waiting = Box::pin(step.waiting.notified());
                // A stage that is entered at this moment wakes the task, which then sees it.
                let _ = waiting.as_mut().poll(context);
                waiting
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_task_wakes_at_each_step_of_the_end_and_at_no_other_time() {
        let drain = Drain::default();
        let wakes = Arc::<Wakes>::default();
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);
        let mut woken = |subscription: &mut Subscription<'_>| {
            for _ in 0..3 {
                subscription.register(&mut context);
            }
            wakes.0.swap(0, Ordering::SeqCst)
        };
        let mut early = drain.subscribe();
        assert_eq!(woken(&mut early), 0);
        drain.over.come();
        // At the same interval as the drain checks.
        drain.over.come();
        assert_eq!(woken(&mut early), 1);
        let mut late = drain.subscribe();
        assert_eq!(woken(&mut late), 0);
        drain.cut.come();
        assert_eq!(woken(&mut early), 2, "both of them");
        let mut too_late = drain.subscribe();
        assert_eq!(woken(&mut too_late) + woken(&mut late), 0);
    }

    #[test]
    fn a_task_that_registers_while_the_first_step_comes_wakes_at_the_second() {
        let drain = Drain::default();
        let wakes = Arc::<Wakes>::default();
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);
        let mut subscription = drain.subscribe();
        // Both halves of entering a stage, and the task between them.
        drain.over.has_come.store(true, Ordering::SeqCst);
        subscription.register(&mut context);
        drain.over.waiting.notify_waiters();
        subscription.register(&mut context);
        assert_eq!(wakes.0.swap(0, Ordering::SeqCst), 1);
        drain.cut.come();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    }
}
