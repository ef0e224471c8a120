//! Results on their way into the database: what waits while one transaction is under way goes into the next together,
//! and costs one flush and a handful of round trips, however many there are.

use std::collections::{BTreeSet, HashSet};

use deadpool_postgres::Transaction;
use futures_util::future::try_join_all;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Statement;

use super::database::Database;
use crate::inbox::decide::{Decision, KnownEvent, KnownHistory, NewEvent, cents, judge};
use crate::inbox::event::EventState;
use crate::inbox::store::{Arrival, PutOutcome, StoreError};
use crate::protocol::envelope::Verified;
use crate::protocol::result::PaymentResult;

/// Results of one transaction at most.
const GROUP: usize = 256;

/// Everything that is known of a result: one row at least, and one for each story that was told before.
const KNOWN: &str = "SELECT orders.amount,
        EXISTS (SELECT FROM orders AS theirs WHERE theirs.orderid = $2 AND theirs.merid <> $1),
        events.id, events.orderid, events.state
    FROM (VALUES (1)) AS always
    LEFT JOIN orders ON orders.merid = $1 AND orders.orderid = $2
    LEFT JOIN events ON events.merid = $1 AND events.queryid = $3 AND events.resultcode = $4";

const KEEP: &str = "WITH held AS (
        UPDATE events SET state = 'disputed'
        WHERE $12 AND merid = $2 AND queryid = $4 AND resultcode = $5 AND state IN ('pending', 'parked')
    ), closed AS (
        UPDATE orders SET next_look = NULL, urgent = false, holder = NULL
        WHERE $13 AND merid = $2 AND orderid = $3
    )
    INSERT INTO events (id, merid, orderid, queryid, resultcode, amount, json, source, matched, state,
        received_at, next_attempt)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)";

/// One result that waits.
pub(super) struct KeepJob {
    pub(super) outcome: Verified<PaymentResult>,
    pub(super) arrival: Arrival,
    pub(super) reply: oneshot::Sender<Result<PutOutcome, StoreError>>,
}

impl KeepJob {
    /// What nobody else may touch while this is decided: its order, and its payment with this result.
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

/// Keeps what comes until every sender is gone.
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
        answer(group, kept);
    }
}

/// Those that touch nothing in common; the others stay for the next one.
fn take_group(waiting: &mut Vec<KeepJob>) -> Vec<KeepJob> {
    let mut touched = HashSet::new();
    let is_alone = |job: &mut KeepJob| {
        let keys = job.keys();
        let is_alone = keys.iter().all(|key| !touched.contains(key));
        touched.extend(keys);
        is_alone
    };
    waiting.extract_if(.., is_alone).collect()
}

/// Whoever asked may have stopped waiting: a result that nobody takes is dropped.
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

/// Each stage is one round trip: its statements are sent before the first is answered.
async fn keep(database: &Database, group: &[KeepJob]) -> Result<Vec<PutOutcome>, StoreError> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let find = transaction.prepare_cached(KNOWN).await?;
    let write = transaction.prepare_cached(KEEP).await?;
    lock(&transaction, group).await?;
    let known = try_join_all(group.iter().map(|job| known(&transaction, &find, job))).await?;
    let judged = group.iter().zip(known);
    let verdicts: Vec<_> = judged
        .map(|(job, known)| judge(&job.outcome, &known, job.arrival.deliverable))
        .collect();
    let news = group.iter().zip(&verdicts).filter_map(|(job, verdict)| {
        let Decision::NewEvent(new) = verdict else {
            return None;
        };
        Some(insert(&transaction, &write, job, new))
    });
    try_join_all(news).await?;
    transaction.commit().await?;
    let puts = verdicts.into_iter().map(|verdict| match verdict {
        Decision::KnownHistory(put) => put,
        Decision::NewEvent(new) => new.kept(),
    });
    Ok(puts.collect())
}

/// Another sidecar may be told the same story now: it waits until this transaction is over. In one order, so that no
/// two wait for each other.
async fn lock(transaction: &Transaction<'_>, group: &[KeepJob]) -> Result<(), StoreError> {
    let keys: BTreeSet<_> = group.iter().flat_map(KeepJob::keys).collect();
    let keys: Vec<_> = keys.into_iter().collect();
    let sql =
        "SELECT pg_advisory_xact_lock(hashtextextended(key, 0)) FROM unnest($1::text[]) AS key";
    let statement = transaction.prepare_cached(sql).await?;
    transaction.query(&statement, &[&keys]).await?;
    Ok(())
}

async fn known(
    transaction: &Transaction<'_>,
    find: &Statement,
    job: &KeepJob,
) -> Result<KnownHistory, StoreError> {
    let PaymentResult {
        merid,
        orderid,
        queryid,
        resultcode,
        ..
    } = &*job.outcome;
    let rows = transaction
        .query(find, &[merid, orderid, queryid, resultcode])
        .await?;
    let mut known = KnownHistory {
        signed: None,
        is_anothers: false,
        told: Vec::new(),
    };
    for row in rows {
        known.signed = row.try_get(0)?;
        known.is_anothers = row.try_get(1)?;
        if let Some(id) = row.try_get(2)? {
            known.told.push(KnownEvent {
                id,
                orderid: row.try_get(3)?,
                state: EventState::stored(row.try_get(4)?),
            });
        }
    }
    Ok(known)
}

async fn insert(
    transaction: &Transaction<'_>,
    write: &Statement,
    job: &KeepJob,
    new: &NewEvent,
) -> Result<u64, StoreError> {
    let PaymentResult {
        json,
        merid,
        orderid,
        queryid,
        resultcode,
        amount,
    } = &*job.outcome;
    let (amount, source, state) = (cents(*amount), job.arrival.source.name(), new.state.name());
    let (holds_others, closes_order) = (new.holds_others(), new.closes_order);
    let written = transaction
        .execute(
            write,
            &[
                &new.id,
                merid,
                orderid,
                queryid,
                resultcode,
                &amount,
                json,
                &source,
                &new.matched,
                &state,
                &job.arrival.at,
                &holds_others,
                &closes_order,
            ],
        )
        .await?;
    Ok(written)
}
