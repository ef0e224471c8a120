//! The verdict on an attempt: what its result means for the event and for the app.

use std::time::Duration;

use super::rounds::merchant_queue::Landing;
use super::schedule::delay;
use crate::inbox::attempt::{AppResponse, AttemptRecord};
use crate::inbox::event::{Event, EventState};
use crate::platform::confirm;
use crate::telemetry::outcome::DeliveryOutcome;
use crate::time::{Millis, Moments};

/// The result of one attempt.
pub enum AttemptResult {
    /// The app took the result.
    Taken(AppResponse),
    /// The app responded with something else.
    Rejected(AppResponse),
    /// No whole response, for this reason.
    Silent(String),
    /// The platform does not confirm the payment yet, for this reason.
    Unconfirmed(String),
    /// The platform contradicts the notification, for this reason.
    Contradicted(String),
}

/// The meaning of an attempt's result for its event and its app.
pub struct Verdict {
    /// The outcome in metrics, log and trace.
    pub outcome: DeliveryOutcome,
    /// The event's state from now on.
    pub state: EventState,
    /// The lesson about the app.
    pub landing: Landing,
    /// The reason, in words.
    pub why: String,
    response: Option<AppResponse>,
    next: Millis,
}

/// Returns true where an event has been attempted for `retry_for`, and not because of a clock that has jumped.
pub fn is_given_up(event: &Event, now: Moments, retry_for: Duration) -> bool {
    let age = now.trusted.saturating_sub(event.offered_since);
    u128::try_from(age).unwrap_or_default() > retry_for.as_millis()
}

impl Verdict {
    /// Judges the result of the attempt with this number, which ended `now`. An event that `is_given_up` is not attempted
    /// again.
    pub fn of(
        result: AttemptResult,
        event: &Event,
        number: u32,
        is_given_up: bool,
        now: Millis,
    ) -> Self {
        let mut verdict = Self {
            outcome: DeliveryOutcome::NotYet,
            state: EventState::Pending,
            landing: Landing::NotSent,
            why: String::new(),
            response: None,
            next: now + delay(number),
        };
        match result {
            AttemptResult::Taken(response) => {
                verdict.outcome = DeliveryOutcome::Taken;
                verdict.state = EventState::Delivered;
                verdict.landing = Landing::Taken;
                verdict.why = "taken".to_owned();
                verdict.response = Some(response);
                return verdict;
            }
            AttemptResult::Contradicted(why) => {
                verdict.outcome = DeliveryOutcome::Denied;
                verdict.state = EventState::Disputed;
                verdict.why = why;
                return verdict;
            }
            AttemptResult::Rejected(response) => {
                verdict.landing = Landing::Rejected;
                verdict.why.clone_from(&response.explanation);
                verdict.response = Some(response);
            }
            AttemptResult::Silent(why) => {
                verdict.landing = Landing::Silent;
                verdict.why = why;
            }
            AttemptResult::Unconfirmed(why) => {
                verdict.why = why;
                // Queries cost the app nothing, so the retry schedule is not kept to.
                verdict.next = now + confirm::next_query(now - event.offered_since);
            }
        }
        if is_given_up {
            verdict.outcome = DeliveryOutcome::Parked;
            verdict.state = EventState::Parked;
        }
        verdict
    }

    /// Builds what is written down of an attempt that began at `at` and took this long.
    pub fn record(&self, id: String, number: u32, at: Millis, took: Millis) -> AttemptRecord {
        AttemptRecord {
            id,
            number,
            at,
            took,
            outcome: self.why.clone(),
            response: self.response.clone(),
            state: self.state,
            next: self.next,
        }
    }
}
