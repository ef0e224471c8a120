//! The one thread that writes: what waits while a commit is under way goes into the next together, and costs one flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::file::Lock;
use crate::inbox::store::StoreError;

/// Jobs of one commit at most.
const GROUP: usize = 256;

/// Works inside the group's transaction, and tells whoever asked once that is committed or has failed.
pub(super) type WriteJob = Box<dyn FnOnce(&Transaction<'_>) -> CommitConfirmation + Send>;
type CommitConfirmation = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Takes what waits, commits it at once, confirms each job.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) sound: Arc<AtomicBool>,
    pub(super) _lock: Lock,
}

impl Writer {
    /// Until every handle is gone.
    pub(super) fn run(mut self, waiting: &Receiver<WriteJob>) {
        while let Ok(first) = waiting.recv() {
            let mut confirmations = Vec::new();
            let group = std::iter::once(first).chain(waiting.try_iter().take(GROUP - 1));
            let committed = commit(&mut self.connection, group, &mut confirmations);
            self.sound.store(committed.is_ok(), Ordering::Relaxed);
            for confirm in confirmations {
                confirm(committed.clone());
            }
        }
    }
}

/// Jobs that were not begun when something failed are dropped, and whoever waits for them is told that way.
fn commit(
    connection: &mut Connection,
    group: impl Iterator<Item = WriteJob>,
    confirmations: &mut Vec<CommitConfirmation>,
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in group {
        confirmations.push(job(&transaction));
    }
    Ok(transaction.commit()?)
}

/// One job's failure takes back that job alone.
pub(super) fn in_savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    transaction.prepare_cached("SAVEPOINT job")?.execute([])?;
    let result = work(transaction);
    if result.is_err() {
        transaction.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    transaction.prepare_cached("RELEASE job")?.execute([])?;
    result
}
