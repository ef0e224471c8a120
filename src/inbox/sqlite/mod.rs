//! The store on SQLite: one file for one sidecar. WAL, `synchronous=FULL`, one thread that writes, and one connection
//! each for delivery, for views and for checkpoints.

mod identity;

mod file;

mod schema;

mod connections;

mod checkpoint;

mod writer;

mod row;

mod clock;

mod ledger;

mod keep;

mod deliver;

mod decisions;

mod upkeep;

mod notes;

mod inspect;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::activity::ActivityEntry;
use super::attempt::{AttemptRecord, ClaimOutcome, DueEvent, DueMerchant, FailingApp};
use super::event::{Event, EventFilter, EventState, WaitReason};
use super::health::{Health, StoreWork, vital_thread};
use super::listing::{OrderFilter, OrderPlace, OrderResult, OrderRow};
use super::minutes::{MinuteFigures, MinuteRange};
use super::order::{
    LOST_TRY, NewTry, OpenOrder, RecordOutcome, SignedOrder, Try, TryRecord, TryState,
};
use super::review::{DecideOutcome, DecisionKind, DecisionRecord, Operator, Review, ReviewOutcome};
use super::store::{
    Activity, ActivityFilter, Arrival, Counts, Events, KeySwitch, Ledger, OldKey, PutOutcome,
    Store, StoreError,
};
use crate::protocol::envelope::Verified;
use crate::protocol::request::Order;
use crate::protocol::result::PaymentResult;
use crate::time::{self, Millis};
use connections::{Connections, Lane};
use file::{Held, Lock, check_pages, connect, has_lock_file, is_small, noted_counter};
use identity::StoreFile;
pub(super) use inspect::{inspect, key_switches};
use row::{EVENT, collect, read_event};
use writer::{WriteJob, Writer, in_savepoint};

/// Jobs that wait for the writer at most; more are rejected at once.
const WAITING: usize = 4096;
/// Time that a caller waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time that a caller waits for rows.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// The pause after each step of housekeeping: other work goes on between them.
const BETWEEN_STEPS: Duration = Duration::from_millis(10);

/// A store in one file. Its threads end with it.
pub struct Sqlite {
    jobs: SyncSender<WriteJob>,
    shared: Arc<Connections>,
    health: Arc<Health>,
    lock: Lock,
    /// Ends the thread that looks at the clock.
    _clock: Option<SyncSender<()>>,
}

impl Sqlite {
    /// Opens or creates the sidecar's own store. Rejects one that is damaged, newer, another program's, in use by another
    /// instance, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(StoreFile::open(path, true)?);
        if file.is_new {
            // The lock file is the trace of a store: it comes after the store. Two that begin at once meet here.
            file.try_lock()?;
            let store = Self::open_with(path, &file, true)?;
            store.lock.send_replace(Some(Held::now(file, path)?));
            tracing::info!(store = %path.display(), "a new store was made");
            return Ok(store);
        }
        // A lock file is made beside a store that is ours, and beside no other.
        file.try_lock()?;
        let held = if has_lock_file(path) {
            Some(Held::now(file.clone(), path)?)
        } else {
            None
        };
        // Before the first connection: SQLite knows a -wal by its name alone, and would read a later one into an older
        // copy.
        file.check_age(noted_counter(path))?;
        let counter = file.counter().unwrap_or_default();
        let store = Self::open_with(path, &file, true)?;
        let held = match held {
            Some(held) => held,
            None => Held::now(file, path)?,
        };
        held.note_counter(counter);
        store.lock.send_replace(Some(held));
        Ok(store)
    }

    /// Opens the store of an instance that is going to end: both write, and its turn comes when that one lets go.
    pub fn take_over(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(StoreFile::open(path, true)?);
        let store = Self::open_with(path, &file, false)?;
        let (lock, path) = (store.lock.clone(), path.to_owned());
        let wait = move || match Held::in_turn(file, &path) {
            Ok(held) => {
                lock.send_replace(Some(held));
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot be locked; nothing is delivered");
            }
        };
        // A thread, because flock(2) blocks until the other instance lets go.
        vital_thread("store-lock", wait)?;
        Ok(store)
    }

    /// Opens the connections. `is_alone`: no other process has the store, so that tries in flight are of one that died.
    fn open_with(path: &Path, file: &Arc<StoreFile>, is_alone: bool) -> Result<Self, StoreError> {
        let mut connection = connect(path)?;
        let is_checked = is_small(path);
        if is_checked {
            check_pages(&connection, None)?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        schema::migrate(&mut connection)?;
        try_out(&mut connection)?;
        clock::resume(&mut connection)?;
        if is_alone {
            lose_all_tries(&mut connection)?;
        }
        file.remember();
        let store = Self::start(path, file.clone(), connection, Lock::new(None), true)?;
        if file.was_left_open && !is_checked {
            store.check_in_background()?;
        }
        Ok(store)
    }

    /// Opens the store of a sidecar that may be running, for the command line.
    pub fn open_beside(path: &Path) -> Result<Self, StoreError> {
        let file = Arc::new(StoreFile::open(path, false)?);
        let mut connection = connect(path)?;
        schema::check(&connection)?;
        schema::migrate(&mut connection)?;
        file.remember();
        Self::start(path, file, connection, Lock::new(None), false)
    }

    fn start(
        path: &Path,
        file: Arc<StoreFile>,
        writer: Connection,
        lock: Lock,
        is_sidecar: bool,
    ) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel(WAITING);
        let shared = Arc::new(Connections::new(path.to_owned(), file));
        let mut writer = Writer {
            connection: Some(writer),
            shared: shared.clone(),
            checkpoints: None,
            _lock: lock.clone(),
        };
        if is_sidecar {
            let (checkpoints, calls) = sync_channel(1);
            writer.checkpoints = Some(checkpoints);
            let (shared, lock) = (shared.clone(), lock.clone());
            vital_thread("store-checkpoint", move || {
                checkpoint::run(&shared, &lock, &calls)
            })?;
        }
        vital_thread("store", move || writer.run(&waiting))?;
        let mut clock = None;
        if is_sidecar {
            let (open, closed) = sync_channel(0);
            clock = Some(open);
            let (shared, jobs) = (shared.clone(), jobs.clone());
            vital_thread("store-clock", move || clock::run(&shared, &jobs, &closed))?;
        }
        Ok(Self {
            jobs,
            shared,
            health: Arc::default(),
            lock,
            _clock: clock,
        })
    }

    /// Checks every page beside the work. One table at a time, so that no checkpoint waits for all of them.
    fn check_in_background(&self) -> Result<(), StoreError> {
        let (path, health) = (self.shared.path.clone(), self.health.clone());
        let file = self.shared.file.clone();
        vital_thread("store-check", move || {
            let check = || {
                let connection = connect(&path)?;
                let sql = "SELECT name FROM sqlite_schema WHERE type = 'table'";
                for table in collect(&connection, sql, [], |row| row.get::<_, String>(0))? {
                    check_pages(&connection, Some(&table))?;
                }
                Ok::<_, StoreError>(())
            };
            let result = check();
            match &result {
                Ok(()) => {
                    tracing::info!("every page of the store was checked after an unclean end")
                }
                Err(error) => tracing::error!(%error, "the check of the store's pages failed"),
            }
            health.note(StoreWork::Other, &result);
            // The file is closed after the connection.
            drop(file);
        })
    }

    /// Runs `work` in the next commit, and returns its result once that is on stable storage.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write_as(StoreWork::Other, work).await
    }

    /// The variant on whose success readiness depends.
    async fn write_as<T: Send + 'static>(
        &self,
        kind: StoreWork,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (confirm, confirmed) = oneshot::channel();
        let job: WriteJob = Box::new(move |transaction| {
            let result = in_savepoint(transaction, work);
            // A caller may have stopped waiting: then the result is dropped.
            Box::new(move |committed| {
                // The job's own error first: it may be why the commit failed, such as a full disk.
                let result = result.map_err(StoreError::from);
                let _ = confirm.send(result.and_then(|value| committed.map(|()| value)));
            })
        });
        let result = match self.jobs.try_send(job) {
            // Full, or its thread has ended. Waiting for room here would hold up a thread of the runtime.
            Err(_) => Err(StoreError::Slow),
            Ok(()) => match tokio::time::timeout(PATIENCE, confirmed).await {
                Ok(Ok(result)) => result,
                // The job is not cancelled and may still commit. Callers bear that: results have ids, and a try of
                // which nothing more comes is queried as unknown.
                Ok(Err(_)) | Err(_) => Err(StoreError::Slow),
            },
        };
        self.health.note(kind, &result);
        result
    }

    /// Runs `work` on the lane of reads for people and commands.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_on(Lane::View, StoreWork::Other, work).await
    }

    async fn read_on<T: Send + 'static>(
        &self,
        lane: Lane,
        kind: StoreWork,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        // Not cancelled when the time is up either (tokio cannot abort a blocking task): until it ends, its lane is
        // taken.
        let done = tokio::task::spawn_blocking(move || shared.on(lane, work));
        let result = match tokio::time::timeout(READ_PATIENCE, done).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(StoreError::Failed(error.to_string())),
            Err(_) => Err(StoreError::Slow),
        };
        self.health.note(kind, &result);
        result
    }

    /// Repeats work that failed, on rows that it takes back.
    async fn try_again(&self, kind: StoreWork) -> Result<(), StoreError> {
        match kind {
            StoreWork::Put => self.write_as(kind, keep::try_out).await,
            StoreWork::Record => self.write_as(kind, ledger::try_out).await,
            StoreWork::Due => {
                let look = |connection: &Connection| deliver::due(connection, 0, 1);
                let due = self.read_on(Lane::Delivery, kind, look).await;
                due.map(drop)
            }
            StoreWork::Other => Ok(()),
        }
    }

    /// Runs `step` in commits of its own until it returns false, with pauses in between.
    async fn in_steps(
        &self,
        step: impl Fn(&Transaction<'_>) -> rusqlite::Result<bool> + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        let step = Arc::new(step);
        loop {
            let step = step.clone();
            if !self.write(move |transaction| step(transaction)).await? {
                return Ok(());
            }
            tokio::time::sleep(BETWEEN_STEPS).await;
        }
    }
}

#[async_trait]
impl Ledger for Sqlite {
    async fn record(
        &self,
        merid: &str,
        order: &Order,
        new: NewTry<'_>,
        at: Millis,
    ) -> Result<RecordOutcome, StoreError> {
        let (merid, order) = (merid.to_owned(), order.clone());
        let (kind, backurl) = (new.kind, new.backurl.map(str::to_owned));
        self.write_as(StoreWork::Record, move |transaction| {
            ledger::record(transaction, &merid, &order, (kind, backurl.as_deref()), at)
        })
        .await
    }

    async fn settle_try(&self, which: &Try, state: TryState) -> Result<bool, StoreError> {
        let which = which.clone();
        self.write(move |transaction| ledger::settle_try(transaction, &which, state))
            .await
    }

    async fn link_try(&self, which: &Try, queryid: &str) -> Result<(), StoreError> {
        let (which, queryid) = (which.clone(), queryid.to_owned());
        self.write(move |transaction| ledger::link_try(transaction, &which, &queryid))
            .await
    }

    async fn tries(&self, merid: &str, orderid: &str) -> Result<Vec<TryRecord>, StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.read(move |connection| ledger::tries(connection, &merid, &orderid))
            .await
    }

    async fn hasten(&self, merid: &str, orderid: &str, at: Millis) -> Result<(), StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.write(move |transaction| ledger::hasten(transaction, &merid, &orderid, at))
            .await
    }

    async fn open_orders(&self, now: Millis, limit: u32) -> Result<Vec<OpenOrder>, StoreError> {
        let has_lost = self
            .read(move |connection| ledger::has_lost_tries(connection, now))
            .await?;
        if has_lost {
            self.write(move |transaction| ledger::lose_tries(transaction, now - LOST_TRY, now))
                .await?;
        }
        self.read(move |connection| ledger::open_orders(connection, now, limit))
            .await
    }

    async fn asked(&self, order: &OpenOrder, next: Option<Millis>) -> Result<(), StoreError> {
        let order = order.clone();
        self.write(move |transaction| ledger::asked(transaction, &order, next))
            .await
    }

    async fn signed(&self, merid: &str, orderid: &str) -> Result<Option<SignedOrder>, StoreError> {
        let (merid, orderid) = (merid.to_owned(), orderid.to_owned());
        self.read(move |connection| ledger::signed(connection, &merid, &orderid))
            .await
    }

    async fn order_rows(
        &self,
        filter: &OrderFilter,
        after: &OrderPlace,
        limit: u32,
    ) -> Result<Vec<OrderRow>, StoreError> {
        let (filter, after) = (filter.clone(), after.clone());
        self.read(move |connection| ledger::order_rows(connection, &filter, &after, limit))
            .await
    }

    async fn order_results(
        &self,
        orders: &[OrderRow],
    ) -> Result<Vec<Vec<OrderResult>>, StoreError> {
        let key = |row: &OrderRow| (row.merid.clone(), row.orderid.clone());
        let orders: Vec<_> = orders.iter().map(key).collect();
        self.read(move |connection| ledger::order_results(connection, &orders))
            .await
    }
}

#[async_trait]
impl Events for Sqlite {
    async fn put(
        &self,
        outcome: &Verified<PaymentResult>,
        arrival: Arrival,
    ) -> Result<PutOutcome, StoreError> {
        let outcome = outcome.clone();
        // Commits into a damaged file may not be there at the next start.
        self.health.damage()?;
        self.write_as(StoreWork::Put, move |transaction| {
            keep::put(transaction, &outcome, arrival)
        })
        .await
    }

    async fn put_for_review(&self, review: Review) -> Result<ReviewOutcome, StoreError> {
        self.health.damage()?;
        self.write_as(StoreWork::Put, move |transaction| {
            keep::put_for_review(transaction, &review)
        })
        .await
    }

    async fn set_back(&self, now: Millis) -> Result<(), StoreError> {
        self.write(move |transaction| deliver::set_back(transaction, now))
            .await
    }

    async fn due(&self, now: Millis, each: u32) -> Result<Vec<DueMerchant>, StoreError> {
        let look = move |connection: &Connection| deliver::due(connection, now, each);
        self.read_on(Lane::Delivery, StoreWork::Due, look).await
    }

    async fn due_of_each(
        &self,
        wanted: Vec<(String, u32)>,
        now: Millis,
    ) -> Result<Vec<DueMerchant>, StoreError> {
        let look = move |connection: &Connection| deliver::due_of_each(connection, wanted, now);
        self.read_on(Lane::Delivery, StoreWork::Due, look).await
    }

    async fn claim(&self, events: Vec<DueEvent>) -> Result<Vec<ClaimOutcome>, StoreError> {
        let claim = move |connection: &Connection| deliver::claim(connection, events);
        let claims = self.read_on(Lane::Delivery, StoreWork::Due, claim).await?;
        for claim in &claims {
            if let ClaimOutcome::Damaged { id, why } = claim {
                tracing::error!(
                    event = id,
                    why,
                    "an event is damaged in the store and parked"
                );
                let (id, why) = (id.clone(), why.clone());
                self.write(move |transaction| deliver::park(transaction, &id, &why))
                    .await?;
            }
        }
        Ok(claims)
    }

    async fn attempted_together(
        &self,
        attempts: Vec<AttemptRecord>,
    ) -> Result<Vec<bool>, StoreError> {
        self.write(move |transaction| {
            let written = attempts
                .iter()
                .map(|attempt| deliver::attempted(transaction, attempt));
            written.collect()
        })
        .await
    }

    async fn wait_for(
        &self,
        merid: &str,
        reason: WaitReason,
        now: Millis,
    ) -> Result<(), StoreError> {
        let merid = merid.to_owned();
        self.in_steps(move |transaction| deliver::wait_for(transaction, &merid, reason, now))
            .await
    }

    async fn resume(&self, merid: &str, now: Millis) -> Result<(), StoreError> {
        let merid = merid.to_owned();
        self.in_steps(move |transaction| deliver::resume(transaction, &merid, now))
            .await
    }

    async fn waiting(&self) -> Result<Vec<String>, StoreError> {
        self.read(deliver::waiting).await
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
        self.read(move |connection| notes::newest_events(connection, state, limit))
            .await
    }

    async fn filtered_events(
        &self,
        filter: EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        self.read(move |connection| notes::filtered_events(connection, &filter, limit))
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

    async fn attempts(&self, id: &str) -> Result<Vec<AttemptRecord>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| deliver::attempts(connection, &id))
            .await
    }

    async fn decide(
        &self,
        id: &str,
        kind: DecisionKind,
        operator: &Operator,
        at: Millis,
    ) -> Result<DecideOutcome, StoreError> {
        let (id, operator) = (id.to_owned(), operator.clone());
        self.write(move |transaction| decisions::decide(transaction, &id, kind, &operator, at))
            .await
    }

    async fn decisions(&self, id: &str) -> Result<Vec<DecisionRecord>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| decisions::decisions(connection, &id))
            .await
    }

    async fn decisions_since(
        &self,
        after: Millis,
    ) -> Result<Vec<(String, DecisionRecord)>, StoreError> {
        self.read(move |connection| decisions::decisions_since(connection, after))
            .await
    }

    async fn failing(&self) -> Result<Vec<FailingApp>, StoreError> {
        self.read(deliver::failing).await
    }

    async fn set_failing(&self, app: FailingApp) -> Result<(), StoreError> {
        self.write(move |transaction| deliver::set_failing(transaction, &app))
            .await
    }

    async fn set_working(&self, merid: &str) -> Result<(), StoreError> {
        let merid = merid.to_owned();
        self.write(move |transaction| deliver::set_working(transaction, &merid))
            .await
    }
}

#[async_trait]
impl Activity for Sqlite {
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

    async fn old_keys(&self) -> Result<Vec<OldKey>, StoreError> {
        self.read(notes::old_keys).await
    }

    async fn add_minutes(&self, minutes: Vec<MinuteFigures>) -> Result<(), StoreError> {
        self.write(move |transaction| upkeep::add_minutes(transaction, &minutes))
            .await
    }

    async fn minutes(&self, range: MinuteRange) -> Result<Vec<MinuteFigures>, StoreError> {
        self.read(move |connection| upkeep::minutes(connection, range))
            .await
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
        self.health.damage()?;
        self.shared.file.verify()?;
        for kind in self.health.failed() {
            self.try_again(kind).await?;
        }
        Ok(())
    }

    async fn confirm_clock(&self) -> Result<(), StoreError> {
        crate::time::confirm();
        self.write(clock::confirm).await
    }

    async fn counts(&self) -> Result<Counts, StoreError> {
        self.read(upkeep::counts).await
    }

    async fn key_switches(&self) -> Result<Vec<KeySwitch>, StoreError> {
        self.read(upkeep::key_switches).await
    }

    async fn key_switched(&self, switch: KeySwitch) -> Result<(), StoreError> {
        self.write(move |transaction| upkeep::key_switched(transaction, &switch))
            .await
    }

    async fn forget_key_switch(&self, merid: &str) -> Result<(), StoreError> {
        let merid = merid.to_owned();
        self.write(move |transaction| upkeep::forget_key_switch(transaction, &merid))
            .await
    }

    async fn forget(&self, before: Millis) -> Result<(), StoreError> {
        self.in_steps(move |transaction| notes::forget(transaction, before))
            .await?;
        for sql in upkeep::FORGET {
            self.in_steps(move |transaction| upkeep::forget_some(transaction, sql, before))
                .await?;
        }
        Ok(())
    }
}

/// Makes every try in flight unknown, so that its order is queried at once instead of when it must be lost.
fn lose_all_tries(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    ledger::lose_tries(&transaction, Millis::MAX, time::now())?;
    transaction.commit()
}

/// Fails where a table or an index that keeps results and orders is damaged at its root.
fn try_out(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    keep::try_out(&transaction)?;
    ledger::try_out(&transaction)?;
    deliver::due(&transaction, 0, 1)?;
    upkeep::counts(&transaction)?;
    Ok(transaction.rollback()?)
}

#[cfg(test)]
mod tests {
    use super::schema::{APPLICATION_ID, MIGRATIONS, VERSION};
    use super::*;
    use crate::inbox::contract::{ARRIVAL, SUBMIT, order, outcome};

    /// The writer of a dropped handle gives its lock back on its own thread.
    fn reopened(path: &Path) -> Result<Sqlite, StoreError> {
        loop {
            match Sqlite::open(path) {
                Err(StoreError::InUse(_)) => std::thread::yield_now(),
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
        for (store, amount, found) in [(&old, 1, true), (&new, 2, false), (&old, 1, true)] {
            let order = order("ABCDEFGH", amount, "Bank");
            let recorded = store.record("1", &order, SUBMIT, 1).await.unwrap();
            assert_eq!(matches!(recorded, RecordOutcome::Agrees(_)), found);
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
        let order = order("ABCDEFGH", 1, "Bank");
        let recorded = old.record("1", &order, SUBMIT, 1).await.unwrap();
        assert!(matches!(recorded, RecordOutcome::Agrees(_)));
        assert!(matches!(Sqlite::open(&path), Err(StoreError::InUse(_))));
    }

    /// A store with some events of one merchant, and a connection beside it.
    async fn store_with_events(path: &Path, count: u32) -> (Sqlite, Connection) {
        let store = Sqlite::open(path).unwrap();
        for number in 0..count {
            let result = outcome(
                "1",
                &format!("ORDER{number:03}"),
                &format!("Q{number}"),
                "0000",
                1,
            );
            store.put(&result, ARRIVAL).await.unwrap();
        }
        (store, Connection::open(path).unwrap())
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_believed_is_parked_alone() {
        for damage in [
            "json = CAST(x'7bff7d' AS TEXT)",
            "json = replace(json, '0000', '0001')",
            "amount = amount + 1",
            "orderid = 'ORDER999'",
            "queryid = CAST(x'ff' AS TEXT)",
            "resultcode = '1001'",
            "matched = 2",
            "attempts = -1",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (store, beside) = store_with_events(&folder.path().join("a.db"), 3).await;
            let sql = format!("UPDATE events SET {damage} WHERE orderid = 'ORDER001'");
            if beside.execute(&sql, []).is_err() {
                continue;
            }
            let due = store.due(5, 9).await;
            let due: Vec<_> = due.unwrap().into_iter().flat_map(|it| it.events).collect();
            assert_eq!(due.len(), 3, "{damage}");
            let claims = store.claim(due).await.unwrap();
            let damaged = |it: &&ClaimOutcome| matches!(it, ClaimOutcome::Damaged { .. });
            let claimed = |it: &&ClaimOutcome| matches!(it, ClaimOutcome::Claimed(_));
            let counts = (
                claims.iter().filter(damaged).count(),
                claims.iter().filter(claimed).count(),
            );
            if damage.starts_with("matched") {
                assert_eq!(counts, (0, 3), "a flag of which any but 0 is true");
                continue;
            }
            assert_eq!(counts, (1, 2), "{damage}");
            let listed = store.events(None, 9).await.unwrap();
            let parked = listed.iter().filter(|it| it.state == EventState::Parked);
            assert_eq!((listed.len(), parked.count()), (3, 1), "{damage}");
            store.check().await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_version_before_reads_and_writes_on_beside_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let (store, beside) = store_with_events(&folder.path().join("a.db"), 1).await;
        // Its statements, word for word.
        let sql = "INSERT INTO events (id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, \
            received_at, next_attempt, attempts, last_attempt) \
            VALUES ('old', '1', 'ORDER009', 'Q9', '0000', 1, '{}', 'notification', 0, 'pending', 5, 5, 0, '')";
        beside.execute(sql, []).unwrap();
        let sql = "INSERT INTO orders (merid, orderid, amount, action, signed_at, next_look)
            VALUES ('1', 'ORDER009', 1, 'Bank', 5, 6)";
        beside.execute(sql, []).unwrap();
        let counts = store.counts().await.unwrap();
        assert_eq!((counts.events, counts.open_orders), ([2, 0, 0, 0, 0], 1));
        let mut due = store.due(5, 9).await.unwrap();
        let claims = store.claim(due.remove(0).events).await.unwrap();
        assert!(
            claims
                .iter()
                .all(|it| matches!(it, ClaimOutcome::Claimed(_)))
        );
        let sql = "UPDATE events SET attempts = 1, last_attempt = 'taken', next_attempt = 9, state = 'delivered'
            WHERE id = 'old'";
        beside.execute(sql, []).unwrap();
        let sql = "INSERT OR REPLACE INTO attempts (event, number, at, took, outcome) VALUES ('old', 1, 5, 1, 'taken')";
        beside.execute(sql, []).unwrap();
        assert_eq!(store.attempts("old").await.unwrap()[0].response, None);
        let sql =
            "DELETE FROM events WHERE state IN ('delivered', 'discarded') AND received_at < 9";
        beside.execute(sql, []).unwrap();
        let counts = store.counts().await.unwrap();
        assert_eq!(counts.events, [1, 0, 0, 0, 0]);
        let version = beside.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0));
        assert_eq!(version.unwrap(), 3, "the version before opens it again");
    }

    #[tokio::test]
    async fn looks_for_due_events_use_the_index_of_pending_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, beside) = store_with_events(&folder.path().join("a.db"), 9).await;
        for with_statistics in [false, true] {
            if with_statistics {
                beside.execute_batch("ANALYZE").unwrap();
            }
            for (sql, values) in [(deliver::DUE, &[1, 5, 9][..]), (deliver::MERCHANTS, &[])] {
                let values = rusqlite::params_from_iter(values);
                let plan = collect(
                    &beside,
                    &format!("EXPLAIN QUERY PLAN {sql}"),
                    values,
                    |row| row.get::<_, String>(3),
                );
                let plan = plan.unwrap().join("; ");
                assert!(plan.contains("events_pending"), "{plan}");
                assert!(!plan.contains("SCAN events"), "{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
    }

    #[tokio::test]
    async fn lists_of_orders_read_one_range_of_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let (_store, beside) = store_with_events(&folder.path().join("a.db"), 9).await;
        for with_statistics in [false, true] {
            if with_statistics {
                beside.execute_batch("ANALYZE").unwrap();
            }
            for (sql, range) in [
                (
                    ledger::NEWEST,
                    "orders_signed (signed_at>? AND (signed_at,merid,orderid)<(?,?,?))",
                ),
                (
                    ledger::NEWEST_OF,
                    "orders_merchant (merid=? AND signed_at>? AND (signed_at,orderid)<(?,?))",
                ),
            ] {
                let sql = format!("EXPLAIN QUERY PLAN {sql}");
                let values = rusqlite::params![1, 2, 3, 4, 5];
                let plan = collect(&beside, &sql, values, |row| row.get::<_, String>(3));
                let plan = plan.unwrap().join("; ");
                assert!(plan.contains(range), "{plan}");
                assert!(plan.contains("SEARCH orders"), "{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
    }

    #[tokio::test]
    async fn the_log_of_commits_is_bounded_and_shrinks_when_a_long_reader_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let (store, beside) = store_with_events(&path, 1).await;
        beside
            .execute_batch("BEGIN; SELECT count(*) FROM events")
            .unwrap();
        let wal = || store.shared.file.wal_bytes();
        let fill = async |store: &Sqlite| {
            store
                .write(|transaction| {
                    transaction.execute("CREATE TABLE IF NOT EXISTS filler (x)", [])?;
                    transaction.execute("INSERT INTO filler VALUES (zeroblob(1000000))", [])?;
                    transaction.execute("DELETE FROM filler", [])
                })
                .await
                .unwrap();
        };
        while wal() < 24 << 20 {
            fill(&store).await;
        }
        beside.execute_batch("COMMIT").unwrap();
        let began = std::time::Instant::now();
        while wal() > 4 << 20 {
            assert!(began.elapsed() < Duration::from_secs(20), "{} bytes", wal());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..60 {
            fill(&store).await;
            assert!(wal() < 64 << 20);
        }
    }

    #[tokio::test]
    async fn commits_do_not_wait_for_a_long_read_when_the_log_is_to_be_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _beside) = store_with_events(&folder.path().join("a.db"), 1).await;
        let (reading, is_reading) = sync_channel(0);
        let (end, ended) = sync_channel::<()>(0);
        let shared = store.shared.clone();
        let reader = std::thread::spawn(move || {
            shared.on(Lane::View, |_| {
                reading.send(()).unwrap();
                let _ = ended.recv();
                Ok(())
            })
        });
        is_reading.recv().unwrap();
        let shared = store.shared.clone();
        let alone = std::thread::spawn(move || shared.alone(Lane::Checkpoint, |_| Ok(())));
        let result = outcome("1", "ORDER777", "Q777", "0000", 1);
        store.put(&result, ARRIVAL).await.unwrap();
        assert!(alone.join().unwrap().unwrap().is_none(), "beside a reader");
        end.send(()).unwrap();
        reader.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_older_copy_beside_the_log_of_a_later_one_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let (store, beside) = store_with_events(&path, 1).await;
        let copy = std::fs::read(&path).unwrap();
        let file = store.shared.file.clone();
        let alone = |connection: &Connection| {
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        };
        beside.execute_batch("ROLLBACK").ok();
        let done = store.shared.alone(Lane::Checkpoint, alone).unwrap();
        assert!(done.is_some());
        if let Some(held) = &*store.lock.borrow() {
            held.note_counter(file.counter().unwrap());
        }
        let result = outcome("1", "ORDER777", "Q777", "0000", 1);
        store.put(&result, ARRIVAL).await.unwrap();
        // While it runs, the copy is noticed at the next commit.
        std::fs::write(&path, &copy).unwrap();
        let result = outcome("1", "ORDER778", "Q778", "0000", 1);
        assert!(matches!(
            store.put(&result, ARRIVAL).await,
            Err(StoreError::Moved(_) | StoreError::Damaged(_) | StoreError::Failed(_))
        ));
        assert!(store.check().await.is_err());
        let error = StoreFile::open(&path, true)
            .unwrap()
            .check_age(noted_counter(&path));
        assert!(matches!(error, Err(StoreError::Damaged(_))), "{error:?}");
        drop(beside);
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
        assert!(matches!(Sqlite::open(&path), Err(StoreError::Damaged(_))));
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
