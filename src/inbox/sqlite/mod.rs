//! The store on SQLite: one file for one sidecar. WAL, `synchronous=FULL`, one thread that writes, and one connection
//! that reads.

mod file;

mod schema;

mod writer;

mod keep;

mod notes;

use std::fs::TryLockError;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, params};
use tokio::sync::oneshot;

use super::activity::ActivityEntry;
use super::decide::cents;
use super::event::{Event, EventState, Source};
use super::store::{
    AHEAD_ATTEMPT, AHEAD_LOOK, ActivityFilter, Arrival, AttemptRecord, Counts, FIRST_LOOK, OldKey,
    OpenOrder, PutOutcome, RecordOutcome, SignedOrder, Store, StoreError,
};
use crate::protocol::envelope::Verified;
use crate::protocol::request::Order;
use crate::protocol::result::PaymentResult;
use crate::time::Millis;
use file::{Lock, check_pages, connect, lock_file};
use writer::{WriteJob, Writer, in_savepoint};

/// Jobs that wait for the writer at most; more are refused at once.
const WAITING: usize = 4096;
/// How long anybody waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);

const EVENT: &str = "id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, \
                     received_at, next_attempt, attempts, last_attempt";

/// A store in one file. Its thread ends with it.
pub struct Sqlite {
    jobs: SyncSender<WriteJob>,
    reader: Arc<Mutex<Connection>>,
    /// The last commit went well.
    sound: Arc<AtomicBool>,
    lock: Lock,
}

impl Sqlite {
    /// Opens or creates the sidecar's own store. Refuses one that is damaged, newer, another program's, in use by
    /// another instance, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (file, shown) = lock_file(path)?;
        match file.try_lock() {
            Ok(()) => Self::open_with(path, Lock::new(Some(file))),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(shown)),
            Err(TryLockError::Error(error)) => Err(StoreError::Failed(format!("{shown}: {error}"))),
        }
    }

    /// Opens the store of an instance that is going to end: both write, and its turn comes when that one lets go.
    pub fn take_over(path: &Path) -> Result<Self, StoreError> {
        let (file, shown) = lock_file(path)?;
        let lock = Lock::new(None);
        let store = Self::open_with(path, lock.clone())?;
        let wait = move || match file.lock() {
            Ok(()) => {
                lock.send_replace(Some(file));
            }
            Err(error) => tracing::error!(%error, "{shown} cannot be locked; nothing is delivered"),
        };
        spawn("store-lock", wait)?;
        Ok(store)
    }

    fn open_with(path: &Path, lock: Lock) -> Result<Self, StoreError> {
        file::make(path);
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        check_pages(&connection, path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        schema::migrate(&mut connection)?;
        Self::start(connection, connect(path, OpenFlags::empty())?, lock)
    }

    /// Opens the store of a sidecar that may be running, for the command line.
    pub fn open_beside(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, OpenFlags::empty())?;
        schema::check(&connection)?;
        Self::start(
            connection,
            connect(path, OpenFlags::empty())?,
            Lock::new(None),
        )
    }

    fn start(writer: Connection, reader: Connection, lock: Lock) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel(WAITING);
        let sound = Arc::new(AtomicBool::new(true));
        let writer = Writer {
            connection: writer,
            sound: sound.clone(),
            _lock: lock.clone(),
        };
        spawn("store", move || writer.run(&waiting))?;
        Ok(Self {
            jobs,
            reader: Arc::new(Mutex::new(reader)),
            sound,
            lock,
        })
    }

    /// Runs `work` in the next commit, and returns what it found once that is on stable storage.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (confirm, confirmed) = oneshot::channel();
        let job: WriteJob = Box::new(move |transaction| {
            let result = in_savepoint(transaction, work);
            // Whoever asked may have stopped waiting: a result that nobody takes is dropped.
            Box::new(move |committed| {
                let _ = confirm.send(committed.and_then(|()| result.map_err(StoreError::from)));
            })
        });
        self.jobs.try_send(job).map_err(|_| StoreError::Slow)?;
        match tokio::time::timeout(PATIENCE, confirmed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(StoreError::Slow),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.reader.clone();
        let done = tokio::task::spawn_blocking(move || {
            // A panic inside a read leaves nothing half done.
            let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
            work(&connection)
        });
        let done = done
            .await
            .map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(done?)
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn turn(&self) {
        // The sender is ours, so that it is there.
        let _ = self.lock.subscribe().wait_for(Option::is_some).await;
    }

    fn let_go(&self) {
        self.lock.send_replace(None);
    }

    async fn check(&self) -> Result<(), StoreError> {
        if self.sound.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Writes a page without changing anything. Not the version: that may be a later one's by now.
        self.write(|transaction| {
            transaction.pragma_update(None, "application_id", schema::APPLICATION_ID)
        })
        .await
    }

    async fn record(
        &self,
        merid: &str,
        order: &Order,
        at: Millis,
    ) -> Result<RecordOutcome, StoreError> {
        let (merid, order) = (merid.to_owned(), order.clone());
        self.write(move |transaction| record(transaction, &merid, &order, at))
            .await
    }

    async fn hasten(&self, merid: &str, orderid: &str, at: Millis) -> Result<(), StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.write(move |transaction| {
            let sql = "UPDATE orders SET urgent = 1, next_look = ?3
                WHERE merid = ?1 AND orderid = ?2 AND next_look IS NOT NULL";
            transaction
                .prepare_cached(sql)?
                .execute(params![merid, orderid, at])?;
            Ok(())
        })
        .await
    }

    async fn put(
        &self,
        outcome: &Verified<PaymentResult>,
        arrival: Arrival,
    ) -> Result<PutOutcome, StoreError> {
        let outcome = outcome.clone();
        self.write(move |transaction| keep::put(transaction, &outcome, arrival))
            .await
    }

    async fn set_back(&self, now: Millis) -> Result<(), StoreError> {
        self.write(move |transaction| {
            let events = "UPDATE events SET next_attempt = ?1 WHERE state = 'pending' AND next_attempt > ?1 + ?2";
            transaction.execute(events, [now, AHEAD_ATTEMPT])?;
            let orders = "UPDATE orders SET next_look = ?1 WHERE next_look > ?1 + ?2";
            transaction.execute(orders, [now, AHEAD_LOOK])?;
            Ok(())
        })
        .await
    }

    async fn due(&self, now: Millis, each: u32, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.read(move |connection| {
            // From merchant to merchant by the index: a long backlog of one costs the others nothing.
            let sql = format!(
                "WITH RECURSIVE merchants(merid) AS (
                    SELECT min(merid) FROM events WHERE state = 'pending'
                    UNION ALL
                    SELECT (SELECT min(merid) FROM events WHERE state = 'pending' AND merid > merchants.merid)
                    FROM merchants WHERE merchants.merid IS NOT NULL
                )
                SELECT {EVENT} FROM events WHERE rowid IN (
                    SELECT due.rowid FROM merchants JOIN events AS due ON due.rowid IN (
                        SELECT rowid FROM events
                        WHERE state = 'pending' AND merid = merchants.merid AND next_attempt <= ?1
                        ORDER BY next_attempt LIMIT ?2
                    )
                ) ORDER BY next_attempt LIMIT ?3"
            );
            collect(connection, &sql, params![now, each, limit], read_event)
        })
        .await
    }

    /// One process has the file, and it has each event in flight once.
    async fn claim(&self, event: &Event) -> Result<Option<Event>, StoreError> {
        let as_read =
            |now: &Event| now.state == EventState::Pending && now.attempts == event.attempts;
        Ok(self.event(&event.id).await?.filter(as_read))
    }

    async fn attempted(&self, attempt: AttemptRecord) -> Result<(), StoreError> {
        self.write(move |transaction| attempted(transaction, &attempt))
            .await
    }

    async fn open_orders(&self, now: Millis, limit: u32) -> Result<Vec<OpenOrder>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT merid, orderid, signed_at FROM orders
                WHERE next_look IS NOT NULL AND next_look <= ?1 ORDER BY urgent DESC, next_look LIMIT ?2";
            collect(connection, sql, params![now, limit], |row| {
                Ok(OpenOrder {
                    merid: row.get(0)?,
                    orderid: row.get(1)?,
                    signed_at: row.get(2)?,
                })
            })
        })
        .await
    }

    async fn asked(&self, order: &OpenOrder, next: Option<Millis>) -> Result<(), StoreError> {
        let order = order.clone();
        self.write(move |transaction| {
            let sql = "UPDATE orders SET urgent = 0, next_look = ?3
                WHERE merid = ?1 AND orderid = ?2 AND next_look IS NOT NULL";
            transaction
                .prepare_cached(sql)?
                .execute(params![order.merid, order.orderid, next])?;
            Ok(())
        })
        .await
    }

    async fn event(&self, id: &str) -> Result<Option<Event>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| {
            let sql = format!("SELECT {EVENT} FROM events WHERE id = ?1");
            connection
                .prepare_cached(&sql)?
                .query_row([id], read_event)
                .optional()
        })
        .await
    }

    async fn events(
        &self,
        state: Option<EventState>,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        self.read(move |connection| {
            let sql = |wanted| {
                format!("SELECT {EVENT} FROM events {wanted} ORDER BY received_at DESC LIMIT ?1")
            };
            match state {
                None => collect(connection, &sql(""), [limit], read_event),
                // A question of its own, so that the index serves it.
                Some(state) => collect(
                    connection,
                    &sql("WHERE state = ?2"),
                    params![limit, state.name()],
                    read_event,
                ),
            }
        })
        .await
    }

    async fn attempts(&self, id: &str) -> Result<Vec<AttemptRecord>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| {
            let sql = "SELECT event, number, at, took, outcome FROM attempts WHERE event = ?1 ORDER BY number";
            collect(connection, sql, [id], |row| {
                Ok(AttemptRecord {
                    id: row.get(0)?,
                    number: row.get(1)?,
                    at: row.get(2)?,
                    took: row.get(3)?,
                    outcome: row.get(4)?,
                    state: EventState::Pending,
                    next: 0,
                })
            })
        })
        .await
    }

    async fn decide(&self, id: &str, state: EventState, at: Millis) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(move |transaction| {
            // What the app took can be offered again, but not be taken back.
            let sql = "UPDATE events SET state = ?2, next_attempt = ?3, received_at = CASE
                    WHEN ?2 = 'pending' THEN ?3 ELSE received_at END
                WHERE id = ?1 AND (?2 = 'pending' OR state <> 'delivered')";
            Ok(transaction.execute(sql, params![id, state.name(), at])? > 0)
        })
        .await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.read(counts).await
    }

    async fn note(&self, notes: Vec<ActivityEntry>) -> Result<(), StoreError> {
        self.write(move |transaction| notes::write(transaction, &notes))
            .await
    }

    async fn notes(
        &self,
        wanted: ActivityFilter,
        limit: u32,
    ) -> Result<Vec<ActivityEntry>, StoreError> {
        self.read(move |connection| notes::read(connection, wanted, limit))
            .await
    }

    async fn find(&self, number: &str, limit: u32) -> Result<Vec<(String, String)>, StoreError> {
        let number = number.to_owned();
        self.read(move |connection| notes::find(connection, &number, limit))
            .await
    }

    async fn signed(&self, merid: &str, orderid: &str) -> Result<Option<SignedOrder>, StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.read(move |connection| notes::signed(connection, &merid, &orderid))
            .await
    }

    async fn events_of(
        &self,
        merid: &str,
        orderid: &str,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.read(move |connection| notes::events_of(connection, &merid, &orderid, limit))
            .await
    }

    async fn old_keys(&self) -> Result<Vec<OldKey>, StoreError> {
        self.read(notes::old_keys).await
    }

    async fn forget(&self, before: Millis) -> Result<(), StoreError> {
        self.write(move |transaction| {
            notes::forget(transaction, before)?;
            transaction.execute(
                "DELETE FROM attempts WHERE event IN (SELECT id FROM events
                    WHERE state IN ('delivered', 'discarded') AND received_at < ?1)",
                [before],
            )?;
            transaction.execute(
                "DELETE FROM events WHERE state IN ('delivered', 'discarded') AND received_at < ?1",
                [before],
            )?;
            transaction.execute(
                "DELETE FROM orders WHERE next_look IS NULL AND signed_at < ?1",
                [before],
            )?;
            Ok(())
        })
        .await
    }
}

fn record(
    transaction: &Transaction<'_>,
    merid: &str,
    order: &Order,
    at: Millis,
) -> rusqlite::Result<RecordOutcome> {
    let amount = cents(order.amount);
    let before = transaction
        .prepare_cached("SELECT amount, action FROM orders WHERE merid = ?1 AND orderid = ?2")?
        .query_row(params![merid, order.orderid], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })
        .optional()?;
    match before {
        Some((before, action)) if before == amount && action == order.action => {
            Ok(RecordOutcome::Agrees)
        }
        Some(_) => Ok(RecordOutcome::Conflicts),
        None => {
            let sql = "INSERT INTO orders (merid, orderid, amount, action, signed_at, next_look)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let row = params![
                merid,
                order.orderid,
                amount,
                order.action,
                at,
                at + FIRST_LOOK
            ];
            transaction.prepare_cached(sql)?.execute(row)?;
            Ok(RecordOutcome::Agrees)
        }
    }
}

fn attempted(transaction: &Transaction<'_>, attempt: &AttemptRecord) -> rusqlite::Result<()> {
    let AttemptRecord {
        id,
        number,
        at,
        took,
        outcome,
        state,
        next,
    } = attempt;
    transaction
        .prepare_cached(
            "UPDATE events SET attempts = ?2, last_attempt = ?3, next_attempt = ?5,
                state = CASE WHEN state = 'pending' OR ?4 = 'delivered' THEN ?4 ELSE state END
             WHERE id = ?1",
        )?
        .execute(params![id, number, outcome, state.name(), next])?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO attempts (event, number, at, took, outcome) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![id, number, at, took, outcome])?;
    Ok(())
}

fn counts(connection: &Connection) -> rusqlite::Result<Counts> {
    let mut counts = Counts::default();
    let mut by_state =
        connection.prepare_cached("SELECT state, count(*) FROM events GROUP BY state")?;
    for row in by_state.query_map([], |row| Ok((state(row, 0)?, row.get(1)?)))? {
        let (state, count) = row?;
        counts.set(state, count);
    }
    let one = |sql| connection.query_row(sql, [], |row| row.get(0));
    counts.oldest_pending = connection.query_row(
        "SELECT min(received_at) FROM events WHERE state = 'pending'",
        [],
        |row| row.get(0),
    )?;
    counts.open_orders = one("SELECT count(*) FROM orders WHERE next_look IS NOT NULL")?;
    Ok(counts)
}

fn read_event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(0)?,
        merid: row.get(1)?,
        orderid: row.get(2)?,
        queryid: row.get(3)?,
        resultcode: row.get(4)?,
        amount: unsigned(row, 5)?,
        json: row.get(6)?,
        source: Source::parse(row.get_ref(7)?.as_str()?),
        matched: row.get(8)?,
        state: state(row, 9)?,
        received_at: row.get(10)?,
        next_attempt: row.get(11)?,
        attempts: row.get(12)?,
        last_attempt: row.get(13)?,
    })
}

fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<EventState> {
    Ok(EventState::stored(row.get_ref(column)?.as_str()?))
}

fn collect<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection
        .prepare_cached(sql)?
        .query_map(params, read)?
        .collect()
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| StoreError::Failed(format!("no thread: {error}")))
}

#[cfg(test)]
mod tests {
    use super::schema::{APPLICATION_ID, MIGRATIONS, VERSION};
    use super::*;
    use crate::inbox::contract::order;

    /// The writer of a dropped handle gives its lock back on its own thread.
    fn reopened(path: &Path) -> Result<Sqlite, StoreError> {
        loop {
            match Sqlite::open(path) {
                Err(StoreError::InUse(_)) => thread::yield_now(),
                result => return result,
            }
        }
    }

    #[tokio::test]
    async fn who_takes_over_writes_at_once_and_has_its_turn_when_the_other_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let old = Sqlite::open(&path).unwrap();
        old.turn().await;
        let new = Sqlite::take_over(&path).unwrap();
        for (store, amount, found) in [
            (&old, 1, RecordOutcome::Agrees),
            (&new, 2, RecordOutcome::Conflicts),
            (&old, 1, RecordOutcome::Agrees),
        ] {
            let recorded = store
                .record("1", &order("ABCDEFGH", amount, "Bank"), 1)
                .await;
            assert_eq!(recorded.unwrap(), found);
        }
        let turn = new.turn();
        tokio::pin!(turn);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), &mut turn)
                .await
                .is_err()
        );
        old.let_go();
        turn.await;
        let recorded = old.record("1", &order("ABCDEFGH", 1, "Bank"), 1).await;
        assert_eq!(recorded.unwrap(), RecordOutcome::Agrees);
        assert!(matches!(Sqlite::open(&path), Err(StoreError::InUse(_))));
    }

    #[test]
    fn a_store_of_the_first_version_is_brought_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute(
            "INSERT INTO orders VALUES ('1', 'ABCDEFGH', 1, 'Bank', 1)",
            [],
        )
        .unwrap();
        old.pragma_update(None, "application_id", APPLICATION_ID)
            .unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(reopened(&path).unwrap());
        let version = old.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0));
        assert_eq!(version.unwrap(), VERSION);
    }

    #[test]
    fn a_store_that_is_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        std::fs::write(
            &path,
            "no database, but long enough to be taken for a header".repeat(20),
        )
        .unwrap();
        assert!(matches!(Sqlite::open(&path), Err(StoreError::Failed(_))));
        std::fs::remove_file(&path).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(Sqlite::open(&path), Err(StoreError::NotOurs)));
        std::fs::remove_file(&path).unwrap();
        drop(reopened(&path).unwrap());
        let newer = Connection::open(&path).unwrap();
        newer
            .pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        assert!(matches!(reopened(&path), Err(StoreError::Newer { .. })));
    }
}
