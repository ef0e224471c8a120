//! `back`: the platform's word on a payment. On disk first, `0000` after.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use super::{CallbackRejection, CallbackReply, Inbound};
use crate::config::settings::Acknowledge;
use crate::inbox::event::{EventState, Source, WaitReason};
use crate::inbox::store::{Arrival, PutOutcome};
use crate::protocol::envelope;
use crate::protocol::subject::Subject;
use crate::telemetry::outcome::CallbackOutcome;
use crate::time;
use crate::web::reply::text;

/// The platform is told to come back after this (promises: 3 s).
const PATIENCE: Duration = Duration::from_millis(2_800);
/// How often it is looked whether the app took an event, where that is what the platform is to hear.
const LOOK: Duration = Duration::from_millis(25);

impl Inbound {
    pub(super) async fn back(
        &self,
        request: &Request<Bytes>,
    ) -> Result<CallbackReply, CallbackRejection> {
        let deadline = Instant::now() + PATIENCE;
        let (outcome, old_key) = self.verify(envelope_of(request)?)?;
        let subject = Subject::about(&outcome.merid, &outcome.orderid);
        let refused = |reason| CallbackRejection {
            reason,
            subject: subject.clone(),
        };
        let snapshot = self.watch.snapshot();
        let waits = match snapshot.merchant(&outcome.merid) {
            None => Some(WaitReason::NoMerchant),
            Some(merchant) => merchant.back.is_none().then_some(WaitReason::NoBack),
        };
        let arrival = Arrival {
            source: Source::Notification,
            at: time::now(),
            waits,
        };
        let put = self.store.put(&outcome, arrival).await.map_err(|error| {
            tracing::error!(%error, orderid = subject.shown_orderid(), "a callback could not be kept");
            refused(CallbackOutcome::NotStored)
        })?;
        let (id, state, said) = match put {
            PutOutcome::Kept { id, state } => (id, state, CallbackOutcome::Accepted),
            PutOutcome::Repeated { id, state } => (id, state, CallbackOutcome::Repeated),
            PutOutcome::Disputed { id, new, .. } => {
                self.telemetry.metrics.count_dispute(new, &id, &subject);
                return Err(refused(CallbackOutcome::Disputed));
            }
            PutOutcome::ReviewFull => return Err(refused(CallbackOutcome::Disputed)),
            PutOutcome::Foreign => return Err(refused(CallbackOutcome::ForeignOrder)),
        };
        if state == EventState::Pending {
            self.wake.traces.keep(&id, request.headers());
            self.wake.event(&outcome.merid);
        }
        // What a person discarded no app is to take.
        let is_settled = matches!(state, EventState::Delivered | EventState::Discarded);
        if self.acknowledge == Acknowledge::Delivered && !is_settled {
            self.delivered_by(&id, deadline)
                .await
                .ok_or_else(|| refused(CallbackOutcome::NotDelivered))?;
        }
        Ok(CallbackReply {
            response: text(StatusCode::OK, "0000"),
            outcome: said,
            subject,
            old_key,
        })
    }

    /// Waits until the app took an event, while it is being offered one.
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

/// The one place that the envelope stands in: the query of a GET, the body of a POST.
fn envelope_of(request: &Request<Bytes>) -> Result<&[u8], CallbackOutcome> {
    let query = request.uri().query().unwrap_or_default().as_bytes();
    if request.method() == Method::GET {
        return Ok(query);
    }
    // A second envelope beside the body's would be for another reader.
    match envelope::read(query, "resp") {
        Err(envelope::EnvelopeError::Missing(_)) if !envelope::names_any(query) => {
            Ok(request.body())
        }
        _ => Err(CallbackOutcome::Malformed),
    }
}
