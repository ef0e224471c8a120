//! What a result is, by what is known of its order and its payment. Every store asks here, so that they all decide
//! alike.

use super::event;
use super::event::EventState;
use super::store::PutOutcome;
use crate::protocol::result::{PaymentResult, ResultCode};

/// What is known before a result is kept.
pub(super) struct KnownHistory {
    /// The amount that was signed for this merchant's order, in cents.
    pub(super) signed: Option<i64>,
    /// Another merchant has an order of this number.
    pub(super) is_anothers: bool,
    /// What was told of this payment and this result before.
    pub(super) told: Vec<KnownEvent>,
}

/// One event about the same payment and the same result.
pub(super) struct KnownEvent {
    pub(super) id: String,
    pub(super) orderid: String,
    pub(super) state: EventState,
}

/// What is to become of a result.
pub(super) enum Decision {
    /// There is nothing to write.
    KnownHistory(PutOutcome),
    /// An event is to be kept.
    NewEvent(NewEvent),
}

/// An event that is to be kept.
pub(super) struct NewEvent {
    pub(super) id: String,
    /// The order is in the ledger, with this amount.
    pub(super) matched: bool,
    pub(super) state: EventState,
    /// The order is not asked about any more.
    pub(super) closes_order: bool,
}

impl NewEvent {
    /// Other stories of this payment that the app has not heard yet wait for the same person.
    pub(super) fn holds_others(&self) -> bool {
        self.state == EventState::Disputed
    }

    /// What is said of it once it is kept.
    pub(super) fn kept(self) -> PutOutcome {
        let Self { id, state, .. } = self;
        match state {
            EventState::Disputed => PutOutcome::Disputed { id, new: true },
            _ => PutOutcome::Kept { id, state },
        }
    }
}

/// Decides.
pub(super) fn judge(outcome: &PaymentResult, known: &KnownHistory, deliverable: bool) -> Decision {
    if known.signed.is_none() && known.is_anothers {
        return Decision::KnownHistory(PutOutcome::Foreign);
    }
    let matched = known.signed == Some(cents(outcome.amount));
    let id = event::id(outcome);
    if let Some(same) = known.told.iter().find(|story| story.id == id) {
        return Decision::KnownHistory(match same.state {
            EventState::Disputed => PutOutcome::Disputed { id, new: false },
            state => PutOutcome::Repeated { id, state },
        });
    }
    // A story that the ledger disproves does not speak against one that it confirms.
    let contradicted = known
        .told
        .iter()
        .any(|story| !(matched && story.orderid == outcome.orderid));
    let disputed = contradicted || (known.signed.is_some() && !matched);
    let is_final = ResultCode::parse(&outcome.resultcode).is_some_and(ResultCode::is_final);
    Decision::NewEvent(NewEvent {
        id,
        matched,
        state: match (disputed, deliverable) {
            (true, _) => EventState::Disputed,
            (false, true) => EventState::Pending,
            (false, false) => EventState::Parked,
        },
        closes_order: is_final && !disputed,
    })
}

/// An amount as databases take it.
pub(super) fn cents(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
