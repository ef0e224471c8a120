//! The bell that intake and reconciliation ring when there is something to deliver.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::telemetry::trace::Kept;

/// Rings when there is something to deliver.
#[derive(Default)]
pub struct Wake {
    bell: Notify,
    /// Merchants with a new event. They come from the merchants file, so the set is bounded by it.
    merchants: Mutex<HashSet<String>>,
    /// The traces in which results came.
    pub traces: Kept,
}

impl Wake {
    /// Announces a new event of one merchant.
    pub fn event(&self, merid: &str) {
        let mut merchants = self
            .merchants
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !merchants.contains(merid) {
            merchants.insert(merid.to_owned());
        }
        drop(merchants);
        // After the insertion, or the dispatcher could wake up and find nothing. Between two waits `Notify` keeps one
        // permit, so that no ring is lost.
        self.bell.notify_one();
    }

    /// Waits until the bell is rung; at once where it was rung since the last wait.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Takes the merchants with events that came since the last time.
    pub(super) fn take(&self) -> HashSet<String> {
        std::mem::take(
            &mut *self
                .merchants
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}
