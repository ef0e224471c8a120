//! Operators' decisions in the log and in the metrics, wherever they were made.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::inbox::review::COMMAND_LINE;
use crate::inbox::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::time;
use crate::time::Millis;

/// The pause between two looks at the store. The command line decides in a process of its own, and leaves word there alone.
const LOOK: Duration = Duration::from_secs(2);

/// Counts decisions, and logs those of the command line; the console logs its own.
pub struct DecisionWatch {
    /// The decisions.
    pub store: Arc<dyn Store>,
    /// Counts them.
    pub metrics: Arc<Metrics>,
}

impl DecisionWatch {
    /// Looks until the task is dropped.
    pub async fn run(&self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut after = time::now();
        loop {
            looks.tick().await;
            match self.look(after).await {
                Ok(last) => after = last,
                // The store's own metric has an alert.
                Err(error) => tracing::debug!(%error, "decisions cannot be read"),
            }
        }
    }

    /// Reports the decisions after `after`; returns the time of the last.
    async fn look(&self, after: Millis) -> Result<Millis, StoreError> {
        let decisions = self.store.decisions_since(after).await?;
        let Some((_, last)) = decisions.last() else {
            return Ok(after);
        };
        let last = last.at;
        // One sidecar of a fleet speaks for all.
        if !self.store.counts().await?.is_exported {
            return Ok(last);
        }
        for (event, decision) in decisions {
            let kind = decision.kind.name();
            self.metrics.decisions.with_label_values(&[kind]).inc();
            if decision.operator.from == COMMAND_LINE {
                tracing::info!(
                    event,
                    decision = kind,
                    before = decision.from.name(),
                    who = decision.operator.who,
                    "decided on the command line"
                );
            }
        }
        Ok(last)
    }
}
