//! Activity entries of a fleet: one timeline of an order, whichever sidecar wrote its steps. Also lookups of the console.

use tokio_postgres::Row;

use super::database::Database;
use super::row::{EVENT, read_event};
use crate::inbox::activity;
use crate::inbox::activity::{ActivityEntry, ActivityKind, Weight};
use crate::inbox::event::{Event, EventFilter, FILTERED};
use crate::inbox::store::{ActivityFilter, OldKey, StoreError};
use crate::time::Millis;

const NOTE: &str = "common, at, took, what, way, merid, orderid, request_id, outcome, sent, old_key, refused, \
                    stranger";

/// Writes entries. Their numbers come from a sequence for each weight, so that the oldest are found without counting.
pub(super) async fn write(database: &Database, notes: &[ActivityEntry]) -> Result<(), StoreError> {
    for (weight, sequence, kept) in [
        (Weight::Step, "note_steps", activity::KEPT_STEPS),
        (Weight::Common, "note_commons", activity::KEPT_COMMON),
    ] {
        let notes: Vec<_> = notes.iter().filter(|note| note.weight == weight).collect();
        if notes.is_empty() {
            continue;
        }
        let sql = format!(
            "INSERT INTO notes (number, {NOTE})
                SELECT nextval('{sequence}'), $1, * FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[],
                    $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::boolean[],
                    $13::boolean[])"
        );
        let common = weight == Weight::Common;
        let (at, took) = (each(&notes, |n| n.at), each(&notes, |n| n.took));
        let text = |of: fn(&ActivityEntry) -> &str| each(&notes, of);
        let (refused, stranger) = (each(&notes, |n| n.refused), each(&notes, |n| n.stranger));
        database
            .rows_aside(
                &sql,
                &[
                    &common,
                    &at,
                    &took,
                    &text(|n| n.what.name()),
                    &text(|n| &n.way),
                    &text(|n| &n.merid),
                    &text(|n| &n.orderid),
                    &text(|n| &n.request_id),
                    &text(|n| &n.outcome),
                    &text(|n| &n.sent),
                    &text(|n| &n.old_key),
                    &refused,
                    &stranger,
                ],
            )
            .await?;
        // A sequence leaves gaps, after a rollback for example, so that somewhat fewer than `kept` may be left.
        let sql = "DELETE FROM notes WHERE common = $1
            AND number <= (SELECT max(number) FROM notes WHERE common = $1) - $2";
        database
            .rows_aside(sql, &[&common, &i64::from(kept)])
            .await?;
    }
    Ok(())
}

fn each<'n, T>(notes: &[&'n ActivityEntry], of: impl Fn(&'n ActivityEntry) -> T) -> Vec<T> {
    notes.iter().map(|note| of(note)).collect()
}

pub(super) async fn read(
    database: &Database,
    wanted: ActivityFilter,
    limit: u32,
) -> Result<Vec<ActivityEntry>, StoreError> {
    let sql = |wanted| {
        let of = |common| {
            format!(
                "(SELECT {NOTE}, number FROM notes WHERE {wanted} AND common = {common}
                    ORDER BY at DESC, number DESC LIMIT $1)"
            )
        };
        format!(
            "{} UNION ALL {} ORDER BY at DESC, number DESC",
            of("false"),
            of("true")
        )
    };
    let limit = i64::from(limit);
    let rows = match wanted {
        ActivityFilter::Order(merid, orderid) => {
            let sql = sql("orderid <> '' AND orderid = $2 AND merid = $3");
            database.rows(&sql, &[&limit, &orderid, &merid]).await?
        }
        ActivityFilter::Request(id) => {
            let sql = sql("request_id <> '' AND request_id = $2");
            database.rows(&sql, &[&limit, &id]).await?
        }
        ActivityFilter::Refusals => database.rows(&sql("refused"), &[&limit]).await?,
    };
    rows.iter().map(read_note).collect()
}

pub(super) async fn find(
    database: &Database,
    number: &str,
    limit: u32,
) -> Result<Vec<(String, String)>, StoreError> {
    // Sorted as SQLite sorts, whatever the database's collation is.
    let sql = "SELECT * FROM (
            SELECT merid, orderid FROM orders WHERE orderid = $1
            UNION SELECT merid, orderid FROM events WHERE orderid = $1
            UNION SELECT merid, orderid FROM events WHERE queryid = $1
            UNION SELECT merid, orderid FROM notes WHERE orderid <> '' AND orderid = $1 AND NOT stranger
            UNION SELECT merid, orderid FROM notes
                WHERE request_id <> '' AND request_id = $1 AND orderid <> ''
        ) AS found ORDER BY merid COLLATE \"C\", orderid COLLATE \"C\" LIMIT $2";
    let rows = database.rows(sql, &[&number, &i64::from(limit)]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// Reads the events that a filter selects, newest first.
pub(super) async fn filtered_events(
    database: &Database,
    filter: &EventFilter,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    let sql = format!(
        "SELECT {EVENT} FROM (
            SELECT * FROM events WHERE state = $1 AND received_at >= $2 AND received_at < $3
            ORDER BY received_at DESC LIMIT $4
        ) AS newest WHERE ($5 = '' OR merid = $5) AND starts_with(orderid, $6)
        ORDER BY received_at DESC LIMIT $7"
    );
    let EventFilter {
        state,
        merid,
        prefix,
        from,
        until,
    } = filter;
    let (state, scanned, limit) = (state.name(), i64::from(FILTERED), i64::from(limit));
    let rows = database
        .rows(
            &sql,
            &[&state, from, until, &scanned, merid, prefix, &limit],
        )
        .await?;
    rows.iter().map(read_event).collect()
}

pub(super) async fn events_of(
    database: &Database,
    merid: &str,
    orderid: &str,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    let sql = format!(
        "SELECT {EVENT} FROM events WHERE orderid = $1 AND merid = $2 ORDER BY received_at LIMIT $3"
    );
    let rows = database
        .rows(&sql, &[&orderid, &merid, &i64::from(limit)])
        .await?;
    rows.iter().map(read_event).collect()
}

pub(super) async fn old_keys(database: &Database) -> Result<Vec<OldKey>, StoreError> {
    let sql =
        "SELECT merid, old_key, max(at) FROM notes WHERE old_key <> '' GROUP BY merid, old_key
        ORDER BY merid COLLATE \"C\", old_key COLLATE \"C\"";
    let rows = database.rows(sql, &[]).await?;
    let read = |row: &Row| {
        Ok(OldKey {
            merid: row.try_get(0)?,
            fingerprint: row.try_get(1)?,
            seen_at: row.try_get(2)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Removes the oldest entries; repeated until there is nothing left to remove.
pub(super) const FORGET: &str = "WITH old AS (
        DELETE FROM notes WHERE (common, number) IN (
            SELECT common, number FROM notes WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
        ) RETURNING 1
    ) SELECT count(*) FROM old";

fn read_note(row: &Row) -> Result<ActivityEntry, StoreError> {
    let text = |column| row.try_get::<_, String>(column);
    Ok(ActivityEntry {
        weight: if row.try_get(0)? {
            Weight::Common
        } else {
            Weight::Step
        },
        at: row.try_get::<_, Millis>(1)?,
        took: row.try_get(2)?,
        what: ActivityKind::parse(row.try_get(3)?).unwrap_or(ActivityKind::Call),
        way: text(4)?.into(),
        merid: text(5)?,
        orderid: text(6)?,
        request_id: text(7)?,
        outcome: text(8)?.into(),
        sent: text(9)?.into(),
        old_key: text(10)?,
        refused: row.try_get(11)?,
        stranger: row.try_get(12)?,
    })
}
