//! Events on their way to the app: due, claimed, attempted, set aside.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::row::{EVENT, collect, read_sound_event, small, text};
use crate::inbox::attempt::{
    AHEAD_ATTEMPT, AHEAD_LOOK, AppResponse, AttemptRecord, ClaimOutcome, ClaimedEvent, DueEvent,
    DueMerchant, FailingApp,
};
use crate::inbox::decide::is_superseded;
use crate::inbox::event::{Event, EventState, WaitReason};
use crate::time::Millis;

/// Events that one step sets aside or makes due again: some 10 ms, for which callbacks wait.
const STEP: u32 = 200;

/// From merchant to merchant by the index: a long backlog of one costs the others nothing. The index is named, because
/// the planner has no statistics and would walk every pending event.
pub(super) const MERCHANTS: &str = "WITH RECURSIVE merchants(merid) AS (
        SELECT min(merid) FROM events INDEXED BY events_pending WHERE state = 'pending'
        UNION ALL
        SELECT (SELECT min(merid) FROM events INDEXED BY events_pending
            WHERE state = 'pending' AND merid > merchants.merid)
        FROM merchants WHERE merchants.merid IS NOT NULL
    )
    SELECT merid FROM merchants WHERE merid IS NOT NULL";

/// One merchant's due events, by the index alone.
pub(super) const DUE: &str = "SELECT id, attempts FROM events INDEXED BY events_pending
    WHERE state = 'pending' AND merid = ?1 AND next_attempt <= ?2 ORDER BY next_attempt LIMIT ?3";

/// Reads every merchant's first due events.
pub(super) fn due(
    connection: &Connection,
    now: Millis,
    each: u32,
) -> rusqlite::Result<Vec<DueMerchant>> {
    let mut due = Vec::new();
    for merid in collect(connection, MERCHANTS, [], |row| text(row, 0))? {
        let events = due_of(connection, &merid, now, each)?;
        if !events.is_empty() {
            due.push(DueMerchant {
                merid,
                events,
                next_at: None,
            });
        }
    }
    Ok(due)
}

/// Reads one merchant's due events.
pub(super) fn due_of(
    connection: &Connection,
    merid: &str,
    now: Millis,
    limit: u32,
) -> rusqlite::Result<Vec<DueEvent>> {
    collect(connection, DUE, params![merid, now, limit], |row| {
        Ok(DueEvent {
            id: text(row, 0)?,
            attempts: small(row, 1)?,
        })
    })
}

/// The next event of one merchant that is not due yet, by the index alone.
pub(super) const NEXT: &str = "SELECT min(next_attempt) FROM events INDEXED BY events_pending
    WHERE state = 'pending' AND merid = ?1 AND next_attempt > ?2";

/// Reads due events of several merchants, and when the next one of each is due.
pub(super) fn due_of_each(
    connection: &Connection,
    wanted: Vec<(String, u32)>,
    now: Millis,
) -> rusqlite::Result<Vec<DueMerchant>> {
    let due = wanted.into_iter().map(|(merid, limit)| {
        Ok(DueMerchant {
            events: due_of(connection, &merid, now, limit)?,
            next_at: connection
                .prepare_cached(NEXT)?
                .query_row(params![merid, now], |row| row.get(0))?,
            merid,
        })
    });
    due.collect()
}

/// Claims events. One process has the file, and it has each event in flight once: there is nothing to write.
pub(super) fn claim(
    connection: &Connection,
    events: Vec<DueEvent>,
) -> rusqlite::Result<Vec<ClaimOutcome>> {
    events
        .into_iter()
        .map(|due| claim_one(connection, due))
        .collect()
}

fn claim_one(connection: &Connection, due: DueEvent) -> rusqlite::Result<ClaimOutcome> {
    let sql = format!("SELECT {EVENT} FROM events WHERE id = ?1");
    let found = connection
        .prepare_cached(&sql)?
        .query_row([&due.id], read_sound_event)
        .optional()?;
    let event = match found {
        Some(Ok(event)) => event,
        Some(Err(why)) => return Ok(ClaimOutcome::Damaged { id: due.id, why }),
        None => return Ok(ClaimOutcome::Gone { id: due.id }),
    };
    if event.state != EventState::Pending || event.attempts != due.attempts {
        return Ok(ClaimOutcome::Gone { id: due.id });
    }
    Ok(ClaimOutcome::Claimed(Box::new(ClaimedEvent {
        own_back: own_back(connection, &event)?,
        superseded: superseded(connection, &event)?,
        event,
    })))
}

fn own_back(connection: &Connection, event: &Event) -> rusqlite::Result<Option<String>> {
    // The latest try decides even where it has no address of its own: then `back` is the right one.
    let sql = "SELECT backurl FROM tries WHERE merid = ?1 AND orderid = ?2 AND kind <> 'shadow' AND sent <> 'no'
        ORDER BY number DESC LIMIT 1";
    let found = connection
        .prepare_cached(sql)?
        .query_row([&event.merid, &event.orderid], |row| row.get(0))
        .optional()?;
    Ok(found.flatten())
}

fn superseded(connection: &Connection, event: &Event) -> rusqlite::Result<bool> {
    let sql = "SELECT resultcode FROM events INDEXED BY events_payment
        WHERE merid = ?1 AND queryid = ?2 AND state = 'delivered'";
    let delivered = collect(connection, sql, [&event.merid, &event.queryid], |row| {
        text(row, 0)
    })?;
    Ok(is_superseded(
        &event.resultcode,
        delivered.iter().map(String::as_str),
    ))
}

/// Parks a row that cannot be believed, alone.
pub(super) fn park(transaction: &Transaction<'_>, id: &str, why: &str) -> rusqlite::Result<()> {
    let sql =
        "UPDATE events SET state = 'parked', last_attempt = ?2 WHERE id = ?1 AND state = 'pending'";
    transaction
        .prepare_cached(sql)?
        .execute(params![id, format!("damaged in the store: {why}")])?;
    Ok(())
}

/// Writes down an attempt, unless the event has had it already.
pub(super) fn attempted(
    transaction: &Transaction<'_>,
    attempt: &AttemptRecord,
) -> rusqlite::Result<bool> {
    let AttemptRecord {
        id,
        number,
        at,
        took,
        outcome,
        response,
        state,
        next,
    } = attempt;
    // The comparison with `attempts` makes a repeated record a no-op. What the app took is delivered even where an
    // operator has discarded the event meanwhile: its id must not come again.
    let sql = "UPDATE events SET attempts = ?2, last_attempt = ?3, next_attempt = ?5, waits = '',
            state = CASE WHEN state = 'pending' OR ?4 = 'delivered' THEN ?4 ELSE state END
        WHERE id = ?1 AND attempts = ?2 - 1";
    let changed = transaction.prepare_cached(sql)?.execute(params![
        id,
        number,
        outcome,
        state.name(),
        next
    ])?;
    if changed == 0 {
        return Ok(false);
    }
    let sql = "INSERT OR REPLACE INTO attempts (event, number, at, took, outcome, status, content_type, first_bytes,
            location, explanation)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let response = response.as_ref();
    transaction.prepare_cached(sql)?.execute(params![
        id,
        number,
        at,
        took,
        outcome,
        response.map(|it| it.status),
        response.map_or("", |it| &it.content_type),
        response.map(|it| &it.first_bytes),
        response.map_or("", |it| &it.location),
        response.map_or("", |it| &it.explanation),
    ])?;
    Ok(true)
}

/// Reads the attempts at one event.
pub(super) fn attempts(connection: &Connection, id: &str) -> rusqlite::Result<Vec<AttemptRecord>> {
    let sql = "SELECT event, number, at, took, outcome, status, content_type, first_bytes, location, explanation
        FROM attempts WHERE event = ?1 ORDER BY number";
    collect(connection, sql, [id], |row| {
        let status: Option<u16> = row.get(5)?;
        let response = status.map(|status| {
            Ok::<_, rusqlite::Error>(AppResponse {
                status,
                content_type: text(row, 6)?,
                first_bytes: row.get::<_, Option<_>>(7)?.unwrap_or_default(),
                location: text(row, 8)?,
                explanation: text(row, 9)?,
            })
        });
        Ok(AttemptRecord {
            id: text(row, 0)?,
            number: row.get(1)?,
            at: row.get(2)?,
            took: row.get(3)?,
            outcome: text(row, 4)?,
            response: response.transpose()?,
            state: EventState::Pending,
            next: 0,
        })
    })
}

/// Sets due events of a merchant aside; returns true where there are more.
pub(super) fn wait_for(
    transaction: &Transaction<'_>,
    merid: &str,
    reason: WaitReason,
    now: Millis,
) -> rusqlite::Result<bool> {
    // No further ahead: `set_back` takes anything later for a plan of before the clock was set back.
    let sql = "UPDATE events SET waits = ?2, next_attempt = ?3 + ?4 WHERE rowid IN (
            SELECT rowid FROM events INDEXED BY events_pending
            WHERE state = 'pending' AND merid = ?1 AND next_attempt <= ?3 LIMIT ?5)";
    let row = params![merid, reason.name(), now, AHEAD_ATTEMPT, STEP];
    Ok(transaction.prepare_cached(sql)?.execute(row)? == STEP as usize)
}

/// Makes waiting events of a merchant due; returns true where there are more.
pub(super) fn resume(
    transaction: &Transaction<'_>,
    merid: &str,
    now: Millis,
) -> rusqlite::Result<bool> {
    let sql = "UPDATE events SET waits = '', next_attempt = min(next_attempt, ?2) WHERE rowid IN (
            SELECT rowid FROM events INDEXED BY events_waiting
            WHERE state = 'pending' AND waits <> '' AND merid = ?1 LIMIT ?3)";
    let row = params![merid, now, STEP];
    Ok(transaction.prepare_cached(sql)?.execute(row)? == STEP as usize)
}

/// Reads the merchants with events that wait.
pub(super) fn waiting(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "WITH RECURSIVE merchants(merid) AS (
            SELECT min(merid) FROM events INDEXED BY events_waiting WHERE state = 'pending' AND waits <> ''
            UNION ALL
            SELECT (SELECT min(merid) FROM events INDEXED BY events_waiting
                WHERE state = 'pending' AND waits <> '' AND merid > merchants.merid)
            FROM merchants WHERE merchants.merid IS NOT NULL
        )
        SELECT merid FROM merchants WHERE merid IS NOT NULL";
    collect(connection, sql, [], |row| text(row, 0))
}

/// Plans anew what was planned too far ahead.
pub(super) fn set_back(transaction: &Transaction<'_>, now: Millis) -> rusqlite::Result<()> {
    let events =
        "UPDATE events SET next_attempt = ?1 WHERE state = 'pending' AND next_attempt > ?1 + ?2";
    transaction.execute(events, [now, AHEAD_ATTEMPT])?;
    let orders = "UPDATE orders SET next_look = ?1 WHERE next_look > ?1 + ?2";
    transaction.execute(orders, [now, AHEAD_LOOK])?;
    Ok(())
}

/// Reads the apps that failed.
pub(super) fn failing(connection: &Connection) -> rusqlite::Result<Vec<FailingApp>> {
    let sql = "SELECT merid, since, last, why FROM failing ORDER BY merid";
    collect(connection, sql, [], |row| {
        Ok(FailingApp {
            merid: text(row, 0)?,
            since: row.get(1)?,
            last: row.get(2)?,
            why: text(row, 3)?,
        })
    })
}

/// Remembers a failing app.
pub(super) fn set_failing(transaction: &Transaction<'_>, app: &FailingApp) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO failing VALUES (?1, ?2, ?3, ?4)";
    transaction
        .prepare_cached(sql)?
        .execute(params![app.merid, app.since, app.last, app.why])?;
    Ok(())
}

/// Forgets that an app failed.
pub(super) fn set_working(transaction: &Transaction<'_>, merid: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM failing WHERE merid = ?1")?
        .execute([merid])?;
    Ok(())
}
