//! The activity log: entries about orders for the console, written behind the requests.
//!
//! No request waits for an entry or fails by one: an entry without room, or one that the store rejects, is dropped and
//! counted.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio::time::MissedTickBehavior;

use super::metrics::Metrics;
use crate::inbox::activity::{ActivityEntry, Weight};
use crate::inbox::store::Store;

/// Limit of entries that wait to be written; more are dropped.
const WAITING: usize = 2048;
/// Number of waiting entries from which common ones are dropped: keeping them must cost next to nothing.
const WAITING_COMMON: usize = 16;
/// Entries of one transaction: a callback that waits for the same commit waits some milliseconds for them.
const GROUP: usize = 256;
/// Interval of writes. A `kill -9` loses the entries since the last one.
const EVERY: Duration = Duration::from_millis(500);

/// Time after which a repeated key counts as news again.
const OLD_NEWS: Duration = Duration::from_secs(60);
/// Limit of remembered keys; beyond it all are dropped.
const REMEMBERED: usize = 4096;

/// Accepts entries at once and writes them later.
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

    /// Accepts an entry where there is room; without room it is not even built.
    pub fn note(&self, weight: Weight, note: impl FnOnce() -> ActivityEntry) {
        // Other threads change it at the same time; a few common entries more or less than the limit do no harm.
        let waiting = WAITING - self.sender.capacity();
        match self.sender.try_reserve() {
            Ok(room) if weight == Weight::Step || waiting < WAITING_COMMON => {
                room.send(ActivityEntry { weight, ..note() });
            }
            _ => self.metrics.notes_dropped.inc(),
        }
    }

    /// Returns true where the key was not seen for a while: then the entry is a step, however often it can be repeated. For
    /// an old key it is the fingerprint.
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

    /// Writes the waiting entries. Later ones wait for the next time: each group is a commit.
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
