//! The traits of a store. Every write is on stable storage before its future is ready.

use async_trait::async_trait;

use super::activity::ActivityEntry;
use super::attempt::{AttemptRecord, ClaimOutcome, DueEvent, DueMerchant, FailingApp};
use super::event::{Event, EventFilter, EventState, ReviewReason, Source, WaitReason};
use super::listing::{
    LISTED, ListedOrder, OrderFilter, OrderPage, OrderPlace, OrderResult, OrderRow, SCANNED, STEP,
};
use super::minutes::{MinuteFigures, MinuteRange};
use super::order::{NewTry, OpenOrder, RecordOutcome, SignedOrder, Try, TryRecord, TryState};
use super::review::{DecideOutcome, DecisionKind, DecisionRecord, Operator, Review, ReviewOutcome};
use crate::protocol::envelope::Verified;
use crate::protocol::request::Order;
use crate::protocol::result::PaymentResult;
use crate::time::Millis;

/// The reason for which a store cannot be opened, or did not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Failed, in the words of the library or the system; they name no row.
    #[error("{0}")]
    Failed(String),
    /// The file, its folder or the server is not there.
    #[error("{0}")]
    Absent(String),
    /// The disk is full.
    #[error("there is no room: {0}")]
    Full(String),
    /// Another program's database.
    #[error("it is another program's database")]
    NotOurs,
    /// Written by a later version.
    #[error("the store has version {found}, this program knows {known}: it is too old for it")]
    Newer {
        /// The store's version.
        found: i32,
        /// This program's.
        known: i32,
    },
    /// Another process has it.
    #[error("the store is in use by another instance (it holds {0})")]
    InUse(String),
    /// The store's own check found damage.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// A pooler between the sidecar and the database splits sessions.
    #[error(
        "a pooler in between gives each transaction another session, and must keep sessions whole \
         (pgbouncer: pool_mode = session)"
    )]
    Pooled,
    /// Traces of a store remain, and its file does not.
    #[error("{0}")]
    Lost(String),
    /// The path names another file than the one in use.
    #[error("{0}")]
    Moved(String),
    /// Too much to do, or no response.
    #[error("the store did not confirm in time")]
    Slow,
}

/// Parts of messages for what no waiting mends: a server's settings, its rights (SQLSTATE class 28, 3D000, 42501), or a
/// file that is no store.
const LASTING: [&str; 8] = [
    "may lose commits",
    "expected UTF8",
    "sslrootcert",
    "(28",
    "(3D000)",
    "(42501)",
    "file is not a database",
    "malformed",
];

impl StoreError {
    /// Returns true where the store may be usable later without anyone's edit or decision.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Full(_) | Self::InUse(_) | Self::Slow => true,
            // Exit code 75 or 78 follows from this: the unit restarts on 75 without end.
            Self::Failed(why) => !LASTING.iter().any(|part| why.contains(part)),
            _ => false,
        }
    }
}

/// The outcome of keeping a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// A new event, on stable storage.
    Kept {
        /// The event's id.
        id: String,
        /// The event's state.
        state: EventState,
    },
    /// An equal result was kept before.
    Repeated {
        /// The event's id.
        id: String,
        /// The state of the event.
        state: EventState,
    },
    /// Another amount than was signed, or contradicted by an earlier result: it needs manual review.
    Disputed {
        /// The event's id.
        id: String,
        /// True where it was not known before.
        new: bool,
        /// The reason.
        reason: ReviewReason,
    },
    /// It needs manual review, and the merchant has as many such events as are kept. Nothing was kept.
    ReviewFull,
    /// The order is another merchant's. Nothing was kept.
    Foreign,
}

/// The circumstances of a result's arrival.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The origin.
    pub source: Source,
    /// Now.
    pub at: Millis,
    /// The reason for which the app cannot have it yet.
    pub waits: Option<WaitReason>,
}

/// A selection of activity entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActivityFilter {
    /// Those of one order: merid, orderid.
    Order(String, String),
    /// Those of one request, by its id.
    Request(String),
    /// Rejections, of strangers too.
    Refusals,
}

/// An old key that the platform still signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldKey {
    /// The merchant.
    pub merid: String,
    /// The key's fingerprint.
    pub fingerprint: String,
    /// The time of its last use, as far as entries go back.
    pub seen_at: Millis,
}

/// Figures for the metrics.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Events by state, in the order of [`EventState::ALL`].
    pub events: [i64; 5],
    /// The time at which the oldest pending event was kept.
    pub oldest_pending: Option<Millis>,
    /// Orders that are not paid and still queried.
    pub open_orders: i64,
    /// True where this sidecar is the one of its fleet whose metrics have these figures.
    pub is_exported: bool,
}

impl Counts {
    pub(super) fn set(&mut self, state: EventState, count: i64) {
        let slots = self.events.iter_mut().zip(EventState::ALL);
        for (slot, _) in slots.filter(|(_, known)| *known == state) {
            *slot = count;
        }
    }
}

/// A switch of the signing key to the merchant's `next_key`. Keys are named by their fingerprints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySwitch {
    /// The merchant.
    pub merid: String,
    /// The key that signed before.
    pub from_key: String,
    /// The key that signs since.
    pub to_key: String,
    /// The time of the switch.
    pub at: Millis,
}

/// The orders that were signed, and the tries at submitting them.
#[async_trait]
pub trait Ledger {
    /// Writes an order, or compares it with the row that is there, which stays; keeps the try where they agree. An order
    /// that is not paid is open again.
    async fn record(
        &self,
        merid: &str,
        order: &Order,
        new: NewTry<'_>,
        at: Millis,
    ) -> Result<RecordOutcome, StoreError>;

    /// Writes down whether a try was sent. [`TryState::No`] also removes the order that the try created, where no other
    /// try was sent, linked or is in flight and no result came; returns true where it did.
    async fn settle_try(&self, which: &Try, state: TryState) -> Result<bool, StoreError>;

    /// Attaches the platform's number of the payment to a try.
    async fn link_try(&self, which: &Try, queryid: &str) -> Result<(), StoreError>;

    /// Returns the tries of an order, in their order.
    async fn tries(&self, merid: &str, orderid: &str) -> Result<Vec<TryRecord>, StoreError>;

    /// Plans a query about an order at `at`, before others: the outcome of sending it is unknown.
    async fn hasten(&self, merid: &str, orderid: &str, at: Millis) -> Result<(), StoreError>;

    /// Returns orders that are to be queried now: unknown outcomes first, then the longest due. No other sidecar gets
    /// them until `asked`, or until this one has been silent for a while.
    async fn open_orders(&self, now: Millis, limit: u32) -> Result<Vec<OpenOrder>, StoreError>;

    /// Writes down that an order was queried; `next` is the time of the next query, `None` for never.
    async fn asked(&self, order: &OpenOrder, next: Option<Millis>) -> Result<(), StoreError>;

    /// Returns one order of the ledger.
    async fn signed(&self, merid: &str, orderid: &str) -> Result<Option<SignedOrder>, StoreError>;

    /// Returns orders of the filter's merchant and time that come after a place, newest first.
    async fn order_rows(
        &self,
        filter: &OrderFilter,
        after: &OrderPlace,
        limit: u32,
    ) -> Result<Vec<OrderRow>, StoreError>;

    /// Returns the results of each of these orders, oldest first.
    async fn order_results(&self, orders: &[OrderRow])
    -> Result<Vec<Vec<OrderResult>>, StoreError>;

    /// Returns a page of orders, newest first: at most [`LISTED`], from `after` on.
    async fn orders(
        &self,
        filter: &OrderFilter,
        after: Option<OrderPlace>,
        limit: u32,
    ) -> Result<OrderPage, StoreError> {
        let limit = limit.clamp(1, LISTED);
        let step = match filter.is_plain() {
            // One more than is shown says whether there is a next page.
            true => limit + 1,
            false => STEP,
        };
        let mut page = OrderPage::default();
        let mut place = filter.begin(after);
        let mut left = SCANNED;
        while left > 0 {
            let rows = self.order_rows(filter, &place, step).await?;
            let has_more = rows.len() >= step as usize;
            left = left.saturating_sub(rows.len());
            let end = rows.last().map(OrderRow::place);
            let rows: Vec<_> = rows
                .into_iter()
                .filter(|row| filter.may_have(row))
                .collect();
            let results = self.order_results(&rows).await?;
            for (row, results) in rows.into_iter().zip(results) {
                let order = ListedOrder::new(row, results);
                if filter.state.is_some_and(|state| state != order.state) {
                    continue;
                }
                if page.orders.len() == limit as usize {
                    page.next = page.orders.last().map(|last| last.row.place());
                    return Ok(page);
                }
                page.orders.push(order);
            }
            match end.filter(|_| has_more) {
                Some(end) => place = end,
                None => return Ok(page),
            }
        }
        page.next = Some(place);
        Ok(page)
    }
}

/// The verified results that the app is to get, their deliveries, and the operators' decisions.
#[async_trait]
pub trait Events {
    /// Keeps a verified result, once.
    async fn put(
        &self,
        outcome: &Verified<PaymentResult>,
        arrival: Arrival,
    ) -> Result<PutOutcome, StoreError>;

    /// Keeps a verified payload that cannot be read as a result, once, in the state `disputed`.
    async fn put_for_review(&self, review: Review) -> Result<ReviewOutcome, StoreError>;

    /// Plans anew what was planned further ahead than anything is: the clock was set back to `now`.
    async fn set_back(&self, now: Millis) -> Result<(), StoreError>;

    /// Returns every merchant with pending events whose time has come, and at most `each` of its events. The work is
    /// proportional to the number of merchants with pending events, whatever the backlog.
    async fn due(&self, now: Millis, each: u32) -> Result<Vec<DueMerchant>, StoreError>;

    /// Returns due events of several merchants, for each at most the number beside it, and when its next one is due.
    async fn due_of_each(
        &self,
        wanted: Vec<(String, u32)>,
        now: Millis,
    ) -> Result<Vec<DueMerchant>, StoreError>;

    /// Takes events that were due for one attempt each, and returns a claim for each, in their order. No other sidecar
    /// gets them until `attempted`, or until this one has been silent for a while.
    async fn claim(&self, events: Vec<DueEvent>) -> Result<Vec<ClaimOutcome>, StoreError>;

    /// Writes down the end of an attempt, and returns true. Returns false, and changes nothing, where the event is
    /// another sidecar's by now or had that attempt already. A decision that was made meanwhile holds, except that what
    /// the app took is delivered.
    async fn attempted(&self, attempt: AttemptRecord) -> Result<bool, StoreError> {
        let written = self.attempted_together(vec![attempt]).await?;
        Ok(written.first().copied().unwrap_or_default())
    }

    /// Writes down the ends of several attempts in one commit, and returns for each what `attempted` returns.
    async fn attempted_together(
        &self,
        attempts: Vec<AttemptRecord>,
    ) -> Result<Vec<bool>, StoreError>;

    /// Sets the merchant's due events aside for the reason, until `resume` or for ten minutes.
    async fn wait_for(
        &self,
        merid: &str,
        reason: WaitReason,
        now: Millis,
    ) -> Result<(), StoreError>;

    /// Makes the merchant's events due that waited for a reason.
    async fn resume(&self, merid: &str, now: Millis) -> Result<(), StoreError>;

    /// Returns the merchants with events that wait for a reason.
    async fn waiting(&self) -> Result<Vec<String>, StoreError>;

    /// Returns one event.
    async fn event(&self, id: &str) -> Result<Option<Event>, StoreError>;

    /// Returns events, newest first.
    async fn events(&self, state: Option<EventState>, limit: u32)
    -> Result<Vec<Event>, StoreError>;

    /// Returns events that a filter selects among the newest [`FILTERED`] of its state and time, newest first.
    ///
    /// [`FILTERED`]: super::event::FILTERED
    async fn filtered_events(
        &self,
        filter: EventFilter,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// Returns the events of one order, oldest first.
    async fn events_of(
        &self,
        merid: &str,
        orderid: &str,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError>;

    /// Returns the attempts at one event, in their order.
    async fn attempts(&self, id: &str) -> Result<Vec<AttemptRecord>, StoreError>;

    /// Decides about an event and keeps the decision.
    async fn decide(
        &self,
        id: &str,
        kind: DecisionKind,
        operator: &Operator,
        at: Millis,
    ) -> Result<DecideOutcome, StoreError>;

    /// Returns the decisions about one event, in their order.
    async fn decisions(&self, id: &str) -> Result<Vec<DecisionRecord>, StoreError>;

    /// Returns decisions that were made after `after`, each with its event: the oldest, at most [`RECENT_DECISIONS`].
    ///
    /// [`RECENT_DECISIONS`]: super::review::RECENT_DECISIONS
    async fn decisions_since(
        &self,
        after: Millis,
    ) -> Result<Vec<(String, DecisionRecord)>, StoreError>;

    /// Returns the apps whose deliveries failed when it was last written down.
    async fn failing(&self) -> Result<Vec<FailingApp>, StoreError>;

    /// Remembers that an app fails, for the next start.
    async fn set_failing(&self, app: FailingApp) -> Result<(), StoreError>;

    /// Remembers that an app takes deliveries.
    async fn set_working(&self, merid: &str) -> Result<(), StoreError>;
}

/// Entries for the console.
#[async_trait]
pub trait Activity {
    /// Writes entries in this order. Where there are then more than [`KEPT_STEPS`] steps, or more than [`KEPT_COMMON`]
    /// common ones, the oldest of that weight are dropped.
    ///
    /// [`KEPT_STEPS`]: super::activity::KEPT_STEPS
    /// [`KEPT_COMMON`]: super::activity::KEPT_COMMON
    async fn note(&self, notes: Vec<ActivityEntry>) -> Result<(), StoreError>;

    /// Returns entries, newest first, at most `limit` of each weight: common ones crowd out no step.
    async fn notes(
        &self,
        wanted: ActivityFilter,
        limit: u32,
    ) -> Result<Vec<ActivityEntry>, StoreError>;

    /// Returns the orders, as (merid, orderid), that go by this number: the orderid of the ledger, of an event, or of an
    /// entry that is no stranger's; the queryid of an event; the request id of an entry. Each once, in the order of the two.
    async fn find(&self, number: &str, limit: u32) -> Result<Vec<(String, String)>, StoreError>;

    /// Returns the old keys that entries name, each with its newest entry, by merid and fingerprint.
    async fn old_keys(&self) -> Result<Vec<OldKey>, StoreError>;

    /// Adds figures to those of the same minutes, and drops the oldest minutes beyond [`KEPT_MINUTES`].
    ///
    /// [`KEPT_MINUTES`]: super::minutes::KEPT_MINUTES
    async fn add_minutes(&self, minutes: Vec<MinuteFigures>) -> Result<(), StoreError>;

    /// Returns the figures of a range, oldest first, without the minutes in which nothing ran.
    async fn minutes(&self, range: MinuteRange) -> Result<Vec<MinuteFigures>, StoreError>;
}

/// A store, with what concerns it as a whole. Every write is on stable storage before its future is ready.
#[async_trait]
pub trait Store: Ledger + Events + Activity + Send + Sync {
    /// Waits until this instance may deliver and query; an instance that it replaces may still do so. A store that
    /// shares out its work needs no turn.
    async fn turn(&self) {}

    /// Leaves delivery and queries to the instance that waits for its turn; everything else can still be done.
    fn let_go(&self) {}

    /// Returns an error where the latest put, record or look for due events failed or takes too long, or where the
    /// store was found damaged. After a failure it is tried.
    async fn check(&self) -> Result<(), StoreError>;

    /// Takes the wall clock for true, here and in a running sidecar of this store within seconds.
    async fn confirm_clock(&self) -> Result<(), StoreError>;

    /// Returns figures for the metrics.
    async fn counts(&self) -> Result<Counts, StoreError>;

    /// Returns the switches of signing keys.
    async fn key_switches(&self) -> Result<Vec<KeySwitch>, StoreError>;

    /// Keeps a switch of a merchant's signing key, in place of an earlier one.
    async fn key_switched(&self, switch: KeySwitch) -> Result<(), StoreError>;

    /// Drops the switch of a merchant whose entry in the file was edited.
    async fn forget_key_switch(&self, merid: &str) -> Result<(), StoreError>;

    /// Drops events that are done, orders that are closed, and entries, since before `before`, in bounded steps.
    async fn forget(&self, before: Millis) -> Result<(), StoreError>;
}
