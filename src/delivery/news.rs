//! Messages from attempts to the dispatcher.

use std::time::Duration;

use tokio::sync::mpsc;

use super::rounds::merchant_queue::Landing;
use crate::time::Millis;

/// News about an event in flight.
#[derive(Debug)]
pub(super) enum FlightNews {
    /// The attempt is over; its end is being written down.
    Landed {
        id: String,
        landing: Landing,
        took: Duration,
        why: String,
    },
    /// The attempt's end is in the store; `next` is the time of the next one.
    Recorded { id: String, next: Option<Millis> },
    /// The attempt ended without a result, or its end could not be written down.
    Lost { id: String },
}

/// One event in flight. Dropped without a landing, after a panic for example, it reports the event as lost.
pub(super) struct Flight {
    id: Option<String>,
    // Unbounded, because an event in flight sends three messages at most, and there is a ceiling on those.
    news: mpsc::UnboundedSender<FlightNews>,
}

impl Flight {
    /// Takes off.
    pub(super) fn new(id: String, news: mpsc::UnboundedSender<FlightNews>) -> Self {
        Self { id: Some(id), news }
    }

    /// Lands. The record of it follows by the recorder.
    pub(super) fn land(mut self, landing: Landing, took: Duration, why: String) {
        if let Some(id) = self.id.take() {
            let landed = FlightNews::Landed {
                id,
                landing,
                took,
                why,
            };
            // The dispatcher is gone once another process delivers.
            let _ = self.news.send(landed);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            let _ = self.news.send(FlightNews::Lost { id });
        }
    }
}
