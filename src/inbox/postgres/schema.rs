//! The tables, in a schema of their own: another program's in the same database are none of our business.

use deadpool_postgres::GenericClient;

use super::database::Database;
use crate::inbox::store::StoreError;

/// The migrations, each from the version before. Times are in milliseconds since 1970, amounts in cents; only leases
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
/// Additions to the last version that it can live with: it reads and writes on beside them and after them, so that an
/// upgrade can be undone. Tallies are kept by triggers, which also count what the version before writes; each backend has
/// its own rows, so that none waits for another.
const ADDITIONS: [&str; 3] = ["
    ALTER TABLE events ADD COLUMN digest bytea, ADD COLUMN raw bytea,
        ADD COLUMN review text NOT NULL DEFAULT '', ADD COLUMN field text NOT NULL DEFAULT '',
        ADD COLUMN waits text NOT NULL DEFAULT '', ADD COLUMN offered_since bigint;
    CREATE INDEX events_disputed ON events (merid) WHERE state = 'disputed';
    CREATE INDEX events_waiting ON events (merid) WHERE state = 'pending' AND waits <> '';
    ALTER TABLE attempts ADD COLUMN status integer, ADD COLUMN content_type text NOT NULL DEFAULT '',
        ADD COLUMN first_bytes bytea, ADD COLUMN location text NOT NULL DEFAULT '',
        ADD COLUMN explanation text NOT NULL DEFAULT '';
    CREATE TABLE tries (
        merid text NOT NULL,
        orderid text NOT NULL,
        number bigint NOT NULL,
        kind text NOT NULL,
        at bigint NOT NULL,
        sent text NOT NULL,
        created boolean NOT NULL,
        backurl text,
        queryid text,
        PRIMARY KEY (merid, orderid, number)
    );
    CREATE INDEX tries_in_flight ON tries (at) WHERE sent = 'in-flight';
    CREATE TABLE decisions (
        event text NOT NULL,
        number bigint NOT NULL,
        at bigint NOT NULL,
        decision text NOT NULL,
        from_state text NOT NULL,
        who text NOT NULL,
        origin text NOT NULL,
        PRIMARY KEY (event, number)
    );
    CREATE TABLE key_switches (
        merid text PRIMARY KEY,
        from_key text NOT NULL,
        to_key text NOT NULL,
        at bigint NOT NULL
    );
    CREATE TABLE failing (
        merid text PRIMARY KEY,
        since bigint NOT NULL,
        last bigint NOT NULL,
        why text NOT NULL
    );
    CREATE TABLE clock (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        confirmed bigint NOT NULL
    );
    INSERT INTO clock VALUES (true, 0);
    CREATE TABLE leader (one boolean PRIMARY KEY DEFAULT true CHECK (one), holder bigint, held_until timestamptz);
    INSERT INTO leader (one) VALUES (true);
    CREATE TABLE tallies (
        name text NOT NULL,
        backend integer NOT NULL,
        count bigint NOT NULL,
        PRIMARY KEY (name, backend)
    );
    INSERT INTO tallies SELECT state, 0, count(*) FROM events GROUP BY state;
    INSERT INTO tallies SELECT 'open-orders', 0, count(*) FROM orders WHERE next_look IS NOT NULL;
    CREATE FUNCTION tally_added() RETURNS trigger LANGUAGE plpgsql SET search_path = countersign AS $$ BEGIN
        INSERT INTO tallies SELECT state, pg_backend_pid(), count(*) FROM new_rows GROUP BY state
        ON CONFLICT (name, backend) DO UPDATE SET count = tallies.count + excluded.count;
        RETURN NULL;
    END $$;
    CREATE FUNCTION tally_moved() RETURNS trigger LANGUAGE plpgsql SET search_path = countersign AS $$ BEGIN
        INSERT INTO tallies SELECT state, pg_backend_pid(), sum(change) FROM (
            SELECT state, 1 AS change FROM new_rows UNION ALL SELECT state, -1 FROM old_rows
        ) AS changes GROUP BY state HAVING sum(change) <> 0
        ON CONFLICT (name, backend) DO UPDATE SET count = tallies.count + excluded.count;
        RETURN NULL;
    END $$;
    CREATE FUNCTION tally_removed() RETURNS trigger LANGUAGE plpgsql SET search_path = countersign AS $$ BEGIN
        INSERT INTO tallies SELECT state, pg_backend_pid(), -count(*) FROM old_rows GROUP BY state
        ON CONFLICT (name, backend) DO UPDATE SET count = tallies.count + excluded.count;
        DELETE FROM attempts WHERE event IN (SELECT id FROM old_rows);
        DELETE FROM decisions WHERE event IN (SELECT id FROM old_rows);
        RETURN NULL;
    END $$;
    CREATE FUNCTION tally_order() RETURNS trigger LANGUAGE plpgsql SET search_path = countersign AS $$ BEGIN
        INSERT INTO tallies VALUES ('open-orders', pg_backend_pid(),
            CASE WHEN TG_OP = 'DELETE' THEN -1 WHEN NEW.next_look IS NULL THEN -1 ELSE 1 END)
        ON CONFLICT (name, backend) DO UPDATE SET count = tallies.count + excluded.count;
        RETURN NULL;
    END $$;
    CREATE FUNCTION forget_tries() RETURNS trigger LANGUAGE plpgsql SET search_path = countersign AS $$ BEGIN
        DELETE FROM tries USING old_rows
        WHERE tries.merid = old_rows.merid AND tries.orderid = old_rows.orderid;
        RETURN NULL;
    END $$;
    CREATE TRIGGER events_added AFTER INSERT ON events REFERENCING NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION tally_added();
    CREATE TRIGGER events_moved AFTER UPDATE ON events REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION tally_moved();
    CREATE TRIGGER events_removed AFTER DELETE ON events REFERENCING OLD TABLE AS old_rows
        FOR EACH STATEMENT EXECUTE FUNCTION tally_removed();
    CREATE TRIGGER orders_added AFTER INSERT ON orders FOR EACH ROW WHEN (NEW.next_look IS NOT NULL)
        EXECUTE FUNCTION tally_order();
    CREATE TRIGGER orders_moved AFTER UPDATE OF next_look ON orders FOR EACH ROW
        WHEN ((OLD.next_look IS NULL) <> (NEW.next_look IS NULL)) EXECUTE FUNCTION tally_order();
    CREATE TRIGGER orders_removed AFTER DELETE ON orders FOR EACH ROW WHEN (OLD.next_look IS NOT NULL)
        EXECUTE FUNCTION tally_order();
    CREATE TRIGGER orders_forgotten AFTER DELETE ON orders REFERENCING OLD TABLE AS old_rows
        FOR EACH STATEMENT EXECUTE FUNCTION forget_tries();",
    "CREATE TABLE minutes (
        minute bigint PRIMARY KEY,
        calls bigint NOT NULL,
        calls_rejected bigint NOT NULL,
        callbacks bigint NOT NULL,
        callbacks_rejected bigint NOT NULL,
        median double precision,
        p99 double precision
    );",
    "CREATE INDEX orders_signed ON orders (signed_at, merid, orderid);
    CREATE INDEX orders_merchant ON orders (merid, signed_at, orderid);"];

/// Makes the tables, or brings them up. One sidecar at a time, by a lock whose number spells "CSgn".
pub(super) async fn migrate(database: &Database) -> Result<(), StoreError> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    // The session's limits are those of a callback. An index over a million rows takes longer than these, and so does the
    // sidecar whose turn it is. A table's lock is waited for as briefly as ever, because the queue behind it is everybody.
    transaction
        .batch_execute(
            "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;
            SELECT pg_advisory_xact_lock(1129539438); SET LOCAL lock_timeout = '300ms'",
        )
        .await?;
    let version = version(&transaction).await?;
    if version.is_none() {
        create(&transaction).await?;
    }
    let done = usize::try_from(version.unwrap_or_default()).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.batch_execute(migration).await?;
    }
    add(&transaction).await?;
    // Written even where nothing changes: a store that cannot be written is to be found out now.
    transaction
        .execute("UPDATE version SET number = $1", &[&VERSION])
        .await?;
    Ok(transaction.commit().await?)
}

/// Rejects a schema that no sidecar made, or a later one.
pub(super) async fn check(database: &Database) -> Result<(), StoreError> {
    let client = database.client().await?;
    match version(&client).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::Failed(
            "no sidecar has been started on this database".to_owned(),
        )),
    }
}

/// Brings the additions up; a later program's further ones change nothing for this one.
async fn add(client: &impl GenericClient) -> Result<(), StoreError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_attribute
        WHERE attrelid = 'countersign.version'::regclass AND attname = 'additions' AND NOT attisdropped)";
    let is_counted: bool = client.query_one(sql, &[]).await?.try_get(0)?;
    if !is_counted {
        let sql = "ALTER TABLE version ADD COLUMN additions integer NOT NULL DEFAULT 0";
        client.batch_execute(sql).await?;
    }
    let row = client
        .query_one("SELECT additions FROM version", &[])
        .await?;
    let added = usize::try_from(row.try_get::<_, i32>(0)?).unwrap_or_default();
    for addition in ADDITIONS.iter().skip(added) {
        client.batch_execute(addition).await?;
    }
    if added < ADDITIONS.len() {
        let sql = "UPDATE version SET additions = $1";
        client.execute(sql, &[&(ADDITIONS.len() as i32)]).await?;
    }
    Ok(())
}

/// Rejects a schema of another program or a later version; an empty database is accepted.
pub(super) async fn inspect(database: &Database) -> Result<(), StoreError> {
    let client = database.client().await?;
    if version(&client).await?.is_some() {
        return Ok(());
    }
    let sql =
        "SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('countersign'))";
    let row = client.query_one(sql, &[]).await?;
    match row.try_get(0)? {
        true => Err(StoreError::NotOurs),
        false => Ok(()),
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
