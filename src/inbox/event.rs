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

/// The reason for which a pending event waits, although its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitReason {
    /// The merchant has no `back`.
    NoBack,
    /// The merchants file does not have the merchant.
    NoMerchant,
}

impl WaitReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::NoBack, Self::NoMerchant];

    /// Returns the name in the store, on the command line and in the console.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoBack => "no-back",
            Self::NoMerchant => "no-merchant",
        }
    }

    /// Finds a reason by its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// The reason for which an event needs review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewReason {
    /// The signature holds, and the payload is no strict JSON object.
    Malformed,
    /// The signature holds, and a field is missing or cannot be read.
    Unreadable,
    /// Another amount than was signed.
    OtherAmount,
    /// Another amount or order than an earlier result of the same payment.
    OtherResult,
    /// A failure after the same payment was reported as paid.
    FailedAfterPaid,
    /// The platform contradicts it when queried.
    Contradicted,
}

impl ReviewReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Malformed,
        Self::Unreadable,
        Self::OtherAmount,
        Self::OtherResult,
        Self::FailedAfterPaid,
        Self::Contradicted,
    ];

    /// Returns the name in the store, the log and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unreadable => "unreadable",
            Self::OtherAmount => "other-amount",
            Self::OtherResult => "other-result",
            Self::FailedAfterPaid => "failed-after-paid",
            Self::Contradicted => "contradicted",
        }
    }

    /// Finds a reason by its name; rows of older versions have none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
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
    /// The platform's plain JSON, byte for byte. Where `raw` holds the payload, a readable rendering of it.
    pub json: String,
    /// The payload of an event in review that is no UTF-8 text.
    pub raw: Option<Vec<u8>>,
    /// Where it came from first.
    pub source: Source,
    /// The order is in the ledger, with this amount.
    pub matched: bool,
    /// What is to become of it.
    pub state: EventState,
    /// The reason for its review, where it needs or needed one.
    pub review: Option<ReviewReason>,
    /// The field that could not be read; empty where that is not the reason.
    pub field: String,
    /// The reason for which it waits, although its time has come.
    pub waits: Option<WaitReason>,
    /// The time at which it was kept; no decision changes it.
    pub received_at: Millis,
    /// The time from which `inbox.retry_for` counts: of its receipt, or of the latest replay.
    pub offered_since: Millis,
    /// When it is offered next.
    pub next_attempt: Millis,
    /// How often it was offered.
    pub attempts: u32,
    /// What became of the last attempt, in words.
    pub last_attempt: String,
}

impl Event {
    /// Returns the payload, byte for byte.
    pub fn payload(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or(self.json.as_bytes())
    }
}

/// Computes the id of a result: merchant, payment, result, order and amount. Repeats of one result share it.
pub fn id(outcome: &PaymentResult) -> String {
    let PaymentResult {
        merid,
        queryid,
        resultcode,
        orderid,
        amount,
        ..
    } = outcome;
    let amount = amount.to_string();
    hex(&hash(
        [merid, queryid, resultcode, orderid, &amount].map(String::as_bytes),
    ))
}

/// Computes the id of a payload that cannot be read: one for each merchant and payload.
pub(super) fn review_id(merid: &str, payload: &[u8]) -> String {
    hex(&hash([b"review", merid.as_bytes(), payload]))
}

/// Computes the digest of a row: a flipped bit in what is delivered is noticed, whatever the storage did.
pub(super) fn digest(event: &Event) -> [u8; 16] {
    let amount = cents(event.amount).to_string();
    hash([
        event.id.as_bytes(),
        event.merid.as_bytes(),
        event.orderid.as_bytes(),
        event.queryid.as_bytes(),
        event.resultcode.as_bytes(),
        amount.as_bytes(),
        event.payload(),
    ])
}

/// Converts an amount to the integers of databases.
pub(super) fn cents(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn hash<const N: usize>(parts: [&[u8]; N]) -> [u8; 16] {
    let mut digest = Sha256::new();
    for part in parts {
        // Lengths keep two different lists of parts from running into one text.
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&digest.finalize()[..16]);
    short
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
