//! Activity entries of one sidecar, and lookups of the console.

use rusqlite::{Connection, Row, Transaction, params};

use super::row::{EVENT, collect, read_event};
use super::upkeep::FORGOTTEN;
use crate::inbox::activity;
use crate::inbox::activity::{ActivityEntry, ActivityKind, Weight};
use crate::inbox::event::{Event, EventFilter, EventState, FILTERED};
use crate::inbox::store::{ActivityFilter, OldKey};
use crate::time::Millis;

const NOTE: &str = "common, at, took, what, way, merid, orderid, request_id, outcome, sent, old_key, refused, \
     stranger";

/// Writes entries, and keeps only the latest of each weight.
pub(super) fn write(
    transaction: &Transaction<'_>,
    notes: &[ActivityEntry],
) -> rusqlite::Result<()> {
    for note in notes {
        insert(transaction, note)?;
    }
    for (common, kept) in [(false, activity::KEPT_STEPS), (true, activity::KEPT_COMMON)] {
        let sql = "DELETE FROM notes WHERE common = ?1
            AND number <= (SELECT max(number) FROM notes WHERE common = ?1) - ?2";
        transaction
            .prepare_cached(sql)?
            .execute(params![common, kept])?;
    }
    Ok(())
}

fn insert(transaction: &Transaction<'_>, note: &ActivityEntry) -> rusqlite::Result<usize> {
    let sql = format!(
        "INSERT INTO notes (number, {NOTE}) SELECT
            coalesce((SELECT max(number) FROM notes WHERE common = ?1), 0) + 1,
            ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13"
    );
    transaction.prepare_cached(&sql)?.execute(params![
        note.weight == Weight::Common,
        note.at,
        note.took,
        note.what.name(),
        note.way,
        note.merid,
        note.orderid,
        note.request_id,
        note.outcome,
        note.sent,
        note.old_key,
        note.refused,
        note.stranger,
    ])
}

pub(super) fn read(
    connection: &Connection,
    wanted: ActivityFilter,
    limit: u32,
) -> rusqlite::Result<Vec<ActivityEntry>> {
    let sql = |wanted| {
        let of = |common| {
            format!(
                "SELECT * FROM (SELECT {NOTE} FROM notes
                    WHERE {wanted} AND common = {common} ORDER BY at DESC LIMIT ?1)"
            )
        };
        format!("{} UNION ALL {} ORDER BY at DESC", of(0), of(1))
    };
    match wanted {
        ActivityFilter::Order(merid, orderid) => collect(
            connection,
            &sql("orderid <> '' AND orderid = ?2 AND merid = ?3"),
            params![limit, orderid, merid],
            read_note,
        ),
        ActivityFilter::Request(id) => collect(
            connection,
            &sql("request_id <> '' AND request_id = ?2"),
            params![limit, id],
            read_note,
        ),
        ActivityFilter::Refusals => collect(connection, &sql("refused = 1"), [limit], read_note),
    }
}

pub(super) fn find(
    connection: &Connection,
    number: &str,
    limit: u32,
) -> rusqlite::Result<Vec<(String, String)>> {
    // By order number a stranger's entries are left out: they would list orders that were never signed. A request id finds
    // them.
    let sql = "SELECT merid, orderid FROM orders WHERE orderid = ?1
        UNION SELECT merid, orderid FROM events WHERE orderid = ?1
        UNION SELECT merid, orderid FROM events WHERE queryid = ?1
        UNION SELECT merid, orderid FROM notes WHERE orderid <> '' AND orderid = ?1 AND stranger = 0
        UNION SELECT merid, orderid FROM notes
            WHERE request_id <> '' AND request_id = ?1 AND orderid <> ''
        ORDER BY 1, 2 LIMIT ?2";
    collect(connection, sql, params![number, limit], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// The newest events of each state that is in the index, then of all: without it every row would be read and sorted. A
/// damaged state is one of them, so that its row is shown.
const NEWEST: &str = "WITH RECURSIVE states(name) AS (
        SELECT min(state) FROM events INDEXED BY events_state
        UNION ALL
        SELECT (SELECT min(state) FROM events INDEXED BY events_state WHERE state > states.name)
        FROM states WHERE states.name IS NOT NULL
    )";

/// Reads events of one state or of all, newest first.
pub(super) fn newest_events(
    connection: &Connection,
    state: Option<EventState>,
    limit: u32,
) -> rusqlite::Result<Vec<Event>> {
    let Some(state) = state else {
        let sql = format!(
            "{NEWEST} SELECT {EVENT} FROM states CROSS JOIN events ON events.rowid IN (
                SELECT newest.rowid FROM events AS newest INDEXED BY events_state
                WHERE newest.state = states.name ORDER BY newest.received_at DESC LIMIT ?1)
            ORDER BY received_at DESC LIMIT ?1"
        );
        return collect(connection, &sql, [limit], read_event);
    };
    let sql = format!(
        "SELECT {EVENT} FROM events INDEXED BY events_state WHERE state = ?2
        ORDER BY received_at DESC LIMIT ?1"
    );
    collect(connection, &sql, params![limit, state.name()], read_event)
}

/// Reads the events that a filter selects, newest first.
pub(super) fn filtered_events(
    connection: &Connection,
    filter: &EventFilter,
    limit: u32,
) -> rusqlite::Result<Vec<Event>> {
    let sql = format!(
        "SELECT {EVENT} FROM events WHERE rowid IN (
            SELECT rowid FROM events INDEXED BY events_state
            WHERE state = ?1 AND received_at >= ?2 AND received_at < ?3 ORDER BY received_at DESC LIMIT ?4
        ) AND (?5 = '' OR merid = ?5) AND substr(orderid, 1, length(?6)) = ?6
        ORDER BY received_at DESC LIMIT ?7"
    );
    let row = params![
        filter.state.name(),
        filter.from,
        filter.until,
        FILTERED,
        filter.merid,
        filter.prefix,
        limit,
    ];
    collect(connection, &sql, row, read_event)
}

pub(super) fn events_of(
    connection: &Connection,
    merid: &str,
    orderid: &str,
    limit: u32,
) -> rusqlite::Result<Vec<Event>> {
    let sql = format!(
        "SELECT {EVENT} FROM events WHERE orderid = ?1 AND merid = ?2 ORDER BY received_at LIMIT ?3"
    );
    collect(connection, &sql, params![orderid, merid, limit], read_event)
}

pub(super) fn old_keys(connection: &Connection) -> rusqlite::Result<Vec<OldKey>> {
    let sql =
        "SELECT merid, old_key, max(at) FROM notes WHERE old_key <> '' GROUP BY merid, old_key
        ORDER BY merid, old_key";
    collect(connection, sql, [], |row| {
        Ok(OldKey {
            merid: row.get(0)?,
            fingerprint: row.get(1)?,
            seen_at: row.get(2)?,
        })
    })
}

/// Removes the oldest entries, up to the first that is younger, and only some of them; returns true where there are more.
pub(super) fn forget(transaction: &Transaction<'_>, before: Millis) -> rusqlite::Result<bool> {
    // The first that is younger ends the scan of the step, which reads no more rows than it removes.
    let sql = "DELETE FROM notes WHERE common = ?1 AND number < (
        SELECT coalesce(min(CASE WHEN at >= ?2 THEN number END), max(number) + 1) FROM (
            SELECT number, at FROM notes WHERE common = ?1 ORDER BY number LIMIT ?3))";
    let mut has_more = false;
    for common in [false, true] {
        let row = params![common, before, FORGOTTEN];
        has_more |= transaction.prepare_cached(sql)?.execute(row)? == FORGOTTEN as usize;
    }
    Ok(has_more)
}

fn read_note(row: &Row<'_>) -> rusqlite::Result<ActivityEntry> {
    let text = |column| row.get::<_, String>(column);
    Ok(ActivityEntry {
        weight: if row.get(0)? {
            Weight::Common
        } else {
            Weight::Step
        },
        at: row.get(1)?,
        took: row.get(2)?,
        what: ActivityKind::parse(row.get_ref(3)?.as_str()?).unwrap_or(ActivityKind::Call),
        way: text(4)?.into(),
        merid: text(5)?,
        orderid: text(6)?,
        request_id: text(7)?,
        outcome: text(8)?.into(),
        sent: text(9)?.into(),
        old_key: text(10)?,
        refused: row.get(11)?,
        stranger: row.get(12)?,
    })
}
