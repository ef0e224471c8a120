//! The watch: orders whose result never came are asked about, until it is there or a day has passed.
//!
//! Paced, so that a restart with many open orders does not flood the platform. What it finds goes the way of a
//! callback: one event for one story, whoever told it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::config;
use crate::delivery::Wake;
use crate::inbox::event::{Source, WaitReason};
use crate::inbox::order::OpenOrder;
use crate::inbox::store::{Arrival, PutOutcome, Store};
use crate::platform::{PlatformQuery, QueryError};
use crate::protocol::envelope::Verified;
use crate::protocol::result::{PaymentResult, ResultCode};
use crate::protocol::subject::Subject;
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::outcome::ReconcileOutcome;
use crate::telemetry::trace::Span;
use crate::time;
use crate::time::Millis;

/// The first question, counted from the signing; each next one after as long again as has passed.
const FIRST: Millis = 20 * 60 * 1000;
/// The last question, counted from the signing.
const LAST: Millis = 24 * 60 * 60 * 1000;
/// After a question without an answer.
const AGAIN: Millis = 60 * 1000;
/// Rounds follow each other no faster.
const ROUND: Duration = Duration::from_secs(1);
/// Old events and closed orders are forgotten this often.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// The background work that asks.
pub struct Reconcile {
    /// Where orders and events are.
    pub store: Arc<dyn Store>,
    /// The keys to ask with.
    pub merchants: config::LiveConfig,
    /// Who is asked.
    pub platform: PlatformQuery,
    /// Records each query.
    pub telemetry: Telemetry,
    /// Told of new events.
    pub wake: Arc<Wake>,
    /// Questions a second at most.
    pub per_second: usize,
}

impl Reconcile {
    /// Asks until the task is dropped.
    pub async fn run(&self) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            match self
                .store
                .open_orders(
                    time::now(),
                    u32::try_from(self.per_second).unwrap_or(u32::MAX),
                )
                .await
            {
                Ok(orders) => {
                    join_all(orders.iter().map(|order| self.ask(order))).await;
                }
                Err(error) => {
                    tracing::error!(%error, "open orders cannot be read; the watch waits")
                }
            }
        }
    }

    async fn ask(&self, order: &OpenOrder) {
        let snapshot = self.merchants.snapshot();
        let (now, started) = (time::now(), Instant::now());
        let (outcome, next) = match snapshot.merchant(&order.merid) {
            None => (ReconcileOutcome::UnknownMerchant, later(order, now)),
            Some(merchant) => match self.platform.result(merchant, &order.orderid).await {
                Ok(result) => {
                    let waits = merchant.back.is_none().then_some(WaitReason::NoBack);
                    self.found(result, order, now, waits).await
                }
                Err(QueryError::Refused(_)) => (ReconcileOutcome::NoResult, later(order, now)),
                Err(error) => {
                    tracing::debug!(%error, orderid = order.orderid, "no answer about an open order");
                    (ReconcileOutcome::NoAnswer, again(order, now))
                }
            },
        };
        let finished = Finished {
            work: Work::Reconcile(outcome),
            subject: &Subject::about(&order.merid, &order.orderid),
            request_id: "",
            started,
            old_key: None,
        };
        self.telemetry.finish(finished, Span::default());
        if let Err(error) = self.store.asked(order, next).await {
            tracing::error!(%error, "an answer about an open order could not be written down");
        }
    }

    async fn found(
        &self,
        result: Verified<PaymentResult>,
        order: &OpenOrder,
        now: Millis,
        waits: Option<WaitReason>,
    ) -> (ReconcileOutcome, Option<Millis>) {
        let code = ResultCode::parse(&result.resultcode);
        if matches!(code, None | Some(ResultCode::NotPaid)) {
            return (ReconcileOutcome::NotPaid, later(order, now));
        }
        let arrival = Arrival {
            source: Source::Query,
            at: now,
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
                self.wake.now();
                (ReconcileOutcome::Found, next)
            }
            Ok(PutOutcome::Repeated { .. }) => (ReconcileOutcome::Known, next),
            Ok(PutOutcome::Disputed { id, new, .. }) => {
                let subject = Subject::about(&order.merid, &order.orderid);
                self.telemetry.metrics.count_dispute(new, &id, &subject);
                (ReconcileOutcome::Disputed, None)
            }
            Ok(PutOutcome::ReviewFull | PutOutcome::Foreign) => (ReconcileOutcome::Disputed, None),
            Err(error) => {
                tracing::error!(%error, "a result could not be kept");
                (ReconcileOutcome::NotStored, again(order, now))
            }
        }
    }

    /// Forgets what is done and older than `keep`, now and then, until the task is dropped.
    pub async fn forget(&self, keep: Duration) {
        let keep = Millis::try_from(keep.as_millis()).unwrap_or(Millis::MAX);
        let mut rounds = tokio::time::interval(FORGET_EVERY);
        loop {
            rounds.tick().await;
            if let Err(error) = self.store.forget(time::now().saturating_sub(keep)).await {
                tracing::error!(%error, "old events could not be forgotten");
            }
        }
    }
}

/// When to ask next: after as long again as has passed since the signing, and never after a day.
fn later(order: &OpenOrder, now: Millis) -> Option<Millis> {
    let age = now - order.signed_at;
    (age < LAST).then(|| order.signed_at + (2 * age).clamp(FIRST, LAST))
}

fn again(order: &OpenOrder, now: Millis) -> Option<Millis> {
    (now - order.signed_at < LAST).then_some(now + AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_become_rare_and_end_after_a_day() {
        let order = OpenOrder {
            merid: "1".to_owned(),
            orderid: "ABCDEFGH".to_owned(),
            signed_at: 1_000,
        };
        let minutes = |minutes: i64| 1_000 + minutes * 60_000;
        let mut asked = vec![20];
        while let Some(next) = later(&order, minutes(asked[asked.len() - 1])) {
            asked.push((next - 1_000) / 60_000);
        }
        assert_eq!(asked, [20, 40, 80, 160, 320, 640, 1280, 1440]);
        assert_eq!(later(&order, minutes(0)), Some(minutes(20)));
        assert_eq!(again(&order, minutes(1440)), None);
    }
}
