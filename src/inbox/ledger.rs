//! The ledger: every order that was signed, on SQLite, written by one thread in groups.
//!
//! A row is on stable storage (WAL, `synchronous=FULL`) before [`Ledger::record`] returns. A ledger that
//! fails is the caller's to log and count: calls go on without it.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};
use tokio::sync::oneshot;

use crate::protocol::message::Order;

/// Says whose file it is in its header (`PRAGMA application_id`): "CSgn".
const APPLICATION_ID: i32 = 0x4353_676e;
/// Raised with every change of the tables (`PRAGMA user_version`).
const SCHEMA_VERSION: i32 = 1;
/// Rows of one commit at most; a commit's cost is one fsync, whatever it holds.
const GROUP: usize = 256;
/// Orders that wait for the writer at most; more are refused at once.
const WAITING: usize = 4096;
/// How long a call waits for its row.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long SQLite waits for another process's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What the ledger says about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Written, or written before with the same amount and action.
    Agrees,
    /// Signed before with another amount or action.
    Conflicts,
}

/// Why the ledger cannot be opened or an order not be written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite's own words; they name no row.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A file that something else wrote.
    #[error("the file is another program's database")]
    NotOurs,
    /// Written by a later version.
    #[error(
        "the store has version {found}, this program knows version {SCHEMA_VERSION}: it is too old"
    )]
    Newer {
        /// The store's version.
        found: i32,
    },
    /// Another process has it.
    #[error("the store is in use by another instance (it holds {0})")]
    InUse(String),
    /// The lock's file cannot be made.
    #[error("{0}: {1}")]
    Lock(String, std::io::Error),
    /// SQLite's own check found damage.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// The writer has too much to do, or does not answer.
    #[error("the writer did not confirm within {PATIENCE:?}")]
    Slow,
}

/// A handle to the writer; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    work: SyncSender<Work>,
    /// The last commit went well.
    sound: Arc<AtomicBool>,
}

/// What the writer is asked to do.
enum Work {
    Record(Entry),
    /// Try whether the store can be written.
    Check(oneshot::Sender<Result<(), LedgerError>>),
}

struct Entry {
    merid: String,
    order: Order,
    signed_at: i64,
    confirm: oneshot::Sender<Result<Recorded, LedgerError>>,
}

impl Ledger {
    /// Opens or creates the store and starts its writer. Refuses a store that is damaged, newer or another
    /// program's, and one that cannot be written.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let lock = lock(path)?;
        let connection = open(path)?;
        let (work, waiting) = sync_channel(WAITING);
        let sound = Arc::new(AtomicBool::new(true));
        let writer = Writer {
            connection,
            _lock: lock,
            sound: sound.clone(),
        };
        thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| LedgerError::Damaged(format!("no thread for the writer: {error}")))?;
        Ok(Self { work, sound })
    }

    /// Writes an order, or compares it with the row that is there. The first row stays.
    pub async fn record(&self, merid: &str, order: &Order) -> Result<Recorded, LedgerError> {
        let (confirm, confirmed) = oneshot::channel();
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let entry = Entry {
            merid: merid.to_owned(),
            order: order.clone(),
            signed_at: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            confirm,
        };
        self.ask(Work::Record(entry), confirmed).await
    }

    /// Whether orders can be written; after a failure the store is tried again.
    pub async fn check(&self) -> Result<(), LedgerError> {
        if self.sound.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (confirm, confirmed) = oneshot::channel();
        self.ask(Work::Check(confirm), confirmed).await
    }

    async fn ask<T>(
        &self,
        work: Work,
        confirmed: oneshot::Receiver<Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        self.work.try_send(work).map_err(|_| LedgerError::Slow)?;
        let confirmed = tokio::time::timeout(PATIENCE, confirmed).await;
        confirmed
            .ok()
            .and_then(Result::ok)
            .unwrap_or(Err(LedgerError::Slow))
    }
}

/// Held as long as the file is open. A file of its own: closing another descriptor of the store itself would
/// give SQLite's own locks away.
fn lock(path: &Path) -> Result<File, LedgerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let shown = name.to_string_lossy().into_owned();
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name);
    let file = file.map_err(|error| LedgerError::Lock(shown.clone(), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse(shown)),
        Err(TryLockError::Error(error)) => Err(LedgerError::Lock(shown, error)),
    }
}

fn open(path: &Path) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    let damage: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if damage != "ok" {
        return Err(LedgerError::Damaged(damage));
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version) {
        (0, 0) if tables == 0 => create(&transaction)?,
        // Written again: a store that cannot be written is to be found out now.
        (APPLICATION_ID, SCHEMA_VERSION) => {
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?
        }
        (APPLICATION_ID, found) => return Err(LedgerError::Newer { found }),
        _ => return Err(LedgerError::NotOurs),
    }
    transaction.commit()?;
    Ok(connection)
}

/// `signed_at` is in milliseconds since 1970, `amount` in cents.
fn create(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE orders (
            merid TEXT NOT NULL,
            orderid TEXT NOT NULL,
            amount INTEGER NOT NULL,
            action TEXT NOT NULL,
            signed_at INTEGER NOT NULL,
            PRIMARY KEY (merid, orderid)
        ) STRICT, WITHOUT ROWID;",
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)
}

/// The one thread that writes: takes what waits, commits it at once, confirms each row.
struct Writer {
    connection: Connection,
    _lock: File,
    sound: Arc<AtomicBool>,
}

impl Writer {
    /// Until every handle is gone.
    fn run(mut self, waiting: &Receiver<Work>) {
        while let Ok(first) = waiting.recv() {
            let (mut group, mut checks) = (Vec::new(), Vec::new());
            for work in std::iter::once(first).chain(waiting.try_iter().take(GROUP - 1)) {
                match work {
                    Work::Record(entry) => group.push(entry),
                    Work::Check(confirm) => checks.push(confirm),
                }
            }
            let results = self.write_group(&group, !checks.is_empty());
            self.sound.store(results.is_ok(), Ordering::Relaxed);
            // Whoever asked may have stopped waiting: a confirmation that nobody takes is dropped.
            match results {
                Ok(results) => {
                    for (entry, recorded) in group.into_iter().zip(results) {
                        let _ = entry.confirm.send(Ok(recorded));
                    }
                    for check in checks {
                        let _ = check.send(Ok(()));
                    }
                }
                Err(error) => {
                    for entry in group {
                        let _ = entry.confirm.send(Err(copy(&error)));
                    }
                    for check in checks {
                        let _ = check.send(Err(copy(&error)));
                    }
                }
            }
        }
    }

    fn write_group(&mut self, group: &[Entry], check: bool) -> rusqlite::Result<Vec<Recorded>> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        if check {
            // Writes a page without changing anything.
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        let results = group
            .iter()
            .map(|entry| write_row(&transaction, entry))
            .collect::<Result<_, _>>()?;
        transaction.commit()?;
        Ok(results)
    }
}

fn write_row(transaction: &Transaction<'_>, entry: &Entry) -> rusqlite::Result<Recorded> {
    let Entry {
        merid,
        order,
        signed_at,
        ..
    } = entry;
    let amount = i64::try_from(order.amount).unwrap_or(i64::MAX);
    let before = transaction
        .prepare_cached("SELECT amount, action FROM orders WHERE merid = ?1 AND orderid = ?2")?
        .query_row(params![merid, order.orderid], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    match before {
        Some((before, action)) if before == amount && action == order.action => {
            Ok(Recorded::Agrees)
        }
        Some(_) => Ok(Recorded::Conflicts),
        None => {
            transaction
                .prepare_cached("INSERT INTO orders VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    merid,
                    order.orderid,
                    amount,
                    order.action,
                    signed_at
                ])?;
            Ok(Recorded::Agrees)
        }
    }
}

/// rusqlite's errors cannot be cloned, and every call of a failed group gets one.
fn copy(error: &rusqlite::Error) -> LedgerError {
    let code = error.sqlite_error().copied();
    let code = code.unwrap_or(rusqlite::ffi::Error {
        code: ErrorCode::Unknown,
        extended_code: 0,
    });
    LedgerError::Sqlite(rusqlite::Error::SqliteFailure(
        code,
        Some(error.to_string()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(amount: u64, action: &'static str) -> Order {
        Order {
            orderid: "ABCDEFGH".to_owned(),
            amount,
            action,
        }
    }

    #[tokio::test]
    async fn an_order_signed_with_another_amount_or_action_conflicts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        let ledger = Ledger::open(&path).unwrap();
        let record = async |merid, order| ledger.record(merid, &order).await.unwrap();
        assert_eq!(record("1", order(100, "Bank")).await, Recorded::Agrees);
        assert_eq!(record("1", order(100, "Bank")).await, Recorded::Agrees);
        assert_eq!(record("1", order(101, "Bank")).await, Recorded::Conflicts);
        assert_eq!(record("1", order(100, "WeiXin")).await, Recorded::Conflicts);
        assert_eq!(record("2", order(101, "Bank")).await, Recorded::Agrees);
        drop(ledger);
        let again = reopened(&path).unwrap();
        assert_eq!(
            again.record("1", &order(1, "Bank")).await.unwrap(),
            Recorded::Conflicts
        );
    }

    /// The writer of a dropped handle gives its lock back on its own thread.
    fn reopened(path: &Path) -> Result<Ledger, LedgerError> {
        loop {
            match Ledger::open(path) {
                Err(LedgerError::InUse(_)) => thread::yield_now(),
                result => return result,
            }
        }
    }

    #[test]
    fn a_store_that_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.db");
        std::fs::write(
            &path,
            "no database, but long enough to be taken for a header of one".repeat(20),
        )
        .unwrap();
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Sqlite(_))));
        std::fs::remove_file(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(Ledger::open(&path), Err(LedgerError::NotOurs)));
        std::fs::remove_file(&path).unwrap();
        drop(reopened(&path).unwrap());
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 2)
            .unwrap();
        let newer = reopened(&path);
        assert!(matches!(newer, Err(LedgerError::Newer { found: 2 })));
    }
}
