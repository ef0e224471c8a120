//! The store on SQLite: one file for one sidecar. WAL, `synchronous=FULL`, one thread that writes, and one connection
//! that reads.

mod file;

mod schema;

mod writer;

mod row;

mod ledger;

mod keep;

mod deliver;

mod decisions;

mod upkeep;

mod notes;

mod inspect;

use std::fs::TryLockError;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use tokio::sync::oneshot;

use super::activity::ActivityEntry;
use super::attempt::{AttemptRecord, ClaimOutcome, DueEvent, DueMerchant, FailingApp};
use super::event::{Event, EventState, WaitReason};
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
use crate::time::Millis;
use file::{Lock, check_pages, connect, lock_file};
pub(super) use inspect::inspect;
use row::{EVENT, collect, read_event};
use writer::{WriteJob, Writer, in_savepoint};

/// Jobs that wait for the writer at most; more are refused at once.
const WAITING: usize = 4096;
/// How long anybody waits for the writer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause after each step of housekeeping: other work goes on between them.
const BETWEEN_STEPS: Duration = Duration::from_millis(10);

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
        self.write(move |transaction| {
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
}

#[async_trait]
impl Events for Sqlite {
    async fn put(
        &self,
        outcome: &Verified<PaymentResult>,
        arrival: Arrival,
    ) -> Result<PutOutcome, StoreError> {
        let outcome = outcome.clone();
        self.write(move |transaction| keep::put(transaction, &outcome, arrival))
            .await
    }

    async fn put_for_review(&self, review: Review) -> Result<ReviewOutcome, StoreError> {
        self.write(move |transaction| keep::put_for_review(transaction, &review))
            .await
    }

    async fn set_back(&self, now: Millis) -> Result<(), StoreError> {
        self.write(move |transaction| deliver::set_back(transaction, now))
            .await
    }

    async fn due(&self, now: Millis, each: u32) -> Result<Vec<DueMerchant>, StoreError> {
        self.read(move |connection| deliver::due(connection, now, each))
            .await
    }

    async fn due_of(
        &self,
        merid: &str,
        now: Millis,
        limit: u32,
    ) -> Result<Vec<DueEvent>, StoreError> {
        let merid = merid.to_owned();
        self.read(move |connection| deliver::due_of(connection, &merid, now, limit))
            .await
    }

    async fn due_of_each(
        &self,
        wanted: Vec<(String, u32)>,
        now: Millis,
    ) -> Result<Vec<DueMerchant>, StoreError> {
        self.read(move |connection| deliver::due_of_each(connection, wanted, now))
            .await
    }

    async fn claim(&self, events: Vec<DueEvent>) -> Result<Vec<ClaimOutcome>, StoreError> {
        let claims = self
            .read(move |connection| deliver::claim(connection, events))
            .await?;
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
        self.read(move |connection| {
            let sql = |wanted| {
                format!("SELECT {EVENT} FROM events {wanted} ORDER BY received_at DESC LIMIT ?1")
            };
            match state {
                None => collect(connection, &sql(""), [limit], read_event),
                // A statement of its own, so that the index serves it.
                Some(state) => collect(
                    connection,
                    &sql("INDEXED BY events_state WHERE state = ?2"),
                    params![limit, state.name()],
                    read_event,
                ),
            }
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
    use crate::inbox::contract::{SUBMIT, order};

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
