//! Operators' decisions in the file.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::row::{collect, state, text};
use crate::inbox::event::EventState;
use crate::inbox::review::{
    DecideOutcome, DecisionKind, DecisionRecord, KEPT_DECISIONS, Operator, RECENT_DECISIONS, stays,
};
use crate::time::Millis;

/// Changes an event's state as an operator decided, and keeps the decision.
pub(super) fn decide(
    transaction: &Transaction<'_>,
    id: &str,
    kind: DecisionKind,
    operator: &Operator,
    at: Millis,
) -> rusqlite::Result<DecideOutcome> {
    let before = transaction
        .prepare_cached("SELECT state FROM events WHERE id = ?1")?
        .query_row([id], |row| state(row, 0))
        .optional()?;
    let Some(from) = before else {
        return Ok(DecideOutcome::NotFound);
    };
    if stays(kind, from) {
        return Ok(DecideOutcome::Stays(from));
    }
    // `retry_for` counts from the decision, or an old event that is replayed would be parked after one attempt.
    let sql = "UPDATE events SET state = ?2, waits = '', next_attempt = ?3,
            offered_since = CASE WHEN ?2 = 'pending' THEN ?3 ELSE offered_since END
        WHERE id = ?1";
    transaction
        .prepare_cached(sql)?
        .execute(params![id, kind.state().name(), at])?;
    let sql = "INSERT INTO decisions (event, number, at, decision, from_state, who, origin)
        SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5, ?6 FROM decisions WHERE event = ?1";
    transaction.prepare_cached(sql)?.execute(params![
        id,
        at,
        kind.name(),
        from.name(),
        operator.who,
        operator.from,
    ])?;
    let sql = "DELETE FROM decisions WHERE event = ?1
        AND number <= (SELECT max(number) FROM decisions WHERE event = ?1) - ?2";
    transaction
        .prepare_cached(sql)?
        .execute(params![id, KEPT_DECISIONS])?;
    Ok(DecideOutcome::Done { from })
}

/// Reads the decisions about one event.
pub(super) fn decisions(
    connection: &Connection,
    id: &str,
) -> rusqlite::Result<Vec<DecisionRecord>> {
    let sql = "SELECT at, decision, from_state, who, origin FROM decisions
        WHERE event = ?1 ORDER BY number";
    collect(connection, sql, [id], |row| record(row, 0))
}

/// Reads the oldest decisions after `after`.
pub(super) fn decisions_since(
    connection: &Connection,
    after: Millis,
) -> rusqlite::Result<Vec<(String, DecisionRecord)>> {
    // Without an index of its own: operators decide by hand, so the table stays small.
    let sql = "SELECT event, at, decision, from_state, who, origin FROM decisions
        WHERE at > ?1 ORDER BY at LIMIT ?2";
    collect(connection, sql, params![after, RECENT_DECISIONS], |row| {
        Ok((text(row, 0)?, record(row, 1)?))
    })
}

/// Reads a decision whose columns begin at `first`.
fn record(row: &Row<'_>, first: usize) -> rusqlite::Result<DecisionRecord> {
    Ok(DecisionRecord {
        at: row.get(first)?,
        kind: DecisionKind::stored(&text(row, first + 1)?),
        from: EventState::stored(&text(row, first + 2)?),
        operator: Operator {
            who: text(row, first + 3)?,
            from: text(row, first + 4)?,
        },
    })
}
