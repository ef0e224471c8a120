//! The store on SQLite: WAL, `synchronous=FULL`, one thread that writes in groups, and one connection that reads.
//!
//! A commit costs one fsync whatever it holds, so what waits while one runs goes into the next together.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use tokio::sync::{oneshot, watch};

use super::event::{Event, Millis, Source, State};
use super::note::{self, Note, Weight, What};
use super::store::{
    AHEAD_ATTEMPT, AHEAD_LOOK, Arrival, Attempt, Counts, FIRST_LOOK, OldKey, OpenOrder, Put,
    Recorded, Signed, Store, StoreError, Wanted,
};
use super::verdict::{Known, New, Story, Verdict, cents, judge};
use crate::protocol::envelope::Verified;
use crate::protocol::message::{Order, Outcome};

/// Says whose file it is in its header (`PRAGMA application_id`): "CSgn".
const APPLICATION_ID: i32 = 0x4353_676e;
/// Bytes of a store whose every page is looked at before it is used: a tenth of a second's work.
const CHECKED: u64 = 16 << 20;
/// Jobs of one commit at most.
const GROUP: usize = 256;
/// Jobs that wait for the writer at most; more are refused at once.
const WAITING: usize = 4096;
/// How long anybody waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often SQLite tries to get another process's lock, and the pause in between. SQLite's own pauses become so long
/// that a process which commits all the time leaves no gap that they would hit.
const LOCK_TRIES: i32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// What made each version out of the one before (`PRAGMA user_version`). Times are in milliseconds since 1970,
/// amounts in cents. During an upgrade the version before writes on beside the new one: what its statements name stays.
const MIGRATIONS: [&str; 3] = [
    "CREATE TABLE orders (
        merid TEXT NOT NULL,
        orderid TEXT NOT NULL,
        amount INTEGER NOT NULL,
        action TEXT NOT NULL,
        signed_at INTEGER NOT NULL,
        PRIMARY KEY (merid, orderid)
    ) STRICT, WITHOUT ROWID;",
    "ALTER TABLE orders ADD COLUMN next_look INTEGER;
    ALTER TABLE orders ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX orders_number ON orders (orderid);
    CREATE INDEX orders_open ON orders (urgent, next_look) WHERE next_look IS NOT NULL;
    CREATE TABLE events (
        id TEXT NOT NULL PRIMARY KEY,
        merid TEXT NOT NULL,
        orderid TEXT NOT NULL,
        queryid TEXT NOT NULL,
        resultcode TEXT NOT NULL,
        amount INTEGER NOT NULL,
        json TEXT NOT NULL,
        source TEXT NOT NULL,
        matched INTEGER NOT NULL,
        state TEXT NOT NULL,
        received_at INTEGER NOT NULL,
        next_attempt INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        last_attempt TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX events_payment ON events (merid, queryid, resultcode);
    CREATE INDEX events_pending ON events (merid, next_attempt) WHERE state = 'pending';
    CREATE INDEX events_state ON events (state, received_at);
    CREATE TABLE attempts (
        event TEXT NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        took INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        PRIMARY KEY (event, number)
    ) STRICT, WITHOUT ROWID;",
    "CREATE INDEX events_order ON events (orderid, merid);
    CREATE INDEX events_number ON events (queryid);
    CREATE TABLE notes (
        common INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        took INTEGER NOT NULL,
        what TEXT NOT NULL,
        way TEXT NOT NULL,
        merid TEXT NOT NULL,
        orderid TEXT NOT NULL,
        request_id TEXT NOT NULL,
        outcome TEXT NOT NULL,
        sent TEXT NOT NULL,
        old_key TEXT NOT NULL,
        refused INTEGER NOT NULL,
        stranger INTEGER NOT NULL,
        PRIMARY KEY (common, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX notes_order ON notes (orderid, merid, common, at) WHERE orderid <> '';
    CREATE INDEX notes_request ON notes (request_id) WHERE request_id <> '';
    CREATE INDEX notes_refused ON notes (common, at) WHERE refused = 1;
    CREATE INDEX notes_old_key ON notes (merid, old_key, at) WHERE old_key <> '';",
];
const SCHEMA_VERSION: i32 = MIGRATIONS.len() as i32;

const EVENT: &str = "id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, \
                     received_at, next_attempt, attempts, last_attempt";
const NOTE: &str = "common, at, took, what, way, merid, orderid, request_id, outcome, sent, old_key, refused, \
     stranger";

/// A store in one file. Clones share its writer, which ends with the last of them.
#[derive(Clone)]
pub struct Sqlite {
    jobs: SyncSender<Job>,
    reader: Arc<Mutex<Connection>>,
    /// The last commit went well.
    sound: Arc<AtomicBool>,
    lock: Lock,
}

/// The lock's file once it is ours, up to the last handle or [`Store::let_go`].
type Lock = watch::Sender<Option<File>>;

/// Works inside the group's transaction, and tells whoever asked once that is committed or has failed.
type Job = Box<dyn FnOnce(&Transaction<'_>) -> Confirm + Send>;
type Confirm = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.to_string())
    }
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
        // Made before SQLite would make it, for everyone to read. What is wrong with it SQLite says.
        let _ = private().create_new(true).open(path);
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        check_pages(&connection, path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        migrate(&mut connection)?;
        Self::start(connection, connect(path, OpenFlags::empty())?, lock)
    }

    /// Opens the store of a sidecar that may be running, for the command line.
    pub fn open_beside(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, OpenFlags::empty())?;
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        check_version(pragma("application_id")?, pragma("user_version")?)?;
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
        let job: Job = Box::new(move |transaction| {
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
        self.write(|transaction| transaction.pragma_update(None, "application_id", APPLICATION_ID))
            .await
    }

    async fn record(&self, merid: &str, order: &Order, at: Millis) -> Result<Recorded, StoreError> {
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

    async fn put(&self, outcome: &Verified<Outcome>, arrival: Arrival) -> Result<Put, StoreError> {
        let outcome = outcome.clone();
        self.write(move |transaction| put(transaction, &outcome, arrival))
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
        let as_read = |now: &Event| now.state == State::Pending && now.attempts == event.attempts;
        Ok(self.event(&event.id).await?.filter(as_read))
    }

    async fn attempted(&self, attempt: Attempt) -> Result<(), StoreError> {
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

    async fn events(&self, state: Option<State>, limit: u32) -> Result<Vec<Event>, StoreError> {
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

    async fn attempts(&self, id: &str) -> Result<Vec<Attempt>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| {
            let sql = "SELECT event, number, at, took, outcome FROM attempts WHERE event = ?1 ORDER BY number";
            collect(connection, sql, [id], |row| {
                Ok(Attempt {
                    id: row.get(0)?,
                    number: row.get(1)?,
                    at: row.get(2)?,
                    took: row.get(3)?,
                    outcome: row.get(4)?,
                    state: State::Pending,
                    next: 0,
                })
            })
        })
        .await
    }

    async fn decide(&self, id: &str, state: State, at: Millis) -> Result<bool, StoreError> {
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

    async fn note(&self, notes: Vec<Note>) -> Result<(), StoreError> {
        self.write(move |transaction| {
            for note in &notes {
                insert_note(transaction, note)?;
            }
            for (common, kept) in [(false, note::KEPT_STEPS), (true, note::KEPT_COMMON)] {
                let sql = "DELETE FROM notes WHERE common = ?1
                    AND number <= (SELECT max(number) FROM notes WHERE common = ?1) - ?2";
                transaction
                    .prepare_cached(sql)?
                    .execute(params![common, kept])?;
            }
            Ok(())
        })
        .await
    }

    async fn notes(&self, wanted: Wanted, limit: u32) -> Result<Vec<Note>, StoreError> {
        self.read(move |connection| {
            let sql = |wanted| {
                let of = |common| {
                    format!(
                        "SELECT * FROM (SELECT {NOTE} FROM notes
                            WHERE {wanted} AND common = {common} ORDER BY at DESC LIMIT ?1)"
                    )
                };
                format!("{} UNION ALL {} ORDER BY at DESC", of(0), of(1))
            };
            match wanted {
                Wanted::Order(merid, orderid) => collect(
                    connection,
                    &sql("orderid <> '' AND orderid = ?2 AND merid = ?3"),
                    params![limit, orderid, merid],
                    read_note,
                ),
                Wanted::Request(id) => collect(
                    connection,
                    &sql("request_id <> '' AND request_id = ?2"),
                    params![limit, id],
                    read_note,
                ),
                Wanted::Refusals => collect(connection, &sql("refused = 1"), [limit], read_note),
            }
        })
        .await
    }

    async fn find(&self, number: &str, limit: u32) -> Result<Vec<(String, String)>, StoreError> {
        let number = number.to_owned();
        self.read(move |connection| {
            let sql = "SELECT merid, orderid FROM orders WHERE orderid = ?1
                UNION SELECT merid, orderid FROM events WHERE orderid = ?1
                UNION SELECT merid, orderid FROM events WHERE queryid = ?1
                UNION SELECT merid, orderid FROM notes WHERE orderid <> '' AND orderid = ?1 AND stranger = 0
                UNION SELECT merid, orderid FROM notes
                    WHERE request_id <> '' AND request_id = ?1 AND orderid <> ''
                ORDER BY 1, 2 LIMIT ?2";
            collect(connection, sql, params![number, limit], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
        .await
    }

    async fn signed(&self, merid: &str, orderid: &str) -> Result<Option<Signed>, StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.read(move |connection| {
            let sql = "SELECT amount, action, signed_at, next_look FROM orders
                WHERE merid = ?1 AND orderid = ?2";
            let read = |row: &Row<'_>| {
                Ok(Signed {
                    amount: unsigned(row, 0)?,
                    action: row.get(1)?,
                    signed_at: row.get(2)?,
                    next_look: row.get(3)?,
                })
            };
            connection
                .prepare_cached(sql)?
                .query_row([merid, orderid], read)
                .optional()
        })
        .await
    }

    async fn events_of(
        &self,
        merid: &str,
        orderid: &str,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.read(move |connection| {
            let sql = format!(
                "SELECT {EVENT} FROM events WHERE orderid = ?1 AND merid = ?2
                ORDER BY received_at LIMIT ?3"
            );
            collect(connection, &sql, params![orderid, merid, limit], read_event)
        })
        .await
    }

    async fn old_keys(&self) -> Result<Vec<OldKey>, StoreError> {
        self.read(|connection| {
            let sql = "SELECT merid, old_key, max(at) FROM notes WHERE old_key <> ''
                GROUP BY merid, old_key ORDER BY merid, old_key";
            collect(connection, sql, [], |row| {
                Ok(OldKey {
                    merid: row.get(0)?,
                    fingerprint: row.get(1)?,
                    seen_at: row.get(2)?,
                })
            })
        })
        .await
    }

    async fn forget(&self, before: Millis) -> Result<(), StoreError> {
        self.write(move |transaction| {
            // Up to the first that is younger: whoever waits for this commit waits for no look at every note.
            for common in [false, true] {
                let sql = "DELETE FROM notes WHERE common = ?1 AND number < coalesce(
                    (SELECT number FROM notes WHERE common = ?1 AND at >= ?2 ORDER BY number LIMIT 1),
                    9223372036854775807)";
                transaction.execute(sql, params![common, before])?;
            }
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
) -> rusqlite::Result<Recorded> {
    let amount = cents(order.amount);
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
            Ok(Recorded::Agrees)
        }
    }
}

/// Keeps a result as it is judged.
fn put(
    transaction: &Transaction<'_>,
    outcome: &Outcome,
    arrival: Arrival,
) -> rusqlite::Result<Put> {
    let known = Known {
        signed: signed(transaction, outcome)?,
        is_anothers: is_anothers(transaction, outcome)?,
        told: told_before(transaction, outcome)?,
    };
    let new = match judge(outcome, &known, arrival.deliverable) {
        Verdict::Known(put) => return Ok(put),
        Verdict::New(new) => new,
    };
    if new.holds_others() {
        hold(transaction, outcome)?;
    }
    insert(transaction, &new, outcome, arrival)?;
    if new.closes_order {
        transaction
            .prepare_cached(
                "UPDATE orders SET next_look = NULL, urgent = 0 WHERE merid = ?1 AND orderid = ?2",
            )?
            .execute(params![outcome.merid, outcome.orderid])?;
    }
    Ok(new.kept())
}

fn signed(transaction: &Transaction<'_>, outcome: &Outcome) -> rusqlite::Result<Option<i64>> {
    transaction
        .prepare_cached("SELECT amount FROM orders WHERE merid = ?1 AND orderid = ?2")?
        .query_row(params![outcome.merid, outcome.orderid], |row| row.get(0))
        .optional()
}

fn is_anothers(transaction: &Transaction<'_>, outcome: &Outcome) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT 1 FROM orders WHERE orderid = ?1 AND merid <> ?2")?
        .exists(params![outcome.orderid, outcome.merid])
}

fn told_before(transaction: &Transaction<'_>, outcome: &Outcome) -> rusqlite::Result<Vec<Story>> {
    transaction
        .prepare_cached(
            "SELECT id, orderid, state FROM events WHERE merid = ?1 AND queryid = ?2 AND resultcode = ?3",
        )?
        .query_map(params![outcome.merid, outcome.queryid, outcome.resultcode], |row| {
            Ok(Story {
                id: row.get(0)?,
                orderid: row.get(1)?,
                state: state(row, 2)?,
            })
        })?
        .collect()
}

fn hold(transaction: &Transaction<'_>, outcome: &Outcome) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "UPDATE events SET state = 'disputed'
             WHERE merid = ?1 AND queryid = ?2 AND resultcode = ?3 AND state IN ('pending', 'parked')",
        )?
        .execute(params![outcome.merid, outcome.queryid, outcome.resultcode])
}

fn insert(
    transaction: &Transaction<'_>,
    new: &New,
    outcome: &Outcome,
    arrival: Arrival,
) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT INTO events ({EVENT}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, 0, '')"
    );
    transaction.prepare_cached(&sql)?.execute(params![
        new.id,
        outcome.merid,
        outcome.orderid,
        outcome.queryid,
        outcome.resultcode,
        cents(outcome.amount),
        outcome.json,
        arrival.source.name(),
        new.matched,
        new.state.name(),
        arrival.at,
    ])
}

fn attempted(transaction: &Transaction<'_>, attempt: &Attempt) -> rusqlite::Result<()> {
    let Attempt {
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

fn insert_note(transaction: &Transaction<'_>, note: &Note) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT INTO notes (number, {NOTE}) SELECT
            coalesce((SELECT max(number) FROM notes WHERE common = ?1), 0) + 1,
            ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13"
    );
    transaction.prepare_cached(&sql)?.execute(params![
        note.weight == Weight::Common,
        note.at,
        note.took,
        note.what.name(),
        note.way,
        note.merid,
        note.orderid,
        note.request_id,
        note.outcome,
        note.sent,
        note.old_key,
        note.refused,
        note.stranger,
    ])
}

fn read_note(row: &Row<'_>) -> rusqlite::Result<Note> {
    let text = |column| row.get::<_, String>(column);
    Ok(Note {
        weight: if row.get(0)? {
            Weight::Common
        } else {
            Weight::Step
        },
        at: row.get(1)?,
        took: row.get(2)?,
        what: What::parse(row.get_ref(3)?.as_str()?).unwrap_or(What::Call),
        way: text(4)?.into(),
        merid: text(5)?,
        orderid: text(6)?,
        request_id: text(7)?,
        outcome: text(8)?.into(),
        sent: text(9)?.into(),
        old_key: text(10)?,
        refused: row.get(11)?,
        stranger: row.get(12)?,
    })
}

fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<State> {
    Ok(State::stored(row.get_ref(column)?.as_str()?))
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

/// One job's failure takes back that job alone.
fn in_savepoint<T>(
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

/// The one thread that writes: takes what waits, commits it at once, confirms each job.
struct Writer {
    connection: Connection,
    sound: Arc<AtomicBool>,
    _lock: Lock,
}

impl Writer {
    /// Until every handle is gone.
    fn run(mut self, waiting: &Receiver<Job>) {
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
    group: impl Iterator<Item = Job>,
    confirmations: &mut Vec<Confirm>,
) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in group {
        confirmations.push(job(&transaction));
    }
    Ok(transaction.commit()?)
}

/// Locked as long as it is open, and its name. A file of its own: closing another descriptor of the store itself would
/// give SQLite's own locks away.
fn lock_file(path: &Path) -> Result<(File, String), StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let shown = name.to_string_lossy().into_owned();
    let file = private()
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|error| StoreError::Failed(format!("{shown}: {error}")))?;
    Ok((file, shown))
}

/// Files of the sidecar's user alone: who can read the lock's can hold it too, and SQLite's others take after the store's.
fn private() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| StoreError::Failed(format!("no thread: {error}")))
}

fn wait_a_little(tries: i32) -> bool {
    thread::sleep(LOCK_PAUSE);
    tries < LOCK_TRIES
}

fn connect(path: &Path, more: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_a_little))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Otherwise SQLite plans a statement again for each new time that it is asked about.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// A damaged file is found now where looking at every page is quick; of a larger one SQLite itself looks at what
/// it touches.
fn check_pages(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > CHECKED) {
        return Ok(());
    }
    let damage: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if damage == "ok" {
        Ok(())
    } else {
        Err(StoreError::Damaged(damage))
    }
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, version, tables) != (0, 0, 0) {
        check_version(application, version)?;
    }
    let done = usize::try_from(version).unwrap_or_default();
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    // Written even where nothing changes: a store that cannot be written is to be found out now.
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(transaction.commit()?)
}

fn check_version(application: i32, version: i32) -> Result<(), StoreError> {
    if application != APPLICATION_ID {
        return Err(StoreError::NotOurs);
    }
    if version > SCHEMA_VERSION {
        return Err(StoreError::Newer {
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::contract::order;
    use super::*;

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
            (&old, 1, Recorded::Agrees),
            (&new, 2, Recorded::Conflicts),
            (&old, 1, Recorded::Agrees),
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
        assert_eq!(recorded.unwrap(), Recorded::Agrees);
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
        assert_eq!(version.unwrap(), SCHEMA_VERSION);
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
            .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
            .unwrap();
        assert!(matches!(reopened(&path), Err(StoreError::Newer { .. })));
    }
}
