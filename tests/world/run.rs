//! Plays the steps: the platform, the app and the operator here, the product's store and decisions there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::clocks::Clocks;
use super::deliver::Dispatcher;
use super::model::{KEEP, Model, Permitted};
use super::platform::PaymentAtPlatform;
use super::step::{AppMood, DiskFault, FileState, FlipKind, Step};
use crate::config::StoreAddress;
use crate::inbox;
use crate::inbox::commit_faults;
use crate::inbox::commit_faults::CommitFault;
use crate::inbox::event::{Event, EventState};
use crate::inbox::review::{DecideOutcome, DecisionKind, Operator};
use crate::inbox::store::{Store, StoreError};
use crate::reconcile;
use crate::time::Millis;

/// The merchant of most steps.
pub(super) const MERID: &str = "1";
/// The merchant whose app always works.
pub(super) const HEALTHY: &str = "9";
pub(super) const MINUTE: Millis = 60_000;
/// An end takes no more rounds than this.
const ROUNDS: usize = 60;

/// The end of a step that did not go well.
#[derive(Debug)]
pub(super) enum Trouble {
    /// An invariant is broken.
    Broken(String),
    /// The store failed, which it may where a fault was injected.
    Store(StoreError),
}

impl From<String> for Trouble {
    fn from(broken: String) -> Self {
        Self::Broken(broken)
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

pub(super) type Played = Result<(), Trouble>;

/// Everybody.
pub(super) struct World {
    folder: tempfile::TempDir,
    /// The file of the store. A crash leaves it behind, and what was on the disk is copied.
    path: PathBuf,
    crashes: usize,
    store: Option<Arc<dyn Store>>,
    pub(super) dispatcher: Dispatcher,
    /// A stopped process that has events in flight.
    frozen: Option<(Arc<dyn Store>, Dispatcher)>,
    pub(super) clocks: Clocks,
    pub(super) payments: Vec<PaymentAtPlatform>,
    pub(super) file: FileState,
    pub(super) lags: bool,
    pub(super) mood: AppMood,
    pub(super) crowd_mood: AppMood,
    pub(super) model: Model,
    pub(super) permitted: Permitted,
    armed: Option<DiskFault>,
    pub(super) healthy_results: usize,
    /// Faults by their names, and how often each was injected.
    pub(super) injected: BTreeMap<&'static str, u64>,
}

impl World {
    pub(super) fn new() -> Self {
        // Thousands of commits a run: nothing here is about the disk.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        let path = folder.path().join("0").join("a.db");
        fs::create_dir(folder.path().join("0")).unwrap();
        let mut world = Self {
            folder,
            path,
            crashes: 0,
            store: None,
            dispatcher: Dispatcher::new(0),
            frozen: None,
            clocks: Clocks::new(),
            payments: Vec::new(),
            file: FileState::Back,
            lags: false,
            mood: AppMood::Takes,
            crowd_mood: AppMood::Takes,
            model: Model::default(),
            permitted: Permitted::default(),
            armed: None,
            healthy_results: 0,
            injected: BTreeMap::new(),
        };
        world.open();
        world
    }

    fn open(&mut self) {
        self.store = None;
        let address = StoreAddress::Sqlite(self.path.clone());
        self.store = Some(loop {
            match inbox::open(&address) {
                // The writer of a dropped handle gives its lock back on its own thread.
                Err(StoreError::InUse(_)) => std::thread::sleep(Duration::from_micros(200)),
                opened => break opened.unwrap(),
            }
        });
        self.dispatcher = Dispatcher::new(self.clocks.up);
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    pub(super) fn inject(&mut self, fault: &'static str) {
        *self.injected.entry(fault).or_default() += 1;
    }

    /// Plays one step, and judges the store after it.
    pub(super) async fn step(&mut self, step: Step) -> Result<(), String> {
        self.permitted = Permitted::default();
        let fault = self.armed.take();
        let path = self.path.clone();
        if let Some(fault) = fault {
            self.permitted.is_unsure = true;
            self.inject(match fault {
                DiskFault::Full => "disk-full",
                DiskFault::Failed => "commit-fails",
                DiskFault::Unreported => "commit-unreported",
            });
            commit_faults::set(&path, Some(as_commit_fault(fault)));
        }
        let played = self.play(step).await;
        commit_faults::set(&path, None);
        match played {
            Err(Trouble::Broken(broken)) => return Err(broken),
            // A machine that is busy with something else.
            Err(Trouble::Store(StoreError::Slow)) => self.permitted.is_unsure = true,
            Err(Trouble::Store(error)) if fault.is_none() => {
                return Err(format!("the store failed: {error}"));
            }
            _ => {}
        }
        let has_delivered = matches!(step, Step::Deliver { .. } | Step::Thaw);
        self.judge(has_delivered).await
    }

    async fn play(&mut self, step: Step) -> Played {
        match step {
            Step::Submit { order, sent } => self.submit(order as usize, sent).await?,
            Step::Pay { payment, state } => self.pay(payment, state),
            Step::Notify { payment, state } => self.notify(payment, state).await?,
            Step::Misstate { payment } => self.misstate(payment).await?,
            Step::Healthy => self.notify_healthy().await?,
            Step::Lag { on } => self.lags = on,
            Step::Deliver { app } => self.deliver(app).await?,
            Step::Reconcile => self.reconcile().await?,
            Step::Decide { event, kind } => self.decide(event as usize, kind).await?,
            Step::Back { file } => self.edit(file).await?,
            Step::Wait { minutes } => self.clocks.pass(Millis::from(minutes) * MINUTE + 1_000),
            Step::Crowd { size, app } => self.crowd(size, app).await?,
            Step::Disk { fault } => self.armed = Some(fault),
            Step::Flip { event, kind } => self.flip(event as usize, kind)?,
            _ => self.interrupt(step).await?,
        }
        Ok(())
    }

    /// Plays what befalls a process and its clocks.
    async fn interrupt(&mut self, step: Step) -> Played {
        match step {
            Step::Restart { jump } => {
                self.inject("restart");
                self.end_frozen();
                self.clocks.restart(false, jump);
                self.open();
            }
            Step::Crash { machine, jump } => self.crash(machine, jump),
            Step::Jump { seconds } => {
                self.inject(match seconds {
                    61.. => "clock-ahead",
                    ..=-61 => "clock-behind",
                    _ => "clock-slewed",
                });
                self.clocks.jump(seconds);
                // The dispatcher looks at the clock several times a second.
                self.turn().await?;
            }
            Step::Confirm => {
                self.inject("clock-confirmed");
                self.clocks.confirm();
            }
            Step::Forget => {
                self.permitted.has_forgotten = true;
                let before = reconcile::expiry(self.clocks.moments(), KEEP);
                self.store().forget(before).await?;
            }
            Step::Freeze => {
                // With attempts in the air, where there is something due.
                self.turn().await?;
                self.freeze();
            }
            Step::Thaw => self.thaw().await?,
            _ => {}
        }
        Ok(())
    }

    fn end_frozen(&mut self) {
        self.frozen = None;
    }

    /// Ends the process without a word to its store: the next one finds what was on the disk.
    pub(super) fn crash(&mut self, machine: bool, jump: i32) {
        self.inject(if machine { "machine-dies" } else { "crash" });
        if jump != 0 {
            self.inject("clock-changed-at-start");
        }
        if !self.dispatcher.is_idle() {
            self.inject("crash-with-attempts-in-flight");
        }
        self.crashes += 1;
        let from = self.path.parent().unwrap().to_owned();
        let to = self.folder.path().join(self.crashes.to_string());
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(&from).unwrap().flatten() {
            // Shared memory does not outlive the process that mapped it.
            if !file.file_name().to_string_lossy().ends_with("-shm") {
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        self.end_frozen();
        self.store = None;
        self.path = to.join("a.db");
        self.clocks.restart(machine, jump);
        self.open();
        // Its files may be closed later than this.
        drop(fs::remove_dir_all(from));
    }

    /// Stops the process in the middle of its attempts. Another takes over.
    fn freeze(&mut self) {
        if self.frozen.is_some() {
            return;
        }
        self.inject("holder-stops");
        let address = StoreAddress::Sqlite(self.path.clone());
        let other = inbox::take_over(&address).unwrap();
        let store = self.store.replace(other).unwrap();
        let mut dispatcher = Dispatcher::new(self.clocks.up);
        std::mem::swap(&mut self.dispatcher, &mut dispatcher);
        self.frozen = Some((store, dispatcher));
    }

    /// Lets the stopped process go on: it records what it had in hand.
    async fn thaw(&mut self) -> Played {
        let Some((store, mut late)) = self.frozen.take() else {
            return Ok(());
        };
        self.inject("holder-comes-back");
        if !late.is_idle() {
            self.inject("late-records");
        }
        late.land_all(self, &*store).await
    }

    /// Flips a bit in the row of a pending event.
    fn flip(&mut self, which: usize, kind: FlipKind) -> Result<(), String> {
        let pending = |known: &&String| {
            let known = &self.model.events[*known];
            known.state == EventState::Pending && known.merid == MERID
        };
        let ids: Vec<_> = self.model.events.keys().filter(pending).cloned().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = &ids[which % ids.len()];
        self.inject("bit-flips");
        let change = match kind {
            FlipKind::Readable => "json = replace(json, 'txnamt', 'txnqmt')",
            FlipKind::NoText => "json = CAST(x'7bff7d' AS TEXT)",
            FlipKind::Attempts => "attempts = -1 - abs(attempts)",
        };
        let beside = rusqlite::Connection::open(&self.path).map_err(|error| error.to_string())?;
        let sql = format!("UPDATE events SET {change} WHERE id = ?1");
        beside
            .execute(&sql, [id])
            .map_err(|error| error.to_string())?;
        if let Some(known) = self.model.events.get_mut(id) {
            known.is_damaged = true;
        }
        Ok(())
    }

    async fn edit(&mut self, file: FileState) -> Played {
        if file != FileState::Back {
            self.inject("file-edit");
        }
        self.file = file;
        // The dispatcher finds the edit at its next turn.
        self.dispatcher.has_new_file = true;
        Ok(())
    }

    async fn decide(&mut self, which: usize, kind: u8) -> Played {
        let ids: Vec<_> = self.model.events.keys().cloned().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = &ids[which % ids.len()];
        let kind = DecisionKind::ALL[kind as usize % DecisionKind::ALL.len()];
        let operator = Operator {
            who: "somebody".to_owned(),
            from: "command line".to_owned(),
        };
        let before = self.model.events[id].state;
        let at = self.clocks.moments();
        self.permitted.decided = Some((id.clone(), kind.state()));
        let decided = self.store().decide(id, kind, &operator, at.now).await?;
        match decided {
            DecideOutcome::Done { from } if from != before => {
                let (from, before) = (from.name(), before.name());
                return Err(format!("history: decided from {from}, it was {before}").into());
            }
            DecideOutcome::Done { .. } => self.inject("decision"),
            _ => self.permitted.decided = None,
        }
        Ok(())
    }

    /// Gives everybody the time and the will, and judges what then is not done.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        self.armed = None;
        self.step(Step::Thaw).await?;
        self.crowd_mood = AppMood::Takes;
        let file = FileState::Back;
        self.step(Step::Back { file }).await?;
        self.step(Step::Lag { on: false }).await?;
        for _ in 0..ROUNDS {
            let app = AppMood::Takes;
            self.step(Step::Deliver { app }).await?;
            if !self.model.has_pending() {
                break;
            }
            self.step(Step::Wait { minutes: 6 }).await?;
        }
        self.model.judge_end()
    }

    async fn judge(&mut self, has_delivered: bool) -> Result<(), String> {
        let failed = |error: StoreError| format!("the store cannot be read: {error}");
        self.model.now = self.clocks.trusted();
        let store = self.store();
        let mut stored = store.events(None, 2_000).await.map_err(failed)?;
        stored.retain(|event| [MERID, HEALTHY].contains(&event.merid.as_str()));
        let attempts = |event: &Event| self.model.events.get(&event.id).map(|it| it.attempts);
        let is_touched = |event: &&Event| {
            let is_decided = self.permitted.decided.as_ref().map(|it| &it.0);
            is_decided == Some(&event.id)
                || has_delivered && attempts(event) != Some(event.attempts)
        };
        let touched: Vec<_> = stored.iter().filter(is_touched).cloned().collect();
        self.model.judge(&stored, &self.permitted)?;
        for event in touched {
            let attempts = store.attempts(&event.id).await.map_err(failed)?.len();
            let decisions = store.decisions(&event.id).await.map_err(failed)?.len();
            self.model
                .judge_histories(&event, attempts, decisions, &self.permitted)?;
        }
        self.judge_orders().await.map_err(|trouble| match trouble {
            Trouble::Broken(broken) => broken,
            Trouble::Store(error) => failed(error),
        })
    }

    async fn judge_orders(&mut self) -> Played {
        if self.model.orders.is_empty() {
            return Ok(());
        }
        let store = self.store();
        let (mut open, mut known) = (BTreeSet::new(), BTreeSet::new());
        for order in self.model.orders.keys() {
            if let Some(signed) = store.signed(MERID, &orderid(*order)).await? {
                known.insert(*order);
                if signed.next_look.is_some() {
                    open.insert(*order);
                }
            }
        }
        Ok(self.model.judge_orders(&open, &known, &self.permitted)?)
    }
}

fn as_commit_fault(fault: DiskFault) -> CommitFault {
    match fault {
        DiskFault::Full => CommitFault::Full,
        DiskFault::Failed => CommitFault::Failed,
        DiskFault::Unreported => CommitFault::Unreported,
    }
}

pub(super) fn orderid(order: usize) -> String {
    format!("ORDER{order:05}")
}
