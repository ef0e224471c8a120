//! The rest of the file: figures, key switches, retention.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::row::{collect, text};
use crate::inbox::event::EventState;
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
