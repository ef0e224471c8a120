//! Delivery: every event is offered to its merchant's app until the app takes it.
//!
//! At least once, the same id each time, one attempt at a time for an event. An app that is down delays nobody
//! else: each merchant has its own share of the attempts in flight.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use url::Position;

use crate::config::settings::Confirm;
use crate::config::{LiveConfig, Merchant};
use crate::http::client::Repeat;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::inbox::attempt::{AttemptRecord, ClaimOutcome, DueEvent, DueMerchant};
use crate::inbox::event::{Event, EventState, Source, WaitReason};
use crate::inbox::store::{Store, StoreError};
use crate::platform::confirm::Confirmation;
use crate::platform::{PlatformQuery, confirm};
use crate::protocol::result::ResultCode;
use crate::protocol::subject::Subject;
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::outcome::DeliveryOutcome;
use crate::telemetry::trace::{Kept, Side};
use crate::time;
use crate::time::Millis;

/// After the first failure, the second, and so on; the last one again and again.
const DELAYS: [Millis; 8] = [
    1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000,
];
/// The delays vary by a fifth, so that what failed together does not come back together.
const JITTER: f64 = 0.2;
/// Attempts in flight.
const IN_FLIGHT: usize = 512;
/// Attempts in flight for one merchant.
const EACH: u32 = 8;
/// The same after its app has failed: so many apps may hang, one attempt each, before others wait.
const EACH_FAILING: usize = 1;
/// How long after its time an event may be found, where nobody called.
const LOOK: Duration = Duration::from_millis(200);
/// The pause after the store failed.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Attempts under way when another process begins to deliver have so long to end; the others are made again there.
const LANDING: Duration = Duration::from_secs(3);

/// Tells the delivery that there is something new.
#[derive(Default)]
pub struct Wake {
    new: Notify,
    /// In which trace each came.
    pub traces: Kept,
}

impl Wake {
    /// Look now.
    pub fn now(&self) {
        self.new.notify_one();
    }
}

/// The background work that delivers.
pub struct Delivery {
    /// Where events are.
    pub store: Arc<dyn Store>,
    /// Where they go.
    pub watch: LiveConfig,
    /// The way there.
    pub apps: Arc<ClientsByOrigin>,
    /// Records each attempt.
    pub telemetry: Telemetry,
    /// Called for new events.
    pub wake: Arc<Wake>,
    /// Asked first, where results are to be confirmed.
    pub platform: PlatformQuery,
    /// Which results are confirmed first.
    pub confirm: Confirm,
    /// How long an event is offered.
    pub retry_for: Duration,
}

/// What came of one attempt.
enum AttemptResult {
    Taken,
    NotYet(String),
    /// Nobody to offer it to.
    NoBack,
    /// The platform does not confirm the payment yet.
    NotConfirmed(String),
    /// The platform contradicts the notification, for this reason.
    Denied(String),
}

/// Waits for attempts that are under way where no further ones are made.
pub async fn land(mut attempts: JoinSet<()>) {
    let landed = async { while attempts.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LANDING, landed).await;
    attempts.shutdown().await;
}

/// What is in flight, shared with the attempts.
type Flying = Arc<Mutex<Flights>>;

#[derive(Default)]
struct Flights {
    /// Events, with their merchants.
    events: HashMap<String, String>,
    /// Merchants whose last attempt failed.
    failing: HashSet<String>,
}

impl Delivery {
    /// Delivers until the task is dropped; what is under way then goes on in `attempts`.
    pub async fn run(self: Arc<Self>, attempts: &mut JoinSet<()>) {
        let flying = Flying::default();
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        // As if the clock had been set back before we started.
        let mut last = Millis::MAX;
        loop {
            let now = time::now();
            let looked = self.look(now, now < last).await;
            last = now;
            match looked {
                Ok(due) => self.launch(due, &flying, &permits, attempts),
                Err(error) => {
                    tracing::error!(%error, "events cannot be read; delivery waits");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
            let _ = tokio::time::timeout(LOOK, self.wake.new.notified()).await;
            while attempts.try_join_next().is_some() {}
        }
    }

    async fn look(
        &self,
        now: Millis,
        clock_was_set_back: bool,
    ) -> Result<Vec<DueMerchant>, StoreError> {
        if clock_was_set_back {
            self.store.set_back(now).await?;
        }
        self.store.due(now, EACH).await
    }

    fn launch(
        self: &Arc<Self>,
        due: Vec<DueMerchant>,
        flying: &Flying,
        permits: &Arc<Semaphore>,
        attempts: &mut JoinSet<()>,
    ) {
        for DueMerchant { merid, events } in due {
            for event in events {
                let Some(flight) = Flight::take_off(&merid, &event, flying, permits) else {
                    continue;
                };
                let deliver = self.clone();
                attempts.spawn(async move {
                    let failed = deliver.attempt_unless_taken(event).await;
                    flight.land(failed);
                    deliver.wake.now();
                });
            }
        }
    }

    /// The event was read before it took off: another attempt may have landed in between, or another sidecar may have
    /// taken it. Whether the app failed.
    async fn attempt_unless_taken(&self, due: DueEvent) -> bool {
        let id = due.id.clone();
        match self.store.claim(vec![due]).await {
            Ok(claims) => match claims.into_iter().next() {
                Some(ClaimOutcome::Claimed(claimed)) => self.attempt(claimed.event).await,
                _ => false,
            },
            Err(error) => {
                tracing::error!(%error, event = id, "an event could not be claimed; its delivery waits");
                tokio::time::sleep(BACK_OFF).await;
                false
            }
        }
    }

    /// Whether the app failed.
    async fn attempt(&self, event: Event) -> bool {
        let (at, started) = (time::now(), Instant::now());
        let snapshot = self.watch.snapshot();
        let number = event.attempts + 1;
        let mut headers = headers(&event, number);
        self.wake.traces.put(&event.id, &mut headers);
        let span = self.telemetry.tracer.begin(Side::Client, &mut headers);
        let came = match snapshot.merchant(&event.merid) {
            Some(merchant) => self.offer(&event, &headers, merchant).await,
            None => AttemptResult::NoBack,
        };
        let mut next_delay = None;
        let (outcome, words, state) = match came {
            AttemptResult::Taken => (
                DeliveryOutcome::Taken,
                "taken".to_owned(),
                EventState::Delivered,
            ),
            AttemptResult::NotYet(why) if self.is_too_old(&event, at) => {
                (DeliveryOutcome::Parked, why, EventState::Parked)
            }
            AttemptResult::NotYet(why) => (DeliveryOutcome::NotYet, why, EventState::Pending),
            AttemptResult::NoBack => {
                // Set aside until the merchants file changes, and not counted as an attempt.
                let reason = match snapshot.merchant(&event.merid) {
                    Some(_) => WaitReason::NoBack,
                    None => WaitReason::NoMerchant,
                };
                if let Err(error) = self.store.wait_for(&event.merid, reason, at).await {
                    tracing::error!(%error, merid = event.merid, "events cannot be set aside");
                }
                return false;
            }
            AttemptResult::NotConfirmed(why) if self.is_too_old(&event, at) => {
                (DeliveryOutcome::Parked, why, EventState::Parked)
            }
            AttemptResult::NotConfirmed(why) => {
                next_delay = Some(confirm::next_query(at - event.offered_since));
                (DeliveryOutcome::NotYet, why, EventState::Pending)
            }
            AttemptResult::Denied(why) => (DeliveryOutcome::Denied, why, EventState::Disputed),
        };
        let subject = Subject::about(&event.merid, &event.orderid);
        if state == EventState::Disputed {
            self.telemetry
                .metrics
                .count_dispute(true, &event.id, &subject);
        }
        let finished = Finished {
            work: Work::Delivery {
                outcome,
                event: &event.id,
                attempt: number,
                why: &words,
            },
            subject: &subject,
            request_id: "",
            started,
            old_key: None,
        };
        self.telemetry.finish(finished, span);
        if state != EventState::Pending {
            self.wake.traces.forget(&event.id);
        }
        let attempt = AttemptRecord {
            next: time::now() + next_delay.unwrap_or_else(|| delay(number)),
            id: event.id,
            number,
            at,
            took: Millis::try_from(started.elapsed().as_millis()).unwrap_or(Millis::MAX),
            outcome: words,
            response: None,
            state,
        };
        if let Err(error) = self.store.attempted(attempt).await {
            // It stays pending: the app will be offered it again, under the same id.
            tracing::error!(%error, "the attempt could not be written down");
            tokio::time::sleep(BACK_OFF).await;
        }
        // A platform that lags is no failure of the app.
        outcome != DeliveryOutcome::Taken && next_delay.is_none()
    }

    async fn offer(
        &self,
        event: &Event,
        headers: &HeaderMap,
        merchant: &Merchant,
    ) -> AttemptResult {
        let Some(back) = &merchant.back else {
            return AttemptResult::NoBack;
        };
        if self.is_to_be_confirmed(event) {
            match self.platform.confirm(merchant, event).await {
                Confirmation::Confirmed => {}
                Confirmation::Contradicted(why) => return AttemptResult::Denied(why),
                Confirmation::NotYet(why) => return AttemptResult::NotConfirmed(why),
            }
        }
        let Some(client) = self.apps.client(back) else {
            return AttemptResult::NoBack;
        };
        let path = &back[Position::BeforePath..Position::AfterQuery];
        // Once and once only for each attempt: the app counts them.
        match client.post(path, headers, &event.json, Repeat::Never).await {
            Ok(response)
                if response.status().is_success() && response.body().trim_ascii() == b"0000" =>
            {
                response.keep_connection();
                AttemptResult::Taken
            }
            Ok(response) if response.status().is_success() => {
                AttemptResult::NotYet("the app did not say 0000".to_owned())
            }
            Ok(response) => AttemptResult::NotYet(format!(
                "the app answered with status {}",
                response.status().as_u16()
            )),
            Err(fault) => AttemptResult::NotYet(fault.to_string()),
        }
    }

    fn is_to_be_confirmed(&self, event: &Event) -> bool {
        self.confirm == Confirm::Paid
            && event.source == Source::Notification
            && ResultCode::parse(&event.resultcode) == Some(ResultCode::Paid)
    }

    fn is_too_old(&self, event: &Event, at: Millis) -> bool {
        let age = u128::try_from(at - event.offered_since).unwrap_or_default();
        age > self.retry_for.as_millis()
    }
}

/// One attempt in flight: while this lives, no other takes the same event.
struct Flight {
    id: String,
    flying: Flying,
    _permit: OwnedSemaphorePermit,
}

impl Flight {
    fn take_off(
        merid: &str,
        event: &DueEvent,
        flying: &Flying,
        permits: &Arc<Semaphore>,
    ) -> Option<Self> {
        let mut all = lock(flying);
        let same_merchant = all.events.values().filter(|other| *other == merid).count();
        let each = if all.failing.contains(merid) {
            EACH_FAILING
        } else {
            EACH as usize
        };
        if all.events.contains_key(&event.id) || same_merchant >= each {
            return None;
        }
        let permit = permits.clone().try_acquire_owned().ok()?;
        all.events.insert(event.id.clone(), merid.to_owned());
        Some(Self {
            id: event.id.clone(),
            flying: flying.clone(),
            _permit: permit,
        })
    }

    fn land(self, failed: bool) {
        let mut all = lock(&self.flying);
        if let Some(merid) = all.events.get(&self.id).cloned() {
            if failed {
                all.failing.insert(merid);
            } else {
                all.failing.remove(&merid);
            }
        }
        drop(all);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.flying).events.remove(&self.id);
    }
}

fn lock(flying: &Flying) -> MutexGuard<'_, Flights> {
    flying.lock().unwrap_or_else(PoisonError::into_inner)
}

fn headers(event: &Event, number: u32) -> HeaderMap {
    let order = if event.matched { "matched" } else { "unknown" };
    let id = HeaderValue::try_from(&event.id).unwrap_or(HeaderValue::from_static("-"));
    HeaderMap::from_iter([
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (HeaderName::from_static("countersign-event"), id),
        (
            HeaderName::from_static("countersign-attempt"),
            number.into(),
        ),
        (
            HeaderName::from_static("countersign-source"),
            HeaderValue::from_static(event.source.name()),
        ),
        (
            HeaderName::from_static("countersign-order"),
            HeaderValue::from_static(order),
        ),
    ])
}

/// The pause after this many attempts.
fn delay(attempts: u32) -> Millis {
    let index = (attempts as usize).saturating_sub(1).min(DELAYS.len() - 1);
    // A hash with a random key is random enough to spread what failed together.
    let random = (RandomState::new().hash_one(attempts) % 1024) as f64 / 1024.0;
    let factor = 1.0 + JITTER * (2.0 * random - 1.0);
    (DELAYS[index] as f64 * factor) as Millis
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_five_minutes_and_vary_by_a_fifth() {
        for (attempts, plain) in [
            (1, 1_000),
            (2, 2_000),
            (3, 5_000),
            (8, 300_000),
            (500, 300_000),
        ] {
            let delays: Vec<_> = (0..200).map(|_| delay(attempts)).collect();
            assert!(
                delays
                    .iter()
                    .all(|delay| (plain * 4 / 5..=plain * 6 / 5).contains(delay)),
                "{delays:?}"
            );
            assert!(delays.iter().any(|delay| *delay != delays[0]));
        }
    }
}
