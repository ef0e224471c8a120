//! A look at a store that changes nothing: no file is created, no lock is taken.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, access};

use super::{schema, upkeep};
use crate::inbox::store::{KeySwitch, StoreError};

/// Finds out whether a sidecar could use the store, or create it. `is_running`: our own sidecar has it open.
pub(in crate::inbox) fn inspect(path: &Path, is_running: bool) -> Result<(), StoreError> {
    let failed = |what: &Path, why: &str| StoreError::Failed(format!("{}: {why}", what.display()));
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(failed(
            folder,
            "no such folder; create it for the sidecar's user",
        ));
    }
    if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Err(failed(folder, "this user cannot write in the folder"));
    }
    if !is_running {
        is_unlocked(&with(path, ".lock"))?;
    }
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    if !path.is_file() {
        return Err(failed(path, "expected a file"));
    }
    if access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        return Err(failed(path, "this user cannot read and write the store"));
    }
    if path.metadata().is_ok_and(|file| file.len() == 0) {
        return Ok(());
    }
    let connection = open(path)?;
    schema::check(&connection)
}

/// Reads the switches of signing keys; none where there is no store yet.
pub(in crate::inbox) fn key_switches(path: &Path) -> Result<Vec<KeySwitch>, StoreError> {
    if path.metadata().map_or(0, |file| file.len()) == 0 {
        return Ok(Vec::new());
    }
    Ok(upkeep::key_switches(&open(path)?)?)
}

fn is_unlocked(lock: &Path) -> Result<(), StoreError> {
    let Ok(file) = File::open(lock) else {
        return Ok(());
    };
    // Shared, so that two checks at once do not take each other for a sidecar.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(lock.display().to_string())),
        _ => Ok(()),
    }
}

/// A store that was closed well has no log beside it, and SQLite would create one even for a reader; such a file is
/// opened as one that does not change (sqlite.org/uri.html, "immutable").
fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if with(path, "-wal").exists() && with(path, "-shm").exists() {
        return Ok(Connection::open_with_flags(path, flags)?);
    }
    // What a URI filename would read as something else (sqlite.org/uri.html).
    let escaped = path
        .to_string_lossy()
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    let uri = format!("file:{escaped}?immutable=1");
    Ok(Connection::open_with_flags(
        uri,
        flags | OpenFlags::SQLITE_OPEN_URI,
    )?)
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
