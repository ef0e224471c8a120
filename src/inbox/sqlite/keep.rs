//! Results and payloads on their way into the file: the facts about their order and their payment, and what the decision
//! then asks for.

use rusqlite::{OptionalExtension, Transaction, params};

use super::row::{state, text};
use crate::inbox::decide::{
    Decision, KnownEvent, KnownHistory, event_of_result, event_of_review, judge,
};
use crate::inbox::event;
use crate::inbox::event::{Event, EventState, ReviewReason};
use crate::inbox::review::{REVIEWS_EACH, Review, ReviewOutcome};
use crate::inbox::store::{Arrival, PutOutcome};
use crate::protocol::result::PaymentResult;

/// Keeps a result as it is judged.
pub(super) fn put(
    transaction: &Transaction<'_>,
    outcome: &PaymentResult,
    arrival: Arrival,
) -> rusqlite::Result<PutOutcome> {
    let known = KnownHistory {
        signed: signed(transaction, outcome)?,
        is_anothers: is_anothers(transaction, outcome)?,
        events: known_events(transaction, outcome)?,
    };
    let new = match judge(outcome, &known) {
        Decision::KnownHistory(put) => return Ok(put),
        Decision::NewEvent(new) => new,
    };
    if new.holds_others() {
        // Even where there is no room for the new one: what contradicts it must not be delivered meanwhile.
        hold(transaction, outcome)?;
        if is_full(transaction, &outcome.merid)? {
            return Ok(PutOutcome::ReviewFull);
        }
    }
    insert(transaction, &event_of_result(outcome, &new, arrival))?;
    link(transaction, outcome)?;
    if new.closes_order {
        transaction
            .prepare_cached(
                "UPDATE orders SET next_look = NULL, urgent = 0 WHERE merid = ?1 AND orderid = ?2",
            )?
            .execute(params![outcome.merid, outcome.orderid])?;
    }
    Ok(new.kept())
}

/// Keeps a payload for review.
pub(super) fn put_for_review(
    transaction: &Transaction<'_>,
    review: &Review,
) -> rusqlite::Result<ReviewOutcome> {
    let event = event_of_review(review);
    let known = transaction
        .prepare_cached("SELECT state FROM events WHERE id = ?1")?
        .query_row([&event.id], |row| state(row, 0))
        .optional()?;
    if let Some(state) = known {
        return Ok(ReviewOutcome::Repeated {
            id: event.id,
            state,
        });
    }
    if is_full(transaction, &event.merid)? {
        return Ok(ReviewOutcome::Full);
    }
    insert(transaction, &event)?;
    Ok(ReviewOutcome::Kept { id: event.id })
}

fn signed(transaction: &Transaction<'_>, outcome: &PaymentResult) -> rusqlite::Result<Option<i64>> {
    transaction
        .prepare_cached("SELECT amount FROM orders WHERE merid = ?1 AND orderid = ?2")?
        .query_row(params![outcome.merid, outcome.orderid], |row| row.get(0))
        .optional()
}

fn is_anothers(transaction: &Transaction<'_>, outcome: &PaymentResult) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT 1 FROM orders WHERE orderid = ?1 AND merid <> ?2")?
        .exists(params![outcome.orderid, outcome.merid])
}

fn known_events(
    transaction: &Transaction<'_>,
    outcome: &PaymentResult,
) -> rusqlite::Result<Vec<KnownEvent>> {
    transaction
        .prepare_cached(
            // `0000` as well as the result's own code: a failure after it needs review.
            "SELECT id, orderid, resultcode, state, review FROM events INDEXED BY events_payment
            WHERE merid = ?1 AND queryid = ?2 AND resultcode IN (?3, '0000')",
        )?
        .query_map(
            params![outcome.merid, outcome.queryid, outcome.resultcode],
            |row| {
                Ok(KnownEvent {
                    id: text(row, 0)?,
                    orderid: text(row, 1)?,
                    resultcode: text(row, 2)?,
                    state: state(row, 3)?,
                    review: ReviewReason::parse(&text(row, 4)?),
                })
            },
        )?
        .collect()
}

fn hold(transaction: &Transaction<'_>, outcome: &PaymentResult) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "UPDATE events SET state = 'disputed', review = 'other-result'
            WHERE merid = ?1 AND queryid = ?2 AND resultcode = ?3 AND state IN ('pending', 'parked')",
        )?
        .execute(params![
            outcome.merid,
            outcome.queryid,
            outcome.resultcode
        ])
}

fn is_full(transaction: &Transaction<'_>, merid: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM events INDEXED BY events_disputed
        WHERE state = 'disputed' AND merid = ?1 LIMIT ?2)";
    let count: u32 = transaction
        .prepare_cached(sql)?
        .query_row(params![merid, REVIEWS_EACH], |row| row.get(0))?;
    Ok(count >= REVIEWS_EACH)
}

fn insert(transaction: &Transaction<'_>, event: &Event) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO events (id, merid, orderid, queryid, resultcode, amount, json, source, matched, state,
            received_at, next_attempt, attempts, last_attempt, raw, review, field, waits, digest)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 0, '', ?13, ?14, ?15, ?16, ?17)";
    transaction.prepare_cached(sql)?.execute(params![
        event.id,
        event.merid,
        event.orderid,
        event.queryid,
        event.resultcode,
        event::cents(event.amount),
        event.json,
        event.source.name(),
        event.matched,
        event.state.name(),
        event.received_at,
        event.next_attempt,
        event.raw,
        event.review.map_or("", ReviewReason::name),
        event.field,
        event.waits.map_or("", |reason| reason.name()),
        event::digest(event),
    ])
}

/// Attaches the payment to the order's try, where only one can be meant.
fn link(transaction: &Transaction<'_>, outcome: &PaymentResult) -> rusqlite::Result<()> {
    // From then on reconciliation queries that try by this queryid, so there must be no guess in it.
    let sql = "UPDATE tries SET queryid = ?3 WHERE merid = ?1 AND orderid = ?2 AND sent <> 'no' AND queryid IS NULL
        AND 1 = (SELECT count(*) FROM tries
            WHERE merid = ?1 AND orderid = ?2 AND sent <> 'no' AND queryid IS NULL)
        AND NOT EXISTS (SELECT 1 FROM tries WHERE merid = ?1 AND orderid = ?2 AND queryid = ?3)";
    transaction.prepare_cached(sql)?.execute(params![
        outcome.merid,
        outcome.orderid,
        outcome.queryid
    ])?;
    Ok(())
}

/// Writes a row and removes it again: a table or an index that is damaged at its root fails this.
pub(super) fn try_out(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let trial = Event {
        state: EventState::Pending,
        ..event_of_review(&Review {
            merid: "trial".to_owned(),
            orderid: String::new(),
            queryid: "trial".to_owned(),
            payload: Vec::new(),
            reason: ReviewReason::Malformed,
            field: String::new(),
            source: event::Source::Query,
            at: 0,
        })
    };
    insert(transaction, &trial)?;
    transaction.execute("DELETE FROM events WHERE id = ?1", [&trial.id])?;
    Ok(())
}
