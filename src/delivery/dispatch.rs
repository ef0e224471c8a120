//! The dispatcher: one task that decides which event is attempted when, and starts the attempts.
//!
//! All state of the delivery is here, and only here: [`Rounds`] decides; the dispatcher reads for it, claims the events it
//! chose, and reports the end of each attempt to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Resource, getrlimit};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::courier::Courier;
use super::memory;
use super::news::{Flight, FlightNews};
use super::payments::Payments;
use super::recorder;
use super::rounds::limits::{Ceilings, Moment};
use super::rounds::merchant_queue::StandingChange;
use super::rounds::{Rounds, UNRECORDED};
use super::schedule::{BACK_OFF, LANDING, RAREST_SURVEY, SURVEY, SURVEY_SHARE};
use super::wake::Wake;
use crate::config::Snapshot;
use crate::inbox::attempt::{AttemptRecord, ClaimOutcome, ClaimedEvent};
use crate::inbox::event::WaitReason;
use crate::inbox::store::{Store, StoreError};
use crate::time;
use crate::time::Millis;

/// Events that are claimed at once.
const BATCH: usize = 128;
/// Merchants whose events are set aside or resumed at once.
const GROUP: usize = 64;
/// Messages that are read at once.
const NEWS: usize = 256;
/// Descriptors that are assumed where the limit cannot be read.
const DESCRIPTORS: usize = 1024;

/// The background work that delivers.
pub struct Delivery {
    /// The events.
    pub store: Arc<dyn Store>,
    /// The way to the apps.
    pub courier: Arc<Courier>,
    /// The bell for new events.
    pub wake: Arc<Wake>,
}

/// Waits for attempts that are under way, where another process makes the further ones.
pub async fn land(mut attempts: JoinSet<()>) {
    let landed = async { while attempts.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LANDING, landed).await;
    attempts.shutdown().await;
}

impl Delivery {
    /// Delivers until the future is dropped; what is under way then goes on in `attempts`.
    pub async fn run(self: Arc<Self>, attempts: &mut JoinSet<()>) {
        let (news, mut heard) = mpsc::unbounded_channel();
        let (ends, to_record) = mpsc::channel(UNRECORDED);
        attempts.spawn(recorder::run(self.store.clone(), to_record, news.clone()));
        let (changes, to_remember) = mpsc::channel(memory::WAITING);
        attempts.spawn(memory::run(self.store.clone(), to_remember));
        let mut dispatcher = Dispatcher::new(self.clone(), news, ends, changes);
        let mut batch = Vec::with_capacity(NEWS);
        loop {
            if let Err(error) = dispatcher.turn(attempts).await {
                tracing::error!(%error, "pending events cannot be read; delivery waits");
                tokio::time::sleep(BACK_OFF).await;
            }
            tokio::select! {
                _ = heard.recv_many(&mut batch, NEWS) => {}
                () = self.wake.rung() => {}
                () = tokio::time::sleep(dispatcher.idle()) => {}
            }
            for news in batch.drain(..) {
                dispatcher.learn(news);
            }
            // A JoinSet keeps tasks that have ended until they are taken out.
            while attempts.try_join_next().is_some() {}
        }
    }
}

struct Dispatcher {
    parts: Arc<Delivery>,
    rounds: Rounds,
    payments: Payments,
    news: mpsc::UnboundedSender<FlightNews>,
    ends: mpsc::Sender<AttemptRecord>,
    started: Instant,
    /// The wall clock at the last turn. At first as if it had been set back before we started.
    last: Millis,
    next_survey: Instant,
    /// The merchants file that was taken into account.
    seen: Option<Arc<Snapshot>>,
    changes: mpsc::Sender<(Arc<str>, StandingChange)>,
}

impl Dispatcher {
    fn new(
        parts: Arc<Delivery>,
        news: mpsc::UnboundedSender<FlightNews>,
        ends: mpsc::Sender<AttemptRecord>,
        changes: mpsc::Sender<(Arc<str>, StandingChange)>,
    ) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current;
        let descriptors = descriptors.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(DESCRIPTORS)
        });
        Self {
            parts,
            rounds: Rounds::new(Ceilings::fitting(descriptors)),
            payments: Payments::default(),
            news,
            ends,
            started: Instant::now(),
            last: Millis::MAX,
            next_survey: Instant::now(),
            seen: None,
            changes,
        }
    }

    /// One turn: takes in what is new, reads what is due, starts what may be started.
    async fn turn(&mut self, attempts: &mut JoinSet<()>) -> Result<(), StoreError> {
        self.follow_clock().await?;
        self.follow_file().await?;
        let now = self.moment();
        for merid in self.parts.wake.take() {
            let courier = &self.parts.courier;
            self.rounds
                .announce(&merid, now.wall, |it| courier.reaches(it));
        }
        if Instant::now() >= self.next_survey {
            self.survey().await?;
        }
        let wanted = self.rounds.choose_reads(now);
        if !wanted.is_empty() {
            let due = self.parts.store.due_of_each(wanted.clone(), now.wall).await;
            // What was not read now is read after the next survey.
            self.rounds.found(&wanted, due?, now);
        }
        self.launch(attempts).await
    }

    /// Plans anew what was planned before the clock was set back.
    async fn follow_clock(&mut self) -> Result<(), StoreError> {
        let now = time::now();
        if now < self.last {
            self.parts.store.set_back(now).await?;
            self.next_survey = Instant::now();
        }
        self.last = now;
        Ok(())
    }

    /// Takes in a reload: merchants that have got a `back`, or lost it.
    async fn follow_file(&mut self) -> Result<(), StoreError> {
        let current = self.parts.courier.live.snapshot();
        if self
            .seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, &current))
        {
            return Ok(());
        }
        let courier = &self.parts.courier;
        if self.seen.is_none() {
            for app in self.parts.store.failing().await? {
                self.rounds
                    .remember_failing(&app.merid, |it| courier.reaches(it));
            }
        }
        self.rounds.reconsider(|it| courier.reaches(it));
        let mut waiting = self.parts.store.waiting().await?;
        waiting.retain(|merid| courier.reaches(merid));
        for group in waiting.chunks(GROUP) {
            let resumed = group
                .iter()
                .map(|merid| self.parts.store.resume(merid, self.last));
            join_all(resumed)
                .await
                .into_iter()
                .collect::<Result<(), _>>()?;
            for merid in group {
                self.rounds.announce(merid, self.last, |_| true);
                tracing::info!(
                    merid,
                    "the merchant has a back; its waiting results are delivered"
                );
            }
        }
        // Last, so that after an error the whole reload is taken in again.
        self.seen = Some(current);
        Ok(())
    }

    /// Has a merchant's due events wait until it has an address.
    async fn set_aside(&self, merid: &str) -> Result<(), StoreError> {
        let is_known = self.parts.courier.live.load().merchant(merid).is_some();
        let reason = match is_known {
            true => WaitReason::NoBack,
            false => WaitReason::NoMerchant,
        };
        tracing::warn!(
            merid,
            reason = reason.name(),
            "results wait: expected a back for this merchant in the merchants file"
        );
        self.parts.store.wait_for(merid, reason, time::now()).await
    }

    /// Looks for merchants with due events that were not announced.
    async fn survey(&mut self) -> Result<(), StoreError> {
        let (now, began) = (self.moment(), Instant::now());
        let due = self.parts.store.due(now.wall, 1).await?;
        let courier = &self.parts.courier;
        let out_of_reach = self.rounds.survey(due, now, |it| courier.reaches(it));
        // The others are found by the next surveys.
        let set_aside = out_of_reach
            .iter()
            .take(GROUP)
            .map(|merid| self.set_aside(merid));
        join_all(set_aside)
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
        let pause = began.elapsed() * SURVEY_SHARE;
        self.next_survey = Instant::now() + pause.clamp(SURVEY, RAREST_SURVEY);
        Ok(())
    }

    /// Claims the chosen events, and starts an attempt for each.
    async fn launch(&mut self, attempts: &mut JoinSet<()>) -> Result<(), StoreError> {
        let chosen = self.rounds.next(self.moment(), BATCH);
        if chosen.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = chosen.iter().map(|event| event.id.clone()).collect();
        match self.parts.store.claim(chosen).await {
            Ok(claims) => {
                for claim in claims {
                    self.start(claim, attempts);
                }
                Ok(())
            }
            Err(error) => {
                ids.iter().for_each(|id| self.rounds.withdrawn(id));
                Err(error)
            }
        }
    }

    fn start(&mut self, claim: ClaimOutcome, attempts: &mut JoinSet<()>) {
        match claim {
            ClaimOutcome::Claimed(claimed) if self.payments.begin(&claimed.event) => {
                let flight = Flight::new(claimed.event.id.clone(), self.news.clone());
                let (courier, ends) = (self.parts.courier.clone(), self.ends.clone());
                attempts.spawn(fly(courier, *claimed, flight, ends));
            }
            // It is announced again when the other event of its payment is through.
            ClaimOutcome::Claimed(claimed) => self.rounds.withdrawn(&claimed.event.id),
            // A damaged event is parked by the store, which has logged it.
            ClaimOutcome::Gone { id } | ClaimOutcome::Damaged { id, .. } => {
                self.rounds.withdrawn(&id)
            }
        }
    }

    /// Takes in the news about an event in flight.
    fn learn(&mut self, news: FlightNews) {
        match news {
            FlightNews::Landed {
                id,
                landing,
                took,
                why,
            } => {
                if let Some(change) = self.rounds.landed(&id, landing, took, why) {
                    // A full queue loses memory, not results.
                    let _ = self.changes.try_send(change);
                }
            }
            FlightNews::Recorded { id, next } => {
                self.rounds.recorded(&id, next);
                self.payment_ended(&id);
            }
            FlightNews::Lost { id } => {
                self.rounds.withdrawn(&id);
                self.payment_ended(&id);
            }
        }
    }

    fn payment_ended(&mut self, id: &str) {
        if let Some(merid) = self.payments.end(id) {
            self.rounds.announce(&merid, self.last, |_| true);
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            wall: self.last,
            elapsed: self.started.elapsed(),
        }
    }

    fn idle(&self) -> Duration {
        let now = Moment {
            wall: time::now(),
            elapsed: self.started.elapsed(),
        };
        // A reload is noticed as soon as an event that was not announced.
        self.rounds.idle(now).min(SURVEY)
    }
}

/// One attempt from start to end.
async fn fly(
    courier: Arc<Courier>,
    claimed: ClaimedEvent,
    flight: Flight,
    ends: mpsc::Sender<AttemptRecord>,
) {
    // The flight reports itself as lost where nothing was attempted.
    let Some(attempted) = courier.attempt(claimed).await else {
        return;
    };
    // Before its record is on its way: `Recorded` removes the flight, and a landing after it would teach the rounds
    // nothing.
    flight.land(attempted.landing, attempted.took, attempted.why);
    // The recorder ends after the last of us.
    let _ = ends.send(attempted.record).await;
}
