//! The rounds in a simulated world: crowds of apps that hang, refuse, reject or work, and a clock of milliseconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::time::Duration;

use proptest::prelude::*;

use super::rounds::Rounds;
use super::rounds::limits::{Ceilings, Moment};
use super::rounds::merchant_queue::Landing;
use crate::inbox::attempt::{DueEvent, DueMerchant};
use crate::time::Millis;

/// How an app behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum App {
    Quick,
    Slow,
    Rejecting,
    Refusing,
    Hanging,
    /// Quick until this time, then hanging.
    HangsFrom(Millis),
}

impl App {
    /// What becomes of an attempt that begins now, and after how many milliseconds.
    fn attempt(self, now: Millis) -> (Landing, u64) {
        match self {
            Self::HangsFrom(at) if now < at => (Landing::Taken, 3),
            Self::Quick => (Landing::Taken, 3),
            Self::Slow => (Landing::Taken, 1_500),
            Self::Rejecting => (Landing::Rejected, 2),
            Self::Refusing => (Landing::Silent, 1),
            Self::Hanging | Self::HangsFrom(_) => (Landing::Silent, 10_000),
        }
    }
}

/// The pending events of one merchant.
#[derive(Default)]
struct SimulatedQueue {
    by_time: BTreeSet<(Millis, String)>,
    /// When each arrived, how often it was attempted, and when it is due.
    events: BTreeMap<String, (Millis, u32, Millis)>,
}

/// Apps, a store and a clock of a millisecond's step.
struct World {
    now: Millis,
    rounds: Rounds,
    apps: BTreeMap<String, App>,
    /// Pending events of each merchant.
    store: BTreeMap<String, SimulatedQueue>,
    landings: BinaryHeap<Reverse<(Millis, String, String, u64)>>,
    landing: HashMap<String, Landing>,
    survey_at: Millis,
    puts: usize,
    /// Milliseconds from arrival to taking, by merchant.
    waits: BTreeMap<String, Vec<Millis>>,
    attempts: BTreeMap<String, usize>,
    most_in_flight: usize,
}

fn delay_of(attempts: u32) -> Millis {
    let delays = [
        1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000,
    ];
    delays[(attempts as usize - 1).min(7)]
}

/// Events that the store hands out in a millisecond.
const STORE_SPEED: usize = 8;

impl World {
    fn new(apps: impl IntoIterator<Item = (String, App)>) -> Self {
        Self {
            now: 0,
            rounds: Rounds::new(Ceilings::fitting(20_000)),
            apps: apps.into_iter().collect(),
            store: BTreeMap::new(),
            landings: BinaryHeap::new(),
            landing: HashMap::new(),
            survey_at: 0,
            puts: 0,
            waits: BTreeMap::new(),
            attempts: BTreeMap::new(),
            most_in_flight: 0,
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            wall: self.now,
            elapsed: Duration::from_millis(self.now as u64),
        }
    }

    fn put(&mut self, merid: &str, count: usize) {
        let pending = self.store.entry(merid.to_owned()).or_default();
        for _ in 0..count {
            self.puts += 1;
            let id = format!("{merid}-{:06}", self.puts);
            pending.by_time.insert((self.now, id.clone()));
            pending.events.insert(id, (self.now, 0, self.now));
        }
        self.rounds.announce(merid, self.now, |_| true);
    }

    fn due(&self, merid: &str, limit: usize) -> DueMerchant {
        let pending = &self.store[merid];
        let due = pending.by_time.iter().take(limit);
        let due = due.take_while(|(next, _)| *next <= self.now);
        let events = due.map(|(_, id)| DueEvent {
            id: id.clone(),
            attempts: pending.events[id].1,
        });
        let later = (self.now + 1, String::new());
        let next = pending.by_time.range(later..).next();
        DueMerchant {
            merid: merid.to_owned(),
            events: events.collect(),
            next_at: next.map(|(next, _)| *next),
        }
    }

    /// Goes on to the next moment at which there is something to do.
    fn step(&mut self, until: Millis) {
        let before = self.now;
        self.land();
        if self.now >= self.survey_at {
            let due = self.store.keys().map(|merid| self.due(merid, 1)).collect();
            self.rounds.survey(due, self.moment(), |_| true);
            self.survey_at = self.now + 500;
        }
        let wanted = self.rounds.choose_reads(self.moment());
        let due = wanted
            .iter()
            .map(|(merid, limit)| self.due(merid, *limit as usize))
            .collect();
        self.rounds.found(&wanted, due, self.moment());
        let batch = self.rounds.next(self.moment(), STORE_SPEED);
        let is_busy = !batch.is_empty();
        for event in batch {
            let merid = event.id.split('-').next().unwrap().to_owned();
            assert!(
                !self.landing.contains_key(&event.id),
                "{} is in flight twice",
                event.id
            );
            let (landing, took) = self.apps[&merid].attempt(self.now);
            self.landing.insert(event.id.clone(), landing);
            *self.attempts.entry(merid.clone()).or_default() += 1;
            self.landings
                .push(Reverse((self.now + took as Millis, event.id, merid, took)));
        }
        self.most_in_flight = self.most_in_flight.max(self.rounds.in_flight());
        let idle = self.rounds.idle(self.moment()).as_millis();
        self.now = match Millis::try_from(idle) {
            Ok(..=1) => self.now + 1,
            _ if is_busy => self.now + 1,
            Ok(idle) => self.now.saturating_add(idle).min(until),
            Err(_) => until,
        };
        let landing = self.landings.peek().map(|Reverse((at, ..))| *at);
        let next = landing.unwrap_or(until).min(self.survey_at);
        self.now = self.now.min(next.max(before + 1));
    }

    fn land(&mut self) {
        while let Some(Reverse((at, ..))) = self.landings.peek()
            && *at <= self.now
            && let Some(Reverse((_, id, merid, took))) = self.landings.pop()
        {
            let landing = self.landing.remove(&id).unwrap();
            self.rounds
                .landed(&id, landing, Duration::from_millis(took), String::new());
            let pending = self.store.get_mut(&merid).unwrap();
            let (arrived, attempts, next_attempt) = pending.events.get_mut(&id).unwrap();
            pending.by_time.remove(&(*next_attempt, id.clone()));
            if landing == Landing::Taken {
                let waited = self.now - *arrived;
                pending.events.remove(&id);
                self.waits.entry(merid).or_default().push(waited);
                self.rounds.recorded(&id, None);
            } else {
                *attempts += 1;
                let next = self.now + delay_of(*attempts);
                *next_attempt = next;
                pending.by_time.insert((next, id.clone()));
                self.rounds.recorded(&id, Some(next));
            }
        }
    }

    fn run(&mut self, millis: Millis) {
        let until = self.now + millis;
        while self.now < until {
            self.step(until);
        }
    }

    /// A sidecar that is started again has the store alone.
    fn restart(&mut self) {
        self.rounds = Rounds::new(Ceilings::fitting(20_000));
        self.landings.clear();
        self.landing.clear();
        self.survey_at = self.now;
    }

    #[track_caller]
    fn longest_wait(&self, merid: &str, count: usize) -> Millis {
        let waits = &self.waits[merid];
        assert_eq!(
            waits.len(),
            count,
            "{merid}: {} still wait",
            self.store[merid].events.len()
        );
        *waits.iter().max().unwrap()
    }
}

fn crowd(count: usize, app: App) -> impl Iterator<Item = (String, App)> {
    (0..count).map(move |n| (format!("m{n:05}"), app))
}

/// A crowd with this many events each, and one quick app among them that gets an event every 100 ms.
#[track_caller]
fn quick_among(apps: usize, app: App, each: usize, seconds: Millis, bound: Millis) {
    let quick = "m00500x".to_owned();
    let mut world = World::new(crowd(apps, app).chain([(quick.clone(), App::Quick)]));
    for (merid, _) in crowd(apps, app) {
        world.put(&merid, each);
    }
    for _ in 0..seconds * 10 {
        world.put(&quick, 1);
        world.run(100);
    }
    world.run(bound);
    let waited = world.longest_wait(&quick, seconds as usize * 10);
    assert!(waited <= bound, "{waited} ms");
    world.restart();
    for _ in 0..seconds * 10 {
        world.put(&quick, 1);
        world.run(100);
    }
    world.run(bound);
    let waited = world.longest_wait(&quick, 2 * seconds as usize * 10);
    assert!(waited <= bound, "{waited} ms after a restart");
}

#[test]
fn a_fresh_result_passes_the_backlog_of_apps_that_nobody_knows_yet() {
    let crowd = (0..10_000).map(|merchant| (format!("dead{merchant:05}"), App::Refusing));
    let mut world = World::new(crowd.chain([("quick".to_owned(), App::Quick)]));
    for merchant in 0..10_000 {
        world.put(&format!("dead{merchant:05}"), 5);
    }
    // A start finds the backlog in the store: nothing of it is announced.
    world.rounds = Rounds::new(Ceilings::fitting(20_000));
    world.run(50);
    world.put("quick", 1);
    world.run(2_000);
    let waits = &world.waits["quick"];
    assert!(waits[0] <= 50, "{waits:?}");
}

#[test]
fn attempts_that_hang_beyond_the_ceiling_for_aged_ones_keep_nobody_awake() {
    let mut rounds = Rounds::new(Ceilings::fitting(1));
    let moment = |wall: Millis| Moment {
        wall,
        elapsed: Duration::from_millis(wall as u64),
    };
    let due = |merid: String| DueMerchant {
        events: vec![DueEvent {
            id: format!("{merid}-1"),
            attempts: 0,
        }],
        merid,
        next_at: None,
    };
    // More apps than may hang at once, one event each.
    for round in 0..4 {
        let now = moment(round * 300);
        let merids = (0..16).map(|merchant| format!("{round}-{merchant}"));
        rounds.survey(merids.map(due).collect(), now, |_| true);
        let wanted = rounds.choose_reads(now);
        let read = wanted.iter().map(|(merid, _)| due(merid.clone()));
        rounds.found(&wanted, read.collect(), now);
        assert_eq!(rounds.next(now, 64).len(), 16);
    }
    let later = moment(2_000);
    assert_eq!(rounds.next(later, 64).len(), 0);
    assert!(rounds.idle(later) > Duration::from_secs(1));
    rounds.landed(
        "0-0-1",
        Landing::Silent,
        Duration::from_secs(2),
        String::new(),
    );
    assert_eq!(rounds.idle(later), Duration::ZERO, "one may age now");
}

#[test]
fn a_quick_app_waits_for_no_crowd_of_hanging_ones() {
    for (apps, each) in [(70, 30), (600, 8), (1_500, 3)] {
        quick_among(apps, App::Hanging, each, 15, 200);
    }
}

#[test]
fn a_quick_app_waits_for_no_crowd_of_refusing_or_rejecting_ones() {
    quick_among(10_000, App::Refusing, 5, 4, 500);
    quick_among(1_000, App::Rejecting, 20, 4, 200);
    quick_among(500, App::Slow, 20, 4, 200);
}

#[test]
fn apps_that_begin_to_hang_together_hold_up_no_other() {
    let quick = "quick".to_owned();
    let hanging = crowd(100, App::HangsFrom(5_000));
    let mut world = World::new(hanging.chain([(quick.clone(), App::Quick)]));
    for _ in 0..100 {
        for (merid, _) in crowd(100, App::Quick) {
            world.put(&merid, 4);
        }
        world.put(&quick, 1);
        world.run(100);
    }
    world.run(500);
    let waited = world.longest_wait(&quick, 100);
    assert!(waited <= 500, "{waited} ms");
}

#[test]
fn a_long_backlog_of_a_quick_app_is_worked_off_at_the_store_s_speed() {
    let mut world = World::new([("a".to_owned(), App::Quick)]);
    world.put("a", 20_000);
    world.run(20_000 / STORE_SPEED as Millis + 200);
    assert_eq!(world.waits["a"].len(), 20_000);
    assert!(world.most_in_flight <= 64, "{}", world.most_in_flight);
}

#[test]
fn a_dead_app_gets_one_attempt_at_a_time_and_its_events_all_their_turns() {
    let mut world = World::new([("a".to_owned(), App::Hanging)]);
    world.put("a", 20);
    world.run(400_000);
    assert_eq!(world.most_in_flight, 1);
    let events = &world.store["a"].events;
    assert!(events.values().all(|event| event.1 >= 1), "{events:?}");
}

#[test]
fn nothing_is_attempted_for_a_merchant_without_an_address_until_it_has_one() {
    let mut rounds = Rounds::new(Ceilings::fitting(1_000));
    let now = Moment {
        wall: 5,
        elapsed: Duration::from_secs(1),
    };
    rounds.announce("a", 1, |_| false);
    assert!(rounds.choose_reads(now).is_empty());
    assert!(rounds.idle(now) > Duration::from_secs(1));
    assert_eq!(rounds.reconsider(|_| true), [("a".into(), true)]);
    assert_eq!(rounds.choose_reads(now).len(), 1);
}

fn an_app() -> impl Strategy<Value = App> {
    prop_oneof![
        Just(App::Quick),
        Just(App::Slow),
        Just(App::Rejecting),
        Just(App::Refusing),
        Just(App::Hanging),
        (0i64..8_000).prop_map(App::HangsFrom),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn quick_apps_wait_for_nobody_and_everybody_has_a_turn(
        apps in proptest::collection::vec(an_app(), 1..60),
        arrivals in proptest::collection::vec((0usize..60, 1usize..12, 0i64..200), 1..120),
        restart in 0i64..8_000,
    ) {
        let names: Vec<_> = (0..apps.len()).map(|n| format!("m{n}")).collect();
        let mut world = World::new(names.iter().cloned().zip(apps.iter().copied()));
        let mut restart = Some(restart);
        for (n, count, pause) in arrivals {
            world.put(&names[n % names.len()], count);
            world.run(pause);
            if restart.is_some_and(|at| at <= world.now) {
                restart = None;
                world.restart();
            }
        }
        world.run(1_000);
        for (name, app) in names.iter().zip(&apps) {
            if *app == App::Quick {
                let waits = world.waits.get(name).into_iter().flatten();
                prop_assert!(waits.copied().max().unwrap_or_default() <= 1_000);
                prop_assert!(world.store.get(name).is_none_or(|it| it.events.is_empty()));
            }
        }
        world.run(140_000);
        for (name, pending) in &world.store {
            let tried = pending.events.values().filter(|event| event.1 > 0).count();
            // A hanging app takes ten seconds for each.
            prop_assert!(tried >= pending.events.len().min(12), "{tried} of {name}");
        }
    }
}
