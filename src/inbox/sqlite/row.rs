//! Rows of events, read in two ways: leniently for eyes, strictly for delivery.

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Row};

use crate::inbox::event;
use crate::inbox::event::{Event, EventState, ReviewReason, Source, WaitReason};

/// The columns of an event, as [`read_event`] reads them.
pub(super) const EVENT: &str = "id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, \
    received_at, next_attempt, attempts, last_attempt, raw, review, field, waits, offered_since, digest";

/// Reads an event for eyes: bytes that are no UTF-8 are replaced, so that one damaged row hides no other.
pub(super) fn read_event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let received_at = row.get(10)?;
    Ok(Event {
        id: text(row, 0)?,
        merid: text(row, 1)?,
        orderid: text(row, 2)?,
        queryid: text(row, 3)?,
        resultcode: text(row, 4)?,
        amount: unsigned(row, 5)?,
        json: text(row, 6)?,
        raw: row.get(14)?,
        source: Source::parse(&text(row, 7)?),
        matched: row.get(8)?,
        state: state(row, 9)?,
        review: ReviewReason::parse(&text(row, 15)?),
        field: text(row, 16)?,
        waits: WaitReason::parse(&text(row, 17)?),
        received_at,
        offered_since: row.get::<_, Option<_>>(18)?.unwrap_or(received_at),
        next_attempt: row.get(11)?,
        attempts: small(row, 12)?,
        last_attempt: text(row, 13)?,
    })
}

/// Reads an event for delivery, or explains why it cannot be believed.
pub(super) fn read_sound_event(row: &Row<'_>) -> rusqlite::Result<Result<Event, String>> {
    // SQLite stores any bytes as TEXT, and STRICT does not check them; `text` would replace a flipped bit silently.
    let columns = row.as_ref().column_names();
    for (index, name) in columns.iter().enumerate() {
        if let ValueRef::Text(bytes) = row.get_ref(index)?
            && std::str::from_utf8(bytes).is_err()
        {
            return Ok(Err(format!("{name} is no UTF-8 text")));
        }
    }
    if row.get::<_, i64>(12).is_ok_and(|attempts| attempts < 0) {
        return Ok(Err("attempts is out of range".to_owned()));
    }
    let event = match read_event(row) {
        Ok(event) => event,
        Err(rusqlite::Error::InvalidColumnType(_, name, found)) => {
            return Ok(Err(format!("{name} holds {}", type_name(found))));
        }
        Err(rusqlite::Error::IntegralValueOutOfRange(index, _)) => {
            let name = columns.get(index).copied().unwrap_or("a column");
            return Ok(Err(format!("{name} is out of range")));
        }
        Err(error) => return Err(error),
    };
    // Rows of older versions have no digest.
    let digest: Option<Vec<u8>> = row.get(19)?;
    Ok(match digest {
        Some(digest) if digest != event::digest(&event) => {
            Err("the row does not match its digest".to_owned())
        }
        _ => Ok(event),
    })
}

fn type_name(found: Type) -> &'static str {
    match found {
        Type::Null => "NULL",
        Type::Integer => "an integer",
        Type::Real => "a real number",
        Type::Text => "text",
        Type::Blob => "bytes",
    }
}

/// Reads a column's text leniently.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => row.get(column)?,
    })
}

/// Reads an event's state.
pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<EventState> {
    Ok(EventState::stored(&text(row, column)?))
}

/// Reads a small number leniently.
pub(super) fn small(row: &Row<'_>, column: usize) -> rusqlite::Result<u32> {
    Ok(u32::try_from(row.get::<_, i64>(column)?).unwrap_or(u32::MAX))
}

/// Reads an amount.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or_default())
}

/// Runs a query and reads each row.
pub(super) fn collect<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection
        .prepare_cached(sql)?
        .query_map(params, read)?
        .collect()
}
