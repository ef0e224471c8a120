//! The rest of the file: figures, key switches, retention.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::row::{collect, text, unsigned};
use crate::inbox::event::{EventState, cents};
use crate::inbox::minutes::{KEPT_MINUTES, MINUTE, MinuteFigures, MinuteRange};
use crate::inbox::store::{Counts, KeySwitch};
use crate::time::Millis;

/// Rows that one step of the retention removes, each with its entries in up to eight indexes: some 5 ms.
pub(super) const FORGOTTEN: u32 = 100;

/// Reads the figures. Triggers keep them, so that a million rows cost nothing here.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Counts> {
    let mut counts = Counts {
        is_exported: true,
        ..Counts::default()
    };
    let tallies = collect(connection, "SELECT name, count FROM tallies", [], |row| {
        Ok((text(row, 0)?, row.get::<_, i64>(1)?))
    })?;
    for (name, count) in tallies {
        match EventState::parse(&name) {
            Some(state) => counts.set(state, count),
            None if name == "open-orders" => counts.open_orders = count,
            None => {}
        }
    }
    let sql = "SELECT received_at FROM events INDEXED BY events_state
        WHERE state = 'pending' ORDER BY received_at LIMIT 1";
    counts.oldest_pending = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(counts)
}

/// Reads the key switches.
pub(super) fn key_switches(connection: &Connection) -> rusqlite::Result<Vec<KeySwitch>> {
    let sql = "SELECT merid, from_key, to_key, at FROM key_switches ORDER BY merid";
    collect(connection, sql, [], |row| {
        Ok(KeySwitch {
            merid: text(row, 0)?,
            from_key: text(row, 1)?,
            to_key: text(row, 2)?,
            at: row.get(3)?,
        })
    })
}

/// Keeps a key switch.
pub(super) fn key_switched(
    transaction: &Transaction<'_>,
    switch: &KeySwitch,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO key_switches VALUES (?1, ?2, ?3, ?4)";
    transaction.prepare_cached(sql)?.execute(params![
        switch.merid,
        switch.from_key,
        switch.to_key,
        switch.at
    ])?;
    Ok(())
}

/// Drops a key switch.
pub(super) fn forget_key_switch(
    transaction: &Transaction<'_>,
    merid: &str,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM key_switches WHERE merid = ?1")?
        .execute([merid])?;
    Ok(())
}

/// Adds figures to those of their minutes.
pub(super) fn add_minutes(
    transaction: &Transaction<'_>,
    minutes: &[MinuteFigures],
) -> rusqlite::Result<()> {
    // Several write a minute's row: two processes during an upgrade, or one that was restarted.
    let sql =
        "INSERT INTO minutes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (minute) DO UPDATE SET
            median = CASE WHEN excluded.median IS NULL THEN minutes.median
                WHEN minutes.median IS NULL THEN excluded.median
                ELSE (minutes.median * minutes.calls + excluded.median * excluded.calls)
                    / (minutes.calls + excluded.calls) END,
            p99 = max(coalesce(minutes.p99, excluded.p99), coalesce(excluded.p99, minutes.p99)),
            calls = minutes.calls + excluded.calls,
            calls_rejected = minutes.calls_rejected + excluded.calls_rejected,
            callbacks = minutes.callbacks + excluded.callbacks,
            callbacks_rejected = minutes.callbacks_rejected + excluded.callbacks_rejected";
    for minute in minutes {
        transaction.prepare_cached(sql)?.execute(params![
            minute.at / MINUTE,
            cents(minute.calls),
            cents(minute.calls_rejected),
            cents(minute.callbacks),
            cents(minute.callbacks_rejected),
            minute.median,
            minute.p99,
        ])?;
    }
    // By number, not by time: a clock that is ahead for a moment drops nothing.
    let sql = "DELETE FROM minutes WHERE minute <= (
        SELECT minute FROM minutes ORDER BY minute DESC LIMIT 1 OFFSET ?1)";
    transaction.prepare_cached(sql)?.execute([KEPT_MINUTES])?;
    Ok(())
}

/// Reads the figures of a range.
pub(super) fn minutes(
    connection: &Connection,
    range: MinuteRange,
) -> rusqlite::Result<Vec<MinuteFigures>> {
    let sql = "SELECT minute / ?3 * ?3, count(*), sum(calls), sum(calls_rejected), sum(callbacks),
            sum(callbacks_rejected), sum(median * calls) / sum(calls), max(p99)
        FROM minutes WHERE minute >= ?1 AND minute < ?2 GROUP BY 1 ORDER BY 1 LIMIT ?4";
    let (from, until) = (range.from / MINUTE, range.until / MINUTE);
    let row = params![from, until, range.step.max(1), KEPT_MINUTES];
    collect(connection, sql, row, |row| {
        Ok(MinuteFigures {
            at: row.get::<_, i64>(0)? * MINUTE,
            minutes: row.get(1)?,
            calls: unsigned(row, 2)?,
            calls_rejected: unsigned(row, 3)?,
            callbacks: unsigned(row, 4)?,
            callbacks_rejected: unsigned(row, 5)?,
            median: row.get(6)?,
            p99: row.get(7)?,
        })
    })
}

// Pending, parked and disputed events are in none of these: they stay until they are delivered or decided about.
/// The kinds of rows that [`forget_some`] removes, in this order.
pub(super) const FORGET: [&str; 3] = [
    "DELETE FROM events WHERE rowid IN (SELECT rowid FROM events INDEXED BY events_state
        WHERE state = 'delivered' AND received_at < ?1 LIMIT ?2)",
    "DELETE FROM events WHERE rowid IN (SELECT rowid FROM events INDEXED BY events_state
        WHERE state = 'discarded' AND received_at < ?1 LIMIT ?2)",
    "DELETE FROM orders WHERE (merid, orderid) IN (
        SELECT merid, orderid FROM orders INDEXED BY orders_closed
        WHERE next_look IS NULL AND signed_at < ?1 LIMIT ?2)",
];

/// Removes some rows by a statement of [`FORGET`]; returns true where there are more.
pub(super) fn forget_some(
    transaction: &Transaction<'_>,
    sql: &str,
    before: Millis,
) -> rusqlite::Result<bool> {
    let removed = transaction
        .prepare_cached(sql)?
        .execute(params![before, FORGOTTEN])?;
    Ok(removed == FORGOTTEN as usize)
}
