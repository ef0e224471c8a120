//! The activity: what happened to orders, written down behind the requests.
//!
//! Keeps the promise that nobody waits for a note and nothing fails by one: a note that there is no room for, or that
//! the store does not take, is dropped and counted.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio::time::MissedTickBehavior;

use super::metrics::Metrics;
use crate::inbox::activity::{ActivityEntry, Weight};
use crate::inbox::store::Store;

/// Notes that wait to be written; more are dropped.
const WAITING: usize = 2048;
/// Where as many as this wait, common notes are dropped: keeping them is to cost next to nothing.
const WAITING_COMMON: usize = 16;
/// Notes of one transaction: a callback that waits for the same commit waits some milliseconds for them.
const GROUP: usize = 256;
/// How often they are written. What was noted since is lost when the process is killed.
const EVERY: Duration = Duration::from_millis(500);

/// The same is news again after this.
const OLD_NEWS: Duration = Duration::from_secs(60);
/// News that are remembered; beyond that the old ones are forgotten.
const REMEMBERED: usize = 4096;

/// Takes notes at once and writes them later.
pub struct ActivityLog {
    sender: mpsc::Sender<ActivityEntry>,
    waiting: Mutex<mpsc::Receiver<ActivityEntry>>,
    news: std::sync::Mutex<HashMap<String, Instant>>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl ActivityLog {
    /// Writes to `store` once [`ActivityLog::run`] runs.
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING);
        Self {
            sender,
            waiting: Mutex::new(waiting),
            news: std::sync::Mutex::default(),
            store,
            metrics,
        }
    }

    /// Takes a note where there is room; it is not even made where there is none.
    pub fn note(&self, weight: Weight, note: impl FnOnce() -> ActivityEntry) {
        let waiting = WAITING - self.sender.capacity();
        match self.sender.try_reserve() {
            Ok(room) if weight == Weight::Step || waiting < WAITING_COMMON => {
                room.send(ActivityEntry { weight, ..note() });
            }
            _ => self.metrics.notes_dropped.inc(),
        }
    }

    /// Whether this was not heard for a while: then it is a step, however often it can be repeated. An old key is meant
    /// by its fingerprint.
    pub fn is_news(&self, what: &str) -> bool {
        let mut heard = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let last = heard.get(what).map(Instant::elapsed);
        if last.is_some_and(|ago| ago < OLD_NEWS) {
            return false;
        }
        if heard.len() >= REMEMBERED {
            heard.clear();
        }
        heard.insert(what.to_owned(), Instant::now());
        true
    }

    /// Writes until the task is dropped.
    pub async fn run(&self) {
        let mut rounds = tokio::time::interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.write().await;
        }
    }

    /// Writes what waits now. What comes while it is written waits for the next time: each group is a commit.
    pub async fn write(&self) {
        let mut waiting = self.waiting.lock().await;
        let mut left = waiting.len();
        while left > 0 {
            let notes: Vec<_> = std::iter::from_fn(|| waiting.try_recv().ok())
                .take(left.min(GROUP))
                .collect();
            let count = notes.len();
            left -= left.min(GROUP);
            if let Err(error) = self.store.note(notes).await {
                self.metrics.notes_dropped.inc_by(count as u64);
                tracing::warn!(%error, count, "notes for the console are lost");
            }
        }
    }
}
