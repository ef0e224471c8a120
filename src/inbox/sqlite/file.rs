//! The way to the file: its connections, what is looked at before one is used, and the lock of the one who has it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use crate::inbox::store::StoreError;

/// Bytes of a store whose every page is looked at before it is used: a tenth of a second's work.
const CHECKED: u64 = 16 << 20;
/// How often SQLite tries to get another process's lock, and the pause in between. SQLite's own pauses become so long
/// that a process which commits all the time leaves no gap that they would hit.
const LOCK_TRIES: i32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The lock's file once it is ours, up to the last handle or [`let_go`](super::Store::let_go).
pub(super) type Lock = watch::Sender<Option<File>>;

/// Locked as long as it is open, and its name. A file of its own: closing another descriptor of the store itself would
/// give SQLite's own locks away.
pub(super) fn lock_file(path: &Path) -> Result<(File, String), StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let shown = name.to_string_lossy().into_owned();
    let file = private()
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(|error| StoreError::Failed(format!("{shown}: {error}")))?;
    Ok((file, shown))
}

/// Makes an empty store where there is none, before SQLite would make it for everyone to read. What is wrong with the
/// path SQLite says; a file that is there is not touched.
pub(super) fn make(path: &Path) {
    let _ = private().create_new(true).open(path);
}

/// Files of the sidecar's user alone: who can read the lock's can hold it too, and SQLite's others take after the store's.
fn private() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

pub(super) fn connect(path: &Path, more: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_a_little))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A statement's own activity is a file otherwise: one for each note, in the system's folder for such files.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Otherwise SQLite plans a statement again for each new time that it is asked about.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

fn wait_a_little(tries: i32) -> bool {
    thread::sleep(LOCK_PAUSE);
    tries < LOCK_TRIES
}

/// A damaged file is found now where looking at every page is quick; of a larger one SQLite itself looks at what
/// it touches.
pub(super) fn check_pages(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > CHECKED) {
        return Ok(());
    }
    let damage: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if damage == "ok" {
        Ok(())
    } else {
        Err(StoreError::Damaged(damage))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
