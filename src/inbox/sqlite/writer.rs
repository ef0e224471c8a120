//! The one thread that writes: jobs that wait while a commit is under way go into the next together, and cost one flush.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::checkpoint::LogPages;
use super::connections::Connections;
use super::file::Lock;
#[cfg(test)]
use crate::inbox::commit_faults;
use crate::inbox::store::StoreError;

/// Jobs of one commit at most.
const GROUP: usize = 256;

/// Works inside the group's transaction; its confirmation is called once that is committed or has failed.
pub(super) type WriteJob = Box<dyn FnOnce(&Transaction<'_>) -> CommitConfirmation + Send>;
type CommitConfirmation = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Takes the jobs that wait, commits them, confirms each.
pub(super) struct Writer {
    pub(super) connection: Option<Connection>,
    pub(super) shared: Arc<Connections>,
    /// Calls for a checkpoint; `None` where another process makes them.
    pub(super) checkpoints: Option<SyncSender<()>>,
    // Dropped with the writer, so that the instance's lock outlasts the last job that was accepted.
    pub(super) _lock: Lock,
}

impl Writer {
    /// Writes until every handle is gone.
    pub(super) fn run(mut self, waiting: &Receiver<WriteJob>) {
        while let Ok(first) = waiting.recv() {
            let mut confirmations = Vec::new();
            // Taken lazily: what arrives while the first jobs run still goes into this commit.
            let group = std::iter::once(first).chain(waiting.try_iter().take(GROUP - 1));
            let committed = self.commit(group, &mut confirmations);
            if committed.as_ref().is_err_and(needs_new_connection) {
                self.reopen();
            }
            for confirm in confirmations {
                confirm(committed.clone());
            }
            if let (Some(checkpoints), Some(connection)) = (&self.checkpoints, &self.connection)
                && LogPages::of(connection).is_ok_and(LogPages::is_due)
            {
                // Where a call waits already, that one is enough.
                let _ = checkpoints.try_send(());
            }
        }
    }

    /// Commits a group. A job that was not begun when something failed is dropped, and its caller hears of it that way.
    fn commit(
        &mut self,
        group: impl Iterator<Item = WriteJob>,
        confirmations: &mut Vec<CommitConfirmation>,
    ) -> Result<(), StoreError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            slot => slot.insert(self.shared.reopen(None)?),
        };
        let _gate = self.shared.gate.read();
        // A deferred transaction that has read first fails with SQLITE_BUSY_SNAPSHOT where another process wrote
        // meanwhile, and no busy handler helps (sqlite.org/rescode.html#busy_snapshot).
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        run_jobs(&transaction, group, confirmations)?;
        #[cfg(test)]
        commit_faults::before(&self.shared.path)?;
        transaction.commit()?;
        #[cfg(test)]
        commit_faults::after(&self.shared.path)?;
        // Committed is not enough: the next start has to find it under the path.
        self.shared.file.verify()
    }

    fn reopen(&mut self) {
        match self.shared.reopen(self.connection.take()) {
            Ok(connection) => self.connection = Some(connection),
            Err(error) => tracing::error!(%error, "the store cannot be opened anew"),
        }
    }
}

/// Runs the jobs, and stops where the transaction has ended under them.
fn run_jobs(
    transaction: &Transaction<'_>,
    group: impl Iterator<Item = WriteJob>,
    confirmations: &mut Vec<CommitConfirmation>,
) -> Result<(), StoreError> {
    for job in group {
        confirmations.push(job(transaction));
        if was_rolled_back(transaction) {
            // Each further job would commit alone, and be reported as failed.
            let reason = "SQLite rolled the transaction back; nothing of it was kept";
            return Err(StoreError::Failed(reason.into()));
        }
    }
    Ok(())
}

/// Returns true where SQLite has ended the transaction itself, as it does after some failures of the disk or of memory
/// (sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction).
fn was_rolled_back(transaction: &Transaction<'_>) -> bool {
    transaction.is_autocommit()
}

/// Returns true for errors that may come of a lock which SQLite did not get rid of: it remembers one whose unlocking
/// failed, says so nowhere, and waits for it itself. A full disk and a file that was moved are no such errors.
fn needs_new_connection(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed(_) | StoreError::Slow)
}

/// Runs a job so that its failure takes back that job alone.
pub(super) fn in_savepoint<T>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    transaction.prepare_cached("SAVEPOINT job")?.execute([])?;
    let result = work(transaction);
    if result.is_err() {
        if was_rolled_back(transaction) {
            // The savepoint is gone with it, and the job's own error is the cause.
            return result;
        }
        transaction.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    // Also after ROLLBACK TO, which leaves the savepoint on the stack (sqlite.org/lang_savepoint.html).
    transaction.prepare_cached("RELEASE job")?.execute([])?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi::{Error, SQLITE_FULL};
    use std::sync::mpsc::channel;

    /// A job that inserts a row; with `fails`, SQLite ends the transaction under it as a full disk makes it do.
    fn job(row: i64, fails: bool, ran: &std::sync::mpsc::Sender<i64>) -> WriteJob {
        let ran = ran.clone();
        Box::new(move |transaction| {
            let result = in_savepoint(transaction, |transaction| {
                transaction.execute("INSERT INTO t VALUES (?1)", [row])?;
                if fails {
                    transaction.execute_batch("ROLLBACK")?;
                    let full = Error::new(SQLITE_FULL);
                    return Err(rusqlite::Error::SqliteFailure(full, None));
                }
                Ok(())
            });
            if fails {
                let error = StoreError::from(result.unwrap_err());
                assert!(matches!(error, StoreError::Full(_)), "{error}");
            }
            ran.send(row).unwrap();
            Box::new(|_| {})
        })
    }

    fn committed(group: [(i64, bool); 3]) -> (Result<(), StoreError>, Vec<i64>, i64) {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (i)").unwrap();
        let (ran, rows) = channel();
        let jobs = group.map(|(row, fails)| job(row, fails, &ran));
        let transaction = connection.transaction().unwrap();
        let result = run_jobs(&transaction, jobs.into_iter(), &mut Vec::new());
        match result {
            Ok(()) => transaction.commit().unwrap(),
            Err(_) => drop(transaction),
        }
        let count = "SELECT count(*) FROM t";
        let kept = connection.query_row(count, [], |row| row.get(0)).unwrap();
        (result, rows.try_iter().collect(), kept)
    }

    #[test]
    fn a_transaction_that_sqlite_ends_takes_every_job_of_its_group_along() {
        let (result, ran, kept) = committed([(1, false), (2, true), (3, false)]);
        assert!(result.is_err());
        assert_eq!((ran, kept), (vec![1, 2], 0));
        let (result, ran, kept) = committed([(1, false), (2, false), (3, false)]);
        assert!(result.is_ok());
        assert_eq!((ran, kept), (vec![1, 2, 3], 3));
    }
}
