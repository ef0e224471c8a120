//! The delivery: the product's rounds, claims and verdicts, with apps that take, reject, hang or are down, and a clock
//! of milliseconds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::attempts::{Flight, duration};
use super::run::{HEALTHY, MERID, Played, World};
use super::step::{AppMood, FileState};
use crate::delivery::payments::Payments;
use crate::delivery::rounds::Rounds;
use crate::delivery::rounds::limits::{Ceilings, Moment};
use crate::inbox::attempt::ClaimOutcome;
use crate::inbox::event::{EventState, WaitReason};
use crate::inbox::store::Store;
use crate::time::Millis;

/// Turns of one step at most.
const TURNS: usize = 30;
/// Turns in which a due event of a healthy app may be passed over, whatever the others do.
const FAIR_TURNS: u32 = 8;
/// Descriptors of the process: places for a crowd, and no more.
const DESCRIPTORS: usize = 1_024;
/// Events that are claimed at once.
const BATCH: usize = 64;
const SURVEY: Millis = 200;

/// The dispatcher of one process.
pub(super) struct Dispatcher {
    pub(super) rounds: Rounds,
    pub(super) payments: Payments,
    flights: Vec<Flight>,
    started: Millis,
    /// The wall clock at the last turn.
    last: Millis,
    next_survey: Millis,
    pub(super) has_new_file: bool,
    /// Turns in which an event was due and not attempted.
    passed_over: BTreeMap<String, u32>,
}

impl Dispatcher {
    pub(super) fn new(up: Millis) -> Self {
        Self {
            rounds: Rounds::new(Ceilings::fitting(DESCRIPTORS)),
            payments: Payments::default(),
            flights: Vec::new(),
            started: up,
            last: Millis::MAX,
            next_survey: up,
            has_new_file: true,
            passed_over: BTreeMap::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Lands everything that is in the air, in a process that was stopped meanwhile.
    pub(super) async fn land_all(&mut self, world: &mut World, store: &dyn Store) -> Played {
        for flight in std::mem::take(&mut self.flights) {
            world.record(&flight, store, self).await?;
        }
        Ok(())
    }
}

impl World {
    /// Takes turns until there is nothing to do for a while.
    pub(super) async fn deliver(&mut self, app: AppMood) -> Played {
        self.mood = app;
        match app {
            AppMood::Hangs => self.inject("app-hangs"),
            AppMood::Silent => self.inject("app-refuses"),
            AppMood::Slow => self.inject("app-slow"),
            AppMood::Rejects => self.inject("app-rejects"),
            AppMood::TakesUnheard => self.inject("app-takes-unheard"),
            AppMood::Takes => {}
        }
        // Also where the store fails in between: what the app took is not heard of.
        let played = self.take_turns().await;
        let unheard = |flight: &Flight| flight.mood == AppMood::TakesUnheard;
        if app == AppMood::TakesUnheard {
            for flight in self.dispatcher.flights.iter().filter(|it| unheard(it)) {
                self.permitted.taken.insert(flight.claimed.event.id.clone());
            }
            self.crash(false, 0);
            // Attempts of the next process are heard of.
            self.mood = AppMood::Takes;
        }
        played
    }

    async fn take_turns(&mut self) -> Played {
        let mut quiet = 0;
        for _ in 0..TURNS {
            let has_launched = self.turn().await?;
            let is_quiet = !has_launched && self.dispatcher.flights.is_empty();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet > 1 {
                break;
            }
            let pause = self.pause();
            self.clocks.pass(pause);
        }
        Ok(())
    }

    fn moment(&self) -> Moment {
        let elapsed = self.clocks.up - self.dispatcher.started;
        Moment {
            wall: self.clocks.now(),
            elapsed: Duration::from_millis(u64::try_from(elapsed).unwrap_or_default()),
        }
    }

    /// The time until the next turn.
    fn pause(&self) -> Millis {
        let idle = self.dispatcher.rounds.idle(self.moment()).as_millis();
        let idle = Millis::try_from(idle).unwrap_or(Millis::MAX);
        // An attempt of which nothing is heard never lands.
        let flights = self.dispatcher.flights.iter();
        let heard = flights.filter(|it| it.mood != AppMood::TakesUnheard);
        let landing = heard.map(|it| it.lands).min();
        let landing = landing.map_or(Millis::MAX, |at| at - self.clocks.up);
        let survey = self.dispatcher.next_survey - self.clocks.up;
        idle.min(landing).min(survey).clamp(1, SURVEY)
    }

    fn reaches(&self, merid: &str) -> bool {
        merid != MERID || self.file == FileState::Back
    }

    /// One turn, as the product's dispatcher takes it; returns true where attempts were started.
    pub(super) async fn turn(&mut self) -> Result<bool, super::run::Trouble> {
        let store = self.store();
        self.land().await?;
        let wall = self.clocks.now();
        if wall < self.dispatcher.last {
            store.set_back(wall).await?;
            self.dispatcher.next_survey = self.clocks.up;
        }
        self.dispatcher.last = wall;
        self.follow_file(&*store).await?;
        let moment = self.moment();
        if self.clocks.up >= self.dispatcher.next_survey {
            self.survey(&*store).await?;
        }
        let wanted = self.dispatcher.rounds.choose_reads(moment);
        if !wanted.is_empty() {
            let due = store.due_of_each(wanted.clone(), wall).await?;
            self.dispatcher.rounds.found(&wanted, due, moment);
        }
        let chosen = self.dispatcher.rounds.next(self.moment(), BATCH);
        let has_launched = !chosen.is_empty();
        if has_launched {
            let ids: Vec<_> = chosen.iter().map(|event| event.id.clone()).collect();
            match store.claim(chosen).await {
                Ok(claims) => {
                    for claim in claims {
                        self.start(claim)?;
                    }
                }
                Err(error) => {
                    ids.iter()
                        .for_each(|id| self.dispatcher.rounds.withdrawn(id));
                    return Err(error.into());
                }
            }
        }
        self.judge_fairness()?;
        Ok(has_launched)
    }

    async fn follow_file(&mut self, store: &dyn Store) -> Played {
        if !self.dispatcher.has_new_file {
            return Ok(());
        }
        let file = self.file;
        let reaches = |merid: &str| merid != MERID || file == FileState::Back;
        self.dispatcher.rounds.reconsider(reaches);
        let wall = self.clocks.now();
        for merid in store.waiting().await? {
            if reaches(&merid) {
                store.resume(&merid, wall).await?;
                self.dispatcher.rounds.announce(&merid, wall, |_| true);
            }
        }
        self.dispatcher.has_new_file = false;
        Ok(())
    }

    async fn survey(&mut self, store: &dyn Store) -> Played {
        let moment = self.moment();
        let due = store.due(moment.wall, 1).await?;
        let file = self.file;
        let reaches = |merid: &str| merid != MERID || file == FileState::Back;
        let out_of_reach = self.dispatcher.rounds.survey(due, moment, reaches);
        let reason = match self.file {
            FileState::NoMerchant => WaitReason::NoMerchant,
            _ => WaitReason::NoBack,
        };
        for merid in out_of_reach {
            store.wait_for(&merid, reason, moment.wall).await?;
        }
        self.dispatcher.next_survey = self.clocks.up + SURVEY;
        Ok(())
    }

    fn start(&mut self, claim: ClaimOutcome) -> Result<(), String> {
        let claimed = match claim {
            ClaimOutcome::Claimed(claimed) => claimed,
            ClaimOutcome::Gone { id } => {
                self.dispatcher.rounds.withdrawn(&id);
                return Ok(());
            }
            ClaimOutcome::Damaged { id, why } => {
                self.dispatcher.rounds.withdrawn(&id);
                let known = self.model.events.get(&id);
                return match known.is_some_and(|known| known.is_damaged) {
                    true => Ok(()),
                    false => Err(format!("{id} is whole, and found damaged: {why}")),
                };
            }
        };
        let event = &claimed.event;
        let is_unread = !self.reaches(&event.merid);
        if is_unread || !self.dispatcher.payments.begin(event) {
            self.dispatcher.rounds.withdrawn(&claimed.event.id);
            return Ok(());
        }
        self.judge_claim(&claimed)?;
        self.dispatcher.passed_over.remove(&claimed.event.id);
        let mood = match claimed.event.merid.as_str() {
            MERID => self.mood,
            HEALTHY => AppMood::Takes,
            _ => self.crowd_mood,
        };
        let took = duration(mood);
        self.dispatcher.flights.push(Flight {
            claimed,
            began: self.clocks.up,
            lands: self.clocks.up + Millis::try_from(took).unwrap_or(Millis::MAX),
            took,
            mood,
        });
        Ok(())
    }

    /// Ends the attempts whose time has come.
    async fn land(&mut self) -> Played {
        let store = self.store();
        let up = self.clocks.up;
        let flights = std::mem::take(&mut self.dispatcher.flights);
        let (landing, flying): (Vec<_>, Vec<_>) = flights
            .into_iter()
            .partition(|it| it.lands <= up && it.mood != AppMood::TakesUnheard);
        self.dispatcher.flights = flying;
        let mut dispatcher = Dispatcher::new(up);
        std::mem::swap(&mut self.dispatcher, &mut dispatcher);
        let mut ends = Vec::new();
        for flight in landing {
            // One that cannot be recorded takes no other along.
            ends.push(self.record(&flight, &*store, &mut dispatcher).await);
        }
        self.dispatcher = dispatcher;
        ends.into_iter().collect()
    }

    /// Judges that no crowd of failing apps keeps a healthy one waiting.
    fn judge_fairness(&mut self) -> Result<(), String> {
        let wall = self.clocks.now();
        for (id, known) in &self.model.events {
            let is_due = known.merid == HEALTHY
                && known.state == EventState::Pending
                && known.is_acknowledged
                && known.next_attempt <= wall;
            let is_flying = |flight: &Flight| flight.claimed.event.id == *id;
            if !is_due || self.dispatcher.flights.iter().any(is_flying) {
                continue;
            }
            let turns = self.dispatcher.passed_over.entry(id.clone()).or_default();
            *turns += 1;
            if *turns > FAIR_TURNS {
                return Err(format!(
                    "fairness: a healthy app was passed over in {turns} turns: {known:?}"
                ));
            }
        }
        Ok(())
    }
}
