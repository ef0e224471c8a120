//! The store on PostgreSQL: one database for a fleet of sidecars.
//!
//! Each statement is a transaction of its own, results go in groups. What one sidecar has in hand is leased to it: the
//! lease is renewed while it beats, and ends when it has been silent for 15 s of the server's clock.

mod connect;

mod database;

mod schema;

mod keep;

mod notes;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;

use super::activity::ActivityEntry;
use super::decide::cents;
use super::event::{Event, EventState, Source};
use super::store::{
    AHEAD_ATTEMPT, AHEAD_LOOK, ActivityFilter, Arrival, AttemptRecord, Counts, FIRST_LOOK, OldKey,
    OpenOrder, PutOutcome, RecordOutcome, SignedOrder, Store, StoreError,
};
use crate::config::store_address::PostgresAddress as Address;
use crate::protocol::envelope::Verified;
use crate::protocol::request::Order;
use crate::protocol::result::PaymentResult;
use crate::time::Millis;
use database::{Database, PATIENCE};

/// How long a silent sidecar keeps what it has in hand: longer than an attempt takes, and short enough that another
/// delivers it within 30 s.
const LEASE: &str = "clock_timestamp() + interval '15 s'";
/// A row that nobody has in hand, or we ourselves (`$1`): what is under way here is known here.
const FREE: &str = "(holder IS NULL OR holder = $1 OR held_until <= clock_timestamp())";
/// How long the start may take, the wait for another sidecar's migration included.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// Results that wait at most; more are refused at once.
const WAITING: usize = 4096;
/// An order that another sidecar writes at the same moment is there the second time.
const RECORD_TRIES: usize = 3;
/// Bytes of a payment's number or result that an index takes.
const MAX_INDEXED: usize = 1000;
/// Rows that are forgotten at once, in a fraction of the patience.
const FORGOTTEN: i64 = 1000;

const EVENT: &str = "id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, \
                     received_at, next_attempt, attempts, last_attempt";

/// A store in a database that others share. Its thread ends with it.
pub struct Postgres {
    database: Arc<Database>,
    results: mpsc::Sender<keep::KeepJob>,
    /// Who we are in leases; another one after each start.
    holder: i64,
}

impl Postgres {
    /// Opens or creates the store. Refuses a server that may lose commits, or tables that are newer or not ours.
    pub fn open(at: &Address) -> Result<Self, StoreError> {
        Self::start(at, true)
    }

    /// Opens a store that some sidecar has made, for the command line.
    pub fn open_beside(at: &Address) -> Result<Self, StoreError> {
        Self::start(at, false)
    }

    fn start(at: &Address, is_sidecar: bool) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Failed(format!("no thread: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let database = Arc::new(Database::new(at, runtime.handle().clone())?);
        let (results, waiting) = mpsc::channel(WAITING);
        let (opened, is_open) = std_mpsc::channel();
        // A hash with a random key is random enough to tell ten sidecars apart.
        let holder = RandomState::new()
            .hash_one(std::process::id())
            .cast_signed();
        let shared = database.clone();
        let work = async move {
            let result = open(&shared, is_sidecar).await;
            let is_good = result.is_ok();
            if opened.send(result).is_ok() && is_good {
                tokio::select! {
                    () = keep::run(&shared, waiting) => {}
                    () = beat(&shared, holder), if is_sidecar => {}
                }
            }
        };
        thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || runtime.block_on(work))
            .map_err(failed)?;
        is_open.recv().map_err(|_| StoreError::Slow)??;
        Ok(Self {
            database,
            results,
            holder,
        })
    }

    async fn forget_some(&self, sql: &str, before: Millis) -> Result<(), StoreError> {
        loop {
            let rows = self
                .database
                .rows_aside(sql, &[&before, &FORGOTTEN])
                .await?;
            if only::<i64>(&rows)? < FORGOTTEN {
                return Ok(());
            }
        }
    }
}

async fn open(database: &Database, is_sidecar: bool) -> Result<(), StoreError> {
    let opening = async {
        if is_sidecar {
            schema::migrate(database).await
        } else {
            schema::check(database).await
        }
    };
    let in_time = tokio::time::timeout(START_PATIENCE, opening).await;
    in_time.unwrap_or_else(|_| {
        let seconds = START_PATIENCE.as_secs();
        let words = format!("the server did not answer within {seconds} s");
        Err(StoreError::Failed(words))
    })
}

/// Keeps our leases, and finds out whether the database can be written.
async fn beat(database: &Database, holder: i64) {
    let sql = format!(
        "WITH writable AS (UPDATE version SET number = number),
            events AS (UPDATE events SET held_until = {LEASE} WHERE holder = $1)
        UPDATE orders SET held_until = {LEASE} WHERE holder = $1"
    );
    database.beat(&sql, &[&holder]).await;
}

#[async_trait]
impl Store for Postgres {
    async fn check(&self) -> Result<(), StoreError> {
        self.database.check()
    }

    async fn record(
        &self,
        merid: &str,
        order: &Order,
        at: Millis,
    ) -> Result<RecordOutcome, StoreError> {
        let sql = "WITH new AS (
                INSERT INTO orders (merid, orderid, amount, action, signed_at, next_look)
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING amount, action
            )
            SELECT amount, action FROM new
            UNION ALL SELECT amount, action FROM orders WHERE merid = $1 AND orderid = $2";
        let (orderid, amount, action) = (&order.orderid, cents(order.amount), order.action);
        let next_look = at.saturating_add(FIRST_LOOK);
        for _ in 0..RECORD_TRIES {
            let rows = self
                .database
                .rows(sql, &[&merid, orderid, &amount, &action, &at, &next_look])
                .await?;
            // It is there, but was not yet when this statement began.
            let Some(row) = rows.first() else { continue };
            let (before, by): (i64, &str) = (row.try_get(0)?, row.try_get(1)?);
            return Ok(if before == amount && by == action {
                RecordOutcome::Agrees
            } else {
                RecordOutcome::Conflicts
            });
        }
        Err(StoreError::Slow)
    }

    async fn hasten(&self, merid: &str, orderid: &str, at: Millis) -> Result<(), StoreError> {
        let sql = "UPDATE orders SET urgent = true, next_look = $3
            WHERE merid = $1 AND orderid = $2 AND next_look IS NOT NULL";
        let done = self.database.rows(sql, &[&merid, &orderid, &at]).await;
        done.map(drop)
    }

    async fn put(
        &self,
        outcome: &Verified<PaymentResult>,
        arrival: Arrival,
    ) -> Result<PutOutcome, StoreError> {
        let PaymentResult {
            merid,
            orderid,
            queryid,
            resultcode,
            ..
        } = &**outcome;
        // One that PostgreSQL cannot keep would take all of its group along.
        for text in [merid, orderid, queryid, resultcode] {
            if text.contains('\0') || text.len() > MAX_INDEXED {
                return Err(StoreError::Failed(
                    "a number with a NUL or of more than 1000 bytes cannot be kept".to_owned(),
                ));
            }
        }
        let (reply, kept) = oneshot::channel();
        let job = keep::KeepJob {
            outcome: outcome.clone(),
            arrival,
            reply,
        };
        self.results.try_send(job).map_err(|_| StoreError::Slow)?;
        match tokio::time::timeout(PATIENCE, kept).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(StoreError::Slow),
        }
    }

    async fn set_back(&self, now: Millis) -> Result<(), StoreError> {
        let events =
            "UPDATE events SET next_attempt = $1 WHERE state = 'pending' AND next_attempt > $2";
        let ahead = now.saturating_add(AHEAD_ATTEMPT);
        self.database.rows_aside(events, &[&now, &ahead]).await?;
        let orders = "UPDATE orders SET next_look = $1 WHERE next_look > $2";
        let ahead = now.saturating_add(AHEAD_LOOK);
        self.database.rows_aside(orders, &[&now, &ahead]).await?;
        Ok(())
    }

    async fn due(&self, now: Millis, each: u32, limit: u32) -> Result<Vec<Event>, StoreError> {
        // From merchant to merchant by the index: a long backlog of one costs the others nothing.
        let sql = format!(
            "WITH RECURSIVE merchants(merid) AS (
                SELECT min(merid) FROM events WHERE state = 'pending'
                UNION ALL
                SELECT (SELECT min(merid) FROM events WHERE state = 'pending' AND merid > merchants.merid)
                FROM merchants WHERE merchants.merid IS NOT NULL
            )
            SELECT {EVENT} FROM (
                SELECT due.* FROM merchants CROSS JOIN LATERAL (
                    SELECT * FROM events
                    WHERE state = 'pending' AND merid = merchants.merid AND next_attempt <= $2 AND {FREE}
                    ORDER BY next_attempt LIMIT $3
                ) AS due
            ) AS due ORDER BY next_attempt LIMIT $4"
        );
        let (each, limit) = (i64::from(each), i64::from(limit));
        let rows = self
            .database
            .rows_aside(&sql, &[&self.holder, &now, &each, &limit])
            .await?;
        rows.iter().map(read_event).collect()
    }

    async fn claim(&self, event: &Event) -> Result<Option<Event>, StoreError> {
        let sql = format!(
            "UPDATE events SET holder = $1, held_until = {LEASE} WHERE id = (
                SELECT id FROM events
                WHERE id = $2 AND state = 'pending' AND attempts = $3 AND {FREE}
                FOR UPDATE SKIP LOCKED
            ) RETURNING {EVENT}"
        );
        let attempts = i64::from(event.attempts);
        let rows = self
            .database
            .rows_aside(&sql, &[&self.holder, &event.id, &attempts])
            .await?;
        rows.first().map(read_event).transpose()
    }

    async fn attempted(&self, attempt: AttemptRecord) -> Result<(), StoreError> {
        let AttemptRecord {
            id,
            number,
            at,
            took,
            outcome,
            state,
            next,
        } = &attempt;
        let sql = "WITH event AS (
                UPDATE events SET attempts = $3, last_attempt = $6, next_attempt = $8,
                    state = CASE WHEN state = 'pending' OR $7 = 'delivered' THEN $7 ELSE state END,
                    holder = nullif(holder, $1)
                WHERE id = $2
            )
            INSERT INTO attempts VALUES ($2, $3, $4, $5, $6) ON CONFLICT (event, number)
            DO UPDATE SET at = excluded.at, took = excluded.took, outcome = excluded.outcome";
        let (number, state) = (i64::from(*number), state.name());
        let done = self
            .database
            .rows_aside(
                sql,
                &[&self.holder, id, &number, at, took, outcome, &state, next],
            )
            .await;
        done.map(drop)
    }

    async fn open_orders(&self, now: Millis, limit: u32) -> Result<Vec<OpenOrder>, StoreError> {
        let sql = format!(
            "UPDATE orders SET holder = $1, held_until = {LEASE} FROM (
                SELECT merid, orderid FROM orders WHERE next_look <= $2 AND {FREE}
                ORDER BY urgent DESC, next_look LIMIT $3 FOR UPDATE SKIP LOCKED
            ) AS ours WHERE orders.merid = ours.merid AND orders.orderid = ours.orderid
            RETURNING orders.merid, orders.orderid, orders.signed_at"
        );
        let limit = i64::from(limit);
        let rows = self
            .database
            .rows_aside(&sql, &[&self.holder, &now, &limit])
            .await?;
        let read = |row: &Row| {
            Ok(OpenOrder {
                merid: row.try_get(0)?,
                orderid: row.try_get(1)?,
                signed_at: row.try_get(2)?,
            })
        };
        rows.iter().map(read).collect()
    }

    async fn asked(&self, order: &OpenOrder, next: Option<Millis>) -> Result<(), StoreError> {
        let sql = "UPDATE orders SET urgent = false, holder = nullif(holder, $1),
                next_look = CASE WHEN next_look IS NOT NULL THEN $4::bigint END
            WHERE merid = $2 AND orderid = $3";
        let done = self
            .database
            .rows_aside(sql, &[&self.holder, &order.merid, &order.orderid, &next])
            .await;
        done.map(drop)
    }

    async fn event(&self, id: &str) -> Result<Option<Event>, StoreError> {
        let sql = format!("SELECT {EVENT} FROM events WHERE id = $1");
        let rows = self.database.rows(&sql, &[&id]).await?;
        rows.first().map(read_event).transpose()
    }

    async fn events(
        &self,
        state: Option<EventState>,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let limit = i64::from(limit);
        let rows = match state.map(EventState::name) {
            None => {
                let sql = format!("SELECT {EVENT} FROM events ORDER BY received_at DESC LIMIT $1");
                self.database.rows(&sql, &[&limit]).await?
            }
            Some(state) => {
                let sql = format!(
                    "SELECT {EVENT} FROM events WHERE state = $2 ORDER BY received_at DESC LIMIT $1"
                );
                self.database.rows(&sql, &[&limit, &state]).await?
            }
        };
        rows.iter().map(read_event).collect()
    }

    async fn attempts(&self, id: &str) -> Result<Vec<AttemptRecord>, StoreError> {
        let sql = "SELECT event, number, at, took, outcome FROM attempts WHERE event = $1 ORDER BY number";
        let rows = self.database.rows(sql, &[&id]).await?;
        let read = |row: &Row| {
            Ok(AttemptRecord {
                id: row.try_get(0)?,
                number: number(row, 1)?,
                at: row.try_get(2)?,
                took: row.try_get(3)?,
                outcome: row.try_get(4)?,
                state: EventState::Pending,
                next: 0,
            })
        };
        rows.iter().map(read).collect()
    }

    async fn decide(&self, id: &str, state: EventState, at: Millis) -> Result<bool, StoreError> {
        // What the app took can be offered again, but not be taken back.
        let sql = "UPDATE events SET state = $2, next_attempt = $3,
                received_at = CASE WHEN $2 = 'pending' THEN $3 ELSE received_at END
            WHERE id = $1 AND ($2 = 'pending' OR state <> 'delivered') RETURNING id";
        let rows = self.database.rows(sql, &[&id, &state.name(), &at]).await?;
        Ok(!rows.is_empty())
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        let sql = "SELECT state, count(*) FROM events GROUP BY state";
        for row in self.database.rows(sql, &[]).await? {
            counts.set(EventState::stored(row.try_get(0)?), row.try_get(1)?);
        }
        let sql = "SELECT min(received_at) FROM events WHERE state = 'pending'";
        counts.oldest_pending = only(&self.database.rows(sql, &[]).await?)?;
        let sql = "SELECT count(*) FROM orders WHERE next_look IS NOT NULL";
        counts.open_orders = only(&self.database.rows(sql, &[]).await?)?;
        Ok(counts)
    }

    async fn note(&self, notes: Vec<ActivityEntry>) -> Result<(), StoreError> {
        notes::write(&self.database, &notes).await
    }

    async fn notes(
        &self,
        wanted: ActivityFilter,
        limit: u32,
    ) -> Result<Vec<ActivityEntry>, StoreError> {
        notes::read(&self.database, wanted, limit).await
    }

    async fn find(&self, number: &str, limit: u32) -> Result<Vec<(String, String)>, StoreError> {
        notes::find(&self.database, number, limit).await
    }

    async fn signed(&self, merid: &str, orderid: &str) -> Result<Option<SignedOrder>, StoreError> {
        notes::signed(&self.database, merid, orderid).await
    }

    async fn events_of(
        &self,
        merid: &str,
        orderid: &str,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        notes::events_of(&self.database, merid, orderid, limit).await
    }

    async fn old_keys(&self) -> Result<Vec<OldKey>, StoreError> {
        notes::old_keys(&self.database).await
    }

    async fn forget(&self, before: Millis) -> Result<(), StoreError> {
        self.forget_some(notes::FORGET, before).await?;
        let events = "WITH old AS (
                DELETE FROM events WHERE id IN (
                    SELECT id FROM events WHERE state IN ('delivered', 'discarded') AND received_at < $1
                    LIMIT $2 FOR UPDATE SKIP LOCKED
                ) RETURNING id
            ), theirs AS (DELETE FROM attempts WHERE event IN (SELECT id FROM old))
            SELECT count(*) FROM old";
        self.forget_some(events, before).await?;
        let orders = "WITH old AS (
                DELETE FROM orders WHERE (merid, orderid) IN (
                    SELECT merid, orderid FROM orders WHERE next_look IS NULL AND signed_at < $1
                    LIMIT $2 FOR UPDATE SKIP LOCKED
                ) RETURNING 1
            ) SELECT count(*) FROM old";
        self.forget_some(orders, before).await
    }
}

fn read_event(row: &Row) -> Result<Event, StoreError> {
    Ok(Event {
        id: row.try_get(0)?,
        merid: row.try_get(1)?,
        orderid: row.try_get(2)?,
        queryid: row.try_get(3)?,
        resultcode: row.try_get(4)?,
        amount: u64::try_from(row.try_get::<_, i64>(5)?).unwrap_or_default(),
        json: row.try_get(6)?,
        source: Source::parse(row.try_get(7)?),
        matched: row.try_get(8)?,
        state: EventState::stored(row.try_get(9)?),
        received_at: row.try_get(10)?,
        next_attempt: row.try_get(11)?,
        attempts: number(row, 12)?,
        last_attempt: row.try_get(13)?,
    })
}

fn number(row: &Row, column: usize) -> Result<u32, StoreError> {
    Ok(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX))
}

/// The one value of a statement that always has one.
fn only<'a, T: tokio_postgres::types::FromSql<'a>>(rows: &'a [Row]) -> Result<T, StoreError> {
    let row = rows.first().ok_or(StoreError::Slow)?;
    Ok(row.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::contract::{ARRIVAL, StoreUnderTest, attempt, order, outcome};

    #[tokio::test]
    async fn what_one_sidecar_has_in_hand_no_other_gets() {
        let Some(place) = StoreUnderTest::database("what_one_sidecar_has_in_hand_no_other_gets")
        else {
            return;
        };
        let (ours, theirs) = (place.open(), place.open());
        let result = outcome("1", "ABCDEFGH", "Q1", "0000", 1);
        ours.put(&result, ARRIVAL).await.unwrap();
        let event = theirs.due(5, 1, 1).await.unwrap().remove(0);
        assert!(ours.claim(&event).await.unwrap().is_some());
        assert!(theirs.due(5, 1, 1).await.unwrap().is_empty());
        assert!(theirs.claim(&event).await.unwrap().is_none());
        assert!(ours.claim(&event).await.unwrap().is_some(), "still ours");
        let failed = attempt(&event, EventState::Pending, 5);
        ours.attempted(failed).await.unwrap();
        let event = theirs.due(5, 1, 1).await.unwrap().remove(0);
        assert!(theirs.claim(&event).await.unwrap().is_some());
        let signed = order("ORDER001", 1, "Bank");
        ours.record("1", &signed, 1).await.unwrap();
        let open = ours.open_orders(Millis::MAX, 9).await.unwrap();
        assert_eq!(open.len(), 1);
        assert!(theirs.open_orders(Millis::MAX, 9).await.unwrap().is_empty());
        ours.asked(&open[0], Some(1)).await.unwrap();
        assert_eq!(theirs.open_orders(1, 9).await.unwrap(), open);
    }

    #[tokio::test]
    async fn a_number_that_cannot_be_kept_takes_no_other_along() {
        let Some(place) =
            StoreUnderTest::database("a_number_that_cannot_be_kept_takes_no_other_along")
        else {
            return;
        };
        let store = place.open();
        let right = outcome("1", "ABCDEFGH", "Q1", "0000", 1);
        let with_nul = outcome("1", "ABCDEFGI", "Q\\u0000", "0000", 1);
        let too_long = outcome("1", "ABCDEFGJ", &"Q".repeat(1001), "0000", 1);
        let (right, with_nul, too_long) = tokio::join!(
            store.put(&right, ARRIVAL),
            store.put(&with_nul, ARRIVAL),
            store.put(&too_long, ARRIVAL)
        );
        assert!(right.is_ok());
        assert!(with_nul.is_err() && too_long.is_err());
    }
}
