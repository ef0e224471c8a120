//! What a result is, by what is known of its order and its payment. Every store asks here, so that they all decide
//! alike.

use super::event;
use super::event::State;
use super::store::Put;
use crate::protocol::result::{Outcome, ResultCode};

/// What is known before a result is kept.
pub(super) struct Known {
    /// The amount that was signed for this merchant's order, in cents.
    pub(super) signed: Option<i64>,
    /// Another merchant has an order of this number.
    pub(super) is_anothers: bool,
    /// What was told of this payment and this result before.
    pub(super) told: Vec<Story>,
}

/// One event about the same payment and the same result.
pub(super) struct Story {
    pub(super) id: String,
    pub(super) orderid: String,
    pub(super) state: State,
}

/// What is to become of a result.
pub(super) enum Verdict {
    /// There is nothing to write.
    Known(Put),
    /// An event is to be kept.
    New(New),
}

/// An event that is to be kept.
pub(super) struct New {
    pub(super) id: String,
    /// The order is in the ledger, with this amount.
    pub(super) matched: bool,
    pub(super) state: State,
    /// The order is not asked about any more.
    pub(super) closes_order: bool,
}

impl New {
    /// Other stories of this payment that the app has not heard yet wait for the same person.
    pub(super) fn holds_others(&self) -> bool {
        self.state == State::Disputed
    }

    /// What is said of it once it is kept.
    pub(super) fn kept(self) -> Put {
        let Self { id, state, .. } = self;
        match state {
            State::Disputed => Put::Disputed { id, new: true },
            _ => Put::Kept { id, state },
        }
    }
}

/// Decides.
pub(super) fn judge(outcome: &Outcome, known: &Known, deliverable: bool) -> Verdict {
    if known.signed.is_none() && known.is_anothers {
        return Verdict::Known(Put::Foreign);
    }
    let matched = known.signed == Some(cents(outcome.amount));
    let id = event::id(outcome);
    if let Some(same) = known.told.iter().find(|story| story.id == id) {
        return Verdict::Known(match same.state {
            State::Disputed => Put::Disputed { id, new: false },
            state => Put::Repeated { id, state },
        });
    }
    // A story that the ledger disproves does not speak against one that it confirms.
    let contradicted = known
        .told
        .iter()
        .any(|story| !(matched && story.orderid == outcome.orderid));
    let disputed = contradicted || (known.signed.is_some() && !matched);
    let is_final = ResultCode::parse(&outcome.resultcode).is_some_and(ResultCode::is_final);
    Verdict::New(New {
        id,
        matched,
        state: match (disputed, deliverable) {
            (true, _) => State::Disputed,
            (false, true) => State::Pending,
            (false, false) => State::Parked,
        },
        closes_order: is_final && !disputed,
    })
}

/// An amount as databases take it.
pub(super) fn cents(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
