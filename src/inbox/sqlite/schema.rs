//! The tables in the file, and whose file it is.

use rusqlite::{Connection, TransactionBehavior};

use crate::inbox::store::StoreError;

/// Says whose file it is in its header (`PRAGMA application_id`): "CSgn".
pub(super) const APPLICATION_ID: i32 = 0x4353_676e;
/// What made each version out of the one before (`PRAGMA user_version`). Times are in milliseconds since 1970,
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

/// Makes the tables, or brings them up.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (application, version) = header(&transaction)?;
    let tables: i64 =
        transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, version, tables) != (0, 0, 0) {
        check(&transaction)?;
    }
    let done = usize::try_from(version).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    // Written even where nothing changes: a store that cannot be written is to be found out now.
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Ok(transaction.commit()?)
}

/// Refuses what no sidecar has made, or a later one.
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

/// Whose file it is, and the version of its tables.
fn header(connection: &Connection) -> rusqlite::Result<(i32, i32)> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
    Ok((pragma("application_id")?, pragma("user_version")?))
}
