//! Results on their way into the database. Those that arrive during one transaction go into the next together, at the cost
//! of one flush and a handful of round trips.

use std::collections::{BTreeSet, HashSet};

use deadpool_postgres::{GenericClient, Transaction};
use futures_util::future::{join_all, try_join_all, try_join3};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::database::Database;
use crate::inbox::decide::{
    Decision, KnownEvent, KnownHistory, NewEvent, event_of_result, event_of_review, judge,
};
use crate::inbox::event;
use crate::inbox::event::{Event, EventState, ReviewReason, WaitReason};
use crate::inbox::review::{REVIEWS_EACH, Review, ReviewOutcome};
use crate::inbox::store::{Arrival, PutOutcome, StoreError};
use crate::protocol::envelope::Verified;
use crate::protocol::result::PaymentResult;

/// Limit of results of one transaction.
const GROUP: usize = 256;

/// Reads the known facts about a result: one row at least, and one for each earlier event of its payment.
const KNOWN: &str = "SELECT orders.amount,
        EXISTS (SELECT FROM orders AS theirs WHERE theirs.orderid = $2 AND theirs.merid <> $1),
        $5 <= (SELECT count(*) FROM (
            SELECT FROM events WHERE state = 'disputed' AND merid = $1 LIMIT $5) AS disputed),
        events.id, events.orderid, events.resultcode, events.state, events.review
    FROM (VALUES (1)) AS always
    LEFT JOIN orders ON orders.merid = $1 AND orders.orderid = $2
    LEFT JOIN events ON events.merid = $1 AND events.queryid = $3 AND events.resultcode IN ($4, '0000')";

const HOLD: &str = "UPDATE events SET state = 'disputed', review = 'other-result'
    WHERE merid = $1 AND queryid = $2 AND resultcode = $3 AND state IN ('pending', 'parked')";

const CLOSE: &str = "UPDATE orders SET next_look = NULL, urgent = false, holder = NULL
    WHERE merid = $1 AND orderid = $2 AND next_look IS NOT NULL";

/// Attaches the payment to the order's try, where only one can be meant.
const LINK: &str = "UPDATE tries SET queryid = $3 WHERE merid = $1 AND orderid = $2 AND sent <> 'no' AND queryid IS NULL
    AND 1 = (SELECT count(*) FROM tries
        WHERE merid = $1 AND orderid = $2 AND sent <> 'no' AND queryid IS NULL)
    AND NOT EXISTS (SELECT FROM tries WHERE merid = $1 AND orderid = $2 AND queryid = $3)";

const INSERT: &str = "INSERT INTO events (id, merid, orderid, queryid, resultcode, amount, json, source, matched, state,
        received_at, next_attempt, raw, review, field, waits, digest)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12, $13, $14, $15, $16)";

/// One result that waits.
pub(super) struct KeepJob {
    pub(super) outcome: Verified<PaymentResult>,
    pub(super) arrival: Arrival,
    pub(super) reply: oneshot::Sender<Result<PutOutcome, StoreError>>,
}

impl KeepJob {
    /// The keys that must stay locked while this is decided: its order, and its payment with this result.
    fn keys(&self) -> [String; 2] {
        let PaymentResult {
            merid,
            orderid,
            queryid,
            resultcode,
            ..
        } = &*self.outcome;
        [
            format!("order {merid} {orderid}"),
            format!("payment {merid} {resultcode} {queryid}"),
        ]
    }
}

/// Keeps results until every sender is dropped.
pub(super) async fn run(database: &Database, mut coming: mpsc::Receiver<KeepJob>) {
    let mut waiting: Vec<KeepJob> = Vec::new();
    loop {
        if waiting.is_empty() {
            match coming.recv().await {
                Some(job) => waiting.push(job),
                None => return,
            }
        }
        while waiting.len() < GROUP
            && let Ok(job) = coming.try_recv()
        {
            waiting.push(job);
        }
        waiting.retain(|job| !job.reply.is_closed());
        let group = take_group(&mut waiting);
        let kept = database.within(keep(database, &group)).await;
        // Another transaction may hold one row of the group: that one waits, and no other with it.
        if matches!(kept, Err(StoreError::Slow)) && group.len() > 1 {
            let alone = group.into_iter().map(async |job| {
                let job = [job];
                let kept = database.within(keep(database, &job)).await;
                answer(job.into(), kept);
            });
            join_all(alone).await;
        } else {
            answer(group, kept);
        }
    }
}

/// Takes the results that have no key in common; the others wait for the next transaction.
fn take_group(waiting: &mut Vec<KeepJob>) -> Vec<KeepJob> {
    let mut touched = HashSet::new();
    let is_alone = |job: &mut KeepJob| {
        let keys = job.keys();
        let is_alone = keys.iter().all(|key| !touched.contains(key));
        // The keys of jobs that stay count as well, or a later result of the same payment would overtake them.
        touched.extend(keys);
        is_alone
    };
    waiting.extract_if(.., is_alone).collect()
}

/// Replies to each caller. One may have stopped waiting: then the result is dropped.
fn answer(group: Vec<KeepJob>, kept: Result<Vec<PutOutcome>, StoreError>) {
    match kept {
        Ok(puts) => {
            for (job, put) in group.into_iter().zip(puts) {
                let _ = job.reply.send(Ok(put));
            }
        }
        Err(error) => {
            for job in group {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
    }
}

/// Runs the stages of one transaction. Each is one round trip: its statements are sent before the first reply arrives.
async fn keep(database: &Database, group: &[KeepJob]) -> Result<Vec<PutOutcome>, StoreError> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let find = transaction.prepare_cached(KNOWN).await?;
    let statements = Statements::prepare(&transaction).await?;
    // Each statement after it has a snapshot of its own (READ COMMITTED), and so sees what the former holder of the
    // lock committed. Under REPEATABLE READ it would not.
    lock(&transaction, group).await?;
    let known = try_join_all(group.iter().map(|job| known(&transaction, &find, job))).await?;
    let judged = group.iter().zip(known).map(|(job, (known, is_full))| {
        let decision = judge(&job.outcome, &known);
        (job, decision, is_full)
    });
    let judged: Vec<_> = judged.collect();
    let news = judged.iter().filter_map(|(job, decision, is_full)| {
        let Decision::NewEvent(new) = decision else {
            return None;
        };
        Some(statements.write(&transaction, job, new, *is_full))
    });
    try_join_all(news).await?;
    transaction.commit().await?;
    let puts = judged
        .into_iter()
        .map(|(_, decision, is_full)| match decision {
            Decision::KnownHistory(put) => put,
            Decision::NewEvent(new) if new.holds_others() && is_full => PutOutcome::ReviewFull,
            Decision::NewEvent(new) => new.kept(),
        });
    Ok(puts.collect())
}

/// Locks the keys against other sidecars until the transaction ends. Always in one order, so that no two sidecars wait for
/// each other.
async fn lock(transaction: &Transaction<'_>, group: &[KeepJob]) -> Result<(), StoreError> {
    let keys: BTreeSet<_> = group.iter().flat_map(KeepJob::keys).collect();
    let keys: Vec<_> = keys.into_iter().collect();
    let sql =
        "SELECT pg_advisory_xact_lock(hashtextextended(key, 0)) FROM unnest($1::text[]) AS key";
    let statement = transaction.prepare_cached(sql).await?;
    transaction.query(&statement, &[&keys]).await?;
    Ok(())
}

/// Reads the known facts, and whether the merchant has as many events in review as are kept.
async fn known(
    transaction: &Transaction<'_>,
    find: &Statement,
    job: &KeepJob,
) -> Result<(KnownHistory, bool), StoreError> {
    let PaymentResult {
        merid,
        orderid,
        queryid,
        resultcode,
        ..
    } = &*job.outcome;
    let most = i64::from(REVIEWS_EACH);
    let rows = transaction
        .query(find, &[merid, orderid, queryid, resultcode, &most])
        .await?;
    let mut known = KnownHistory {
        signed: None,
        is_anothers: false,
        events: Vec::new(),
    };
    let mut is_full = false;
    for row in rows {
        known.signed = row.try_get(0)?;
        known.is_anothers = row.try_get(1)?;
        is_full = row.try_get(2)?;
        if let Some(id) = row.try_get(3)? {
            known.events.push(KnownEvent {
                id,
                orderid: row.try_get(4)?,
                resultcode: row.try_get(5)?,
                state: EventState::stored(row.try_get(6)?),
                review: ReviewReason::parse(row.try_get(7)?),
            });
        }
    }
    Ok((known, is_full))
}

/// The statements that keep an event.
struct Statements {
    hold: Statement,
    insert: Statement,
    link: Statement,
    close: Statement,
}

impl Statements {
    async fn prepare(transaction: &Transaction<'_>) -> Result<Self, StoreError> {
        Ok(Self {
            hold: transaction.prepare_cached(HOLD).await?,
            insert: transaction.prepare_cached(INSERT).await?,
            link: transaction.prepare_cached(LINK).await?,
            close: transaction.prepare_cached(CLOSE).await?,
        })
    }

    async fn write(
        &self,
        transaction: &Transaction<'_>,
        job: &KeepJob,
        new: &NewEvent,
        is_full: bool,
    ) -> Result<(), StoreError> {
        let PaymentResult {
            merid,
            orderid,
            queryid,
            resultcode,
            ..
        } = &*job.outcome;
        if new.holds_others() {
            transaction
                .execute(&self.hold, &[merid, queryid, resultcode])
                .await?;
            if is_full {
                return Ok(());
            }
        }
        let event = event_of_result(&job.outcome, new, job.arrival);
        // Sent together: each future writes its message before the first is waited for.
        let inserting = insert(transaction, &self.insert, &event);
        let linking = async {
            let row: [&(dyn ToSql + Sync); 3] = [merid, orderid, queryid];
            Ok(transaction.execute(&self.link, &row).await?)
        };
        let closing = async {
            if !new.closes_order {
                return Ok(0);
            }
            let row: [&(dyn ToSql + Sync); 2] = [merid, orderid];
            Ok(transaction.execute(&self.close, &row).await?)
        };
        try_join3(inserting, linking, closing).await.map(drop)
    }
}

async fn insert(
    client: &impl GenericClient,
    statement: &Statement,
    event: &Event,
) -> Result<u64, StoreError> {
    let written = client
        .execute(
            statement,
            &[
                &event.id,
                &event.merid,
                &event.orderid,
                &event.queryid,
                &event.resultcode,
                &event::cents(event.amount),
                &event.json,
                &event.source.name(),
                &event.matched,
                &event.state.name(),
                &event.received_at,
                &event.raw,
                &event.review.map_or("", ReviewReason::name),
                &event.field,
                &event.waits.map_or("", WaitReason::name),
                &event::digest(event).as_slice(),
            ],
        )
        .await?;
    Ok(written)
}

/// Keeps a payload for review, once.
pub(super) async fn put_for_review(
    database: &Database,
    review: &Review,
) -> Result<ReviewOutcome, StoreError> {
    let event = event_of_review(review);
    database
        .within(async {
            let mut client = database.client().await?;
            let transaction = client.transaction().await?;
            let lock = "SELECT pg_advisory_xact_lock(hashtextextended('review ' || $1, 0))";
            transaction.query(lock, &[&event.merid]).await?;
            let sql = "SELECT state FROM events WHERE id = $1";
            if let Some(row) = transaction.query_opt(sql, &[&event.id]).await? {
                return Ok(ReviewOutcome::Repeated {
                    id: event.id,
                    state: EventState::stored(row.try_get(0)?),
                });
            }
            let sql = "SELECT count(*) FROM (
                SELECT FROM events WHERE state = 'disputed' AND merid = $1 LIMIT $2) AS disputed";
            let most = i64::from(REVIEWS_EACH);
            let row = transaction.query_one(sql, &[&event.merid, &most]).await?;
            if row.try_get::<_, i64>(0)? >= most {
                return Ok(ReviewOutcome::Full);
            }
            let statement = transaction.prepare_cached(INSERT).await?;
            insert(&transaction, &statement, &event).await?;
            transaction.commit().await?;
            Ok(ReviewOutcome::Kept { id: event.id })
        })
        .await
}

/// Writes a row and takes it back: a table or an index that is damaged fails this.
pub(super) async fn try_out(database: &Database) -> Result<(), StoreError> {
    let trial = event_of_review(&Review {
        merid: "trial".to_owned(),
        orderid: String::new(),
        queryid: "trial".to_owned(),
        payload: Vec::new(),
        reason: ReviewReason::Malformed,
        field: String::new(),
        source: event::Source::Query,
        at: 0,
    });
    database
        .within(async {
            let mut client = database.client().await?;
            let transaction = client.transaction().await?;
            let statement = transaction.prepare_cached(INSERT).await?;
            insert(&transaction, &statement, &trial).await?;
            Ok(transaction.rollback().await?)
        })
        .await
}
