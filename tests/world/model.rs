//! The invariants: the promises about results, as far as a store and its decisions can break them.

use std::collections::{BTreeMap, BTreeSet};

use crate::inbox::event::{Event, EventState};
use crate::time::Millis;

/// Time for which an event is attempted.
pub(super) const RETRY_FOR: Millis = 72 * 60 * 60_000;
/// Time for which what is done is kept.
pub(super) const KEEP: Millis = 30 * 24 * 60 * 60_000;
/// Time for which an order without a result is queried.
const QUERIED_FOR: Millis = 24 * 60 * 60_000;
/// Changes of a clock that count as no jump may add up to this in one history.
pub(super) const SLACK: Millis = 60 * 60_000;

/// The knowledge of one event from outside. Times are the model's trusted ones, but for `received_at`.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) merid: String,
    /// The platform's number of the payment.
    pub(super) queryid: String,
    pub(super) resultcode: String,
    pub(super) payload: String,
    pub(super) received_at: Millis,
    /// It was acknowledged; before that it may be there or not.
    pub(super) is_acknowledged: bool,
    pub(super) kept: Millis,
    /// The time since which it is offered.
    pub(super) offered: Millis,
    /// A bit of its row was flipped.
    pub(super) is_damaged: bool,
    pub(super) state: EventState,
    pub(super) attempts: u32,
    pub(super) next_attempt: Millis,
    pub(super) decisions: usize,
}

/// An order, as far as the sidecar has to remember it.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownOrder {
    /// A try of it may have reached the platform.
    pub(super) was_sent: bool,
    /// A result that says paid was acknowledged.
    pub(super) is_paid: bool,
    /// A day has passed since the latest try; a clock that was confirmed later does not undo that.
    pub(super) is_given_up: bool,
    /// The trusted time of the first try, and of the latest.
    pub(super) signed: Option<Millis>,
    pub(super) tried: Millis,
}

/// The events of the step that is being judged, as far as they permit something.
#[derive(Debug, Clone, Default)]
pub(super) struct Permitted {
    /// A write failed, and may have been made or not.
    pub(super) is_unsure: bool,
    /// Events that the app took.
    pub(super) taken: BTreeSet<String>,
    /// The event that an operator decided about, and its new state.
    pub(super) decided: Option<(String, EventState)>,
    /// Something was dropped.
    pub(super) has_forgotten: bool,
}

/// The model.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) events: BTreeMap<String, Known>,
    pub(super) orders: BTreeMap<usize, KnownOrder>,
    /// Payments for which the platform notified two amounts, by queryid.
    pub(super) misstated: BTreeSet<String>,
    /// The trusted time.
    pub(super) now: Millis,
}

impl Model {
    /// Judges the store after a step, by all events that it shows.
    pub(super) fn judge(&mut self, stored: &[Event], permitted: &Permitted) -> Result<(), String> {
        let ids: BTreeSet<&str> = stored.iter().map(|it| it.id.as_str()).collect();
        for (id, known) in &self.events {
            let is_done = [EventState::Delivered, EventState::Discarded].contains(&known.state);
            let is_old = self.now - known.kept > KEEP - SLACK;
            let may_go = permitted.has_forgotten && is_done && is_old;
            if known.is_acknowledged && !ids.contains(id.as_str()) && !may_go {
                return Err(format!("I1: an acknowledged result is gone: {known:?}"));
            }
        }
        self.events.retain(|id, _| ids.contains(id.as_str()));
        for event in stored {
            self.judge_event(event, permitted)?;
        }
        Ok(())
    }

    fn judge_event(&mut self, event: &Event, permitted: &Permitted) -> Result<(), String> {
        let Some(known) = self.events.get(&event.id) else {
            return Err(format!("I2: an event that nobody notified: {event:?}"));
        };
        if event.json != known.payload && !known.is_damaged {
            return Err(format!(
                "I2: the payload changed: {} is {}",
                known.payload, event.json
            ));
        }
        if event.received_at != known.received_at {
            return Err(format!(
                "history: received_at was {} and is {}",
                known.received_at, event.received_at
            ));
        }
        if event.attempts < known.attempts && !known.is_damaged {
            return Err(format!(
                "history: {} attempts are {}",
                known.attempts, event.attempts
            ));
        }
        if !self.is_permitted(known, event, permitted) {
            return Err(format!(
                "I4: from {} to {} without a reason, at {}: {known:?}",
                known.state.name(),
                event.state.name(),
                self.now
            ));
        }
        let now = self.now;
        if let Some(known) = self.events.get_mut(&event.id) {
            known.state = event.state;
            known.attempts = event.attempts;
            known.next_attempt = event.next_attempt;
            let is_decided = permitted.decided.as_ref();
            if is_decided.is_some_and(|it| it.0 == event.id && it.1 == event.state) {
                known.offered = now;
            }
        }
        Ok(())
    }

    fn is_permitted(&self, known: &Known, event: &Event, permitted: &Permitted) -> bool {
        if event.state == known.state || permitted.decided == Some((event.id.clone(), event.state))
        {
            return true;
        }
        match (known.state, event.state) {
            (_, EventState::Disputed) => self.misstated.contains(&known.queryid),
            (EventState::Pending, EventState::Delivered) => permitted.taken.contains(&event.id),
            (EventState::Pending, EventState::Parked) => {
                known.is_damaged || self.now - known.offered > RETRY_FOR - SLACK
            }
            // It was taken while an operator decided otherwise, or another process had it.
            (EventState::Discarded | EventState::Parked, EventState::Delivered) => {
                permitted.taken.contains(&event.id)
            }
            _ => false,
        }
    }

    /// Judges the length of an event's histories.
    pub(super) fn judge_histories(
        &mut self,
        event: &Event,
        attempts: usize,
        decisions: usize,
        permitted: &Permitted,
    ) -> Result<(), String> {
        let Some(known) = self.events.get_mut(&event.id) else {
            return Ok(());
        };
        if attempts != event.attempts as usize && !known.is_damaged {
            return Err(format!(
                "history: {} attempts were made, {attempts} are kept",
                event.attempts
            ));
        }
        let is_decided = permitted
            .decided
            .as_ref()
            .is_some_and(|it| it.0 == event.id);
        let most = known.decisions + usize::from(is_decided);
        let least = if permitted.is_unsure {
            known.decisions
        } else {
            most
        };
        if !(least..=most).contains(&decisions) {
            return Err(format!(
                "history: {decisions} decisions are kept, expected {least} to {most}"
            ));
        }
        known.decisions = decisions;
        Ok(())
    }

    /// Returns true where the app has taken a later state of this event's payment.
    pub(super) fn is_superseded(&self, id: &str) -> bool {
        const RANKS: [&str; 4] = ["1001", "1003", "1002", "0000"];
        let rank = |code: &str| RANKS.iter().position(|it| *it == code);
        let Some(event) = self.events.get(id) else {
            return false;
        };
        self.events.values().any(|other| {
            let is_taken = other.queryid == event.queryid && other.state == EventState::Delivered;
            let ranks = (rank(&event.resultcode), rank(&other.resultcode));
            is_taken && matches!(ranks, (Some(own), Some(other)) if other > own)
        })
    }

    /// Returns true where results still wait for the app.
    pub(super) fn has_pending(&self) -> bool {
        let mut events = self.events.values();
        events.any(|known| known.state == EventState::Pending)
    }

    /// Judges which orders are still queried, and which are known.
    pub(super) fn judge_orders(
        &mut self,
        open: &BTreeSet<usize>,
        known_to_store: &BTreeSet<usize>,
        permitted: &Permitted,
    ) -> Result<(), String> {
        let now = self.now;
        let mut gone = Vec::new();
        for (order, known) in &mut self.orders {
            if !known.was_sent {
                continue;
            }
            known.is_given_up |= now - known.tried > QUERIED_FOR - SLACK;
            if !known.is_paid && !known.is_given_up && !open.contains(order) {
                return Err(format!(
                    "tries: order {order} may be paid, and is not queried any more, at {now}: {known:?}"
                ));
            }
            if !known_to_store.contains(order) {
                let age = known.signed.map_or(0, |signed| now - signed);
                if !permitted.has_forgotten || age <= KEEP - SLACK {
                    return Err(format!(
                        "retention: order {order} is gone at {now}: {known:?}"
                    ));
                }
                gone.push(*order);
            }
        }
        for order in gone {
            self.orders.remove(&order);
        }
        Ok(())
    }

    /// Judges a store that had all the time it needs, and an app that takes everything.
    pub(super) fn judge_end(&self) -> Result<(), String> {
        for (id, known) in &self.events {
            let is_honest = !self.misstated.contains(&known.queryid);
            if known.state == EventState::Pending
                || (is_honest && known.state == EventState::Disputed)
            {
                return Err(format!(
                    "I4: {id} is still {}: {known:?}",
                    known.state.name()
                ));
            }
        }
        Ok(())
    }
}
