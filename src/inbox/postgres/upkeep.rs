//! The rest of the database: figures, key switches, retention.

use tokio_postgres::Row;

use super::database::Database;
use super::notes;
use super::row::only;
use crate::inbox::event::EventState;
use crate::inbox::store::{Counts, KeySwitch, StoreError};
use crate::time::Millis;

/// Rows that one step of the retention removes, in a fraction of the patience.
const FORGOTTEN: i64 = 1000;

/// Reads the figures. Triggers keep them, so that a million rows cost nothing here.
pub(super) async fn counts(database: &Database) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    let sql = "SELECT name, sum(count)::bigint FROM tallies GROUP BY name";
    for row in database.rows(sql, &[]).await? {
        let (name, count): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
        match EventState::parse(name) {
            Some(state) => counts.set(state, count),
            None if name == "open-orders" => counts.open_orders = count,
            None => {}
        }
    }
    let sql = "SELECT min(received_at) FROM events WHERE state = 'pending'";
    counts.oldest_pending = only(&database.rows(sql, &[]).await?)?;
    Ok(counts)
}

/// Lets every sidecar take the database's clock for true.
pub(super) async fn confirm_clock(database: &Database) -> Result<(), StoreError> {
    let sql = "UPDATE clock SET confirmed = confirmed + 1";
    database.rows(sql, &[]).await.map(drop)
}

/// Reads the key switches.
pub(super) async fn key_switches(database: &Database) -> Result<Vec<KeySwitch>, StoreError> {
    let sql = "SELECT merid, from_key, to_key, at FROM key_switches";
    let rows = database.rows_aside(sql, &[]).await?;
    let read = |row: &Row| {
        Ok(KeySwitch {
            merid: row.try_get(0)?,
            from_key: row.try_get(1)?,
            to_key: row.try_get(2)?,
            at: row.try_get(3)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Keeps a key switch.
pub(super) async fn key_switched(
    database: &Database,
    switch: &KeySwitch,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO key_switches VALUES ($1, $2, $3, $4) ON CONFLICT (merid)
        DO UPDATE SET from_key = excluded.from_key, to_key = excluded.to_key, at = excluded.at";
    let KeySwitch {
        merid,
        from_key,
        to_key,
        at,
    } = switch;
    let done = database
        .rows_aside(sql, &[merid, from_key, to_key, at])
        .await;
    done.map(drop)
}

/// Drops a key switch.
pub(super) async fn forget_key_switch(database: &Database, merid: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM key_switches WHERE merid = $1";
    database.rows_aside(sql, &[&merid]).await.map(drop)
}

/// Removes what is done and old, in steps.
pub(super) async fn forget(database: &Database, before: Millis) -> Result<(), StoreError> {
    forget_by(database, notes::FORGET, before).await?;
    for state in ["delivered", "discarded"] {
        let events = format!(
            "WITH old AS (
                DELETE FROM events WHERE id IN (
                    SELECT id FROM events WHERE state = '{state}' AND received_at < $1
                    LIMIT $2 FOR UPDATE SKIP LOCKED
                ) RETURNING 1
            ) SELECT count(*) FROM old"
        );
        forget_by(database, &events, before).await?;
    }
    let orders = "WITH old AS (
            DELETE FROM orders WHERE (merid, orderid) IN (
                SELECT merid, orderid FROM orders WHERE next_look IS NULL AND signed_at < $1
                LIMIT $2 FOR UPDATE SKIP LOCKED
            ) RETURNING 1
        ) SELECT count(*) FROM old";
    forget_by(database, orders, before).await?;
    fold_tallies(database).await
}

async fn forget_by(database: &Database, sql: &str, before: Millis) -> Result<(), StoreError> {
    loop {
        let rows = database.rows_aside(sql, &[&before, &FORGOTTEN]).await?;
        if only::<i64>(&rows)? < FORGOTTEN {
            return Ok(());
        }
    }
}

/// Adds up the tallies of backends that have ended.
async fn fold_tallies(database: &Database) -> Result<(), StoreError> {
    // Only of those that have ended: a backend at work may hold its own rows, and this would wait for it.
    let sql = "WITH ended AS (
            DELETE FROM tallies WHERE backend <> 0 AND backend NOT IN (SELECT pid FROM pg_stat_activity)
            RETURNING name, count
        )
        INSERT INTO tallies SELECT name, 0, sum(count) FROM ended GROUP BY name
        ON CONFLICT (name, backend) DO UPDATE SET count = tallies.count + excluded.count";
    database.rows_aside(sql, &[]).await.map(drop)
}
