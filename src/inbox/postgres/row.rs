//! Rows of the database.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::inbox::event::{Event, EventState, ReviewReason, Source, WaitReason};
use crate::inbox::store::StoreError;

/// The columns of an event, as [`read_event`] reads them.
pub(super) const EVENT: &str = "id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, \
                                received_at, next_attempt, attempts, last_attempt, raw, review, field, waits, \
                                offered_since, digest";
/// The number of columns in [`EVENT`].
pub(super) const EVENT_COLUMNS: usize = 20;

/// Reads an event.
pub(super) fn read_event(row: &Row) -> Result<Event, StoreError> {
    let received_at = row.try_get(10)?;
    Ok(Event {
        id: row.try_get(0)?,
        merid: row.try_get(1)?,
        orderid: row.try_get(2)?,
        queryid: row.try_get(3)?,
        resultcode: row.try_get(4)?,
        amount: unsigned(row, 5)?,
        json: row.try_get(6)?,
        raw: row.try_get(14)?,
        source: Source::parse(row.try_get(7)?),
        matched: row.try_get(8)?,
        state: EventState::stored(row.try_get(9)?),
        review: ReviewReason::parse(row.try_get(15)?),
        field: row.try_get(16)?,
        waits: WaitReason::parse(row.try_get(17)?),
        received_at,
        offered_since: row.try_get::<_, Option<_>>(18)?.unwrap_or(received_at),
        next_attempt: row.try_get(11)?,
        attempts: number(row, 12)?,
        last_attempt: row.try_get(13)?,
    })
}

/// Reads the digest of an event; rows of older versions have none.
pub(super) fn read_digest(row: &Row) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(row.try_get(EVENT_COLUMNS - 1)?)
}

/// Reads a small number.
pub(super) fn number(row: &Row, column: usize) -> Result<u32, StoreError> {
    Ok(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX))
}

/// Reads an amount.
pub(super) fn unsigned(row: &Row, column: usize) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default())
}

/// Returns the one value of a statement that always has one.
pub(super) fn only<'a, T: FromSql<'a>>(rows: &'a [Row]) -> Result<T, StoreError> {
    let row = rows.first().ok_or(StoreError::Slow)?;
    Ok(row.try_get(0)?)
}
