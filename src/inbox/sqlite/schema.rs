//! The tables in the file, and whose file it is.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::inbox::store::StoreError;

/// Says whose file it is in its header (`PRAGMA application_id`): "CSgn".
pub(super) const APPLICATION_ID: i32 = 0x4353_676e;
/// The migrations, each from the version before (`PRAGMA user_version`). Times are in milliseconds since 1970,
/// amounts in cents. During an upgrade the version before writes on beside the new one: what its statements name stays.
pub(super) const MIGRATIONS: [&str; 3] = [
    "CREATE TABLE orders (
        merid TEXT NOT NULL,
        orderid TEXT NOT NULL,
        amount INTEGER NOT NULL,
        action TEXT NOT NULL,
        signed_at INTEGER NOT NULL,
        PRIMARY KEY (merid, orderid)
    ) STRICT, WITHOUT ROWID;",
    "ALTER TABLE orders ADD COLUMN next_look INTEGER;
    ALTER TABLE orders ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX orders_number ON orders (orderid);
    CREATE INDEX orders_open ON orders (urgent, next_look) WHERE next_look IS NOT NULL;
    CREATE TABLE events (
        id TEXT NOT NULL PRIMARY KEY,
        merid TEXT NOT NULL,
        orderid TEXT NOT NULL,
        queryid TEXT NOT NULL,
        resultcode TEXT NOT NULL,
        amount INTEGER NOT NULL,
        json TEXT NOT NULL,
        source TEXT NOT NULL,
        matched INTEGER NOT NULL,
        state TEXT NOT NULL,
        received_at INTEGER NOT NULL,
        next_attempt INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        last_attempt TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX events_payment ON events (merid, queryid, resultcode);
    CREATE INDEX events_pending ON events (merid, next_attempt) WHERE state = 'pending';
    CREATE INDEX events_state ON events (state, received_at);
    CREATE TABLE attempts (
        event TEXT NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        took INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        PRIMARY KEY (event, number)
    ) STRICT, WITHOUT ROWID;",
    "CREATE INDEX events_order ON events (orderid, merid);
    CREATE INDEX events_number ON events (queryid);
    CREATE TABLE notes (
        common INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        took INTEGER NOT NULL,
        what TEXT NOT NULL,
        way TEXT NOT NULL,
        merid TEXT NOT NULL,
        orderid TEXT NOT NULL,
        request_id TEXT NOT NULL,
        outcome TEXT NOT NULL,
        sent TEXT NOT NULL,
        old_key TEXT NOT NULL,
        refused INTEGER NOT NULL,
        stranger INTEGER NOT NULL,
        PRIMARY KEY (common, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX notes_order ON notes (orderid, merid, common, at) WHERE orderid <> '';
    CREATE INDEX notes_request ON notes (request_id) WHERE request_id <> '';
    CREATE INDEX notes_refused ON notes (common, at) WHERE refused = 1;
    CREATE INDEX notes_old_key ON notes (merid, old_key, at) WHERE old_key <> '';",
];
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;
/// Additions to the last version that it can live with: it reads and writes on beside them and after them, so that an
/// upgrade can be undone. Their number is in `meta`, and the version stays. Tallies are kept by triggers, which also count
/// what the version before writes.
pub(super) const ADDITIONS: [&str; 3] = ["CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX orders_closed ON orders (signed_at) WHERE next_look IS NULL;
    ALTER TABLE events ADD COLUMN digest BLOB;
    ALTER TABLE events ADD COLUMN raw BLOB;
    ALTER TABLE events ADD COLUMN review TEXT NOT NULL DEFAULT '';
    ALTER TABLE events ADD COLUMN field TEXT NOT NULL DEFAULT '';
    ALTER TABLE events ADD COLUMN waits TEXT NOT NULL DEFAULT '';
    ALTER TABLE events ADD COLUMN offered_since INTEGER;
    CREATE INDEX events_disputed ON events (merid) WHERE state = 'disputed';
    CREATE INDEX events_waiting ON events (merid) WHERE state = 'pending' AND waits <> '';
    ALTER TABLE attempts ADD COLUMN status INTEGER;
    ALTER TABLE attempts ADD COLUMN content_type TEXT NOT NULL DEFAULT '';
    ALTER TABLE attempts ADD COLUMN first_bytes BLOB;
    ALTER TABLE attempts ADD COLUMN location TEXT NOT NULL DEFAULT '';
    ALTER TABLE attempts ADD COLUMN explanation TEXT NOT NULL DEFAULT '';
    CREATE TABLE tries (
        merid TEXT NOT NULL,
        orderid TEXT NOT NULL,
        number INTEGER NOT NULL,
        kind TEXT NOT NULL,
        at INTEGER NOT NULL,
        sent TEXT NOT NULL,
        created INTEGER NOT NULL,
        backurl TEXT,
        queryid TEXT,
        PRIMARY KEY (merid, orderid, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tries_in_flight ON tries (at) WHERE sent = 'in-flight';
    CREATE TABLE decisions (
        event TEXT NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        decision TEXT NOT NULL,
        from_state TEXT NOT NULL,
        who TEXT NOT NULL,
        origin TEXT NOT NULL,
        PRIMARY KEY (event, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE key_switches (
        merid TEXT NOT NULL PRIMARY KEY,
        from_key TEXT NOT NULL,
        to_key TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE failing (
        merid TEXT NOT NULL PRIMARY KEY,
        since INTEGER NOT NULL,
        last INTEGER NOT NULL,
        why TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE clock (
        one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
        boot TEXT NOT NULL,
        up INTEGER NOT NULL,
        trusted INTEGER NOT NULL,
        doubted INTEGER NOT NULL,
        confirmed INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tallies (name TEXT NOT NULL PRIMARY KEY, count INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO tallies SELECT state, count(*) FROM events GROUP BY state;
    INSERT INTO tallies SELECT 'open-orders', count(*) FROM orders WHERE next_look IS NOT NULL;
    CREATE TRIGGER events_added AFTER INSERT ON events BEGIN
        INSERT INTO tallies VALUES (NEW.state, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1;
    END;
    CREATE TRIGGER events_moved AFTER UPDATE OF state ON events WHEN OLD.state <> NEW.state BEGIN
        UPDATE tallies SET count = count - 1 WHERE name = OLD.state;
        INSERT INTO tallies VALUES (NEW.state, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1;
    END;
    CREATE TRIGGER events_removed AFTER DELETE ON events BEGIN
        UPDATE tallies SET count = count - 1 WHERE name = OLD.state;
        DELETE FROM attempts WHERE event = OLD.id;
        DELETE FROM decisions WHERE event = OLD.id;
    END;
    CREATE TRIGGER orders_added AFTER INSERT ON orders WHEN NEW.next_look IS NOT NULL BEGIN
        UPDATE tallies SET count = count + 1 WHERE name = 'open-orders';
    END;
    CREATE TRIGGER orders_closed_or_opened AFTER UPDATE OF next_look ON orders
    WHEN (OLD.next_look IS NULL) <> (NEW.next_look IS NULL) BEGIN
        UPDATE tallies SET count = count + (CASE WHEN NEW.next_look IS NULL THEN -1 ELSE 1 END)
        WHERE name = 'open-orders';
    END;
    CREATE TRIGGER orders_removed AFTER DELETE ON orders BEGIN
        UPDATE tallies SET count = count - (OLD.next_look IS NOT NULL) WHERE name = 'open-orders';
        DELETE FROM tries WHERE merid = OLD.merid AND orderid = OLD.orderid;
    END;",
    "CREATE TABLE minutes (
        minute INTEGER NOT NULL PRIMARY KEY,
        calls INTEGER NOT NULL,
        calls_rejected INTEGER NOT NULL,
        callbacks INTEGER NOT NULL,
        callbacks_rejected INTEGER NOT NULL,
        median REAL,
        p99 REAL
    ) STRICT;",
    "CREATE INDEX orders_signed ON orders (signed_at, merid, orderid);
    CREATE INDEX orders_merchant ON orders (merid, signed_at, orderid);"];

/// Makes the tables, or brings them up.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    // With the write lock from the beginning: of two that start at once, the second waits and finds the tables.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (application, version) = header(&transaction)?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    // A file that another program has made may have neither number; one without tables is new.
    if (application, version, tables) != (0, 0, 0) {
        check(&transaction)?;
    }
    let done = usize::try_from(version).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        // SQLite's DDL is transactional: where a step fails, the tables stay as they were.
        transaction.execute_batch(migration)?;
    }
    let added = additions(&transaction)?;
    for addition in ADDITIONS.iter().skip(added) {
        transaction.execute_batch(addition)?;
    }
    if added < ADDITIONS.len() {
        let sql = "INSERT OR REPLACE INTO meta VALUES ('additions', ?1)";
        transaction.execute(sql, [ADDITIONS.len() as i64])?;
    }
    // Written even where nothing changes: a store that cannot be written is to be found out now.
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

/// Rejects a file that no sidecar made, or a later one.
pub(super) fn check(connection: &Connection) -> Result<(), StoreError> {
    let (application, found) = header(connection)?;
    if application != APPLICATION_ID {
        return Err(StoreError::NotOurs);
    }
    if found > VERSION {
        return Err(StoreError::Newer {
            found,
            known: VERSION,
        });
    }
    Ok(())
}

/// Counts the additions that are there; a later program's further ones change nothing for this one.
fn additions(connection: &Connection) -> rusqlite::Result<usize> {
    if !connection.table_exists(None, "meta")? {
        return Ok(0);
    }
    let sql = "SELECT value FROM meta WHERE name = 'additions'";
    let found: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(found
        .and_then(|found| usize::try_from(found).ok())
        .unwrap_or_default())
}

/// The application of the file, and the version of its tables.
fn header(connection: &Connection) -> rusqlite::Result<(i32, i32)> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((pragma("application_id")?, pragma("user_version")?))
}
