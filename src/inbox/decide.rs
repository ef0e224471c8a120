//! The decision about a result, by what is known of its order and its payment. Every store calls it, so that all decide
//! alike.

use super::event;
use super::event::{Event, EventState, ReviewReason, cents};
use super::review::Review;
use super::store::{Arrival, PutOutcome};
use crate::protocol::result::{PaymentResult, ResultCode};

/// Facts that are known before a result is kept.
pub(super) struct KnownHistory {
    /// The amount that was signed for this merchant's order, in cents.
    pub(super) signed: Option<i64>,
    /// True where another merchant has an order of this number.
    pub(super) is_anothers: bool,
    /// Earlier events of this payment.
    pub(super) events: Vec<KnownEvent>,
}

/// An earlier event of the same payment.
pub(super) struct KnownEvent {
    pub(super) id: String,
    pub(super) orderid: String,
    pub(super) resultcode: String,
    pub(super) state: EventState,
    pub(super) review: Option<ReviewReason>,
}

/// The decision about a result.
pub(super) enum Decision {
    /// Nothing is written.
    KnownHistory(PutOutcome),
    /// An event is kept.
    NewEvent(NewEvent),
}

/// An event that is to be kept.
pub(super) struct NewEvent {
    pub(super) id: String,
    /// True where the order is in the ledger, with this amount.
    pub(super) matched: bool,
    pub(super) state: EventState,
    pub(super) review: Option<ReviewReason>,
    /// True where the order is not queried any more.
    pub(super) closes_order: bool,
}

impl NewEvent {
    /// Returns true where undelivered events of the same payment and result need the same review.
    pub(super) fn holds_others(&self) -> bool {
        self.state == EventState::Disputed
    }

    /// Returns the outcome once it is kept.
    pub(super) fn kept(self) -> PutOutcome {
        let Self {
            id, state, review, ..
        } = self;
        match review {
            Some(reason) => PutOutcome::Disputed {
                id,
                new: true,
                reason,
            },
            None => PutOutcome::Kept { id, state },
        }
    }
}

/// Decides about a result.
pub(super) fn judge(outcome: &PaymentResult, known: &KnownHistory) -> Decision {
    // A merchant's key is proof for that merchant's orders alone; the same number may exist at both, hence the first
    // condition.
    if known.signed.is_none() && known.is_anothers {
        return Decision::KnownHistory(PutOutcome::Foreign);
    }
    let id = event::id(outcome);
    // Before any review: a repeat of what an operator released or discarded must not be judged again.
    if let Some(same) = known.events.iter().find(|event| event.id == id) {
        return Decision::KnownHistory(match same.state {
            EventState::Disputed => PutOutcome::Disputed {
                id,
                new: false,
                reason: same.review.unwrap_or(ReviewReason::OtherResult),
            },
            state => PutOutcome::Repeated { id, state },
        });
    }
    let matched = known.signed == Some(cents(outcome.amount));
    let review = review(outcome, known, matched);
    // After 1002 the queries go on, since the notification of the settlement can be lost like any other; after 1003 too,
    // since the customer can pay at the next try.
    let is_paid = ResultCode::parse(&outcome.resultcode) == Some(ResultCode::Paid);
    Decision::NewEvent(NewEvent {
        id,
        matched,
        // Never delivered from here: only an operator's decision makes such an event pending (I2).
        state: if review.is_some() {
            EventState::Disputed
        } else {
            EventState::Pending
        },
        review,
        closes_order: is_paid && review.is_none(),
    })
}

fn review(outcome: &PaymentResult, known: &KnownHistory, matched: bool) -> Option<ReviewReason> {
    let mut earlier = known.events.iter();
    // An earlier result that the ledger disproves does not speak against one that it confirms.
    let contradicts = |event: &KnownEvent| {
        event.resultcode == outcome.resultcode && !(matched && event.orderid == outcome.orderid)
    };
    if known.signed.is_some() && !matched {
        return Some(ReviewReason::OtherAmount);
    }
    if earlier.any(contradicts) {
        return Some(ReviewReason::OtherResult);
    }
    let failed = ResultCode::parse(&outcome.resultcode) == Some(ResultCode::Failed);
    let was_paid = |event: &KnownEvent| {
        ResultCode::parse(&event.resultcode) == Some(ResultCode::Paid)
            && !matches!(event.state, EventState::Disputed | EventState::Discarded)
    };
    (failed && known.events.iter().any(was_paid)).then_some(ReviewReason::FailedAfterPaid)
}

/// Returns the rank of a result among the states of one payment: 1001 < 1003 < 1002 < 0000. Others, such as 1004, have no
/// rank.
pub(super) fn rank(resultcode: &str) -> Option<u8> {
    match ResultCode::parse(resultcode)? {
        ResultCode::NotPaid => Some(1),
        ResultCode::Failed => Some(2),
        ResultCode::Processing => Some(3),
        ResultCode::Paid => Some(4),
        ResultCode::Investigation => None,
    }
}

/// Returns true where a delivered state of the same payment ranks above this one.
pub(super) fn is_superseded<'d>(
    resultcode: &str,
    delivered: impl IntoIterator<Item = &'d str>,
) -> bool {
    let Some(own) = rank(resultcode) else {
        return false;
    };
    delivered.into_iter().filter_map(rank).any(|it| it > own)
}

/// Builds the event of a result.
pub(super) fn event_of_result(outcome: &PaymentResult, new: &NewEvent, arrival: Arrival) -> Event {
    Event {
        id: new.id.clone(),
        merid: outcome.merid.clone(),
        orderid: outcome.orderid.clone(),
        queryid: outcome.queryid.clone(),
        resultcode: outcome.resultcode.clone(),
        amount: outcome.amount,
        json: outcome.json.clone(),
        raw: None,
        source: arrival.source,
        matched: new.matched,
        state: new.state,
        review: new.review,
        field: String::new(),
        waits: arrival.waits,
        received_at: arrival.at,
        offered_since: arrival.at,
        next_attempt: arrival.at,
        attempts: 0,
        last_attempt: String::new(),
    }
}

/// Builds the event of a payload that cannot be read as a result.
pub(super) fn event_of_review(review: &Review) -> Event {
    let text = std::str::from_utf8(&review.payload).ok();
    // PostgreSQL keeps no NUL in a text.
    let text = text.filter(|text| !text.contains('\0'));
    Event {
        id: event::review_id(&review.merid, &review.payload),
        merid: review.merid.clone(),
        orderid: review.orderid.clone(),
        queryid: review.queryid.clone(),
        resultcode: String::new(),
        amount: 0,
        json: text.map_or_else(
            || String::from_utf8_lossy(&review.payload).replace('\0', "\u{fffd}"),
            str::to_owned,
        ),
        raw: text.is_none().then(|| review.payload.clone()),
        source: review.source,
        matched: false,
        state: EventState::Disputed,
        review: Some(review.reason),
        field: review.field.clone(),
        waits: None,
        received_at: review.at,
        offered_since: review.at,
        next_attempt: review.at,
        attempts: 0,
        last_attempt: String::new(),
    }
}
