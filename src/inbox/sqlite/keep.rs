//! A result on its way into the file: what is known of its order and its payment, and what the verdict then asks for.

use rusqlite::{OptionalExtension, Transaction, params};

use super::{EVENT, state};
use crate::inbox::decide::{Decision, KnownEvent, KnownHistory, NewEvent, cents, judge};
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
        told: told_before(transaction, outcome)?,
    };
    let new = match judge(outcome, &known, arrival.deliverable) {
        Decision::KnownHistory(put) => return Ok(put),
        Decision::NewEvent(new) => new,
    };
    if new.holds_others() {
        hold(transaction, outcome)?;
    }
    insert(transaction, &new, outcome, arrival)?;
    if new.closes_order {
        transaction
            .prepare_cached(
                "UPDATE orders SET next_look = NULL, urgent = 0 WHERE merid = ?1 AND orderid = ?2",
            )?
            .execute(params![outcome.merid, outcome.orderid])?;
    }
    Ok(new.kept())
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

fn told_before(
    transaction: &Transaction<'_>,
    outcome: &PaymentResult,
) -> rusqlite::Result<Vec<KnownEvent>> {
    transaction
        .prepare_cached(
            "SELECT id, orderid, state FROM events WHERE merid = ?1 AND queryid = ?2 AND resultcode = ?3",
        )?
        .query_map(params![outcome.merid, outcome.queryid, outcome.resultcode], |row| {
            Ok(KnownEvent {
                id: row.get(0)?,
                orderid: row.get(1)?,
                state: state(row, 2)?,
            })
        })?
        .collect()
}

fn hold(transaction: &Transaction<'_>, outcome: &PaymentResult) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "UPDATE events SET state = 'disputed'
             WHERE merid = ?1 AND queryid = ?2 AND resultcode = ?3 AND state IN ('pending', 'parked')",
        )?
        .execute(params![outcome.merid, outcome.queryid, outcome.resultcode])
}

fn insert(
    transaction: &Transaction<'_>,
    new: &NewEvent,
    outcome: &PaymentResult,
    arrival: Arrival,
) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT INTO events ({EVENT}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, 0, '')"
    );
    transaction.prepare_cached(&sql)?.execute(params![
        new.id,
        outcome.merid,
        outcome.orderid,
        outcome.queryid,
        outcome.resultcode,
        cents(outcome.amount),
        outcome.json,
        arrival.source.name(),
        new.matched,
        new.state.name(),
        arrival.at,
    ])
}
