//! Orders and tries in the database.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::database::Database;
use super::lease::{FREE, LEASE};
use super::row::{number, only, unsigned};
use crate::inbox::event::{EventState, cents};
use crate::inbox::listing::{OrderFilter, OrderPlace, OrderResult, OrderRow};
use crate::inbox::order::{
    FIRST_LOOK, KEPT_TRIES, LOST_TRY, NewTry, OpenOrder, RecordOutcome, SignedOrder, Try, TryKind,
    TryRecord, TryState,
};
use crate::inbox::store::StoreError;
use crate::protocol::request::Order;
use crate::time::Millis;

/// Turns of a record: an order or a try that another sidecar writes at the same moment is there the next time.
const RECORD_TURNS: usize = 5;

// The parts see one snapshot and none of each other's rows (PostgreSQL, "Data-Modifying Statements in WITH"), so that
// `found` has to put the row that is new beside the row that was there.
/// The row that is there is locked against being freed until its new try is there. Not FOR SHARE: two records of a closed
/// order could both have that, and each would wait in `reopened` for the other to give it up.
const RECORD: &str = "WITH new AS (
        INSERT INTO orders (merid, orderid, amount, action, signed_at, next_look)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING amount, action
    ), old AS (
        SELECT amount, action FROM orders WHERE merid = $1 AND orderid = $2 FOR NO KEY UPDATE
    ), found AS (
        SELECT amount, action, true AS created FROM new UNION ALL SELECT amount, action, false FROM old
    ), agreed AS (
        SELECT created FROM found WHERE amount = $3 AND action = $4 LIMIT 1
    ), reopened AS (
        UPDATE orders SET next_look = $6 WHERE merid = $1 AND orderid = $2 AND next_look IS NULL
            AND EXISTS (SELECT FROM agreed WHERE NOT created)
            AND NOT EXISTS (SELECT FROM events WHERE orderid = $2 AND merid = $1
                AND resultcode IN ('0000', '1002') AND state <> 'disputed')
    ), try AS (
        INSERT INTO tries (merid, orderid, number, kind, at, sent, created, backurl)
        SELECT $1, $2, coalesce((SELECT max(number) FROM tries WHERE merid = $1 AND orderid = $2), 0) + 1,
            $7, $5, $8, created, $9 FROM agreed
        ON CONFLICT DO NOTHING RETURNING number, created
    )
    SELECT EXISTS (SELECT FROM found), EXISTS (SELECT FROM agreed),
        (SELECT number FROM try), (SELECT created FROM try)";

/// Writes an order and its try, or finds the conflict.
pub(super) async fn record(
    database: &Database,
    merid: &str,
    order: &Order,
    new: NewTry<'_>,
    at: Millis,
) -> Result<RecordOutcome, StoreError> {
    let (orderid, amount) = (&order.orderid, cents(order.amount));
    let next_look = at.saturating_add(FIRST_LOOK);
    let (kind, state) = (new.kind.name(), new.kind.first_state().name());
    for _ in 0..RECORD_TURNS {
        let rows = database
            .rows(
                RECORD,
                &[
                    &merid,
                    orderid,
                    &amount,
                    &order.action,
                    &at,
                    &next_look,
                    &kind,
                    &state,
                    &new.backurl,
                ],
            )
            .await?;
        let row = rows.first().ok_or(StoreError::Slow)?;
        let (is_there, agrees): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        if is_there && !agrees {
            return Ok(RecordOutcome::Conflicts);
        }
        // It is there, but was not yet when this statement began.
        let Some(number) = row.try_get::<_, Option<i64>>(2)? else {
            continue;
        };
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        if number > KEPT_TRIES {
            prune(database, merid, orderid, number - KEPT_TRIES).await?;
        }
        return Ok(RecordOutcome::Agrees(Try {
            merid: merid.to_owned(),
            orderid: orderid.clone(),
            number,
            created: row.try_get(3)?,
        }));
    }
    Err(StoreError::Slow)
}

async fn prune(
    database: &Database,
    merid: &str,
    orderid: &str,
    upto: u32,
) -> Result<(), StoreError> {
    let sql = "DELETE FROM tries WHERE merid = $1 AND orderid = $2 AND number <= $3";
    let done = database
        .rows(sql, &[&merid, &orderid, &i64::from(upto)])
        .await;
    done.map(drop)
}

/// Settles a try; returns true where that removed the order.
pub(super) async fn settle_try(
    database: &Database,
    which: &Try,
    state: TryState,
) -> Result<bool, StoreError> {
    let Try {
        merid,
        orderid,
        number,
        created,
    } = which;
    let number = i64::from(*number);
    let settle = "UPDATE tries SET sent = $4 WHERE merid = $1 AND orderid = $2 AND number = $3";
    if state != TryState::No || !created {
        let done = database
            .rows(settle, &[merid, orderid, &number, &state.name()])
            .await;
        return done.map(|_| false);
    }
    // The lock comes first: the statement after it sees every try whose record had the row before.
    let lock = "SELECT FROM orders WHERE merid = $1 AND orderid = $2 FOR UPDATE";
    let free = "DELETE FROM orders WHERE merid = $1 AND orderid = $2
        AND EXISTS (SELECT FROM tries WHERE merid = $1 AND orderid = $2 AND number = $3 AND created)
        AND NOT EXISTS (SELECT FROM tries WHERE merid = $1 AND orderid = $2 AND sent <> 'no')
        AND NOT EXISTS (SELECT FROM events WHERE orderid = $2 AND merid = $1)";
    database
        .within(async {
            let mut client = database.client().await?;
            let transaction = client.transaction().await?;
            let settle = transaction.prepare_cached(settle).await?;
            let lock = transaction.prepare_cached(lock).await?;
            let free = transaction.prepare_cached(free).await?;
            transaction.execute(&lock, &[merid, orderid]).await?;
            transaction
                .execute(&settle, &[merid, orderid, &number, &state.name()])
                .await?;
            let freed = transaction
                .execute(&free, &[merid, orderid, &number])
                .await?;
            transaction.commit().await?;
            Ok(freed > 0)
        })
        .await
}

/// Attaches a payment to a try.
pub(super) async fn link_try(
    database: &Database,
    which: &Try,
    queryid: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE tries SET queryid = $4 WHERE merid = $1 AND orderid = $2 AND number = $3";
    let number = i64::from(which.number);
    let done = database
        .rows(sql, &[&which.merid, &which.orderid, &number, &queryid])
        .await;
    done.map(drop)
}

/// Reads the tries of an order.
pub(super) async fn tries(
    database: &Database,
    merid: &str,
    orderid: &str,
) -> Result<Vec<TryRecord>, StoreError> {
    let sql = "SELECT number, kind, at, sent, backurl, queryid FROM tries
        WHERE merid = $1 AND orderid = $2 ORDER BY number";
    let rows = database.rows(sql, &[&merid, &orderid]).await?;
    let read = |row: &Row| {
        Ok(TryRecord {
            number: number(row, 0)?,
            kind: TryKind::stored(row.try_get(1)?),
            at: row.try_get(2)?,
            state: TryState::stored(row.try_get(3)?),
            backurl: row.try_get(4)?,
            queryid: row.try_get(5)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Plans an early query.
pub(super) async fn hasten(
    database: &Database,
    merid: &str,
    orderid: &str,
    at: Millis,
) -> Result<(), StoreError> {
    let sql = "UPDATE orders SET urgent = true, next_look = $3
        WHERE merid = $1 AND orderid = $2 AND next_look IS NOT NULL";
    let done = database.rows(sql, &[&merid, &orderid, &at]).await;
    done.map(drop)
}

/// Makes tries that have been in flight for too long unknown, and plans a query for each of their orders.
async fn lose_tries(database: &Database, now: Millis) -> Result<(), StoreError> {
    let sql = "SELECT EXISTS (SELECT FROM tries WHERE sent = 'in-flight' AND at < $1)";
    let before = now.saturating_sub(LOST_TRY);
    if !only::<bool>(&database.rows_aside(sql, &[&before]).await?)? {
        return Ok(());
    }
    let sql = "WITH lost AS (
            UPDATE tries SET sent = 'unknown' WHERE sent = 'in-flight' AND at < $1 RETURNING merid, orderid
        )
        UPDATE orders SET urgent = true, next_look = $2 FROM lost
        WHERE orders.merid = lost.merid AND orders.orderid = lost.orderid AND next_look IS NOT NULL";
    database.rows_aside(sql, &[&before, &now]).await.map(drop)
}

/// Leases the orders that are to be queried.
pub(super) async fn open_orders(
    database: &Database,
    holder: i64,
    now: Millis,
    limit: u32,
) -> Result<Vec<OpenOrder>, StoreError> {
    lose_tries(database, now).await?;
    let sql = format!(
        "UPDATE orders SET holder = $1, held_until = {LEASE} FROM (
            SELECT merid, orderid FROM orders WHERE next_look <= $2 AND {FREE}
            ORDER BY urgent DESC, next_look LIMIT $3 FOR UPDATE SKIP LOCKED
        ) AS ours WHERE orders.merid = ours.merid AND orders.orderid = ours.orderid
        RETURNING orders.merid, orders.orderid, greatest(orders.signed_at, (SELECT max(at) FROM tries
            WHERE tries.merid = orders.merid AND tries.orderid = orders.orderid))"
    );
    let rows = database
        .rows_aside(&sql, &[&holder, &now, &i64::from(limit)])
        .await?;
    let read = |row: &Row| {
        Ok(OpenOrder {
            merid: row.try_get(0)?,
            orderid: row.try_get(1)?,
            signed_at: row.try_get(2)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Plans the next query of an order and ends its lease.
pub(super) async fn asked(
    database: &Database,
    holder: i64,
    order: &OpenOrder,
    next: Option<Millis>,
) -> Result<(), StoreError> {
    // A late record of a former holder changes nothing.
    let sql = "UPDATE orders SET urgent = false, holder = NULL,
            next_look = CASE WHEN next_look IS NOT NULL THEN $4::bigint END
        WHERE merid = $2 AND orderid = $3 AND holder = $1";
    let done = database
        .rows_aside(sql, &[&holder, &order.merid, &order.orderid, &next])
        .await;
    done.map(drop)
}

/// Reads one order.
pub(super) async fn signed(
    database: &Database,
    merid: &str,
    orderid: &str,
) -> Result<Option<SignedOrder>, StoreError> {
    let sql =
        "SELECT amount, action, signed_at, next_look FROM orders WHERE merid = $1 AND orderid = $2";
    let rows = database.rows(sql, &[&merid, &orderid]).await?;
    let read = |row: &Row| {
        Ok(SignedOrder {
            amount: unsigned(row, 0)?,
            action: row.try_get(1)?,
            signed_at: row.try_get(2)?,
            next_look: row.try_get(3)?,
        })
    };
    rows.first().map(read).transpose()
}

/// Orders of all merchants, newest first. A row value is one range of the index, however far the place is.
pub(super) const NEWEST: &str =
    "SELECT merid, orderid, amount, action, signed_at, next_look IS NOT NULL FROM orders
    WHERE signed_at >= $1 AND (signed_at, merid, orderid) < ($2, $3, $4)
    ORDER BY signed_at DESC, merid DESC, orderid DESC LIMIT $5";
/// Orders of one merchant, newest first.
pub(super) const NEWEST_OF: &str =
    "SELECT merid, orderid, amount, action, signed_at, next_look IS NOT NULL FROM orders
    WHERE merid = $1 AND signed_at >= $2 AND (signed_at, orderid) < ($3, $4)
    ORDER BY signed_at DESC, orderid DESC LIMIT $5";
/// The results of orders, with the number of each order.
pub(super) const RESULTS: &str = "SELECT wanted.number, resultcode, amount, state
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted (merid, orderid, number)
    JOIN events ON events.orderid = wanted.orderid AND events.merid = wanted.merid
    ORDER BY wanted.number, received_at, id";

/// Reads orders that come after a place.
pub(super) async fn order_rows(
    database: &Database,
    filter: &OrderFilter,
    after: &OrderPlace,
    limit: u32,
) -> Result<Vec<OrderRow>, StoreError> {
    let OrderPlace {
        signed_at,
        merid,
        orderid,
    } = after;
    let limit = i64::from(limit);
    let rows = if filter.merid.is_empty() {
        let row: [&(dyn ToSql + Sync); 5] = [&filter.from, signed_at, merid, orderid, &limit];
        database.rows(NEWEST, &row).await?
    } else {
        let row: [&(dyn ToSql + Sync); 5] =
            [&filter.merid, &filter.from, signed_at, orderid, &limit];
        database.rows(NEWEST_OF, &row).await?
    };
    let read = |row: &Row| {
        Ok(OrderRow {
            merid: row.try_get(0)?,
            orderid: row.try_get(1)?,
            amount: unsigned(row, 2)?,
            action: row.try_get(3)?,
            signed_at: row.try_get(4)?,
            is_open: row.try_get(5)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Reads the results of orders.
pub(super) async fn order_results(
    database: &Database,
    orders: &[OrderRow],
) -> Result<Vec<Vec<OrderResult>>, StoreError> {
    let mut results = vec![Vec::new(); orders.len()];
    let merids: Vec<_> = orders.iter().map(|order| order.merid.as_str()).collect();
    let orderids: Vec<_> = orders.iter().map(|order| order.orderid.as_str()).collect();
    for row in database.rows(RESULTS, &[&merids, &orderids]).await? {
        let number = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or(usize::MAX);
        if let Some(of_order) = results.get_mut(number) {
            of_order.push(OrderResult {
                resultcode: row.try_get(1)?,
                amount: unsigned(&row, 2)?,
                state: EventState::stored(row.try_get(3)?),
            });
        }
    }
    Ok(results)
}

/// Writes an order and takes it back: a table or an index that is damaged fails this.
pub(super) async fn try_out(database: &Database) -> Result<(), StoreError> {
    let sql = "INSERT INTO orders (merid, orderid, amount, action, signed_at)
        VALUES ('trial', 'trial', 0, 'Bank', 0)";
    database
        .within(async {
            let mut client = database.client().await?;
            let transaction = client.transaction().await?;
            transaction.batch_execute(sql).await?;
            Ok(transaction.rollback().await?)
        })
        .await
}
