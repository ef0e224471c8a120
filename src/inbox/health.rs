//! Readiness of a store: the latest work of each kind, and damage, which stays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::store::StoreError;

/// Time in which the log's last lines are written before the process ends.
const LAST_LINES: Duration = Duration::from_millis(200);
/// Exit code of a process whose store has ended: a restart may help.
const STORE_ENDED: i32 = 75;

/// A kind of work whose failure makes the sidecar unready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreWork {
    /// A result was to be kept.
    Put,
    /// An order was to be written.
    Record,
    /// Due events were to be read.
    Due,
    /// Anything else: it changes nothing.
    Other,
}

/// The latest outcomes.
#[derive(Default)]
pub(super) struct Health(Mutex<Outcomes>);

#[derive(Default)]
struct Outcomes {
    damage: Option<String>,
    put: Option<StoreError>,
    record: Option<StoreError>,
    due: Option<StoreError>,
}

impl Health {
    /// Notes the outcome of some work.
    pub(super) fn note<T>(&self, work: StoreWork, result: &Result<T, StoreError>) {
        let mut outcomes = self.0.lock();
        let error = result.as_ref().err().cloned();
        if let Some(StoreError::Damaged(damage)) = &error
            && outcomes.damage.is_none()
        {
            tracing::error!(
                damage,
                "the store is damaged: nothing is acknowledged until it was repaired or replaced, and the sidecar restarted"
            );
            outcomes.damage = Some(damage.clone());
        }
        match work {
            StoreWork::Put => outcomes.put = error,
            StoreWork::Record => outcomes.record = error,
            StoreWork::Due => outcomes.due = error,
            StoreWork::Other => {}
        }
    }

    /// Returns the damage that was found, which no later success undoes.
    pub(super) fn damage(&self) -> Result<(), StoreError> {
        match &self.0.lock().damage {
            Some(damage) => Err(StoreError::Damaged(damage.clone())),
            None => Ok(()),
        }
    }

    /// Returns the kinds of work whose latest outcome was an error.
    pub(super) fn failed(&self) -> Vec<StoreWork> {
        let outcomes = self.0.lock();
        let kinds = [
            (StoreWork::Put, &outcomes.put),
            (StoreWork::Record, &outcomes.record),
            (StoreWork::Due, &outcomes.due),
        ];
        let failed = kinds.into_iter().filter(|(_, error)| error.is_some());
        failed.map(|(work, _)| work).collect()
    }
}

/// Runs one of a store's threads. If it fails, so does the process: without it nothing would ever be confirmed again.
pub(super) fn vital_thread(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<(), StoreError> {
    let run = move || {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!(
                thread = name,
                "a thread of the store has failed; the process ends"
            );
            thread::sleep(LAST_LINES);
            // Not `resume_unwind`: that would end this thread alone, and the listeners would go on without a store.
            std::process::exit(STORE_ENDED);
        }
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| StoreError::Failed(format!("no thread: {error}")))
}
