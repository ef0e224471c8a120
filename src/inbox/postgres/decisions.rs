//! Operators' decisions in the database.

use tokio_postgres::Row;

use super::database::Database;
use crate::inbox::event::EventState;
use crate::inbox::review::{
    DecideOutcome, DecisionKind, DecisionRecord, KEPT_DECISIONS, Operator, RECENT_DECISIONS, stays,
};
use crate::inbox::store::StoreError;
use crate::time::Millis;

/// Changes an event's state as an operator decided, and keeps the decision.
pub(super) async fn decide(
    database: &Database,
    id: &str,
    kind: DecisionKind,
    operator: &Operator,
    at: Millis,
) -> Result<DecideOutcome, StoreError> {
    database
        .within(async {
            let mut client = database.client().await?;
            let transaction = client.transaction().await?;
            // A record of an attempt at the same moment waits, or is waited for, so that `from` is the true state.
            let sql = "SELECT state FROM events WHERE id = $1 FOR UPDATE";
            let Some(row) = transaction.query_opt(sql, &[&id]).await? else {
                return Ok(DecideOutcome::NotFound);
            };
            let from = EventState::stored(row.try_get(0)?);
            if stays(kind, from) {
                return Ok(DecideOutcome::Stays(from));
            }
            let sql = "UPDATE events SET state = $2, waits = '', next_attempt = $3,
                    offered_since = CASE WHEN $2 = 'pending' THEN $3 ELSE offered_since END
                WHERE id = $1";
            transaction
                .execute(sql, &[&id, &kind.state().name(), &at])
                .await?;
            let sql = "INSERT INTO decisions SELECT $1, coalesce(max(number), 0) + 1, $2::bigint, $3, $4, $5, $6
                FROM decisions WHERE event = $1";
            let row: [&(dyn tokio_postgres::types::ToSql + Sync); 6] = [
                &id,
                &at,
                &kind.name(),
                &from.name(),
                &operator.who,
                &operator.from,
            ];
            transaction.execute(sql, &row).await?;
            let sql = "DELETE FROM decisions WHERE event = $1
                AND number <= (SELECT max(number) FROM decisions WHERE event = $1) - $2";
            transaction
                .execute(sql, &[&id, &i64::from(KEPT_DECISIONS)])
                .await?;
            transaction.commit().await?;
            Ok(DecideOutcome::Done { from })
        })
        .await
}

/// Reads the decisions about one event.
pub(super) async fn decisions(
    database: &Database,
    id: &str,
) -> Result<Vec<DecisionRecord>, StoreError> {
    let sql = "SELECT at, decision, from_state, who, origin FROM decisions WHERE event = $1 ORDER BY number";
    let rows = database.rows(sql, &[&id]).await?;
    rows.iter().map(|row| record(row, 0)).collect()
}

/// Reads the oldest decisions after `after`.
pub(super) async fn decisions_since(
    database: &Database,
    after: Millis,
) -> Result<Vec<(String, DecisionRecord)>, StoreError> {
    let sql = "SELECT event, at, decision, from_state, who, origin FROM decisions
        WHERE at > $1 ORDER BY at LIMIT $2";
    let limit = i64::from(RECENT_DECISIONS);
    let rows = database.rows_aside(sql, &[&after, &limit]).await?;
    let read = |row: &Row| Ok((row.try_get(0)?, record(row, 1)?));
    rows.iter().map(read).collect()
}

/// Reads a decision whose columns begin at `first`.
fn record(row: &Row, first: usize) -> Result<DecisionRecord, StoreError> {
    Ok(DecisionRecord {
        at: row.try_get(first)?,
        kind: DecisionKind::stored(row.try_get(first + 1)?),
        from: EventState::stored(row.try_get(first + 2)?),
        operator: Operator {
            who: row.try_get(first + 3)?,
            from: row.try_get(first + 4)?,
        },
    })
}
