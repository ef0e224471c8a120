//! Attempts: what is due, what is claimed for one attempt at delivery, and what came of it.

use super::event::{Event, EventState};
use crate::time::Millis;

/// Bytes of an app's response that are kept with an attempt: enough for a login page's title.
pub const FIRST_BYTES: usize = 200;
/// Attempts are planned no further ahead than this. Anything beyond was planned before the clock was set back.
pub const AHEAD_ATTEMPT: Millis = 10 * 60 * 1000;
// Longer than the 24 hours for which reconciliation plans at most.
/// Queries are planned no further ahead than this, for the same reason.
pub(super) const AHEAD_LOOK: Millis = 25 * 60 * 60 * 1000;

/// Pending events of one merchant whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueMerchant {
    /// The merchant.
    pub merid: String,
    /// The longest due first.
    pub events: Vec<DueEvent>,
    /// The time of its next event that is not due yet, where that was looked up.
    pub next_at: Option<Millis>,
}

/// A pending event whose time has come, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueEvent {
    /// The event's id.
    pub id: String,
    /// The number of attempts so far.
    pub attempts: u32,
}

/// The response to a claim.
#[derive(Debug)]
pub enum ClaimOutcome {
    /// The event is this sidecar's for one attempt.
    Claimed(Box<ClaimedEvent>),
    /// The event is no longer as it was read, or another sidecar has it.
    Gone {
        /// The event's id.
        id: String,
    },
    /// The row cannot be read, or does not match its digest. It is parked.
    Damaged {
        /// The event's id.
        id: String,
        /// The damage, without a byte of the row.
        why: String,
    },
}

/// An event with all that one attempt needs.
#[derive(Debug, Clone)]
pub struct ClaimedEvent {
    /// The event.
    pub event: Event,
    /// The `backurl` that the app itself gave with the latest try that was or may have been sent, shadow calls aside.
    pub own_back: Option<String>,
    /// True where the app has taken a later state of the same payment.
    pub superseded: bool,
}

/// The app's response to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppResponse {
    /// The status.
    pub status: u16,
    /// `Content-Type`, at most 128 bytes.
    pub content_type: String,
    /// The beginning of the body: at most [`FIRST_BYTES`].
    pub first_bytes: Vec<u8>,
    /// A redirect's target without its query; empty where it is none.
    pub location: String,
    /// An explanation, such as "0000 after a byte order mark".
    pub explanation: String,
}

/// The end of one attempt to deliver an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// The event's id.
    pub id: String,
    /// Its number, from 1.
    pub number: u32,
    /// The time at which it began.
    pub at: Millis,
    /// Its duration, in milliseconds.
    pub took: Millis,
    /// The outcome in words; no text of the app's.
    pub outcome: String,
    /// The app's response, where there was one.
    pub response: Option<AppResponse>,
    /// The event's state from now on.
    pub state: EventState,
    /// The time of the next attempt, where it is pending.
    pub next: Millis,
}

/// A merchant's app whose deliveries fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingApp {
    /// The merchant.
    pub merid: String,
    /// The first failure since the last success.
    pub since: Millis,
    /// The latest failure that was written down.
    pub last: Millis,
    /// The latest failure in words.
    pub why: String,
}
