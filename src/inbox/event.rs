//! An event: one verified result, kept for the app.

use sha2::{Digest, Sha256};

use crate::protocol::result::PaymentResult;
use crate::time::Millis;

/// The origin of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A notification of the platform.
    Notification,
    /// The response to a query of ours.
    Query,
}

impl Source {
    /// Returns the value of `countersign-source`.
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

/// The state of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    /// Delivered again and again until the app accepts it.
    Pending,
    /// Accepted by the app.
    Delivered,
    /// Not accepted within `inbox.retry_for`: an operator can replay it.
    Parked,
    /// In review: another amount than was signed, a contradiction, or an unreadable payload.
    Disputed,
    /// Never delivered, by an operator's decision.
    Discarded,
}

impl EventState {
    /// Every state, for the metrics.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Delivered,
        Self::Parked,
        Self::Disputed,
        Self::Discarded,
    ];

    /// Returns the name in store, metrics and on the command line.
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

    /// Reads a stored state. An unknown one counts as parked, which an operator can resolve.
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
    /// One id for every repeat of one result.
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
    /// The origin of its first arrival.
    pub source: Source,
    /// The order is in the ledger, with this amount.
    pub matched: bool,
    /// Its state.
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
    /// The time of the next attempt.
    pub next_attempt: Millis,
    /// The number of attempts.
    pub attempts: u32,
    /// The outcome of the last attempt in words.
    pub last_attempt: String,
}

/// A selection of the events of one state.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// The state.
    pub state: EventState,
    /// The merchant; empty for all.
    pub merid: String,
    /// The beginning of the order numbers; empty for all.
    pub prefix: String,
    /// The time from which on they were kept.
    pub from: Millis,
    /// The time before which they were kept.
    pub until: Millis,
}

/// Events that a filter by merchant or order number looks at, the newest: a million of others delay no page.
pub const FILTERED: u32 = 10_000;

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
    // Not the JSON: one result stays one event if its numbers are quoted the next time, or its `resultmsg` differs.
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
    // Only columns that never change: state and attempts are written again with each attempt.
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

/// Formats a platform's text for display: characters that move a cursor, change direction or are invisible are escaped.
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
