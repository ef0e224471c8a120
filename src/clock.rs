//! The wall clock, read at the edges; below them time is an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::inbox::event::Millis;

/// Milliseconds since 1970.
pub fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}
