//! The tables, in a schema of their own: another program's in the same database are none of our business.

use deadpool_postgres::GenericClient;

use super::database::Database;
use crate::inbox::store::StoreError;

/// What made each version out of the one before. Times are in milliseconds since 1970, amounts in cents; only leases
/// are in the server's own time, because a fleet has many clocks.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE orders (
        merid text NOT NULL,
        orderid text NOT NULL,
        amount bigint NOT NULL,
        action text NOT NULL,
        signed_at bigint NOT NULL,
        next_look bigint,
        urgent boolean NOT NULL DEFAULT false,
        holder bigint,
        held_until timestamptz,
        PRIMARY KEY (merid, orderid)
    );
    CREATE INDEX orders_number ON orders (orderid);
    CREATE INDEX orders_open ON orders (urgent DESC, next_look) WHERE next_look IS NOT NULL;
    CREATE INDEX orders_closed ON orders (signed_at) WHERE next_look IS NULL;
    CREATE INDEX orders_held ON orders (holder) WHERE holder IS NOT NULL;
    CREATE TABLE events (
        id text PRIMARY KEY,
        merid text NOT NULL,
        orderid text NOT NULL,
        queryid text NOT NULL,
        resultcode text NOT NULL,
        amount bigint NOT NULL,
        json text NOT NULL,
        source text NOT NULL,
        matched boolean NOT NULL,
        state text NOT NULL,
        received_at bigint NOT NULL,
        next_attempt bigint NOT NULL,
        attempts bigint NOT NULL DEFAULT 0,
        last_attempt text NOT NULL DEFAULT '',
        holder bigint,
        held_until timestamptz
    );
    CREATE INDEX events_payment ON events (merid, queryid, resultcode);
    CREATE INDEX events_pending ON events (merid, next_attempt) WHERE state = 'pending';
    CREATE INDEX events_state ON events (state, received_at);
    CREATE INDEX events_received ON events (received_at);
    CREATE INDEX events_held ON events (holder) WHERE holder IS NOT NULL;
    CREATE TABLE attempts (
        event text NOT NULL,
        number bigint NOT NULL,
        at bigint NOT NULL,
        took bigint NOT NULL,
        outcome text NOT NULL,
        PRIMARY KEY (event, number)
    );",
    "CREATE INDEX events_order ON events (orderid, merid);
    CREATE INDEX events_number ON events (queryid);
    CREATE SEQUENCE note_steps;
    CREATE SEQUENCE note_commons;
    CREATE TABLE notes (
        common boolean NOT NULL,
        number bigint NOT NULL,
        at bigint NOT NULL,
        took bigint NOT NULL,
        what text NOT NULL,
        way text NOT NULL,
        merid text NOT NULL,
        orderid text NOT NULL,
        request_id text NOT NULL,
        outcome text NOT NULL,
        sent text NOT NULL,
        old_key text NOT NULL,
        refused boolean NOT NULL,
        stranger boolean NOT NULL,
        PRIMARY KEY (common, number)
    );
    CREATE INDEX notes_order ON notes (orderid, merid, common, at) WHERE orderid <> '';
    CREATE INDEX notes_request ON notes (request_id) WHERE request_id <> '';
    CREATE INDEX notes_refused ON notes (common, at) WHERE refused;
    CREATE INDEX notes_old_key ON notes (merid, old_key, at) WHERE old_key <> '';
    CREATE INDEX notes_at ON notes (at);",
];
const VERSION: i32 = MIGRATIONS.len() as i32;

/// Makes the tables, or brings them up. One sidecar at a time, by a lock whose number spells "CSgn".
pub(super) async fn migrate(database: &Database) -> Result<(), StoreError> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SELECT pg_advisory_xact_lock(1129539438)")
        .await?;
    let version = version(&transaction).await?;
    if version.is_none() {
        create(&transaction).await?;
    }
    let done = usize::try_from(version.unwrap_or_default()).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.batch_execute(migration).await?;
    }
    // Written even where nothing changes: a store that cannot be written is to be found out now.
    transaction
        .execute("UPDATE version SET number = $1", &[&VERSION])
        .await?;
    Ok(transaction.commit().await?)
}

/// Refuses what no sidecar has made, or a later one.
pub(super) async fn check(database: &Database) -> Result<(), StoreError> {
    let client = database.client().await?;
    match version(&client).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::Failed(
            "no sidecar has been started on this database".to_owned(),
        )),
    }
}

/// A DBA may have made the schema for a user who may not.
async fn create(client: &impl GenericClient) -> Result<(), StoreError> {
    let sql = "SELECT to_regnamespace('countersign') IS NULL, EXISTS (
        SELECT FROM pg_class WHERE relnamespace = to_regnamespace('countersign'))";
    let row = client.query_one(sql, &[]).await?;
    let (is_missing, is_used): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if is_used {
        return Err(StoreError::NotOurs);
    }
    if is_missing {
        client.batch_execute("CREATE SCHEMA countersign").await?;
    }
    let sql = "CREATE TABLE version (number integer NOT NULL); INSERT INTO version VALUES (0)";
    Ok(client.batch_execute(sql).await?)
}

async fn version(client: &impl GenericClient) -> Result<Option<i32>, StoreError> {
    let sql = "SELECT to_regclass('countersign.version') IS NOT NULL";
    if !client.query_one(sql, &[]).await?.try_get(0)? {
        return Ok(None);
    }
    let row = client.query_one("SELECT number FROM version", &[]).await?;
    let found = row.try_get(0)?;
    if found > VERSION {
        return Err(StoreError::Newer {
            found,
            known: VERSION,
        });
    }
    Ok(Some(found))
}
