//! Reconciliation: orders without a result are queried until it is known or a day has passed.
//!
//! Paced, so that a restart with many open orders does not flood the platform, and in the background of each other, so that
//! a platform that hangs does not slow the pace down. A result takes the way of a callback's: one event for one result,
//! whichever brought it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config;
use crate::delivery::Wake;
use crate::inbox::event;
use crate::inbox::event::{Source, WaitReason};
use crate::inbox::order::{OpenOrder, Try, TryKind, TryRecord, TryState};
use crate::inbox::store::{Arrival, PutOutcome, Store, StoreError};
use crate::platform::query::PaymentName;
use crate::platform::{PlatformQuery, QueryError};
use crate::protocol::envelope::Verified;
use crate::protocol::response::ResponseError;
use crate::protocol::result::{PaymentResult, ReadError, ResultCode};
use crate::protocol::subject::Subject;
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::outcome::ReconcileOutcome;
use crate::telemetry::trace::Span;
use crate::time;
use crate::time::{Millis, Moments};

// The ledger plans the first query itself: `FIRST_LOOK` in inbox/order.rs has to be the same.
/// The first query, counted from the signing; each next one after as long again as has passed.
const FIRST: Millis = 20 * 60 * 1000;
/// The last query, counted from the signing.
const LAST: Millis = 24 * 60 * 60 * 1000;
/// The delay after a query without a response.
const AGAIN: Millis = 60 * 1000;
/// The pause where no order is due, or the store fails.
const IDLE: Duration = Duration::from_secs(1);
/// Queries go out no closer than this, a few at once where the pace asks for more: timers are no finer than 1 ms.
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);
/// Queries in flight. A platform that hangs holds each for `platform.timeout`: enough for 34 a second at the default of 15 s.
const MAX_IN_FLIGHT: usize = 512;
/// Queries about one order at a time: its newest tries, and the order itself.
const MAX_LOOKUPS: usize = 3;
/// Old events and closed orders are deleted this often.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// The background work that queries open orders.
pub struct Reconcile {
    /// The ledger and the events.
    pub store: Arc<dyn Store>,
    /// The keys to sign queries with.
    pub merchants: config::LiveConfig,
    /// The platform's query interface.
    pub platform: PlatformQuery,
    /// Records each query.
    pub telemetry: Telemetry,
    /// Wakes the delivery of new events.
    pub wake: Arc<Wake>,
    /// Queries a second at most.
    pub per_second: usize,
}

/// One query about an open order.
#[derive(Clone)]
struct Lookup {
    order: OpenOrder,
    /// The tries of the order that may have arrived.
    tries: Arc<Vec<TryRecord>>,
    /// The platform's number of the try that is queried; `None` for a query by orderid.
    queryid: Option<String>,
    /// True for the last query of its order in this round.
    is_last: bool,
}

impl Lookup {
    /// Returns the queries about an order: one for each of its newest tries, by its queryid where that is known. Where it is
    /// not, and for a link, which a browser can submit again, the order itself is queried.
    fn of(order: &OpenOrder, mut tries: Vec<TryRecord>) -> Vec<Self> {
        tries.retain(|known| known.state != TryState::No);
        let newest = tries.iter().rev().take(MAX_LOOKUPS);
        let mut queryids: Vec<Option<String>> = Vec::new();
        for known in newest {
            let by_order = (known.queryid.is_none() || known.kind == TryKind::Link).then_some(None);
            let by_queryid = known.queryid.clone().map(Some);
            for queryid in by_order.into_iter().chain(by_queryid) {
                if !queryids.contains(&queryid) {
                    queryids.push(queryid);
                }
            }
        }
        if queryids.is_empty() {
            // A version without tries recorded it.
            queryids.push(None);
        }
        let (tries, last) = (Arc::new(tries), queryids.len() - 1);
        let lookup = |(at, queryid)| Self {
            order: order.clone(),
            tries: Arc::clone(&tries),
            queryid,
            is_last: at == last,
        };
        queryids.into_iter().enumerate().map(lookup).collect()
    }

    fn payment(&self) -> PaymentName<'_> {
        match &self.queryid {
            Some(queryid) => PaymentName::Queryid(queryid),
            None => PaymentName::Orderid(&self.order.orderid),
        }
    }

    /// Returns the try that a queryid can only belong to: the one that has none yet.
    fn only_unnamed_try(&self, queryid: &str) -> Option<Try> {
        let is_known = |known: &&TryRecord| known.queryid.as_deref() == Some(queryid);
        let mut unnamed = self.tries.iter().filter(|known| known.queryid.is_none());
        match (unnamed.next(), unnamed.next()) {
            (Some(only), None) if !self.tries.iter().any(|known| is_known(&known)) => Some(Try {
                merid: self.order.merid.clone(),
                orderid: self.order.orderid.clone(),
                number: only.number,
                created: false,
            }),
            _ => None,
        }
    }
}

/// Queries under way, each with its order: a store may name an order again until its query has ended.
#[derive(Default)]
struct Queries {
    tasks: JoinSet<()>,
    orders: HashMap<Id, OpenOrder>,
}

impl Queries {
    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            // A panic was logged where it happened; its order is due again.
            let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
            self.orders.remove(&id);
        }
    }

    fn has(&self, order: &OpenOrder) -> bool {
        let same = |known: &OpenOrder| known.merid == order.merid && known.orderid == order.orderid;
        self.orders.values().any(same)
    }

    fn begin(&mut self, reconcile: Arc<Reconcile>, lookup: Lookup) {
        let order = lookup.order.clone();
        let task = self
            .tasks
            .spawn(async move { reconcile.query(&lookup).await });
        self.orders.insert(task.id(), order);
    }
}

impl Reconcile {
    /// Queries until the task is dropped; what is under way then is dropped too, and due again.
    pub async fn run(self: &Arc<Self>) {
        let (period, at_once) = pace(self.per_second);
        let mut ticks = interval(period);
        // What a pause held up is not made up for: the platform never sees more than the pace.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut queries) = (VecDeque::new(), Queries::default());
        loop {
            ticks.tick().await;
            queries.forget_ended();
            if due.is_empty() {
                match self.due(&queries).await {
                    Ok(found) if !found.is_empty() => due.extend(found),
                    Ok(_) => sleep(IDLE).await,
                    Err(error) => {
                        tracing::error!(%error, "open orders cannot be read; reconciliation waits");
                        sleep(IDLE).await;
                    }
                }
            }
            let room = MAX_IN_FLIGHT.saturating_sub(queries.orders.len());
            for lookup in due.drain(..at_once.min(room).min(due.len())) {
                queries.begin(self.clone(), lookup);
            }
        }
    }

    /// Returns the queries about the orders of one second that are due and not being queried.
    async fn due(&self, queries: &Queries) -> Result<Vec<Lookup>, StoreError> {
        let now = time::now();
        let limit = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut orders = self.store.open_orders(now, limit(self.per_second)).await?;
        let is_full = orders.len() >= self.per_second;
        orders.retain(|order| !queries.has(order));
        if is_full && orders.len() < self.per_second {
            // An embedded store names orders again that are being queried; those behind them are due as well.
            let all = self.per_second + queries.orders.len();
            orders = self.store.open_orders(now, limit(all)).await?;
            orders.retain(|order| !queries.has(order));
        }
        let mut lookups = Vec::with_capacity(orders.len());
        for order in &orders {
            let tries = self.store.tries(&order.merid, &order.orderid).await?;
            lookups.extend(Lookup::of(order, tries));
        }
        Ok(lookups)
    }

    async fn query(&self, lookup: &Lookup) {
        let (now, started) = (Moments::now(), Instant::now());
        let order = &lookup.order;
        let (outcome, next) = self.look_up(lookup, now).await;
        let finished = Finished {
            work: Work::Reconcile(outcome),
            subject: &Subject::about(&order.merid, &order.orderid),
            request_id: "",
            started,
            old_key: None,
        };
        self.telemetry.finish(finished, Span::default());
        // An order that is paid or disputed is done, whatever its other tries.
        // `asked` plans for the order, so its last query does it.
        if !lookup.is_last && next.is_some() {
            return;
        }
        if let Err(error) = self.store.asked(order, next).await {
            tracing::error!(%error, orderid = order.orderid, "a query about an open order could not be recorded");
        }
    }

    /// Asks the platform, keeps what it says, and returns the outcome with the time of the next query.
    async fn look_up(&self, lookup: &Lookup, now: Moments) -> (ReconcileOutcome, Option<Millis>) {
        let order = &lookup.order;
        let snapshot = self.merchants.snapshot();
        let Some(merchant) = snapshot.merchant(&order.merid) else {
            return (ReconcileOutcome::UnknownMerchant, later(order, now));
        };
        let waits = merchant.back.is_none().then_some(WaitReason::NoBack);
        match self.platform.result(merchant, lookup.payment()).await {
            Ok(result) if result.orderid != order.orderid => {
                tracing::warn!(
                    orderid = order.orderid,
                    queryid = event::shown(&result.queryid),
                    "the platform has another order for the queryid of a try"
                );
                (ReconcileOutcome::NoAnswer, later(order, now))
            }
            Ok(result) => self.keep(result, lookup, now, waits).await,
            Err(QueryError::Failed(_)) => (ReconcileOutcome::NoResult, later(order, now)),
            Err(QueryError::Payload {
                error: ResponseError::Read(error),
                payload,
            }) => (
                self.review(order, &payload, &error).await,
                later(order, now),
            ),
            Err(error) => {
                tracing::debug!(%error, orderid = order.orderid, "an open order's query failed");
                (ReconcileOutcome::NoAnswer, again(order, now))
            }
        }
    }

    /// Keeps a result as a callback's would be; returns the outcome and the time of the next query.
    async fn keep(
        &self,
        result: Verified<PaymentResult>,
        lookup: &Lookup,
        now: Moments,
        waits: Option<WaitReason>,
    ) -> (ReconcileOutcome, Option<Millis>) {
        let order = &lookup.order;
        let code = ResultCode::parse(&result.resultcode);
        if matches!(code, None | Some(ResultCode::NotPaid)) {
            // `put` does the same for a result that is kept.
            self.name_try(lookup, &result.queryid).await;
            return (ReconcileOutcome::NotPaid, later(order, now));
        }
        let arrival = Arrival {
            source: Source::Query,
            at: now.now,
            waits,
        };
        let next = if code == Some(ResultCode::Paid) {
            None
        } else {
            later(order, now)
        };
        match self.store.put(&result, arrival).await {
            Ok(PutOutcome::Kept { id, .. }) => {
                tracing::info!(
                    event = id,
                    orderid = order.orderid,
                    "a result that no callback brought"
                );
                self.wake.event(&order.merid);
                (ReconcileOutcome::Found, next)
            }
            Ok(PutOutcome::Repeated { .. }) => (ReconcileOutcome::Known, next),
            Ok(PutOutcome::Disputed { id, new, reason }) => {
                let subject = Subject::about(&order.merid, &order.orderid);
                let metrics = &self.telemetry.metrics;
                if new {
                    metrics.count_review(reason, "", &id, &subject);
                }
                (ReconcileOutcome::Disputed, None)
            }
            // Nothing was kept of these two, so the order stays open: an operator may make room.
            Ok(PutOutcome::ReviewFull) => {
                self.telemetry.metrics.review_full.inc();
                (ReconcileOutcome::Disputed, later(order, now))
            }
            Ok(PutOutcome::Foreign) => (ReconcileOutcome::Disputed, later(order, now)),
            Err(error) => {
                tracing::error!(%error, "a result could not be kept");
                (ReconcileOutcome::NotStored, again(order, now))
            }
        }
    }

    /// Attaches the platform's number to the try that it can only belong to, so that the next query is about that try.
    async fn name_try(&self, lookup: &Lookup, queryid: &str) {
        let Some(unnamed) = lookup.only_unnamed_try(queryid) else {
            return;
        };
        if let Err(error) = self.store.link_try(&unnamed, queryid).await {
            tracing::warn!(%error, orderid = lookup.order.orderid, "a queryid could not be recorded");
        }
    }

    /// Keeps a signed payload that is no readable result for review, as a callback's would be.
    async fn review(
        &self,
        order: &OpenOrder,
        payload: &[u8],
        error: &ReadError,
    ) -> ReconcileOutcome {
        // A request or a failure carries a signature that anyone may have seen, and names no payment.
        if error.field_in_review().is_none() {
            return ReconcileOutcome::NoAnswer;
        }
        let subject = Subject::about(&order.merid, &order.orderid);
        match self.platform.review(&subject, payload, error).await {
            Ok(()) => ReconcileOutcome::Disputed,
            Err(error) => {
                tracing::error!(%error, "a payload could not be kept for review");
                ReconcileOutcome::NotStored
            }
        }
    }

    /// Deletes what is done and older than `keep`, now and then, until the task is dropped.
    pub async fn forget(&self, keep: Duration) {
        let keep = Millis::try_from(keep.as_millis()).unwrap_or(Millis::MAX);
        let mut rounds = tokio::time::interval(FORGET_EVERY);
        loop {
            rounds.tick().await;
            if let Err(error) = self.store.forget(expiry(Moments::now(), keep)).await {
                tracing::error!(%error, "old events could not be deleted");
            }
        }
    }
}

/// Returns the time before which what is done has been kept for long enough.
pub(crate) fn expiry(now: Moments, keep: Millis) -> Millis {
    now.trusted.saturating_sub(keep)
}

/// Returns the period of the queries' ticks, and how many go out at each.
fn pace(per_second: usize) -> (Duration, usize) {
    let per_second = per_second.max(1) as f64;
    let at_once = (per_second * SHORTEST_PERIOD.as_secs_f64()).ceil();
    (
        Duration::from_secs_f64(at_once / per_second),
        at_once as usize,
    )
}

/// Returns the time of the next query: after as long again as has passed since the signing, and never after a day.
pub(crate) fn later(order: &OpenOrder, now: Moments) -> Option<Millis> {
    // Doubling: an order that is paid late is rare, and the platform is spared.
    let age = now.now - order.signed_at;
    let next = order.signed_at + (2 * age).clamp(FIRST, LAST);
    (!is_given_up(order, now)).then(|| next.max(now.now + AGAIN))
}

/// Returns the time of the next query after one without a response.
pub(crate) fn again(order: &OpenOrder, now: Moments) -> Option<Millis> {
    (!is_given_up(order, now)).then_some(now.now + AGAIN)
}

/// Returns true a day after the signing, and not because of a clock that has jumped.
fn is_given_up(order: &OpenOrder, now: Moments) -> bool {
    now.trusted - order.signed_at >= LAST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(number: u32, kind: TryKind, state: TryState, queryid: Option<&str>) -> TryRecord {
        TryRecord {
            number,
            kind,
            at: 0,
            state,
            backurl: None,
            queryid: queryid.map(str::to_owned),
        }
    }

    #[test]
    fn each_try_is_queried_by_its_own_number_where_that_is_known() {
        use TryKind::{Link, Submit};
        use TryState::{Linked, No, Unknown, Yes};
        let order = OpenOrder {
            merid: "1".to_owned(),
            orderid: "ABCDEFGH".to_owned(),
            signed_at: 0,
        };
        let lookups = |tries: &[TryRecord]| {
            let lookups = Lookup::of(&order, tries.to_vec());
            let last: Vec<_> = lookups.iter().map(|lookup| lookup.is_last).collect();
            assert_eq!(last.iter().position(|last| *last), Some(last.len() - 1));
            let names = lookups.into_iter().map(|lookup| lookup.queryid);
            names.map(Option::unwrap_or_default).collect::<Vec<_>>()
        };
        assert_eq!(lookups(&[]), [""], "a row of an older version");
        assert_eq!(lookups(&[known(1, Submit, Unknown, None)]), [""]);
        assert_eq!(lookups(&[known(1, Submit, Yes, Some("QA"))]), ["QA"]);
        assert_eq!(lookups(&[known(1, Link, Linked, Some("QA"))]), ["", "QA"]);
        let two = [
            known(1, Submit, Yes, Some("QA")),
            known(2, Submit, Unknown, None),
        ];
        assert_eq!(lookups(&two), ["", "QA"], "the newest first");
        let never_sent = [
            known(1, Submit, Yes, Some("QA")),
            known(2, Submit, No, None),
        ];
        assert_eq!(lookups(&never_sent), ["QA"]);
        let many: Vec<_> = (1..=9)
            .map(|number| known(number, Submit, Yes, None))
            .collect();
        assert_eq!(lookups(&many), [""]);
    }

    #[test]
    fn a_number_is_attached_only_where_it_can_belong_to_one_try() {
        use TryState::Yes;
        let order = OpenOrder {
            merid: "1".to_owned(),
            orderid: "ABCDEFGH".to_owned(),
            signed_at: 0,
        };
        let found = |tries: &[TryRecord]| {
            let lookup = Lookup::of(&order, tries.to_vec()).remove(0);
            lookup.only_unnamed_try("QB").map(|found| found.number)
        };
        let (a, b) = (
            known(1, TryKind::Submit, Yes, Some("QA")),
            known(2, TryKind::Submit, Yes, Some("QB")),
        );
        let (none, other) = (
            known(3, TryKind::Submit, Yes, None),
            known(4, TryKind::Submit, Yes, None),
        );
        assert_eq!(found(&[a.clone(), none.clone()]), Some(3));
        assert_eq!(found(&[b, none.clone()]), None, "it is another try's");
        assert_eq!(found(&[none, other]), None, "it could be either's");
        assert_eq!(found(&[a]), None);
    }

    #[test]
    fn the_pace_is_kept_however_fine_it_is() {
        for per_second in [1, 7, 20, 99, 100, 101, 199, 1_000, 10_000] {
            let (period, at_once) = pace(per_second);
            let rate = at_once as f64 / period.as_secs_f64();
            let wanted = per_second as f64;
            assert!((rate / wanted - 1.0).abs() < 0.001, "{per_second}: {rate}");
        }
    }

    #[test]
    fn queries_become_rare_and_end_after_a_day() {
        let order = OpenOrder {
            merid: "1".to_owned(),
            orderid: "ABCDEFGH".to_owned(),
            signed_at: 1_000,
        };
        let minutes = |minutes: i64| {
            let now = 1_000 + minutes * 60_000;
            Moments { now, trusted: now }
        };
        let mut asked = vec![20];
        while let Some(next) = later(&order, minutes(asked[asked.len() - 1])) {
            asked.push((next - 1_000) / 60_000);
        }
        assert_eq!(asked, [20, 40, 80, 160, 320, 640, 1280, 1440]);
        assert_eq!(later(&order, minutes(0)), Some(minutes(20).now));
        assert_eq!(again(&order, minutes(1440)), None);
    }
}
