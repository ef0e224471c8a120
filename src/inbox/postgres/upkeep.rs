//! The rest of the database: figures, key switches, retention.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::database::Database;
use super::notes;
use super::row::only;
use crate::inbox::event::{EventState, cents};
use crate::inbox::minutes::{KEPT_MINUTES, MINUTE, MinuteFigures, MinuteRange};
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

/// Adds figures to those of their minutes: one row is the fleet's.
pub(super) async fn add_minutes(
    database: &Database,
    minutes: &[MinuteFigures],
) -> Result<(), StoreError> {
    // PostgreSQL's `greatest` leaves nulls out. A statement may change no row twice, hence the groups.
    let sql = "INSERT INTO minutes SELECT minute, sum(calls)::bigint, sum(calls_rejected)::bigint,
            sum(callbacks)::bigint, sum(callbacks_rejected)::bigint,
            sum(median * calls) / nullif(sum(calls), 0)::double precision, max(p99)
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
            $6::double precision[], $7::double precision[])
            AS new (minute, calls, calls_rejected, callbacks, callbacks_rejected, median, p99)
        GROUP BY minute
        ON CONFLICT (minute) DO UPDATE SET
            median = CASE WHEN excluded.median IS NULL THEN minutes.median
                WHEN minutes.median IS NULL THEN excluded.median
                ELSE (minutes.median * minutes.calls + excluded.median * excluded.calls)
                    / (minutes.calls + excluded.calls) END,
            p99 = greatest(minutes.p99, excluded.p99),
            calls = minutes.calls + excluded.calls,
            calls_rejected = minutes.calls_rejected + excluded.calls_rejected,
            callbacks = minutes.callbacks + excluded.callbacks,
            callbacks_rejected = minutes.callbacks_rejected + excluded.callbacks_rejected";
    let counts = |of: fn(&MinuteFigures) -> u64| -> Vec<i64> {
        minutes.iter().map(|minute| cents(of(minute))).collect()
    };
    let at: Vec<_> = minutes.iter().map(|minute| minute.at / MINUTE).collect();
    let medians: Vec<_> = minutes.iter().map(|minute| minute.median).collect();
    let p99s: Vec<_> = minutes.iter().map(|minute| minute.p99).collect();
    let rows: [&(dyn ToSql + Sync); 7] = [
        &at,
        &counts(|it| it.calls),
        &counts(|it| it.calls_rejected),
        &counts(|it| it.callbacks),
        &counts(|it| it.callbacks_rejected),
        &medians,
        &p99s,
    ];
    database.rows_aside(sql, &rows).await?;
    // By number, not by time: a clock that is ahead for a moment drops nothing.
    let sql = "DELETE FROM minutes WHERE minute <= (
        SELECT minute FROM minutes ORDER BY minute DESC LIMIT 1 OFFSET $1)";
    let kept = i64::from(KEPT_MINUTES);
    database.rows_aside(sql, &[&kept]).await.map(drop)
}

/// Reads the figures of a range.
pub(super) async fn minutes(
    database: &Database,
    range: MinuteRange,
) -> Result<Vec<MinuteFigures>, StoreError> {
    let sql = "SELECT minute / $3 * $3, count(*), sum(calls)::bigint, sum(calls_rejected)::bigint,
            sum(callbacks)::bigint, sum(callbacks_rejected)::bigint,
            sum(median * calls) / nullif(sum(calls), 0)::double precision, max(p99)
        FROM minutes WHERE minute >= $1 AND minute < $2 GROUP BY 1 ORDER BY 1 LIMIT $4";
    let (from, until) = (range.from / MINUTE, range.until / MINUTE);
    let (step, limit) = (i64::from(range.step.max(1)), i64::from(KEPT_MINUTES));
    let rows = database.rows(sql, &[&from, &until, &step, &limit]).await?;
    let read = |row: &Row| {
        let count =
            |column| Ok::<_, StoreError>(row.try_get::<_, i64>(column)?.max(0).cast_unsigned());
        Ok(MinuteFigures {
            at: row.try_get::<_, i64>(0)? * MINUTE,
            minutes: u32::try_from(count(1)?).unwrap_or(u32::MAX),
            calls: count(2)?,
            calls_rejected: count(3)?,
            callbacks: count(4)?,
            callbacks_rejected: count(5)?,
            median: row.try_get(6)?,
            p99: row.try_get(7)?,
        })
    };
    rows.iter().map(read).collect()
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
