//! The guard against an edit that takes out many merchants by mistake.

use std::path::Path;
use std::sync::Arc;

use crate::config::merchants::{Merchant, Snapshot};
use crate::config::problem::{Problem, Problems};

/// Merchants; taking out fewer at a time is everyday work.
const MASS_DELETION: usize = 5;

/// Rejects a snapshot that lacks more than half of the merchants, unless the file states their number under `[end]`.
///
/// A file cut short at the end of an entry is a good file; only its author can tell that it is meant.
pub(super) fn guard(path: &Path, old: &Snapshot, new: Snapshot) -> Result<Snapshot, Problems> {
    let vanished = vanished(old, &new);
    if new.count_stated() || vanished < MASS_DELETION || vanished * 2 <= old.len() {
        return Ok(new);
    }
    let expected = format!(
        "{vanished} of {} merchants would vanish, add [end] with merchants = {} if this is meant",
        old.len(),
        new.len()
    );
    Err(Problem::new(path, "end.merchants", expected).into())
}

/// Counts the merchants of `old` that `new` lacks.
pub(super) fn vanished(old: &Snapshot, new: &Snapshot) -> usize {
    let gone = |merchant: &&Arc<Merchant>| new.merchant(&merchant.merid).is_none();
    old.iter().filter(gone).count()
}
