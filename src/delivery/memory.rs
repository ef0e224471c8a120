//! The memory of failing apps: written behind the deliveries, for the next start.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::rounds::merchant_queue::StandingChange;
use super::schedule::BACK_OFF;
use crate::inbox::attempt::FailingApp;
use crate::inbox::store::{Store, StoreError};
use crate::time;

/// Changes that wait at most. Where there are more, some are dropped: the next start then takes an app for an unknown
/// one, and finds out.
pub(super) const WAITING: usize = 16_384;
/// Changes that are written together.
const GROUP: usize = 64;

/// Writes down which apps began to fail or to work, until the last sender is gone.
pub(super) async fn run(
    store: Arc<dyn Store>,
    mut changes: mpsc::Receiver<(Arc<str>, StandingChange)>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while changes.recv_many(&mut group, GROUP).await > 0 {
        // An app that changes its mind often costs one write a round.
        let latest: HashMap<_, _> = group.drain(..).collect();
        let writes = latest.into_iter().map(|it| write(&*store, it.0, it.1));
        let results: Result<Vec<()>, _> = join_all(writes).await.into_iter().collect();
        if let Err(error) = results {
            tracing::warn!(%error, "it could not be written down which apps fail");
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

async fn write(
    store: &dyn Store,
    merid: Arc<str>,
    change: StandingChange,
) -> Result<(), StoreError> {
    let StandingChange::Failing(why) = change else {
        return store.set_working(&merid).await;
    };
    let now = time::now();
    let app = FailingApp {
        merid: merid.to_string(),
        since: now,
        last: now,
        why,
    };
    store.set_failing(app).await
}
