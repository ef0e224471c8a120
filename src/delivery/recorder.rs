//! The writer of attempts' ends: those that come together are written together, in one commit.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::news::FlightNews;
use super::schedule::BACK_OFF;
use crate::inbox::attempt::AttemptRecord;
use crate::inbox::event::EventState;
use crate::inbox::store::{Store, StoreError};

/// Attempts in one commit at most.
const GROUP: usize = 256;

/// Writes down the ends of attempts until the last sender is gone.
///
/// It outlives the dispatcher: attempts that are under way when another process takes over are written down, too.
pub(super) async fn run(
    store: Arc<dyn Store>,
    mut ends: mpsc::Receiver<AttemptRecord>,
    news: mpsc::UnboundedSender<FlightNews>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while ends.recv_many(&mut group, GROUP).await > 0 {
        write(&*store, group.split_off(0), &news).await;
    }
}

async fn write(
    store: &dyn Store,
    group: Vec<AttemptRecord>,
    news: &mpsc::UnboundedSender<FlightNews>,
) {
    match store.attempted_together(group.clone()).await {
        // Also for those that were not written: whatever the store has of such an event, a survey finds it.
        Ok(_) => group.into_iter().for_each(|record| tell(news, record)),
        Err(error) => {
            complain(&error, group.len());
            tokio::time::sleep(BACK_OFF).await;
            // One row that cannot be written must not take the others along.
            for record in group {
                if let Err(error) = store.attempted(record.clone()).await {
                    complain(&error, 1);
                    // The dispatcher may be gone, which is no loss.
                    let _ = news.send(FlightNews::Lost { id: record.id });
                    continue;
                }
                tell(news, record);
            }
        }
    }
}

fn tell(news: &mpsc::UnboundedSender<FlightNews>, record: AttemptRecord) {
    let next = (record.state == EventState::Pending).then_some(record.next);
    let _ = news.send(FlightNews::Recorded {
        id: record.id,
        next,
    });
}

fn complain(error: &StoreError, attempts: usize) {
    tracing::error!(
        %error,
        attempts,
        "attempts could not be written down; the app gets these results again, under the same ids"
    );
}
