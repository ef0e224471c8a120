//! Events on their way to the app: due, claimed, attempted, set aside.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::database::Database;
use super::lease::{FREE, LEASE};
use super::row::{EVENT, EVENT_COLUMNS, number, only, read_digest, read_event};
use crate::inbox::attempt::{
    AHEAD_ATTEMPT, AHEAD_LOOK, AppResponse, AttemptRecord, ClaimOutcome, ClaimedEvent, DueEvent,
    DueMerchant, FailingApp,
};
use crate::inbox::decide::is_superseded;
use crate::inbox::event;
use crate::inbox::event::{EventState, WaitReason};
use crate::inbox::store::StoreError;
use crate::time::Millis;

/// Events that one step sets aside or makes due again.
const STEP: i64 = 1000;

// A loose index scan (PostgreSQL wiki, "Loose indexscan"): DISTINCT would read every pending row.
/// From merchant to merchant by the index: a long backlog of one costs the others nothing.
pub(super) fn due_sql() -> String {
    format!(
        "WITH RECURSIVE merchants(merid) AS (
            (SELECT merid FROM events WHERE state = 'pending' ORDER BY merid LIMIT 1)
            UNION ALL
            SELECT (SELECT merid FROM events
                WHERE state = 'pending' AND merid > merchants.merid ORDER BY merid LIMIT 1)
            FROM merchants WHERE merchants.merid IS NOT NULL
        )
        SELECT merchants.merid, due.id, due.attempts FROM merchants CROSS JOIN LATERAL (
            SELECT id, attempts, next_attempt FROM events
            WHERE state = 'pending' AND merid = merchants.merid AND next_attempt <= $2 AND {FREE}
            ORDER BY next_attempt LIMIT $3
        ) AS due"
    )
}

/// Reads every merchant's first due events.
pub(super) async fn due(
    database: &Database,
    holder: i64,
    now: Millis,
    each: u32,
) -> Result<Vec<DueMerchant>, StoreError> {
    let rows = database
        .rows_aside(&due_sql(), &[&holder, &now, &i64::from(each)])
        .await?;
    by_merchant(&rows)
}

/// Reads due events of several merchants, by the index alone.
pub(super) async fn due_of_each(
    database: &Database,
    holder: i64,
    wanted: &[(String, u32)],
    now: Millis,
) -> Result<Vec<DueMerchant>, StoreError> {
    let sql = format!(
        "SELECT wanted.merid, due.id, due.attempts, (SELECT min(next_attempt) FROM events
            WHERE state = 'pending' AND merid = wanted.merid AND next_attempt > $2 AND {FREE})
        FROM unnest($3::text[], $4::bigint[]) AS wanted(merid, most)
        LEFT JOIN LATERAL (
            SELECT id, attempts FROM events
            WHERE state = 'pending' AND merid = wanted.merid AND next_attempt <= $2 AND {FREE}
            ORDER BY next_attempt LIMIT wanted.most
        ) AS due ON true"
    );
    let merids: Vec<_> = wanted.iter().map(|it| it.0.as_str()).collect();
    let limits: Vec<_> = wanted.iter().map(|it| i64::from(it.1)).collect();
    let rows = database
        .rows_aside(&sql, &[&holder, &now, &merids, &limits])
        .await?;
    let mut due = by_merchant(&rows)?;
    let next: HashMap<&str, Option<Millis>> = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(3)?)))
        .collect::<Result<_, StoreError>>()?;
    for merchant in &mut due {
        merchant.next_at = next.get(merchant.merid.as_str()).copied().flatten();
    }
    Ok(due)
}

/// Gathers rows that come merchant by merchant; one without an event is a merchant without due ones.
fn by_merchant(rows: &[Row]) -> Result<Vec<DueMerchant>, StoreError> {
    let mut due: Vec<DueMerchant> = Vec::new();
    for row in rows {
        let merid: &str = row.try_get(0)?;
        if due.last().is_none_or(|last| last.merid != merid) {
            due.push(DueMerchant {
                merid: merid.to_owned(),
                events: Vec::new(),
                next_at: None,
            });
        }
        let has_event = row.try_get::<_, Option<&str>>(1)?.is_some();
        if let Some(last) = due.last_mut().filter(|_| has_event) {
            last.events.push(read_due(row)?);
        }
    }
    Ok(due)
}

fn read_due(row: &Row) -> Result<DueEvent, StoreError> {
    Ok(DueEvent {
        id: row.try_get(1)?,
        attempts: number(row, 2)?,
    })
}

/// Leases events.
///
/// States are compared in a form that no index has. Statistics are often from before a backlog: where they say that next to
/// nothing is pending or delivered, the planner would go through all that is, for each event.
pub(super) fn claim_sql() -> String {
    format!(
        "UPDATE events SET holder = $1, held_until = {LEASE} WHERE id IN (
            SELECT events.id FROM unnest($2::text[], $3::bigint[]) AS wanted(id, attempts)
            JOIN events ON events.id = wanted.id AND events.attempts = wanted.attempts
            WHERE state || '' = 'pending' AND {FREE} FOR UPDATE OF events SKIP LOCKED
        )
        RETURNING {EVENT},
            (SELECT backurl FROM tries WHERE tries.merid = events.merid AND tries.orderid = events.orderid
                AND kind <> 'shadow' AND sent <> 'no' ORDER BY tries.number DESC LIMIT 1),
            ARRAY(SELECT resultcode FROM events AS others WHERE others.merid = events.merid
                AND others.queryid = events.queryid AND others.state || '' = 'delivered')"
    )
}

/// Leases events, and returns a claim for each in their order.
pub(super) async fn claim(
    database: &Database,
    holder: i64,
    events: Vec<DueEvent>,
) -> Result<Vec<ClaimOutcome>, StoreError> {
    let ids: Vec<_> = events.iter().map(|due| due.id.as_str()).collect();
    let attempts: Vec<_> = events.iter().map(|due| i64::from(due.attempts)).collect();
    let rows = database
        .rows_aside(&claim_sql(), &[&holder, &ids, &attempts])
        .await?;
    let mut claims = HashMap::new();
    for row in &rows {
        let id: String = row.try_get(0)?;
        claims.insert(id.clone(), read_claim(id, row));
    }
    let claims = events.into_iter().map(|due| {
        // Removed, so that of two claims of one event in a group only the first gets it.
        let claim = claims.remove(&due.id);
        claim.unwrap_or(ClaimOutcome::Gone { id: due.id })
    });
    Ok(claims.collect())
}

fn read_claim(id: String, row: &Row) -> ClaimOutcome {
    match read_sound(row) {
        Ok(Ok(claimed)) => ClaimOutcome::Claimed(Box::new(claimed)),
        Ok(Err(why)) => ClaimOutcome::Damaged { id, why },
        // One row that cannot be read must not fail the other claims of its group.
        Err(error) => ClaimOutcome::Damaged {
            id,
            why: error.to_string(),
        },
    }
}

fn read_sound(row: &Row) -> Result<Result<ClaimedEvent, String>, StoreError> {
    let event = read_event(row)?;
    if read_digest(row)?.is_some_and(|digest| digest != event::digest(&event)) {
        return Ok(Err("the row does not match its digest".to_owned()));
    }
    let delivered: Vec<&str> = row.try_get(EVENT_COLUMNS + 1)?;
    Ok(Ok(ClaimedEvent {
        own_back: row.try_get(EVENT_COLUMNS)?,
        superseded: is_superseded(&event.resultcode, delivered),
        event,
    }))
}

/// Parks a row that cannot be believed, alone.
pub(super) async fn park(database: &Database, id: &str, why: &str) -> Result<(), StoreError> {
    let sql = "UPDATE events SET state = 'parked', holder = NULL, last_attempt = $2
        WHERE id = $1 AND state = 'pending'";
    let why = format!("damaged in the store: {why}");
    database.rows_aside(sql, &[&id, &why]).await.map(drop)
}

/// Reads the attempts at one event.
pub(super) async fn attempts(
    database: &Database,
    id: &str,
) -> Result<Vec<AttemptRecord>, StoreError> {
    let sql = "SELECT event, number, at, took, outcome, status, content_type, first_bytes, location, explanation
        FROM attempts WHERE event = $1 ORDER BY number";
    let rows = database.rows(sql, &[&id]).await?;
    let read = |row: &Row| {
        let status: Option<i32> = row.try_get(5)?;
        let response = status.map(|status| {
            Ok::<_, StoreError>(AppResponse {
                status: u16::try_from(status).unwrap_or_default(),
                content_type: row.try_get(6)?,
                first_bytes: row.try_get::<_, Option<_>>(7)?.unwrap_or_default(),
                location: row.try_get(8)?,
                explanation: row.try_get(9)?,
            })
        });
        Ok(AttemptRecord {
            id: row.try_get(0)?,
            number: number(row, 1)?,
            at: row.try_get(2)?,
            took: row.try_get(3)?,
            outcome: row.try_get(4)?,
            response: response.transpose()?,
            state: EventState::Pending,
            next: 0,
        })
    };
    rows.iter().map(read).collect()
}

/// Sets due events of a merchant aside.
pub(super) async fn wait_for(
    database: &Database,
    merid: &str,
    reason: WaitReason,
    now: Millis,
) -> Result<(), StoreError> {
    let sql = "WITH step AS (
            UPDATE events SET waits = $2, next_attempt = $4 WHERE id IN (
                SELECT id FROM events WHERE state = 'pending' AND merid = $1 AND next_attempt <= $3
                LIMIT $5 FOR UPDATE SKIP LOCKED
            ) RETURNING 1
        ) SELECT count(*) FROM step";
    let later = now.saturating_add(AHEAD_ATTEMPT);
    loop {
        let rows = database
            .rows_aside(sql, &[&merid, &reason.name(), &now, &later, &STEP])
            .await?;
        if only::<i64>(&rows)? < STEP {
            return Ok(());
        }
    }
}

/// Makes waiting events of a merchant due.
pub(super) async fn resume(
    database: &Database,
    merid: &str,
    now: Millis,
) -> Result<(), StoreError> {
    let sql = "WITH step AS (
            UPDATE events SET waits = '', next_attempt = least(next_attempt, $2) WHERE id IN (
                SELECT id FROM events WHERE state = 'pending' AND waits <> '' AND merid = $1
                LIMIT $3 FOR UPDATE SKIP LOCKED
            ) RETURNING 1
        ) SELECT count(*) FROM step";
    loop {
        let rows = database.rows_aside(sql, &[&merid, &now, &STEP]).await?;
        if only::<i64>(&rows)? < STEP {
            return Ok(());
        }
    }
}

/// Reads the merchants with events that wait.
pub(super) async fn waiting(database: &Database) -> Result<Vec<String>, StoreError> {
    let sql = "WITH RECURSIVE merchants(merid) AS (
            (SELECT merid FROM events WHERE state = 'pending' AND waits <> '' ORDER BY merid LIMIT 1)
            UNION ALL
            SELECT (SELECT merid FROM events
                WHERE state = 'pending' AND waits <> '' AND merid > merchants.merid ORDER BY merid LIMIT 1)
            FROM merchants WHERE merchants.merid IS NOT NULL
        )
        SELECT merid FROM merchants WHERE merid IS NOT NULL";
    let rows = database.rows_aside(sql, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Plans anew what was planned too far ahead.
pub(super) async fn set_back(database: &Database, now: Millis) -> Result<(), StoreError> {
    let events =
        "UPDATE events SET next_attempt = $1 WHERE state = 'pending' AND next_attempt > $2";
    let ahead = now.saturating_add(AHEAD_ATTEMPT);
    database.rows_aside(events, &[&now, &ahead]).await?;
    let orders = "UPDATE orders SET next_look = $1 WHERE next_look > $2";
    let ahead = now.saturating_add(AHEAD_LOOK);
    database.rows_aside(orders, &[&now, &ahead]).await?;
    Ok(())
}

/// Reads the apps that failed.
pub(super) async fn failing(database: &Database) -> Result<Vec<FailingApp>, StoreError> {
    let sql = "SELECT merid, since, last, why FROM failing";
    let rows = database.rows_aside(sql, &[]).await?;
    let read = |row: &Row| {
        Ok(FailingApp {
            merid: row.try_get(0)?,
            since: row.try_get(1)?,
            last: row.try_get(2)?,
            why: row.try_get(3)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Remembers a failing app.
pub(super) async fn set_failing(database: &Database, app: &FailingApp) -> Result<(), StoreError> {
    let sql = "INSERT INTO failing VALUES ($1, $2, $3, $4) ON CONFLICT (merid)
        DO UPDATE SET since = excluded.since, last = excluded.last, why = excluded.why";
    let done = database
        .rows_aside(sql, &[&app.merid, &app.since, &app.last, &app.why])
        .await;
    done.map(drop)
}

/// Forgets that an app failed.
pub(super) async fn set_working(database: &Database, merid: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM failing WHERE merid = $1";
    database.rows_aside(sql, &[&merid]).await.map(drop)
}
