//! What must hold, whatever happened: the promises about results, as far as a store and its decisions can break them.

use std::collections::{BTreeMap, BTreeSet};

use crate::inbox::event::{Event, EventState};
use crate::time::Millis;

/// What is known of one event from the outside.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) payment: usize,
    pub(super) resultcode: String,
    pub(super) payload: String,
    pub(super) received_at: Millis,
    pub(super) state: EventState,
    pub(super) attempts: usize,
    pub(super) decisions: usize,
}

/// An order, as far as the sidecar has to remember it.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownOrder {
    /// A try of it may have reached the platform.
    pub(super) was_sent: bool,
    /// A result that says paid was acknowledged.
    pub(super) is_paid: bool,
    /// A day passed since its newest try, so it is queried no more.
    pub(super) is_given_up: bool,
}

/// What happened in the step that is being judged, as far as it permits something.
#[derive(Debug, Clone, Default)]
pub(super) struct Permitted {
    /// Events that were acknowledged for the first time.
    pub(super) kept: BTreeSet<String>,
    /// Events that the app took.
    pub(super) taken: BTreeSet<String>,
    /// Events whose last attempt came after the time for attempts.
    pub(super) given_up: BTreeSet<String>,
    /// The event that an operator decided about, and its new state.
    pub(super) decided: Option<(String, EventState)>,
    /// What was received before this may be dropped.
    pub(super) forget_before: Option<Millis>,
}

/// The model.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) events: BTreeMap<String, Known>,
    pub(super) orders: BTreeMap<usize, KnownOrder>,
    /// Payments about which the platform told two things.
    pub(super) misstated: BTreeSet<usize>,
    /// Something was dropped, so that what is missing proves nothing.
    pub(super) has_forgotten: bool,
}

/// One event as the store shows it, with the lengths of its histories.
pub(super) struct Stored {
    pub(super) event: Event,
    pub(super) attempts: usize,
    pub(super) decisions: usize,
}

impl Model {
    /// Judges the store after a step.
    pub(super) fn judge(
        &mut self,
        stored: Vec<Stored>,
        permitted: &Permitted,
    ) -> Result<(), String> {
        let ids: BTreeSet<_> = stored.iter().map(|it| it.event.id.clone()).collect();
        for (id, known) in &self.events {
            let may_go = permitted.forget_before.is_some_and(|before| {
                let is_done = [EventState::Delivered, EventState::Discarded].contains(&known.state);
                is_done && known.received_at < before
            });
            if !ids.contains(id) && !may_go {
                return Err(format!("I1: an acknowledged result is gone: {known:?}"));
            }
        }
        self.events.retain(|id, _| ids.contains(id));
        for it in stored {
            self.judge_event(it, permitted)?;
        }
        Ok(())
    }

    fn judge_event(&mut self, stored: Stored, permitted: &Permitted) -> Result<(), String> {
        let Stored {
            event,
            attempts,
            decisions,
        } = stored;
        let is_misstated = |known: &Known| self.misstated.contains(&known.payment);
        let Some(known) = self.events.get(&event.id) else {
            return Err(format!("I2: an event that nobody notified: {event:?}"));
        };
        if event.json != known.payload {
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
        if attempts < known.attempts {
            return Err(format!(
                "history: {} attempts are {attempts}",
                known.attempts
            ));
        }
        let is_decided = permitted
            .decided
            .as_ref()
            .is_some_and(|(id, _)| *id == event.id);
        if decisions != known.decisions + usize::from(is_decided) {
            return Err(format!(
                "history: {} decisions and {} more are {decisions}",
                known.decisions,
                usize::from(is_decided)
            ));
        }
        let is_new = permitted.kept.contains(&event.id);
        let is_permitted = event.state == known.state
            || match (known.state, event.state) {
                (_, EventState::Disputed) => is_misstated(known),
                (EventState::Pending, EventState::Delivered) => permitted.taken.contains(&event.id),
                (EventState::Pending, EventState::Parked) => permitted.given_up.contains(&event.id),
                _ => false,
            }
            || permitted.decided == Some((event.id.clone(), event.state));
        if !is_permitted || (is_new && event.state == EventState::Parked) {
            return Err(format!(
                "I4: from {} to {} without a reason: {known:?}",
                known.state.name(),
                event.state.name()
            ));
        }
        let (state, id) = (event.state, event.id);
        self.events.entry(id).and_modify(|known| {
            known.state = state;
            known.attempts = attempts;
            known.decisions = decisions;
        });
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
            let is_taken = other.payment == event.payment && other.state == EventState::Delivered;
            let ranks = (rank(&event.resultcode), rank(&other.resultcode));
            is_taken && matches!(ranks, (Some(own), Some(other)) if other > own)
        })
    }

    /// Returns true where results still wait for the app.
    pub(super) fn has_pending(&self) -> bool {
        self.events
            .values()
            .any(|known| known.state == EventState::Pending)
    }

    /// Judges which orders are still queried.
    pub(super) fn judge_orders(&self, open: &BTreeSet<usize>) -> Result<(), String> {
        for (order, known) in &self.orders {
            let is_due = known.was_sent && !known.is_paid && !known.is_given_up;
            if is_due && !self.has_forgotten && !open.contains(order) {
                return Err(format!(
                    "tries: order {order} may be paid, and is not queried any more"
                ));
            }
        }
        Ok(())
    }

    /// Judges a store that had all the time it needs, and an app that takes everything.
    pub(super) fn judge_end(&self) -> Result<(), String> {
        for (id, known) in &self.events {
            let is_honest = !self.misstated.contains(&known.payment);
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
