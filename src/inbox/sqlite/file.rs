//! The way to the file: its connections, its first checks, and the lock of the instance that has it.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::watch;

use super::identity::{StoreFile, private, with_suffix};
use crate::inbox::store::StoreError;

/// Bytes of a store whose every page is checked before it is used: a tenth of a second's work.
const CHECKED: u64 = 16 << 20;
/// Tries to get another process's lock, and the pause in between. SQLite's own pauses become so long that a process which
/// commits all the time leaves no gap that they would hit.
const LOCK_TRIES: i32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The lock once it is ours, up to the last handle or [`let_go`](super::Store::let_go).
pub(super) type Lock = watch::Sender<Option<Held>>;

/// The lock, held. Two files are locked: the store's own, which no link or lost lock file gets around, and `.lock`, by
/// which the version before knows that the store is in use.
pub(super) struct Held {
    store: Arc<StoreFile>,
    note: File,
}

impl Held {
    /// Locks the store, or says who has it.
    pub(super) fn now(store: Arc<StoreFile>, path: &Path) -> Result<Self, StoreError> {
        // The note first, here and in `in_turn`: with one order for all, no two instances wait for each other.
        let (note, shown) = lock_file(path)?;
        match note.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(shown)),
            Err(TryLockError::Error(error)) => {
                return Err(StoreError::Failed(format!("{shown}: {error}")));
            }
        }
        store.try_lock()?;
        Ok(Self { store, note })
    }

    /// Waits for the instance that has it.
    pub(super) fn in_turn(store: Arc<StoreFile>, path: &Path) -> Result<Self, StoreError> {
        let (note, shown) = lock_file(path)?;
        let failed = |error| StoreError::Failed(format!("{shown}: {error}"));
        note.lock().map_err(failed)?;
        store.lock().map_err(failed)?;
        Ok(Self { store, note })
    }

    /// Writes down the change counter that a checkpoint left.
    pub(super) fn note_counter(&self, counter: u32) {
        // Of a fixed width and written in place: truncating first could leave an empty note after a crash.
        let line = format!("{counter:010}\n");
        if let Err(error) = self.note.write_all_at(line.as_bytes(), 0) {
            tracing::warn!(%error, "a checkpoint cannot be noted in the lock file");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The note's lock ends with its descriptor. The store's descriptor may have other users in this process
        // (`identity.rs`).
        self.store.unlock();
    }
}

/// Returns true where a lock file is there.
pub(super) fn has_lock_file(path: &Path) -> bool {
    with_suffix(path, ".lock").exists()
}

/// Reads the change counter that the last checkpoint noted; 0 where none did.
pub(super) fn noted_counter(path: &Path) -> u32 {
    let mut line = String::new();
    let read = File::open(with_suffix(path, ".lock"));
    let _ = read.and_then(|file| file.take(64).read_to_string(&mut line));
    line.trim().parse().unwrap_or_default()
}

fn lock_file(path: &Path) -> Result<(File, String), StoreError> {
    let name = with_suffix(path, ".lock");
    let shown = name.display().to_string();
    let file = private()
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|error| StoreError::Failed(format!("{shown}: {error}")))?;
    Ok((file, shown))
}

/// Bytes that the log's file keeps when the log begins anew: as much as a busy log takes.
const LOG_SIZE: u32 = 20 << 20;

/// Opens a connection to a file that is there.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // SQLite tries again for as long as it returns true; a later `busy_timeout` would take its place.
    connection.busy_handler(Some(wait_a_little))?;
    connection.set_prepared_statement_cache_capacity(64);
    // In WAL mode NORMAL leaves out the flush at each commit and loses the last ones at a power cut
    // (sqlite.org/pragma.html#pragma_synchronous).
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A statement's own activity is a file otherwise: one for each note, in the system's folder for such files.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Checkpoints have a thread of their own.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A log that a long reader has let grow is cut to this size by the commit that begins it anew.
    connection.pragma_update(None, "journal_size_limit", LOG_SIZE)?;
    // Otherwise SQLite plans a statement again for each new time that it is given.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Closes a connection without a checkpoint, which would wait for the fault that it is closed for.
pub(super) fn abandon(connection: Connection) {
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    drop(connection);
}

fn wait_a_little(tries: i32) -> bool {
    thread::sleep(LOCK_PAUSE);
    tries < LOCK_TRIES
}

/// Returns true where every page can be checked before the start.
pub(super) fn is_small(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.len() <= CHECKED)
}

/// Checks every page of a table, or of all.
pub(super) fn check_pages(connection: &Connection, table: Option<&str>) -> Result<(), StoreError> {
    let sql = match table {
        Some(table) => format!("PRAGMA quick_check({table})"),
        None => "PRAGMA quick_check(1)".to_owned(),
    };
    let damage: String = connection.query_row(&sql, [], |row| row.get(0))?;
    if damage == "ok" {
        Ok(())
    } else {
        Err(StoreError::Damaged(damage))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // The only errors that stay until a restart (`Health::note`): a full or a slow disk may recover.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            Some(ErrorCode::DiskFull) => Self::Full(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Slow,
            _ => Self::Failed(error.to_string()),
        }
    }
}
