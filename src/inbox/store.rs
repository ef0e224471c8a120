//! What a store must do. Every write is on stable storage before its future is ready.

use async_trait::async_trait;

use super::activity::ActivityEntry;
use super::event::{Event, EventState, Source};
use crate::protocol::envelope::Verified;
use crate::protocol::request::Order;
use crate::protocol::result::PaymentResult;
use crate::time::Millis;

/// Why a store cannot be opened or did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// In the words of whoever failed; they name no row.
    #[error("{0}")]
    Failed(String),
    /// Something else wrote what is there.
    #[error("it is another program's database")]
    NotOurs,
    /// Written by a later version.
    #[error("the store has version {found}, this program knows {known}: it is too old for it")]
    Newer {
        /// The store's version.
        found: i32,
        /// Ours.
        known: i32,
    },
    /// Another process has it.
    #[error("the store is in use by another instance (it holds {0})")]
    InUse(String),
    /// The store's own check found damage.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// Too much to do, or no answer.
    #[error("the store did not confirm in time")]
    Slow,
}

/// An order without a result is asked about this long after it was signed.
pub(super) const FIRST_LOOK: Millis = 20 * 60 * 1000;
/// No attempt is planned further ahead than this, and no question than that: what lies beyond was planned before the
/// clock was set back.
pub(super) const AHEAD_ATTEMPT: Millis = 10 * 60 * 1000;
pub(super) const AHEAD_LOOK: Millis = 25 * 60 * 60 * 1000;

/// What the ledger says about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordOutcome {
    /// Written, or written before with the same amount and action.
    Agrees,
    /// Signed before with another amount or action.
    Conflicts,
}

/// What became of a result that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// A new event, on stable storage.
    Kept {
        /// The event's id.
        id: String,
        /// Whether the app is offered it.
        state: EventState,
    },
    /// The same story was kept before.
    Repeated {
        /// The event's id.
        id: String,
        /// What became of it.
        state: EventState,
    },
    /// Another amount than was signed, or another story than was told before: held for a person.
    Disputed {
        /// The event's id.
        id: String,
        /// It was not known before.
        new: bool,
    },
    /// The order is another merchant's. Nothing was kept.
    Foreign,
}

/// How a result came, and what is to become of it.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Where it came from.
    pub source: Source,
    /// Now.
    pub at: Millis,
    /// The merchant's app takes results; without that the event is parked.
    pub deliverable: bool,
}

/// What became of one attempt to deliver an event.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// The event's id.
    pub id: String,
    /// Which one it was, from 1.
    pub number: u32,
    /// When it began.
    pub at: Millis,
    /// How long it took, in milliseconds.
    pub took: Millis,
    /// What the app said, or why it could not; no text of the app's.
    pub outcome: String,
    /// The event's state from now on.
    pub state: EventState,
    /// When it is offered next, where it is pending.
    pub next: Millis,
}

/// An order whose final result is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOrder {
    /// The merchant.
    pub merid: String,
    /// The merchant's order number.
    pub orderid: String,
    /// When it was signed.
    pub signed_at: Millis,
}

/// An order as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOrder {
    /// In cents.
    pub amount: u64,
    /// `Bank`, `WeiXin`, `AliPay` or `Arbi`.
    pub action: String,
    /// When it was signed first.
    pub signed_at: Millis,
    /// When the watch asks about it next; `None` where it does not.
    pub next_look: Option<Millis>,
}

/// Which notes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActivityFilter {
    /// Those of one order: merid, orderid.
    Order(String, String),
    /// Those of one request, by its id.
    Request(String),
    /// Refusals, of strangers too.
    Refusals,
}

/// An old key that the platform still signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldKey {
    /// The merchant.
    pub merid: String,
    /// The key's fingerprint.
    pub fingerprint: String,
    /// When it was last seen, as far as notes go back.
    pub seen_at: Millis,
}

/// Figures for the metrics.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Events by state, in the order of [`EventState::ALL`].
    pub events: [i64; 5],
    /// When the oldest pending event was kept.
    pub oldest_pending: Option<Millis>,
    /// Orders without a final result that are still asked about.
    pub open_orders: i64,
}

impl Counts {
    pub(super) fn set(&mut self, state: EventState, count: i64) {
        let slots = self.events.iter_mut().zip(EventState::ALL);
        for (slot, _) in slots.filter(|(_, known)| *known == state) {
            *slot = count;
        }
    }
}

/// Orders and events, kept.
#[async_trait]
pub trait Store: Send + Sync {
    /// Ready when this instance may deliver and ask; an instance that it replaces may still do so. What others leave to
    /// the store to share out needs no turn.
    async fn turn(&self) {}

    /// Leaves that to the instance that waits for its turn; everything else can still be done.
    fn let_go(&self) {}

    /// Whether it can be written; after a failure it is tried.
    async fn check(&self) -> Result<(), StoreError>;

    /// Writes an order, or compares it with the one that is there, which stays.
    async fn record(
        &self,
        merid: &str,
        order: &Order,
        at: Millis,
    ) -> Result<RecordOutcome, StoreError>;

    /// The outcome of sending this order is unknown: it is to be asked about at `at`, before others.
    async fn hasten(&self, merid: &str, orderid: &str, at: Millis) -> Result<(), StoreError>;

    /// Keeps a verified result, once for each story.
    async fn put(
        &self,
        outcome: &Verified<PaymentResult>,
        arrival: Arrival,
    ) -> Result<PutOutcome, StoreError>;

    /// The clock was set back to `now`: what was planned further ahead than anything is planned is due now.
    async fn set_back(&self, now: Millis) -> Result<(), StoreError>;

    /// Pending events whose time has come, at most `each` a merchant, the longest due first, and `limit` in all.
    async fn due(&self, now: Millis, each: u32, limit: u32) -> Result<Vec<Event>, StoreError>;

    /// Takes an event that was due for one attempt. `None` where it is no longer as it was read, or where another sidecar
    /// has it; nobody else gets it until `attempted`, or until this sidecar has been silent for a while.
    async fn claim(&self, event: &Event) -> Result<Option<Event>, StoreError>;

    /// Writes down what became of an attempt. An event that a person has decided about meanwhile stays decided.
    async fn attempted(&self, attempt: AttemptRecord) -> Result<(), StoreError>;

    /// Orders that are to be asked about now: unknown outcomes first, then the longest due. No other sidecar gets them
    /// until `asked`, or until this one has been silent for a while.
    async fn open_orders(&self, now: Millis, limit: u32) -> Result<Vec<OpenOrder>, StoreError>;

    /// An order was asked about; `next` is when to ask again, `None` for never.
    async fn asked(&self, order: &OpenOrder, next: Option<Millis>) -> Result<(), StoreError>;

    /// One event.
    async fn event(&self, id: &str) -> Result<Option<Event>, StoreError>;

    /// Events, newest first.
    async fn events(&self, state: Option<EventState>, limit: u32)
    -> Result<Vec<Event>, StoreError>;

    /// The attempts at one event, in their order.
    async fn attempts(&self, id: &str) -> Result<Vec<AttemptRecord>, StoreError>;

    /// A person's decision: pending (at once) or discarded. `false` where there is no such event, or it is in a state
    /// that the decision makes no sense for.
    async fn decide(&self, id: &str, state: EventState, at: Millis) -> Result<bool, StoreError>;

    /// Figures for the metrics.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Writes notes in this order. Where there are then more than [`KEPT_STEPS`] steps, or more than [`KEPT_COMMON`]
    /// common ones, the oldest of that weight are forgotten.
    ///
    /// [`KEPT_STEPS`]: super::activity::KEPT_STEPS
    /// [`KEPT_COMMON`]: super::activity::KEPT_COMMON
    async fn note(&self, notes: Vec<ActivityEntry>) -> Result<(), StoreError>;

    /// Notes, newest first, at most `limit` of each weight: common ones crowd out no step.
    async fn notes(
        &self,
        wanted: ActivityFilter,
        limit: u32,
    ) -> Result<Vec<ActivityEntry>, StoreError>;

    /// The orders, as (merid, orderid), that go by this number: the orderid of the ledger, of an event, or of a note
    /// that is no stranger's; the queryid of an event; the request id of a note. Each once, in the order of the two.
    async fn find(&self, number: &str, limit: u32) -> Result<Vec<(String, String)>, StoreError>;

    /// One order of the ledger.
    async fn signed(&self, merid: &str, orderid: &str) -> Result<Option<SignedOrder>, StoreError>;

    /// The events of one order, oldest first.
    async fn events_of(
        &self,
        merid: &str,
        orderid: &str,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// The old keys that notes speak of, each with its newest note, by merid and fingerprint.
    async fn old_keys(&self) -> Result<Vec<OldKey>, StoreError>;

    /// Forgets events that are done, orders that are closed, and notes, since before `before`.
    async fn forget(&self, before: Millis) -> Result<(), StoreError>;
}
