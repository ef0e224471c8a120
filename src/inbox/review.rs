//! Review and decisions: payloads that need manual review, and the history of what operators decided.

use super::event::{EventState, ReviewReason, Source};
use crate::time::Millis;

/// Events of one merchant that wait for review at most. The oldest stay, because they came before the flood.
pub const REVIEWS_EACH: u32 = 1000;

/// Decisions about one event that are kept, the newest.
pub(super) const KEPT_DECISIONS: u32 = 100;

/// Decisions of all events that are read at a time.
pub const RECENT_DECISIONS: u32 = 1000;

/// The origin of a decision that was made on the command line.
pub const COMMAND_LINE: &str = "command line";

/// A verified payload that cannot be read as a result.
#[derive(Debug, Clone)]
pub struct Review {
    /// The merchant whose key signed it.
    pub merid: String,
    /// The order it names; empty where that cannot be read.
    pub orderid: String,
    /// The payment it names; empty where that cannot be read.
    pub queryid: String,
    /// The decoded payload.
    pub payload: Vec<u8>,
    /// The reason.
    pub reason: ReviewReason,
    /// The field that cannot be read; empty where it is the whole.
    pub field: String,
    /// The way it came.
    pub source: Source,
    /// Now.
    pub at: Millis,
}

/// The end of a payload that was to be kept for review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReviewOutcome {
    /// A new event in the state `disputed`, on stable storage.
    Kept {
        /// The event's id.
        id: String,
    },
    /// An equal payload was kept before.
    Repeated {
        /// The event's id.
        id: String,
        /// The event's state.
        state: EventState,
    },
    /// The merchant has [`REVIEWS_EACH`] events in review. Nothing was kept.
    Full,
}

/// An operator's decision about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionKind {
    /// Deliver it again, at once.
    Replay,
    /// Deliver it after a review.
    Release,
    /// Never deliver it.
    Discard,
}

impl DecisionKind {
    /// Every decision.
    pub const ALL: [Self; 3] = [Self::Replay, Self::Release, Self::Discard];

    /// Returns the name in the store, the log and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Release => "release",
            Self::Discard => "discard",
        }
    }

    /// Returns the event's state from then on.
    pub fn state(self) -> EventState {
        match self {
            Self::Replay | Self::Release => EventState::Pending,
            Self::Discard => EventState::Discarded,
        }
    }

    /// Finds a decision by its name. An unknown one counts as a replay.
    pub(super) fn stored(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .unwrap_or(Self::Replay)
    }
}

/// Returns true where the decision makes no sense for an event in this state: what the app took cannot be taken back,
/// and only what is in review can be released.
pub(super) fn stays(kind: DecisionKind, state: EventState) -> bool {
    match kind {
        DecisionKind::Replay => false,
        DecisionKind::Release => state != EventState::Disputed,
        DecisionKind::Discard => state == EventState::Delivered,
    }
}

/// The operator who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// A name: of the console's user, or of the system's user at the command line.
    pub who: String,
    /// A place: the caller's address, or `command line`.
    pub from: String,
}

/// The end of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecideOutcome {
    /// The event has its new state.
    Done {
        /// Its state before.
        from: EventState,
    },
    /// The event keeps its state, for which the decision makes no sense.
    Stays(EventState),
    /// No event has this id.
    NotFound,
}

/// A decision as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRecord {
    /// The time of the decision.
    pub at: Millis,
    /// The decision.
    pub kind: DecisionKind,
    /// The event's state before.
    pub from: EventState,
    /// The operator.
    pub operator: Operator,
}
