//! The store on PostgreSQL: one database for a fleet of sidecars.
//!
//! Each statement is a transaction of its own, results go in groups. What one sidecar has in hand is leased to it: the
//! lease is renewed while it beats, and ends when it has been silent for 15 s of the server's clock.

mod lease;

mod connect;

mod database;

mod schema;

mod row;

mod ledger;

mod keep;

mod deliver;

mod group;

mod decisions;

mod notes;

mod upkeep;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;

use super::activity::ActivityEntry;
use super::attempt::{AttemptRecord, ClaimOutcome, DueEvent, DueMerchant, FailingApp};
use super::event::{Event, EventFilter, EventState, WaitReason};
use super::health::{Health, StoreWork, vital_thread};
use super::listing::{OrderFilter, OrderPlace, OrderResult, OrderRow};
use super::minutes::{MinuteFigures, MinuteRange};
use super::order::{NewTry, OpenOrder, RecordOutcome, SignedOrder, Try, TryRecord, TryState};
use super::review::{DecideOutcome, DecisionKind, DecisionRecord, Operator, Review, ReviewOutcome};
use super::store::{
    Activity, ActivityFilter, Arrival, Counts, Events, KeySwitch, Ledger, OldKey, PutOutcome,
    Store, StoreError,
};
use crate::config::store_address::PostgresAddress as Address;
use crate::protocol::envelope::Verified;
use crate::protocol::request::Order;
use crate::protocol::result::PaymentResult;
use crate::time;
use crate::time::Millis;
use database::{Database, PATIENCE};
use row::{EVENT, read_event};

/// Limit of each step of the start but the tables.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// Time to make the tables, to bring large ones up to date, or to wait for the sidecar that does; the unit allows 90 s.
const TABLES_PATIENCE: Duration = Duration::from_secs(60);
/// Limit of waiting results; more are rejected at once.
const WAITING: usize = 4096;
// queryid and resultcode share an entry of a B-tree with merid, and an entry holds a third of a page: 2704 bytes.
/// Bytes of a payment's number or result that an index takes.
const MAX_INDEXED: usize = 1000;
/// No confirmation of the clock was seen yet.
const UNSEEN: i64 = -1;
/// The purpose for which a database is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Sidecar,
    Beside,
    Inspection,
}

/// A store in a database that others share. Its thread ends with it.
pub struct Postgres {
    database: Arc<Database>,
    results: mpsc::Sender<keep::KeepJob>,
    claims: mpsc::Sender<group::ClaimJob>,
    attempts: mpsc::Sender<group::AttemptJob>,
    health: Health,
    fleet: Arc<Fleet>,
    /// The holder of our leases; a new one after each start.
    holder: i64,
}

/// This sidecar's part in the fleet.
struct Fleet {
    /// True while this sidecar is the one whose metrics have the store's figures.
    leads: AtomicBool,
    /// False once another process takes over.
    wants_to_lead: AtomicBool,
    /// The confirmations of the clock that were seen.
    confirmed: AtomicI64,
}

impl Postgres {
    /// Opens or creates the store. Rejects a server that may lose commits, or tables that are newer or not ours.
    pub fn open(at: &Address) -> Result<Self, StoreError> {
        Self::start(at, Opening::Sidecar)
    }

    /// Opens a store that some sidecar has made, for the command line.
    pub fn open_beside(at: &Address) -> Result<Self, StoreError> {
        Self::start(at, Opening::Beside)
    }

    /// Finds out whether a sidecar could use the database, and changes nothing in it.
    pub fn inspect(at: &Address) -> Result<(), StoreError> {
        Self::start(at, Opening::Inspection).map(|_| ())
    }

    /// Reads the switches of signing keys, and changes nothing in the database.
    pub fn inspect_key_switches(at: &Address) -> Result<Vec<KeySwitch>, StoreError> {
        let store = Self::start(at, Opening::Inspection)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StoreError::Failed(format!("no runtime: {error}")))?;
        runtime.block_on(upkeep::key_switches(&store.database))
    }

    fn start(at: &Address, opening: Opening) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Failed(format!("no thread: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let database = Arc::new(Database::new(at, runtime.handle().clone())?);
        let (results, coming_results) = mpsc::channel(WAITING);
        let (claims, coming_claims) = mpsc::channel(WAITING);
        let (attempts, coming_attempts) = mpsc::channel(WAITING);
        let fleet = Arc::new(Fleet {
            leads: AtomicBool::new(false),
            wants_to_lead: AtomicBool::new(opening == Opening::Sidecar),
            confirmed: AtomicI64::new(UNSEEN),
        });
        let (opened, is_open) = std_mpsc::channel();
        // A hash with a random key is random enough to tell ten sidecars apart.
        let holder = RandomState::new()
            .hash_one(std::process::id())
            .cast_signed();
        let (shared, ours) = (database.clone(), fleet.clone());
        let work = async move {
            let result = open(&shared, opening).await;
            let is_good = result.is_ok();
            if opened.send(result).is_ok() && is_good {
                // The last handle drops all senders, and a panic in one ends the thread and the process.
                tokio::select! {
                    () = keep::run(&shared, coming_results) => {}
                    () = group::claims(&shared, holder, coming_claims) => {}
                    () = group::attempts(&shared, holder, coming_attempts) => {}
                    () = beat(&shared, holder, &ours), if opening == Opening::Sidecar => {}
                }
            }
        };
        vital_thread("store", move || runtime.block_on(work))?;
        is_open.recv().map_err(|_| StoreError::Slow)??;
        Ok(Self {
            database,
            results,
            claims,
            attempts,
            health: Health::default(),
            fleet,
            holder,
        })
    }
}

async fn open(database: &Database, opening: Opening) -> Result<(), StoreError> {
    within(START_PATIENCE, database.check_sessions()).await?;
    match opening {
        Opening::Sidecar => within(TABLES_PATIENCE, schema::migrate(database)).await?,
        Opening::Beside => within(START_PATIENCE, schema::check(database)).await?,
        Opening::Inspection => return within(START_PATIENCE, schema::inspect(database)).await,
    }
    within(START_PATIENCE, follow_clock(database)).await
}

async fn within(
    patience: Duration,
    work: impl Future<Output = Result<(), StoreError>>,
) -> Result<(), StoreError> {
    let in_time = tokio::time::timeout(patience, work).await;
    in_time.unwrap_or_else(|_| {
        let seconds = patience.as_secs();
        let words = format!("the server did not answer within {seconds} s");
        Err(StoreError::Absent(words))
    })
}

/// Reads the clock that decides for all, before anything can be deleted by this host's own.
async fn follow_clock(database: &Database) -> Result<(), StoreError> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let row = database.client().await?.query_one(sql, &[]).await?;
    time::follow(row.try_get(0)?);
    Ok(())
}

// The 15 s of the leases are those of `LEASE`.
/// Keeps our leases, finds out whether the database can be written, takes the lead where it is free, and reads the
/// clock that decides for all. A row that another transaction holds delays itself only.
const BEAT: &str = "WITH writable AS (
        UPDATE version SET number = number WHERE ctid IN (SELECT ctid FROM version FOR UPDATE SKIP LOCKED)
    ), own_events AS (
        UPDATE events SET held_until = clock_timestamp() + interval '15 s'
        WHERE id IN (SELECT id FROM events WHERE holder = $1 FOR UPDATE SKIP LOCKED)
    ), own_orders AS (
        UPDATE orders SET held_until = clock_timestamp() + interval '15 s'
        WHERE (merid, orderid) IN (SELECT merid, orderid FROM orders WHERE holder = $1 FOR UPDATE SKIP LOCKED)
    ), lead AS (
        UPDATE leader SET holder = CASE WHEN $2::boolean THEN $1 END,
            held_until = clock_timestamp() + interval '10 s'
        WHERE one IN (SELECT one FROM leader
            WHERE holder = $1 OR ($2 AND (holder IS NULL OR held_until <= clock_timestamp()))
            FOR UPDATE SKIP LOCKED)
        RETURNING holder
    )
    SELECT EXISTS (SELECT FROM lead WHERE holder = $1), (SELECT confirmed FROM clock),
        (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

async fn beat(database: &Database, holder: i64, fleet: &Fleet) {
    let params = || (holder, fleet.wants_to_lead.load(Ordering::Relaxed));
    let seen = |row: &Row| {
        let leads = row.try_get(0).unwrap_or_default();
        fleet.leads.store(leads, Ordering::Relaxed);
        if let Ok(now) = row.try_get(2) {
            time::follow(now);
        }
        let Ok(confirmed) = row.try_get::<_, i64>(1) else {
            return;
        };
        let before = fleet.confirmed.swap(confirmed, Ordering::Relaxed);
        if before != UNSEEN && before != confirmed {
            tracing::info!("the clock was confirmed by an operator");
            time::confirm();
        }
        // Looks at the clock, so that a jump is noticed in time.
        time::trusted_now();
    };
    database.beat(BEAT, params, seen).await;
}

impl Postgres {
    /// Waits for the reply of one of the store's workers.
    async fn reply<T>(reply: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(PATIENCE, reply).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(StoreError::Slow),
        }
    }

    /// Repeats work that failed, on rows that it takes back.
    async fn try_again(&self, kind: StoreWork) -> Result<(), StoreError> {
        let result = match kind {
            StoreWork::Put => keep::try_out(&self.database).await,
            StoreWork::Record => ledger::try_out(&self.database).await,
            StoreWork::Due => deliver::due(&self.database, self.holder, 0, 1)
                .await
                .map(drop),
            StoreWork::Other => Ok(()),
        };
        self.health.note(kind, &result);
        result
    }
}

#[async_trait]
impl Ledger for Postgres {
    async fn record(
        &self,
        merid: &str,
        order: &Order,
        new: NewTry<'_>,
        at: Millis,
    ) -> Result<RecordOutcome, StoreError> {
        let result = ledger::record(&self.database, merid, order, new, at).await;
        self.health.note(StoreWork::Record, &result);
        result
    }

    async fn settle_try(&self, which: &Try, state: TryState) -> Result<bool, StoreError> {
        ledger::settle_try(&self.database, which, state).await
    }

    async fn link_try(&self, which: &Try, queryid: &str) -> Result<(), StoreError> {
        ledger::link_try(&self.database, which, queryid).await
    }

    async fn tries(&self, merid: &str, orderid: &str) -> Result<Vec<TryRecord>, StoreError> {
        ledger::tries(&self.database, merid, orderid).await
    }

    async fn hasten(&self, merid: &str, orderid: &str, at: Millis) -> Result<(), StoreError> {
        ledger::hasten(&self.database, merid, orderid, at).await
    }

    async fn open_orders(&self, now: Millis, limit: u32) -> Result<Vec<OpenOrder>, StoreError> {
        ledger::open_orders(&self.database, self.holder, now, limit).await
    }

    async fn asked(&self, order: &OpenOrder, next: Option<Millis>) -> Result<(), StoreError> {
        ledger::asked(&self.database, self.holder, order, next).await
    }

    async fn signed(&self, merid: &str, orderid: &str) -> Result<Option<SignedOrder>, StoreError> {
        ledger::signed(&self.database, merid, orderid).await
    }

    async fn order_rows(
        &self,
        filter: &OrderFilter,
        after: &OrderPlace,
        limit: u32,
    ) -> Result<Vec<OrderRow>, StoreError> {
        ledger::order_rows(&self.database, filter, after, limit).await
    }

    async fn order_results(
        &self,
        orders: &[OrderRow],
    ) -> Result<Vec<Vec<OrderResult>>, StoreError> {
        ledger::order_results(&self.database, orders).await
    }
}

#[async_trait]
impl Events for Postgres {
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
        let result = match self.results.try_send(job) {
            Ok(()) => Self::reply(kept).await,
            Err(_) => Err(StoreError::Slow),
        };
        self.health.note(StoreWork::Put, &result);
        result
    }

    async fn put_for_review(&self, review: Review) -> Result<ReviewOutcome, StoreError> {
        let result = keep::put_for_review(&self.database, &review).await;
        self.health.note(StoreWork::Put, &result);
        result
    }

    async fn set_back(&self, now: Millis) -> Result<(), StoreError> {
        deliver::set_back(&self.database, now).await
    }

    async fn due(&self, now: Millis, each: u32) -> Result<Vec<DueMerchant>, StoreError> {
        let result = deliver::due(&self.database, self.holder, now, each).await;
        self.health.note(StoreWork::Due, &result);
        result
    }

    async fn due_of_each(
        &self,
        wanted: Vec<(String, u32)>,
        now: Millis,
    ) -> Result<Vec<DueMerchant>, StoreError> {
        deliver::due_of_each(&self.database, self.holder, &wanted, now).await
    }

    async fn claim(&self, events: Vec<DueEvent>) -> Result<Vec<ClaimOutcome>, StoreError> {
        let (reply, claimed) = oneshot::channel();
        let job = group::ClaimJob { events, reply };
        self.claims.send(job).await.map_err(|_| StoreError::Slow)?;
        let claims = Self::reply(claimed).await?;
        for claim in &claims {
            if let ClaimOutcome::Damaged { id, why } = claim {
                tracing::error!(
                    event = id,
                    why,
                    "an event is damaged in the store and parked"
                );
                deliver::park(&self.database, id, why).await?;
            }
        }
        Ok(claims)
    }

    async fn attempted_together(
        &self,
        attempts: Vec<AttemptRecord>,
    ) -> Result<Vec<bool>, StoreError> {
        let mut replies = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            let (reply, written) = oneshot::channel();
            let job = group::AttemptJob {
                attempt,
                until: group::deadline(),
                reply,
            };
            let sent = self.attempts.send(job).await;
            sent.map_err(|_| StoreError::Slow)?;
            replies.push(Self::reply(written));
        }
        let written = join_all(replies).await;
        // One that another transaction holds is not written, and spoils no other.
        if let Some(Err(error)) = written.first()
            && written.iter().all(Result::is_err)
        {
            return Err(error.clone());
        }
        Ok(written.into_iter().map(|it| it.unwrap_or(false)).collect())
    }

    async fn wait_for(
        &self,
        merid: &str,
        reason: WaitReason,
        now: Millis,
    ) -> Result<(), StoreError> {
        deliver::wait_for(&self.database, merid, reason, now).await
    }

    async fn resume(&self, merid: &str, now: Millis) -> Result<(), StoreError> {
        deliver::resume(&self.database, merid, now).await
    }

    async fn waiting(&self) -> Result<Vec<String>, StoreError> {
        deliver::waiting(&self.database).await
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

    async fn filtered_events(
        &self,
        filter: EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        notes::filtered_events(&self.database, &filter, limit).await
    }

    async fn events_of(
        &self,
        merid: &str,
        orderid: &str,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        notes::events_of(&self.database, merid, orderid, limit).await
    }

    async fn attempts(&self, id: &str) -> Result<Vec<AttemptRecord>, StoreError> {
        deliver::attempts(&self.database, id).await
    }

    async fn decide(
        &self,
        id: &str,
        kind: DecisionKind,
        operator: &Operator,
        at: Millis,
    ) -> Result<DecideOutcome, StoreError> {
        decisions::decide(&self.database, id, kind, operator, at).await
    }

    async fn decisions(&self, id: &str) -> Result<Vec<DecisionRecord>, StoreError> {
        decisions::decisions(&self.database, id).await
    }

    async fn decisions_since(
        &self,
        after: Millis,
    ) -> Result<Vec<(String, DecisionRecord)>, StoreError> {
        decisions::decisions_since(&self.database, after).await
    }

    async fn failing(&self) -> Result<Vec<FailingApp>, StoreError> {
        deliver::failing(&self.database).await
    }

    async fn set_failing(&self, app: FailingApp) -> Result<(), StoreError> {
        deliver::set_failing(&self.database, &app).await
    }

    async fn set_working(&self, merid: &str) -> Result<(), StoreError> {
        deliver::set_working(&self.database, merid).await
    }
}

#[async_trait]
impl Activity for Postgres {
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

    async fn old_keys(&self) -> Result<Vec<OldKey>, StoreError> {
        notes::old_keys(&self.database).await
    }

    async fn add_minutes(&self, minutes: Vec<MinuteFigures>) -> Result<(), StoreError> {
        upkeep::add_minutes(&self.database, &minutes).await
    }

    async fn minutes(&self, range: MinuteRange) -> Result<Vec<MinuteFigures>, StoreError> {
        upkeep::minutes(&self.database, range).await
    }
}

#[async_trait]
impl Store for Postgres {
    fn let_go(&self) {
        self.fleet.wants_to_lead.store(false, Ordering::Relaxed);
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.database.check()?;
        for kind in self.health.failed() {
            self.try_again(kind).await?;
        }
        Ok(())
    }

    async fn confirm_clock(&self) -> Result<(), StoreError> {
        time::confirm();
        upkeep::confirm_clock(&self.database).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        let counts = upkeep::counts(&self.database).await?;
        Ok(Counts {
            is_exported: self.fleet.leads.load(Ordering::Relaxed),
            ..counts
        })
    }

    async fn key_switches(&self) -> Result<Vec<KeySwitch>, StoreError> {
        upkeep::key_switches(&self.database).await
    }

    async fn key_switched(&self, switch: KeySwitch) -> Result<(), StoreError> {
        upkeep::key_switched(&self.database, &switch).await
    }

    async fn forget_key_switch(&self, merid: &str) -> Result<(), StoreError> {
        upkeep::forget_key_switch(&self.database, merid).await
    }

    async fn forget(&self, before: Millis) -> Result<(), StoreError> {
        upkeep::forget(&self.database, before).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::contract::{
        ARRIVAL, SUBMIT, StoreUnderTest, attempt, claimed, due, order, outcome,
    };

    #[tokio::test]
    async fn what_one_sidecar_has_in_hand_no_other_gets() {
        let Some(place) = StoreUnderTest::database("what_one_sidecar_has_in_hand_no_other_gets")
        else {
            return;
        };
        let (ours, theirs) = (place.open(), place.open());
        let result = outcome("1", "ABCDEFGH", "Q1", "0000", 1);
        ours.put(&result, ARRIVAL).await.unwrap();
        let event = due(&*theirs, 5, 1).await.remove(0);
        assert!(claimed(&*ours, &event).await.is_some());
        assert!(due(&*theirs, 5, 1).await.is_empty());
        assert!(claimed(&*theirs, &event).await.is_none());
        assert!(claimed(&*ours, &event).await.is_some(), "still ours");
        let failed = attempt(&event, EventState::Pending, 5);
        ours.attempted(failed).await.unwrap();
        let event = due(&*theirs, 5, 1).await.remove(0);
        assert!(claimed(&*theirs, &event).await.is_some());
        let signed = order("ORDER001", 1, "Bank");
        ours.record("1", &signed, SUBMIT, 1).await.unwrap();
        let open = ours.open_orders(Millis::MAX, 9).await.unwrap();
        assert_eq!(open.len(), 1);
        assert!(theirs.open_orders(Millis::MAX, 9).await.unwrap().is_empty());
        ours.asked(&open[0], Some(1)).await.unwrap();
        assert_eq!(theirs.open_orders(1, 9).await.unwrap(), open);
    }

    #[tokio::test]
    async fn no_session_compiles_its_statements() {
        let Some(place) = StoreUnderTest::database("no_session_compiles_its_statements") else {
            return;
        };
        let store = Postgres::open(place.postgres()).unwrap();
        let database = &store.database;
        let calls = database.rows("SHOW jit", &[]).await.unwrap();
        let aside = database.rows_aside("SHOW jit", &[]).await.unwrap();
        for rows in [calls, aside] {
            assert_eq!(rows[0].get::<_, &str>(0), "off");
        }
    }

    #[tokio::test]
    async fn a_late_record_of_a_former_holder_changes_nothing() {
        let test = "a_late_record_of_a_former_holder_changes_nothing";
        let Some(place) = StoreUnderTest::database(test) else {
            return;
        };
        let (ours, theirs) = (place.open(), place.open());
        let result = outcome("1", "ABCDEFGH", "Q1", "0000", 1);
        ours.put(&result, ARRIVAL).await.unwrap();
        let event = due(&*ours, 5, 1).await.remove(0);
        assert!(claimed(&*ours, &event).await.is_some());
        let late = attempt(&event, EventState::Delivered, 9);
        // As after a stop of 40 s: the lease has ended, and another has the event.
        place.sql("UPDATE countersign.events SET held_until = now() - interval '1 s'");
        assert!(claimed(&*theirs, &event).await.is_some());
        assert!(!ours.attempted(late.clone()).await.unwrap());
        let failed = attempt(&event, EventState::Pending, 7);
        assert!(theirs.attempted(failed).await.unwrap());
        assert!(!ours.attempted(late).await.unwrap());
        let event = ours.event(&event.id).await.unwrap().unwrap();
        assert_eq!((event.attempts, event.next_attempt), (1, 7));
        assert_eq!(event.state, EventState::Pending);
    }

    #[tokio::test]
    async fn a_row_that_another_transaction_holds_delays_itself_alone() {
        let test = "a_row_that_another_transaction_holds_delays_itself_alone";
        let Some(place) = StoreUnderTest::database(test) else {
            return;
        };
        let store = place.open();
        for number in 0..4 {
            let order = order(&format!("ORDER00{number}"), 1, "Bank");
            store.record("1", &order, SUBMIT, 1).await.unwrap();
            let result = outcome("1", &order.orderid, &format!("Q{number}"), "1001", 1);
            store.put(&result, ARRIVAL).await.unwrap();
        }
        let due = due(&*store, 5, 9).await;
        for event in &due {
            assert!(claimed(&*store, event).await.is_some());
        }
        let held = &due[0];
        let mut psql = place.hold(&format!(
            "SELECT FROM countersign.events WHERE id = '{}' FOR UPDATE; \
             SELECT FROM countersign.orders WHERE orderid = 'ORDER000' FOR UPDATE",
            held.id
        ));
        let attempts = due
            .iter()
            .map(|event| store.attempted(attempt(event, EventState::Delivered, 9)));
        let attempts = futures_util::future::join_all(attempts).await;
        assert!(attempts[0].is_err(), "{attempts:?}");
        assert!(
            attempts[1..].iter().all(|it| matches!(it, Ok(true))),
            "{attempts:?}"
        );
        let paid: Vec<_> = (0..4)
            .map(|n| outcome("1", &format!("ORDER00{n}"), &format!("Q{n}"), "0000", 1))
            .collect();
        let puts = paid.iter().map(|result| store.put(result, ARRIVAL));
        let puts = futures_util::future::join_all(puts).await;
        assert!(puts[0].is_err(), "{puts:?}");
        assert!(puts[1..].iter().all(Result::is_ok), "{puts:?}");
        place.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' \
             AND datname = current_database() AND pid <> pg_backend_pid()",
        );
        psql.kill().ok();
        psql.wait().unwrap();
        let began = std::time::Instant::now();
        while store.put(&paid[0], ARRIVAL).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
        store.check().await.unwrap();
    }

    #[tokio::test]
    async fn one_sidecar_of_a_fleet_has_the_figures() {
        let Some(place) = StoreUnderTest::database("one_sidecar_of_a_fleet_has_the_figures") else {
            return;
        };
        let fleet = [place.open(), place.open(), place.open()];
        let leaders = async || {
            let counts = fleet.each_ref().map(|store| store.counts());
            let counts = futures_util::future::try_join_all(counts).await.unwrap();
            let leads = counts.into_iter().map(|it| it.is_exported);
            leads.collect::<Vec<_>>()
        };
        let one = async || loop {
            let leads = leaders().await;
            assert!(leads.iter().filter(|it| **it).count() < 2);
            if let Some(leader) = leads.iter().position(|it| *it) {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let first = one().await;
        fleet[first].let_go();
        let began = std::time::Instant::now();
        while one().await == first {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
    }

    #[test]
    fn a_start_waits_for_the_sidecar_that_makes_the_tables() {
        let test = "a_start_waits_for_the_sidecar_that_makes_the_tables";
        let Some(place) = StoreUnderTest::database(test) else {
            return;
        };
        // Longer than a statement of a session may take, and ten times as long as it waits for a lock.
        let mut other = place.hold("SELECT pg_advisory_xact_lock(1129539438)");
        let began = std::time::Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_secs(3));
                place.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE query LIKE '%pg_sleep%' AND datname = current_database() AND pid <> pg_backend_pid()",
                );
                other.wait().unwrap();
            });
            Postgres::open(place.postgres()).unwrap();
        });
        assert!(began.elapsed() >= Duration::from_secs(3));
    }

    #[tokio::test]
    async fn looks_for_due_events_use_the_index_of_pending_ones() {
        let test = "looks_for_due_events_use_the_index_of_pending_ones";
        let Some(place) = StoreUnderTest::database(test) else {
            return;
        };
        let store = place.open();
        for number in 0..20 {
            let result = outcome(
                "1",
                &format!("ORDER0{number:02}"),
                &format!("Q{number}"),
                "0000",
                1,
            );
            store.put(&result, ARRIVAL).await.unwrap();
        }
        for with_statistics in [false, true] {
            if with_statistics {
                place.sql("ANALYZE countersign.events");
            }
            let sqls = [(deliver::due_sql(), "(1, 5, 9)")];
            for (sql, values) in sqls {
                let plan = place.sql(&format!(
                    "{}; PREPARE look AS {sql}; EXPLAIN EXECUTE look{values}",
                    database::SESSION
                ));
                assert!(plan.contains("events_pending"), "{plan}");
                for bad in ["Seq Scan on events", "Sort", "events_state", "Bitmap"] {
                    assert!(!plan.contains(bad), "{plan}");
                }
            }
            // Statistics that know of few pending and no delivered events make the indexes of states look best.
            let plan = place.sql(&format!(
                "{}; PREPARE claim AS {}; EXPLAIN EXECUTE claim(1, '{{x}}', '{{0}}')",
                database::SESSION,
                deliver::claim_sql()
            ));
            assert!(plan.contains("events_pkey on events events_1"), "{plan}");
            for bad in ["events_state", "events_pending", "Seq Scan"] {
                assert!(!plan.contains(bad), "{plan}");
            }
        }
    }

    #[tokio::test]
    async fn lists_of_orders_read_one_range_of_an_index() {
        let Some(place) = StoreUnderTest::database("lists_of_orders_read_one_range_of_an_index")
        else {
            return;
        };
        let store = place.open();
        for number in 0..2000 {
            let new = order(&format!("ORDER{number:05}"), 1, "Bank");
            let merid = (number % 7).to_string();
            store.record(&merid, &new, SUBMIT, number).await.unwrap();
        }
        place.sql("ANALYZE countersign.orders");
        for (sql, values, range) in [
            (
                ledger::NEWEST,
                "(1, 900, '1', 'A', 9)",
                "ROW(signed_at, merid, orderid) < ROW(",
            ),
            (
                ledger::NEWEST_OF,
                "('1', 1, 900, 'A', 9)",
                "ROW(signed_at, orderid) < ROW(",
            ),
        ] {
            let plan = place.sql(&format!(
                "{}; PREPARE look AS {sql}; EXPLAIN EXECUTE look{values}",
                database::SESSION
            ));
            let condition = plan.lines().find(|line| line.contains("Index Cond"));
            assert!(condition.is_some_and(|it| it.contains(range)), "{plan}");
            for bad in ["Seq Scan", "Sort", "Bitmap", "Filter"] {
                assert!(!plan.contains(bad), "{plan}");
            }
        }
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
        let too_long = outcome("1", "ABCDEFGJ", &"Q".repeat(1001), "0000", 1);
        let (right, too_long) =
            tokio::join!(store.put(&right, ARRIVAL), store.put(&too_long, ARRIVAL));
        assert!(right.is_ok() && too_long.is_err());
    }
}
