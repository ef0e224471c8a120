//! The order in which pending events are attempted: rounds over merchants, so that a failing app delays no healthy one.
//!
//! A pure data structure. It reads no clock, store or socket: the dispatcher feeds it with due events and the ends of
//! attempts, and gets from it what to read and what to attempt next. It keeps ids, never whole events, and a few of them
//! a merchant, whatever the backlog.
//!
//! A merchant is *proven* while its app takes results quickly, *failing* once its app is down or rejects several in a
//! row, and *unproven* before and between. Each standing has a ceiling of its own on attempts in flight, so that the
//! failing ones cannot use up what the others need. An attempt that outlasts [`AGED_AFTER`] counts against the ceiling
//! for aged attempts instead: an app that begins to hang holds no places that a quick one could use.

pub mod merchant_queue;

pub mod limits;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::inbox::attempt::{DueEvent, DueMerchant};
use crate::time::Millis;
use limits::{Ceilings, Moment, PACE_PAUSE, Pace};
use merchant_queue::{Landing, MerchantQueue, Standing, StandingChange};

/// An attempt that lasts longer than this no longer counts against its merchant's standing.
const AGED_AFTER: Duration = Duration::from_millis(250);
/// Places of a batch that failing merchants get before the others fill it.
const FAILING_SHARE: usize = 8;
/// Merchants whose events are read from the store at once.
const READ_AT_ONCE: usize = 256;

type Merid = Arc<str>;

/// One attempt in flight, from the choice of its event until its end is in the store.
struct Flying {
    merid: Merid,
    /// The ceiling that it counts against.
    counts: Counted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    By(Standing),
    Aged,
    /// The attempt is over; its record is being written.
    Nowhere,
}

/// The events that are to be attempted, and those that are.
pub struct Rounds {
    ceilings: Ceilings,
    merchants: HashMap<Merid, MerchantQueue>,
    /// Merchants with queued events and room, by standing; each gets one attempt a round.
    rings: [VecDeque<Merid>; 3],
    /// Unproven merchants whose first attempt comes before those of the others: a fresh result must not wait behind the
    /// backlog of ten thousand apps that were never tried. Each merchant passes them once.
    newcomers: VecDeque<Merid>,
    /// Merchants whose events are to be read, and from when on.
    reads: BTreeSet<(Millis, Merid)>,
    flying: HashMap<String, Flying>,
    /// Attempts in the order of their beginnings, until they age.
    young: VecDeque<(Duration, String)>,
    in_flight: [usize; 3],
    aged: usize,
    unrecorded: usize,
    pace: Pace,
}

/// Attempts whose ends are not in the store yet, at most: a store that does not write must not be outrun.
pub(super) const UNRECORDED: usize = 1024;

impl Rounds {
    /// Nothing is known yet.
    pub fn new(ceilings: Ceilings) -> Self {
        Self {
            ceilings,
            merchants: HashMap::new(),
            rings: Default::default(),
            newcomers: VecDeque::new(),
            reads: BTreeSet::new(),
            flying: HashMap::new(),
            young: VecDeque::new(),
            in_flight: [0; 3],
            aged: 0,
            unrecorded: 0,
            pace: Pace::new(),
        }
    }

    /// Takes in which merchants have due events, each with its longest due. That it was attempted before says nothing of
    /// the app: an operator may have replayed it.
    ///
    /// Returns the merchants to which nothing can be delivered.
    pub fn survey(
        &mut self,
        due: Vec<DueMerchant>,
        now: Moment,
        deliverable: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut out_of_reach = Vec::new();
        for merchant in due {
            let Some(first) = merchant.events.first() else {
                continue;
            };
            let merid = self.merid(&merchant.merid, Standing::Unproven, &deliverable);
            // The store shows an event in flight as pending, and a read for its sake would find nothing new.
            if !self.flying.contains_key(&first.id) {
                self.expect(&merid, now.wall);
            }
            if !self.is_deliverable(&merid) {
                out_of_reach.push(merchant.merid);
            }
        }
        out_of_reach
    }

    /// Notes what an earlier run knew: the app of this merchant was failing.
    pub fn remember_failing(&mut self, merid: &str, deliverable: impl Fn(&str) -> bool) {
        self.merid(merid, Standing::Failing, &deliverable);
    }

    /// Notes that a merchant has an event that is due at `at`. Returns true where it can be delivered.
    pub fn announce(
        &mut self,
        merid: &str,
        at: Millis,
        deliverable: impl Fn(&str) -> bool,
    ) -> bool {
        let merid = self.merid(merid, Standing::Unproven, &deliverable);
        let mut at = at;
        if let Some(merchant) = self.merchants.get_mut(&merid)
            && merchant.standing == Standing::Unproven
            && !merchant.was_tried
        {
            merchant.is_newcomer = true;
            // Before all reads that are due: a time is only an order here.
            at = at.min(0);
            if merchant.ring.is_some() {
                self.newcomers.push_back(merid.clone());
            }
        }
        self.expect(&merid, at);
        self.is_deliverable(&merid)
    }

    fn is_deliverable(&self, merid: &str) -> bool {
        self.merchants.get(merid).is_some_and(|it| it.deliverable)
    }

    /// Asks again for each merchant whether results can be delivered to it. Returns those for which that has changed.
    pub fn reconsider(&mut self, deliverable: impl Fn(&str) -> bool) -> Vec<(Arc<str>, bool)> {
        let mut changed = Vec::new();
        for (merid, merchant) in &mut self.merchants {
            let is_so = deliverable(merid);
            if merchant.deliverable != is_so {
                merchant.deliverable = is_so;
                changed.push((merid.clone(), is_so));
            }
        }
        for (merid, _) in &changed {
            self.settle(merid);
        }
        changed
    }

    /// The merchants whose earliest events are to be read now, and how many of each; `found` takes what was read.
    pub fn choose_reads(&mut self, now: Moment) -> Vec<(String, u32)> {
        let mut wanted = Vec::new();
        while wanted.len() < READ_AT_ONCE
            && let Some((at, _)) = self.reads.first()
            && *at <= now.wall
            && let Some((_, merid)) = self.reads.pop_first()
            && let Some(merchant) = self.merchants.get_mut(&merid)
        {
            merchant.read_at = None;
            merchant.more_at = None;
            let count = u32::try_from(merchant.wanted()).unwrap_or(u32::MAX);
            wanted.push((merid.to_string(), count));
        }
        wanted
    }

    /// Takes in what was read for `wanted`, the longest due first for each merchant.
    pub fn found(&mut self, wanted: &[(String, u32)], due: Vec<DueMerchant>, now: Moment) {
        let limits: HashMap<&str, u32> = wanted
            .iter()
            .map(|(merid, limit)| (merid.as_str(), *limit))
            .collect();
        for DueMerchant {
            merid,
            events,
            next_at,
        } in due
        {
            let Some((merid, _)) = self.merchants.get_key_value(merid.as_str()) else {
                continue;
            };
            let merid = merid.clone();
            let is_all = limits
                .get(&*merid)
                .is_none_or(|limit| events.len() < *limit as usize);
            if let Some(merchant) = self.merchants.get_mut(&merid) {
                let flying = &self.flying;
                let queued: HashSet<_> = merchant.queued.iter().map(|it| it.id.clone()).collect();
                let is_new = |event: &DueEvent| {
                    !flying.contains_key(&event.id) && !queued.contains(&event.id)
                };
                merchant.queued.extend(events.into_iter().filter(is_new));
            }
            if !is_all {
                // Behind the others: a long backlog waits its turn for each read, too.
                self.expect(&merid, now.wall);
            }
            if let Some(next_at) = next_at {
                self.expect(&merid, next_at);
            }
            self.settle(&merid);
        }
    }

    /// Chooses the events that are attempted next, at most `most`, and counts them as in flight.
    pub fn next(&mut self, now: Moment, most: usize) -> Vec<DueEvent> {
        self.age(now.elapsed);
        self.pace.refill(now.elapsed);
        let most = most.min(UNRECORDED.saturating_sub(self.unrecorded));
        let mut batch = Vec::new();
        // First, or healthy merchants with a steady stream would leave the failing ones no place in any batch.
        while batch.len() < most.min(FAILING_SHARE)
            && let Some(event) = self.next_of(Standing::Failing, now)
        {
            batch.push(event);
        }
        // The others in turn, so that neither a crowd of new merchants nor a long backlog holds up the rest.
        let mut dry = 0;
        for standing in [Standing::Proven, Standing::Unproven].into_iter().cycle() {
            if batch.len() >= most || dry == 2 {
                break;
            }
            match self.next_of(standing, now) {
                Some(event) => {
                    batch.push(event);
                    dry = 0;
                }
                None => dry += 1,
            }
        }
        while batch.len() < most
            && let Some(event) = self.next_of(Standing::Failing, now)
        {
            batch.push(event);
        }
        batch
    }

    fn next_of(&mut self, standing: Standing, now: Moment) -> Option<DueEvent> {
        let slot = standing as usize;
        if self.in_flight[slot] >= self.ceilings.of(standing) {
            return None;
        }
        if standing == Standing::Failing && !self.pace.is_open() {
            return None;
        }
        loop {
            let newcomer = match standing {
                Standing::Unproven => self.newcomers.pop_front(),
                _ => None,
            };
            let merid = newcomer.or_else(|| self.rings[slot].pop_front())?;
            let Some(merchant) = self.merchants.get_mut(&merid) else {
                continue;
            };
            // A merchant that has changed rings left its old place behind.
            if merchant.ring != Some(standing) {
                continue;
            }
            merchant.ring = None;
            let Some(event) = merchant.queued.pop_front() else {
                continue;
            };
            merchant.in_flight += 1;
            merchant.is_newcomer = false;
            merchant.was_tried = true;
            self.in_flight[slot] += 1;
            if standing == Standing::Failing {
                self.pace.spend();
            }
            // In the order of time, because `elapsed` never goes back: `age` looks at the front alone.
            self.young.push_back((now.elapsed, event.id.clone()));
            let flying = Flying {
                merid: merid.clone(),
                counts: Counted::By(standing),
            };
            self.flying.insert(event.id.clone(), flying);
            self.settle(&merid);
            return Some(event);
        }
    }

    /// Notes the end of an attempt. Its event is not chosen again before [`Rounds::recorded`].
    ///
    /// Returns the change, where the merchant's app began to fail or to work with this.
    pub fn landed(
        &mut self,
        id: &str,
        landing: Landing,
        took: Duration,
        why: String,
    ) -> Option<(Arc<str>, StandingChange)> {
        let flying = self.flying.get_mut(id)?;
        let counted = std::mem::replace(&mut flying.counts, Counted::Nowhere);
        let merid = flying.merid.clone();
        self.uncount(counted, &merid);
        self.unrecorded += 1;
        // `learn` comes before `settle`, which puts the merchant into the ring of its new standing.
        let merchant = self.merchants.get_mut(&merid)?;
        merchant.unrecorded += 1;
        let was_failing = merchant.standing == Standing::Failing;
        merchant.learn(landing, took);
        let is_failing = merchant.standing == Standing::Failing;
        self.settle(&merid);
        match (was_failing, is_failing) {
            (false, true) => Some((merid, StandingChange::Failing(why))),
            (true, false) => Some((merid, StandingChange::Working)),
            _ => None,
        }
    }

    /// Notes that an attempt's end is in the store; `next` is when its event is due again, if it still is pending.
    pub fn recorded(&mut self, id: &str, next: Option<Millis>) {
        let Some(merid) = self.forget(id) else {
            return;
        };
        if let Some(next) = next {
            self.expect(&merid, next);
        }
        self.settle(&merid);
    }

    /// Takes back the choice of an event that turned out to be another sidecar's, or no longer pending.
    pub fn withdrawn(&mut self, id: &str) {
        if let Some(merid) = self.forget(id) {
            self.settle(&merid);
        }
    }

    /// The time until there is something to do without news from outside.
    pub fn idle(&self, now: Moment) -> Duration {
        if self.unrecorded < UNRECORDED {
            if self.is_open(Standing::Proven) || self.is_open(Standing::Unproven) {
                return Duration::ZERO;
            }
            if self.is_open(Standing::Failing) {
                return match self.pace.is_open() {
                    true => Duration::ZERO,
                    false => PACE_PAUSE,
                };
            }
        }
        let until = self.reads.first().map_or(Millis::MAX, |(at, _)| *at);
        let until_read = u64::try_from(until.saturating_sub(now.wall)).unwrap_or_default();
        // Without room for aged attempts the front stays where it is until one of them ends, and that is news.
        let can_age = self.aged < self.ceilings.aged;
        let oldest = self.young.front().filter(|_| can_age);
        let until_aged = oldest.map_or(Duration::MAX, |(began, _)| {
            (*began + AGED_AFTER).saturating_sub(now.elapsed)
        });
        Duration::from_millis(until_read).min(until_aged)
    }

    fn is_open(&self, standing: Standing) -> bool {
        let slot = standing as usize;
        let is_waiting = !self.rings[slot].is_empty()
            || (standing == Standing::Unproven && !self.newcomers.is_empty());
        is_waiting && self.in_flight[slot] < self.ceilings.of(standing)
    }

    /// Attempts without a response so far.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.iter().sum::<usize>() + self.aged
    }

    /// The merchant's own entry, made where it is missing.
    fn merid(
        &mut self,
        merid: &str,
        standing: Standing,
        deliverable: &impl Fn(&str) -> bool,
    ) -> Merid {
        if let Some((known, _)) = self.merchants.get_key_value(merid) {
            return known.clone();
        }
        let new: Merid = merid.into();
        let queue = MerchantQueue::new(standing, deliverable(merid));
        self.merchants.insert(new.clone(), queue);
        new
    }

    /// Notes that the store has an event of this merchant that is due at `at`.
    fn expect(&mut self, merid: &Merid, at: Millis) {
        if let Some(merchant) = self.merchants.get_mut(merid) {
            merchant.more_at = Some(merchant.more_at.map_or(at, |known| known.min(at)));
        }
        self.settle(merid);
    }

    /// Puts a merchant into the ring and the reads that it belongs to after a change.
    fn settle(&mut self, merid: &Merid) {
        let Some(merchant) = self.merchants.get_mut(merid) else {
            return;
        };
        let ring = merchant.is_ready().then_some(merchant.standing);
        if ring != merchant.ring {
            merchant.ring = ring;
            match ring {
                Some(Standing::Unproven) if merchant.is_newcomer => {
                    self.newcomers.push_back(merid.clone());
                }
                Some(standing) => self.rings[standing as usize].push_back(merid.clone()),
                None => {}
            }
        }
        let read_at = merchant.more_at.filter(|_| merchant.wants_more());
        if read_at != merchant.read_at {
            if let Some(before) = merchant.read_at {
                self.reads.remove(&(before, merid.clone()));
            }
            merchant.read_at = read_at;
            if let Some(at) = read_at {
                self.reads.insert((at, merid.clone()));
            }
        }
    }

    /// Moves attempts that last long to their own ceiling, while there is room below it.
    fn age(&mut self, elapsed: Duration) {
        while let Some((began, id)) = self.young.front() {
            let Some(flying) = self.flying.get_mut(id) else {
                self.young.pop_front();
                continue;
            };
            let Counted::By(standing) = flying.counts else {
                self.young.pop_front();
                continue;
            };
            if elapsed < *began + AGED_AFTER || self.aged >= self.ceilings.aged {
                return;
            }
            flying.counts = Counted::Aged;
            self.in_flight[standing as usize] -= 1;
            self.aged += 1;
            if let Some(merchant) = self.merchants.get_mut(&flying.merid) {
                merchant.aged += 1;
            }
            self.young.pop_front();
        }
    }

    fn uncount(&mut self, counted: Counted, merid: &Merid) {
        let merchant = self.merchants.get_mut(merid);
        match (counted, merchant) {
            (Counted::By(standing), Some(merchant)) => {
                self.in_flight[standing as usize] -= 1;
                merchant.in_flight -= 1;
            }
            (Counted::Aged, Some(merchant)) => {
                self.aged -= 1;
                merchant.aged -= 1;
                merchant.in_flight -= 1;
            }
            _ => {}
        }
    }

    fn forget(&mut self, id: &str) -> Option<Merid> {
        let flying = self.flying.remove(id)?;
        match flying.counts {
            Counted::Nowhere => {
                self.unrecorded -= 1;
                if let Some(merchant) = self.merchants.get_mut(&flying.merid) {
                    merchant.unrecorded -= 1;
                }
            }
            counted => self.uncount(counted, &flying.merid),
        }
        Some(flying.merid)
    }
}
