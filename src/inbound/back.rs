//! `back`: a result is on stable storage first, and `0000` is sent after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};

use super::reply::{CallbackRejection, CallbackReply};
use super::verify::{PayloadReading, VerifiedCallback};
use crate::config::settings::Acknowledge;
use crate::delivery::Wake;
use crate::inbox::event::{EventState, Source, WaitReason};
use crate::inbox::store::{Arrival, PutOutcome, Store};
use crate::platform::review;
use crate::platform::review::UnreadPayload;
use crate::protocol::envelope::Verified;
use crate::protocol::result::{PaymentResult, ReadError};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::outcome::CallbackOutcome;
use crate::time;
use crate::web::reply::text;

/// The platform gets 503 after this (promises: 3 s).
const PATIENCE: Duration = Duration::from_millis(2_800);
/// The pause between two looks at an event whose delivery the platform waits for.
const LOOK: Duration = Duration::from_millis(25);

/// Keeps results that are notified, and acknowledges them.
pub(super) struct Notifications {
    pub(super) store: Arc<dyn Store>,
    pub(super) wake: Arc<Wake>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) acknowledge: Acknowledge,
}

impl Notifications {
    /// Keeps a verified notification: as an event for the app, or for review.
    pub(super) async fn keep(
        &self,
        callback: VerifiedCallback<'_>,
        headers: &HeaderMap,
    ) -> Result<CallbackReply, CallbackRejection> {
        match &callback.reading {
            PayloadReading::Result(result, _) => {
                let outcome = self.keep_result(&callback, result, headers).await?;
                Ok(CallbackReply {
                    // This content and nothing else, not even a line end (document §3.3.1).
                    response: text(StatusCode::OK, "0000"),
                    outcome,
                    subject: callback.subject,
                    old_key: callback.old_key,
                })
            }
            PayloadReading::Reflected => Err(CallbackRejection::about(
                CallbackOutcome::Reflected,
                &callback.subject,
            )),
            PayloadReading::Unreadable(error) => Err(self.keep_for_review(&callback, error).await),
        }
    }

    async fn keep_result(
        &self,
        callback: &VerifiedCallback<'_>,
        result: &Verified<PaymentResult>,
        headers: &HeaderMap,
    ) -> Result<CallbackOutcome, CallbackRejection> {
        let deadline = Instant::now() + PATIENCE;
        let subject = &callback.subject;
        let rejected = |outcome| CallbackRejection::about(outcome, subject);
        let arrival = Arrival {
            source: Source::Notification,
            at: time::now(),
            waits: callback
                .merchant
                .back
                .is_none()
                .then_some(WaitReason::NoBack),
        };
        let put = self.store.put(result, arrival).await;
        let put = put.map_err(|error| rejected(CallbackOutcome::NotStored).because(&error))?;
        let (id, state, outcome) = match put {
            PutOutcome::Kept { id, state } => (id, state, CallbackOutcome::Accepted),
            PutOutcome::Repeated { id, state } => (id, state, CallbackOutcome::Repeated),
            PutOutcome::Disputed { id, new, reason } => {
                if new {
                    self.metrics.count_review(reason, "", &id, subject);
                }
                return Err(rejected(CallbackOutcome::Disputed));
            }
            PutOutcome::ReviewFull => {
                self.metrics.review_full.inc();
                return Err(rejected(CallbackOutcome::Disputed));
            }
            PutOutcome::Foreign => return Err(rejected(CallbackOutcome::ForeignOrder)),
        };
        if state == EventState::Pending {
            self.wake.traces.keep(&id, headers);
            self.wake.event(&result.merid);
        }
        // An event that an operator discarded is never delivered.
        let is_settled = matches!(state, EventState::Delivered | EventState::Discarded);
        if self.acknowledge == Acknowledge::Delivered && !is_settled {
            self.delivered_by(&id, deadline)
                .await
                .ok_or_else(|| rejected(CallbackOutcome::NotDelivered))?;
        }
        Ok(outcome)
    }

    /// Keeps a payload that cannot be read as a result. It is never acknowledged: the platform goes on telling us, and a
    /// later version may read it.
    async fn keep_for_review(
        &self,
        callback: &VerifiedCallback<'_>,
        error: &ReadError,
    ) -> CallbackRejection {
        let subject = &callback.subject;
        let unread = UnreadPayload {
            merid: &callback.merchant.merid,
            subject,
            bytes: callback.payload,
            source: Source::Notification,
        };
        let field = error.field_in_review().unwrap_or_default();
        match review::keep(&*self.store, &self.metrics, unread, error).await {
            Ok(()) => CallbackRejection::about(CallbackOutcome::Disputed, subject).at(field),
            Err(error) => {
                CallbackRejection::about(CallbackOutcome::NotStored, subject).because(&error)
            }
        }
    }

    /// Waits until the app has taken an event, while it is being delivered.
    async fn delivered_by(&self, id: &str, deadline: Instant) -> Option<()> {
        while Instant::now() < deadline {
            match self.store.event(id).await.ok()??.state {
                EventState::Delivered => return Some(()),
                EventState::Pending => tokio::time::sleep(LOOK).await,
                EventState::Parked | EventState::Disputed | EventState::Discarded => return None,
            }
        }
        None
    }
}
