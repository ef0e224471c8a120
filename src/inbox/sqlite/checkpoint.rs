//! Checkpoints on a thread of their own: the log of commits (WAL) is copied into the file beside the commits, and begun
//! anew at a bounded size, however busy the readers are.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;

use super::connections::{Connections, Lane};
use super::file::Lock;
use super::schema::APPLICATION_ID;
use crate::inbox::store::StoreError;

/// Bytes of the log from which it is copied.
pub(super) const COPIED_FROM: u64 = 4 << 20;
/// Bytes of the log from which it is begun anew: a quarter of what it may take on the disk.
const ANEW_FROM: u64 = 16 << 20;
/// Pages that may be left to copy while everybody waits: some 10 ms.
const LEFT: i64 = 512;
/// Rounds of copying before everybody waits.
const ROUNDS: usize = 4;
/// The pause between two checks without a wake-up: a reader of another process may have ended.
const LOOK: Duration = Duration::from_secs(1);

/// Copies until every caller is gone.
pub(super) fn run(shared: &Arc<Connections>, lock: &Lock, calls: &Receiver<()>) {
    loop {
        match calls.recv_timeout(LOOK) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Nothing is copied into a file that the path no longer names: that would finish off what may still be put
        // right.
        if shared.file.wal_bytes() < COPIED_FROM || shared.file.verify().is_err() {
            continue;
        }
        match copy(shared) {
            Ok(true) => {
                if let (Some(held), Ok(counter)) = (&*lock.borrow(), shared.file.counter()) {
                    held.note_counter(counter);
                }
            }
            // What is in the way is another process's reader: the log grows until it has ended.
            Ok(false) | Err(StoreError::Slow) => {}
            Err(error) => {
                tracing::warn!(%error, "a checkpoint of the store failed; it is made again");
            }
        }
    }
}

/// Copies the log into the file, and begins it anew where it has grown; returns true where it did.
fn copy(shared: &Connections) -> Result<bool, StoreError> {
    for _ in 0..ROUNDS {
        let left = shared.on(Lane::Checkpoint, |it| checkpoint(it, "PASSIVE"))?;
        if shared.file.wal_bytes() < ANEW_FROM {
            return Ok(false);
        }
        if left <= LEFT {
            return begin_anew(shared);
        }
    }
    Ok(false)
}

fn begin_anew(shared: &Connections) -> Result<bool, StoreError> {
    let is_anew = shared.alone(Lane::Checkpoint, |connection| {
        // Without patience, since everybody waits.
        // It also takes the place of `connect`'s busy handler for good, which is harmless: PASSIVE never calls one.
        connection.busy_timeout(Duration::ZERO)?;
        // A write of the first page moves the change counter, by which an older copy of the file is known.
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        Ok(checkpoint(connection, "TRUNCATE")? == 0)
    })?;
    Ok(is_anew.unwrap_or(false))
}

/// Returns the number of pages that could not be copied yet.
fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |row| {
        let (busy, log, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // `busy` is 1 where a reader or a writer kept TRUNCATE from its end
        // (sqlite.org/pragma.html#pragma_wal_checkpoint).
        Ok((log - copied).max(busy))
    })
}
