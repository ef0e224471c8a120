//! Failing commits, for the tests of what is built on a store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::inbox::store::StoreError;

/// The failure of every commit into a file, until it is lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFault {
    /// Nothing is written, because the disk is full.
    Full,
    /// Nothing is written, because the system says no.
    Failed,
    /// All is written, and the report of it fails.
    Unreported,
}

static FAULTS: LazyLock<Mutex<HashMap<PathBuf, CommitFault>>> = LazyLock::new(Mutex::default);

/// Lets every commit into this file fail, or none.
pub(crate) fn set(path: &Path, fault: Option<CommitFault>) {
    let mut faults = FAULTS.lock();
    match fault {
        Some(fault) => faults.insert(path.to_owned(), fault),
        None => faults.remove(path),
    };
}

/// Fails before a commit.
pub(super) fn before(path: &Path) -> Result<(), StoreError> {
    match FAULTS.lock().get(path) {
        Some(CommitFault::Full) => Err(StoreError::Full("a test's fault".to_owned())),
        Some(CommitFault::Failed) => Err(StoreError::Failed("a test's fault".to_owned())),
        _ => Ok(()),
    }
}

/// Fails after a commit.
pub(super) fn after(path: &Path) -> Result<(), StoreError> {
    match FAULTS.lock().get(path) {
        Some(CommitFault::Unreported) => Err(StoreError::Failed("a test's fault".to_owned())),
        _ => Ok(()),
    }
}
