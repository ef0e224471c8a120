//! Claims and records of attempts on their way into the database: those that wait while one statement is under way go
//! into the next together, and cost one commit.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;

use super::database::{Database, PATIENCE};
use super::deliver;
use crate::inbox::attempt::{AppResponse, AttemptRecord, ClaimOutcome, DueEvent};
use crate::inbox::store::StoreError;

/// Rows of one statement at most.
const GROUP: usize = 256;
/// The pause after a statement that found rows locked, before they are tried again.
const LOCKED_PAUSE: Duration = Duration::from_millis(200);

/// A claim that waits.
pub(super) struct ClaimJob {
    pub(super) events: Vec<DueEvent>,
    pub(super) reply: oneshot::Sender<Result<Vec<ClaimOutcome>, StoreError>>,
}

/// An attempt that waits to be written down.
pub(super) struct AttemptJob {
    pub(super) attempt: AttemptRecord,
    /// After this its caller has given up.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Result<bool, StoreError>>,
}

/// Claims until every sender is gone.
pub(super) async fn claims(database: &Database, holder: i64, mut coming: mpsc::Receiver<ClaimJob>) {
    while let Some(first) = coming.recv().await {
        let mut events = first.events.clone();
        let mut jobs = vec![first];
        while events.len() < GROUP
            && let Ok(job) = coming.try_recv()
        {
            events.extend(job.events.iter().cloned());
            jobs.push(job);
        }
        let claimed = deliver::claim(database, holder, events).await;
        match claimed {
            Ok(claims) => {
                let mut claims = claims.into_iter();
                for job in jobs {
                    let own = claims.by_ref().take(job.events.len()).collect();
                    // A caller may have stopped waiting: its lease expires.
                    let _ = job.reply.send(Ok(own));
                }
            }
            Err(error) => {
                for job in jobs {
                    let _ = job.reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Writes attempts down until every sender is gone.
pub(super) async fn attempts(
    database: &Database,
    holder: i64,
    mut coming: mpsc::Receiver<AttemptJob>,
) {
    let mut waiting: Vec<AttemptJob> = Vec::new();
    let mut paused_until: Option<Instant> = None;
    loop {
        let next = match paused_until {
            // Those that wait are locked: they are tried again with the next job that comes, or after a pause.
            Some(until) => tokio::time::timeout_at(until.into(), coming.recv())
                .await
                .ok(),
            None if waiting.is_empty() => Some(coming.recv().await),
            None => None,
        };
        match next {
            Some(Some(job)) => waiting.push(job),
            Some(None) => return,
            None => paused_until = None,
        }
        while waiting.len() < GROUP
            && let Ok(job) = coming.try_recv()
        {
            waiting.push(job);
        }
        let now = Instant::now();
        waiting.retain(|job| job.until > now && !job.reply.is_closed());
        let group = take_group(&mut waiting);
        if group.is_empty() {
            continue;
        }
        match write(database, holder, &group).await {
            Ok(mut written) => {
                for job in group {
                    match written.remove(&job.attempt.id) {
                        Some(Written::Done) => drop(job.reply.send(Ok(true))),
                        // Another transaction has the row: it waits, and no other with it.
                        Some(Written::Locked) => waiting.push(job),
                        Some(Written::Late) | None => drop(job.reply.send(Ok(false))),
                    }
                }
                if !waiting.is_empty() && paused_until.is_none() {
                    paused_until = Some(Instant::now() + LOCKED_PAUSE);
                }
            }
            Err(error) => {
                for job in group {
                    let _ = job.reply.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Takes one attempt of each event; the others stay for the next statement.
fn take_group(waiting: &mut Vec<AttemptJob>) -> Vec<AttemptJob> {
    let mut taken = HashSet::new();
    // `UPDATE … FROM` takes one of several matching rows, and does not say which: each event at most once in a
    // statement.
    let is_first = |job: &mut AttemptJob| taken.insert(job.attempt.id.clone());
    let mut group: Vec<_> = waiting.extract_if(.., is_first).collect();
    let rest = group.split_off(group.len().min(GROUP));
    waiting.extend(rest);
    group
}

enum Written {
    Done,
    /// The row is as it was when it was claimed, and a transaction holds it.
    Locked,
    /// The event is another sidecar's by now, or has had that attempt already.
    Late,
}

const WRITE: &str = "WITH given AS (
        SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[],
            $9::integer[], $10::text[], $11::bytea[], $12::text[], $13::text[])
        AS given(id, number, at, took, outcome, state, next, status, content_type, first_bytes, location, explanation)
    ), free AS (
        SELECT given.* FROM given JOIN events ON events.id = given.id
        WHERE events.attempts = given.number - 1 AND events.holder = $1 FOR UPDATE OF events SKIP LOCKED
    ), event AS (
        UPDATE events SET attempts = free.number, last_attempt = free.outcome, next_attempt = free.next, waits = '',
            holder = NULL, state = CASE WHEN events.state = 'pending' OR free.state = 'delivered'
                THEN free.state ELSE events.state END
        FROM free WHERE events.id = free.id RETURNING events.id
    ), attempt AS (
        INSERT INTO attempts (event, number, at, took, outcome, status, content_type, first_bytes, location, explanation)
        SELECT id, number, at, took, outcome, status, content_type, first_bytes, location, explanation FROM free
        ON CONFLICT (event, number) DO UPDATE SET at = excluded.at, took = excluded.took, outcome = excluded.outcome,
            status = excluded.status, content_type = excluded.content_type, first_bytes = excluded.first_bytes,
            location = excluded.location, explanation = excluded.explanation
    )
    SELECT given.id, EXISTS (SELECT FROM event WHERE event.id = given.id),
        EXISTS (SELECT FROM events WHERE events.id = given.id AND events.attempts = given.number - 1
            AND events.holder = $1)
    FROM given";

async fn write(
    database: &Database,
    holder: i64,
    group: &[AttemptJob],
) -> Result<HashMap<String, Written>, StoreError> {
    let attempts = || group.iter().map(|job| &job.attempt);
    let responses = || attempts().map(|it| it.response.as_ref());
    let text = |of: fn(&AppResponse) -> &str| -> Vec<&str> {
        responses().map(|it| it.map_or("", of)).collect()
    };
    let ids: Vec<_> = attempts().map(|it| it.id.as_str()).collect();
    let numbers: Vec<_> = attempts().map(|it| i64::from(it.number)).collect();
    let at: Vec<_> = attempts().map(|it| it.at).collect();
    let took: Vec<_> = attempts().map(|it| it.took).collect();
    let outcomes: Vec<_> = attempts().map(|it| it.outcome.as_str()).collect();
    let states: Vec<_> = attempts().map(|it| it.state.name()).collect();
    let next: Vec<_> = attempts().map(|it| it.next).collect();
    let statuses: Vec<_> = responses()
        .map(|it| it.map(|it| i32::from(it.status)))
        .collect();
    let first_bytes: Vec<_> = responses()
        .map(|it| it.map(|it| it.first_bytes.as_slice()))
        .collect();
    let rows = database
        .rows_aside(
            WRITE,
            &[
                &holder,
                &ids,
                &numbers,
                &at,
                &took,
                &outcomes,
                &states,
                &next,
                &statuses,
                &text(|it| &it.content_type),
                &first_bytes,
                &text(|it| &it.location),
                &text(|it| &it.explanation),
            ],
        )
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<(String, Written), StoreError> {
    let (is_done, is_as_claimed): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
    let written = match (is_done, is_as_claimed) {
        (true, _) => Written::Done,
        (false, true) => Written::Locked,
        (false, false) => Written::Late,
    };
    Ok((row.try_get(0)?, written))
}

/// Returns the time by which an attempt has to be written down.
pub(super) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}
