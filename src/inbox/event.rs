//! An event: one verified result, kept for the app.

use sha2::{Digest, Sha256};

use crate::protocol::result::PaymentResult;
use crate::time::Millis;

/// Where a result came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The platform called back.
    Notification,
    /// We asked.
    Query,
}

impl Source {
    /// The value of `countersign-source`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::Query => "query",
        }
    }

    /// Finds a source by its name.
    pub fn parse(name: &str) -> Self {
        match name {
            "query" => Self::Query,
            _ => Self::Notification,
        }
    }
}

/// What is to become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    /// Offered to the app until it takes it.
    Pending,
    /// The app took it.
    Delivered,
    /// Offered for as long as `inbox.retry_for`, or to nobody: waits for a person.
    Parked,
    /// Another amount than was signed, or a second story for one payment: held for a person.
    Disputed,
    /// A person decided that the app is not to hear of it.
    Discarded,
}

impl EventState {
    /// All of them, for the metrics.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Delivered,
        Self::Parked,
        Self::Disputed,
        Self::Discarded,
    ];

    /// The name in store, metrics and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Parked => "parked",
            Self::Disputed => "disputed",
            Self::Discarded => "discarded",
        }
    }

    /// Finds a state by its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// A state as a store has it. One that nobody knows is a person's to look at.
    pub(super) fn stored(name: &str) -> Self {
        Self::parse(name).unwrap_or(Self::Parked)
    }
}

/// An event as it is kept.
#[derive(Debug, Clone)]
pub struct Event {
    /// The same for every repeat of one story.
    pub id: String,
    /// The merchant.
    pub merid: String,
    /// The merchant's order number.
    pub orderid: String,
    /// The platform's number for the payment.
    pub queryid: String,
    /// Four digits, or empty.
    pub resultcode: String,
    /// In cents.
    pub amount: u64,
    /// The platform's plain JSON, byte for byte.
    pub json: String,
    /// Where it came from first.
    pub source: Source,
    /// The order is in the ledger, with this amount.
    pub matched: bool,
    /// What is to become of it.
    pub state: EventState,
    /// When it was kept.
    pub received_at: Millis,
    /// When it is offered next.
    pub next_attempt: Millis,
    /// How often it was offered.
    pub attempts: u32,
    /// What became of the last attempt, in words.
    pub last_attempt: String,
}

/// The id of a story: who, which payment, which result, for which order, over how much.
pub fn id(outcome: &PaymentResult) -> String {
    let PaymentResult {
        merid,
        queryid,
        resultcode,
        orderid,
        amount,
        ..
    } = outcome;
    let mut digest = Sha256::new();
    for part in [merid, queryid, resultcode, orderid, &amount.to_string()] {
        // Lengths keep two different stories from running into one text.
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    digest.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A platform's text for a person's eyes: whatever could move a cursor, turn the line around or hide is spelled out.
pub fn shown(text: &str) -> String {
    let plain = |c: &char| c.is_alphanumeric() || c.is_ascii_graphic() || *c == ' ';
    text.chars()
        .map(|c| {
            if plain(&c) {
                c.to_string()
            } else {
                c.escape_unicode().to_string()
            }
        })
        .collect()
}
