//! The connections of one process: lanes for reading, and the gate that lets the log of commits begin anew.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;

use super::file::{abandon, connect};
use super::identity::StoreFile;
use crate::inbox::store::StoreError;

/// Time that the gate is waited for by one who wants it alone; commits wait behind it.
const ALONE_PATIENCE: Duration = Duration::from_millis(10);

/// A lane for reading. One of them keeps the console and the metrics out of the delivery's way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// Due events and claims.
    Delivery,
    /// Reads for people and commands.
    View,
    /// Checkpoints.
    Checkpoint,
}

/// The state that the threads share.
pub(super) struct Connections {
    pub(super) path: PathBuf,
    // No thread may take it twice: parking_lot puts a waiting writer before new readers, the second read of a thread
    // included.
    /// Held shared by each transaction, and alone to begin the log anew, which no reader may be in.
    pub(super) gate: RwLock<()>,
    lanes: [Mutex<Option<Connection>>; 3],
    /// After the lanes, because fields are dropped in this order and the file is to be closed last.
    pub(super) file: Arc<StoreFile>,
}

impl Connections {
    /// Opens no connection yet.
    pub(super) fn new(path: PathBuf, file: Arc<StoreFile>) -> Self {
        Self {
            path,
            gate: RwLock::new(()),
            lanes: Default::default(),
            file,
        }
    }

    /// Works on a lane, beside others.
    pub(super) fn on<T>(
        &self,
        lane: Lane,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut slot = self.lanes[lane as usize].lock();
        let _gate = self.gate.read();
        self.work(&mut slot, work)
    }

    /// Works on a lane, and lets nothing else of this process go on meanwhile. Returns `None`, and does nothing, where
    /// that cannot begin soon.
    pub(super) fn alone<T>(
        &self,
        lane: Lane,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let mut slot = self.lanes[lane as usize].lock();
        // A caller that waits for the gate alone holds up all that come after it: a long read must not stop callbacks.
        let Some(_gate) = self.gate.try_write_for(ALONE_PATIENCE) else {
            return Ok(None);
        };
        self.work(&mut slot, work).map(Some)
    }

    /// After an error the lane is opened anew: it may have left its connection with a lock.
    fn work<T>(
        &self,
        slot: &mut Option<Connection>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        // Taken out of its slot, so that a panic in `work` closes it and leaves no open transaction to the next caller.
        let connection = match slot.take() {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        match work(&connection) {
            Ok(found) => {
                *slot = Some(connection);
                Ok(found)
            }
            Err(error) => {
                abandon(connection);
                Err(error.into())
            }
        }
    }

    /// Closes all and opens one for writing: after a failed unlock SQLite remembers the lock until the last connection
    /// of the process is closed.
    pub(super) fn reopen(&self, writer: Option<Connection>) -> Result<Connection, StoreError> {
        // The lanes before the gate, as in `on` and `alone`: in the other order two threads could wait for each other.
        let lanes = self.lanes.each_ref().map(|lane| lane.lock());
        let _gate = self.gate.write();
        let is_whole = self.file.verify().is_ok();
        for mut lane in lanes {
            if let Some(connection) = lane.take() {
                abandon(connection);
            }
        }
        if let Some(writer) = writer {
            abandon(writer);
        }
        let connection = connect(&self.path)?;
        if is_whole {
            // While none was open, another process may have closed its last connection: then SQLite has copied the log
            // and removed it (sqlite.org/walformat.html). The read makes a new one.
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            self.file.remember();
        }
        Ok(connection)
    }
}
