//! Orders and tries in the file.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::row::{collect, state, text, unsigned};
use crate::inbox::event::cents;
use crate::inbox::listing::{OrderFilter, OrderPlace, OrderResult, OrderRow};
use crate::inbox::order::{
    FIRST_LOOK, KEPT_TRIES, LOST_TRY, NewTry, OpenOrder, RecordOutcome, SignedOrder, Try, TryKind,
    TryRecord, TryState,
};
use crate::protocol::request::Order;
use crate::time::Millis;

/// Writes an order and its try, or finds the conflict.
pub(super) fn record(
    transaction: &Transaction<'_>,
    merid: &str,
    order: &Order,
    (kind, backurl): (TryKind, Option<&str>),
    at: Millis,
) -> rusqlite::Result<RecordOutcome> {
    let amount = cents(order.amount);
    let before = transaction
        .prepare_cached(
            "SELECT amount, action, next_look FROM orders WHERE merid = ?1 AND orderid = ?2",
        )?
        .query_row(params![merid, order.orderid], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                text(row, 1)?,
                row.get::<_, Option<Millis>>(2)?,
            ))
        })
        .optional()?;
    let created = before.is_none();
    match before {
        Some((before, action, _)) if before != amount || action != order.action => {
            return Ok(RecordOutcome::Conflicts);
        }
        // An order that is still open keeps its own schedule, or an app that submits in a loop would put its query off
        // each time.
        Some((.., None)) => reopen(transaction, merid, &order.orderid, at)?,
        Some(_) => {}
        None => {
            let sql = "INSERT INTO orders (merid, orderid, amount, action, signed_at, next_look)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let row = params![
                merid,
                order.orderid,
                amount,
                order.action,
                at,
                at + FIRST_LOOK
            ];
            transaction.prepare_cached(sql)?.execute(row)?;
        }
    }
    let new = NewTry { kind, backurl };
    let number = add_try(transaction, merid, &order.orderid, new, created, at)?;
    Ok(RecordOutcome::Agrees(Try {
        merid: merid.to_owned(),
        orderid: order.orderid.clone(),
        number,
        created,
    }))
}

/// Opens an order again that was closed, unless it is paid.
fn reopen(
    transaction: &Transaction<'_>,
    merid: &str,
    orderid: &str,
    at: Millis,
) -> rusqlite::Result<()> {
    // `0000` and `1002` both mean that the customer has paid (§3.2.3).
    let sql = "UPDATE orders SET next_look = ?3 WHERE merid = ?1 AND orderid = ?2 AND NOT EXISTS (
            SELECT 1 FROM events INDEXED BY events_order WHERE orderid = ?2 AND merid = ?1
            AND resultcode IN ('0000', '1002') AND state <> 'disputed')";
    transaction
        .prepare_cached(sql)?
        .execute(params![merid, orderid, at + FIRST_LOOK])?;
    Ok(())
}

fn add_try(
    transaction: &Transaction<'_>,
    merid: &str,
    orderid: &str,
    new: NewTry<'_>,
    created: bool,
    at: Millis,
) -> rusqlite::Result<u32> {
    let sql = "INSERT INTO tries (merid, orderid, number, kind, at, sent, created, backurl)
        SELECT ?1, ?2, coalesce(max(number), 0) + 1, ?3, ?4, ?5, ?6, ?7 FROM tries
            WHERE merid = ?1 AND orderid = ?2
        RETURNING number";
    let state = new.kind.first_state().name();
    let row = params![
        merid,
        orderid,
        new.kind.name(),
        at,
        state,
        created,
        new.backurl
    ];
    let number: u32 = transaction
        .prepare_cached(sql)?
        .query_row(row, |row| row.get(0))?;
    if number > KEPT_TRIES {
        transaction
            .prepare_cached("DELETE FROM tries WHERE merid = ?1 AND orderid = ?2 AND number <= ?3")?
            .execute(params![merid, orderid, number - KEPT_TRIES])?;
    }
    Ok(number)
}

/// Settles a try; returns true where that removed the order.
pub(super) fn settle_try(
    transaction: &Transaction<'_>,
    which: &Try,
    state: TryState,
) -> rusqlite::Result<bool> {
    let key = params![which.merid, which.orderid, which.number, state.name()];
    transaction
        .prepare_cached(
            "UPDATE tries SET sent = ?4 WHERE merid = ?1 AND orderid = ?2 AND number = ?3",
        )?
        .execute(key)?;
    if state != TryState::No || !which.created {
        return Ok(false);
    }
    // Compared and deleted by one statement: a try that began meanwhile keeps the row.
    let sql = "DELETE FROM orders WHERE merid = ?1 AND orderid = ?2
        AND EXISTS (SELECT 1 FROM tries
            WHERE merid = ?1 AND orderid = ?2 AND number = ?3 AND created = 1)
        AND NOT EXISTS (SELECT 1 FROM tries WHERE merid = ?1 AND orderid = ?2 AND sent <> 'no')
        AND NOT EXISTS (SELECT 1 FROM events INDEXED BY events_order WHERE orderid = ?2 AND merid = ?1)";
    let freed = transaction.prepare_cached(sql)?.execute(params![
        which.merid,
        which.orderid,
        which.number
    ])?;
    Ok(freed > 0)
}

/// Attaches a payment to a try.
pub(super) fn link_try(
    transaction: &Transaction<'_>,
    which: &Try,
    queryid: &str,
) -> rusqlite::Result<()> {
    let sql = "UPDATE tries SET queryid = ?4 WHERE merid = ?1 AND orderid = ?2 AND number = ?3";
    transaction.prepare_cached(sql)?.execute(params![
        which.merid,
        which.orderid,
        which.number,
        queryid
    ])?;
    Ok(())
}

/// Reads the tries of an order.
pub(super) fn tries(
    connection: &Connection,
    merid: &str,
    orderid: &str,
) -> rusqlite::Result<Vec<TryRecord>> {
    let sql = "SELECT number, kind, at, sent, backurl, queryid FROM tries
        WHERE merid = ?1 AND orderid = ?2 ORDER BY number";
    collect(connection, sql, [merid, orderid], |row| {
        Ok(TryRecord {
            number: row.get(0)?,
            kind: TryKind::stored(&text(row, 1)?),
            at: row.get(2)?,
            state: TryState::stored(&text(row, 3)?),
            backurl: row.get(4)?,
            queryid: row.get(5)?,
        })
    })
}

/// Plans an early query.
pub(super) fn hasten(
    transaction: &Transaction<'_>,
    merid: &str,
    orderid: &str,
    at: Millis,
) -> rusqlite::Result<()> {
    let sql = "UPDATE orders SET urgent = 1, next_look = ?3
        WHERE merid = ?1 AND orderid = ?2 AND next_look IS NOT NULL";
    transaction
        .prepare_cached(sql)?
        .execute(params![merid, orderid, at])?;
    Ok(())
}

/// Finds a try that is in flight and old enough to be lost, without writing.
pub(super) fn has_lost_tries(connection: &Connection, now: Millis) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM tries INDEXED BY tries_in_flight WHERE sent = 'in-flight' AND at < ?1";
    connection.prepare_cached(sql)?.exists([now - LOST_TRY])
}

/// Makes tries of before `before` that are in flight unknown, and plans a query at `at` for each of their orders.
pub(super) fn lose_tries(
    transaction: &Transaction<'_>,
    before: Millis,
    at: Millis,
) -> rusqlite::Result<()> {
    let sql = "UPDATE tries SET sent = 'unknown' WHERE sent = 'in-flight' AND at < ?1
        RETURNING merid, orderid";
    let lost = collect(transaction, sql, [before], |row| {
        Ok((text(row, 0)?, text(row, 1)?))
    })?;
    for (merid, orderid) in lost {
        hasten(transaction, &merid, &orderid, at)?;
    }
    Ok(())
}

/// Reads the orders that are to be queried.
pub(super) fn open_orders(
    connection: &Connection,
    now: Millis,
    limit: u32,
) -> rusqlite::Result<Vec<OpenOrder>> {
    // Urgent ones and others in two looks: each is a range of the index, however many are open.
    let mut found = Vec::new();
    for urgent in [true, false] {
        let sql = "SELECT merid, orderid, max(signed_at, coalesce((SELECT max(at) FROM tries
                WHERE tries.merid = orders.merid AND tries.orderid = orders.orderid), 0))
            FROM orders INDEXED BY orders_open
            WHERE urgent = ?1 AND next_look IS NOT NULL AND next_look <= ?2
            ORDER BY next_look LIMIT ?3";
        let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        found.extend(collect(
            connection,
            sql,
            params![urgent, now, left],
            |row| {
                Ok(OpenOrder {
                    merid: text(row, 0)?,
                    orderid: text(row, 1)?,
                    signed_at: row.get(2)?,
                })
            },
        )?);
    }
    Ok(found)
}

/// Plans the next query of an order.
pub(super) fn asked(
    transaction: &Transaction<'_>,
    order: &OpenOrder,
    next: Option<Millis>,
) -> rusqlite::Result<()> {
    let sql = "UPDATE orders SET urgent = 0, next_look = ?3
        WHERE merid = ?1 AND orderid = ?2 AND next_look IS NOT NULL";
    transaction
        .prepare_cached(sql)?
        .execute(params![order.merid, order.orderid, next])?;
    Ok(())
}

/// Reads one order.
pub(super) fn signed(
    connection: &Connection,
    merid: &str,
    orderid: &str,
) -> rusqlite::Result<Option<SignedOrder>> {
    let sql =
        "SELECT amount, action, signed_at, next_look FROM orders WHERE merid = ?1 AND orderid = ?2";
    let read = |row: &Row<'_>| {
        Ok(SignedOrder {
            amount: unsigned(row, 0)?,
            action: text(row, 1)?,
            signed_at: row.get(2)?,
            next_look: row.get(3)?,
        })
    };
    connection
        .prepare_cached(sql)?
        .query_row([merid, orderid], read)
        .optional()
}

/// Orders of all merchants, newest first. A row value is one range of the index, however far the place is.
pub(super) const NEWEST: &str =
    "SELECT merid, orderid, amount, action, signed_at, next_look IS NOT NULL
    FROM orders INDEXED BY orders_signed
    WHERE signed_at >= ?1 AND (signed_at, merid, orderid) < (?2, ?3, ?4)
    ORDER BY signed_at DESC, merid DESC, orderid DESC LIMIT ?5";
/// Orders of one merchant, newest first.
pub(super) const NEWEST_OF: &str =
    "SELECT merid, orderid, amount, action, signed_at, next_look IS NOT NULL
    FROM orders INDEXED BY orders_merchant
    WHERE merid = ?1 AND signed_at >= ?2 AND (signed_at, orderid) < (?3, ?4)
    ORDER BY signed_at DESC, orderid DESC LIMIT ?5";

/// Reads orders that come after a place.
pub(super) fn order_rows(
    connection: &Connection,
    filter: &OrderFilter,
    after: &OrderPlace,
    limit: u32,
) -> rusqlite::Result<Vec<OrderRow>> {
    let OrderPlace {
        signed_at,
        merid,
        orderid,
    } = after;
    let read = |row: &Row<'_>| {
        Ok(OrderRow {
            merid: text(row, 0)?,
            orderid: text(row, 1)?,
            amount: unsigned(row, 2)?,
            action: text(row, 3)?,
            signed_at: row.get(4)?,
            is_open: row.get(5)?,
        })
    };
    if filter.merid.is_empty() {
        let row = params![filter.from, signed_at, merid, orderid, limit];
        return collect(connection, NEWEST, row, read);
    }
    let row = params![filter.merid, filter.from, signed_at, orderid, limit];
    collect(connection, NEWEST_OF, row, read)
}

/// Reads the results of orders.
pub(super) fn order_results(
    connection: &Connection,
    orders: &[(String, String)],
) -> rusqlite::Result<Vec<Vec<OrderResult>>> {
    let sql = "SELECT resultcode, amount, state FROM events INDEXED BY events_order
        WHERE orderid = ?1 AND merid = ?2 ORDER BY received_at, rowid";
    let of = |(merid, orderid): &(String, String)| {
        collect(connection, sql, [orderid, merid], |row| {
            Ok(OrderResult {
                resultcode: text(row, 0)?,
                amount: unsigned(row, 1)?,
                state: state(row, 2)?,
            })
        })
    };
    orders.iter().map(of).collect()
}

/// Writes an order and a try and removes them again: a table or an index that is damaged at its root fails this.
pub(super) fn try_out(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let order = Order {
        orderid: "trial".to_owned(),
        amount: 0,
        action: "Bank",
    };
    record(transaction, "trial", &order, (TryKind::Link, None), 0)?;
    transaction.execute(
        "DELETE FROM orders WHERE merid = 'trial' AND orderid = 'trial'",
        [],
    )?;
    Ok(())
}
