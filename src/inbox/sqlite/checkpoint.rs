//! Checkpoints on a thread of their own: the log of commits (WAL) is copied into the file beside the commits, and begun
//! anew at a bounded size, however busy the readers are.
//!
//! The log's file keeps its size when the log begins anew. A commit into blocks that the file has costs no entry in the
//! file system's own journal, and nobody waits for a truncation; that is left to a quiet moment.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;

use super::connections::{Connections, Lane};
use super::file::Lock;
use super::schema::APPLICATION_ID;
use crate::inbox::store::StoreError;

/// Bytes of one page in the log, with its header.
const FRAME: i64 = 4096 + 24;
/// Pages from which the log is copied: 2 MiB.
const COPIED_FROM: i64 = (2 << 20) / FRAME;
/// Pages from which it is begun anew: a quarter of what it may take on the disk.
const ANEW_FROM: i64 = (16 << 20) / FRAME;
/// Pages that may be left to copy while everybody waits: some milliseconds.
const LEFT: i64 = 64;
/// Rounds of copying before everybody waits.
const ROUNDS: usize = 8;
/// Bytes of a quiet log's file above which it is truncated.
const QUIET_SIZE: u64 = 1 << 20;
/// The pause between two checks without a wake-up: a reader of another process may have ended.
const LOOK: Duration = Duration::from_secs(1);

/// The pages of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogPages {
    all: i64,
    copied: i64,
}

impl LogPages {
    /// Reads them, and copies nothing.
    pub(super) fn of(connection: &Connection) -> rusqlite::Result<Self> {
        checkpoint(connection, "NOOP")
    }

    fn left(self) -> i64 {
        self.all - self.copied
    }

    /// Returns true where a checkpoint is worth its cost.
    pub(super) fn is_due(self) -> bool {
        self.left() >= COPIED_FROM || self.all >= ANEW_FROM
    }
}

/// Copies until every caller is gone.
pub(super) fn run(shared: &Arc<Connections>, lock: &Lock, calls: &Receiver<()>) {
    let mut before = None;
    loop {
        let is_called = match calls.recv_timeout(LOOK) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // Nothing is copied into a file that the path no longer names: that would finish off what may still be put
        // right.
        if shared.file.verify().is_err() {
            continue;
        }
        let begun_anew = match is_called {
            true => copy(shared),
            false => look(shared, &mut before),
        };
        match begun_anew {
            Ok(true) => {
                if let (Some(held), Ok(counter)) = (&*lock.borrow(), shared.file.counter()) {
                    held.note_counter(counter);
                }
            }
            // A reader of another process is in the way: the log grows until it has ended.
            Ok(false) | Err(StoreError::Slow) => {}
            Err(error) => {
                tracing::warn!(%error, "a checkpoint of the store failed; it is made again");
            }
        }
    }
}

/// Copies a log that is due, and truncates one to which nothing was added since the look `before`; returns true where it
/// begins anew.
fn look(shared: &Connections, before: &mut Option<LogPages>) -> Result<bool, StoreError> {
    let now = shared.on(Lane::Checkpoint, LogPages::of)?;
    let is_quiet = before.replace(now) == Some(now);
    if is_quiet && shared.file.wal_bytes() >= QUIET_SIZE {
        return truncate(shared);
    }
    if now.is_due() {
        copy(shared)
    } else {
        Ok(false)
    }
}

/// Copies the log into the file, and begins it anew where it has grown; returns true where it did.
fn copy(shared: &Connections) -> Result<bool, StoreError> {
    for _ in 0..ROUNDS {
        let pages = shared.on(Lane::Checkpoint, |it| checkpoint(it, "PASSIVE"))?;
        // PASSIVE flushes the file only where it has copied everything (sqlite.org/c3ref/wal_checkpoint_v2.html). What is
        // not flushed by now would be while everybody waits.
        shared.file.flush()?;
        if pages.all < ANEW_FROM {
            return Ok(false);
        }
        if pages.left() <= LEFT {
            return begin_anew(shared);
        }
    }
    Ok(false)
}

/// Copies the rest while nobody reads or writes, so that the next commit begins the log anew.
fn begin_anew(shared: &Connections) -> Result<bool, StoreError> {
    // A pause of its own, and a short one.
    let is_counted = shared.alone(Lane::Checkpoint, |connection| {
        lose_patience(connection)?;
        count(connection)
    })?;
    if is_counted.is_none() {
        return Ok(false);
    }
    shared.on(Lane::Checkpoint, |it| checkpoint(it, "PASSIVE"))?;
    shared.file.flush()?;
    let pages = shared.alone(Lane::Checkpoint, |it| checkpoint(it, "PASSIVE"))?;
    Ok(pages.is_some_and(|pages| pages.left() == 0))
}

/// Empties the log and its file, unless a reader of another process is in it.
fn truncate(shared: &Connections) -> Result<bool, StoreError> {
    let is_empty = shared.alone(Lane::Checkpoint, |connection| {
        lose_patience(connection)?;
        if checkpoint(connection, "TRUNCATE")?.all > 0 {
            return Ok(false);
        }
        count(connection)?;
        Ok(checkpoint(connection, "TRUNCATE")?.all == 0)
    })?;
    Ok(is_empty == Some(true))
}

/// Lets the connection wait for no other process, since everybody waits for it. This takes the place of `connect`'s busy
/// handler for good, which is harmless: PASSIVE never calls one.
fn lose_patience(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)
}

/// Writes the first page, which moves the change counter: by it an older copy of the file is known.
fn count(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "application_id", APPLICATION_ID)
}

fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<LogPages> {
    let sql = format!("PRAGMA wal_checkpoint({how})");
    connection.prepare_cached(&sql)?.query_row([], |row| {
        Ok(LogPages {
            all: row.get(1)?,
            copied: row.get(2)?,
        })
    })
}
