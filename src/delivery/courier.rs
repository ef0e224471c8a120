//! One attempt: a claimed event is confirmed where the settings say so, posted to the app, and its outcome recorded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use url::{Position, Url};

use super::address;
use super::app_reply::AppReply;
use super::message;
use super::rounds::merchant_queue::Landing;
use super::verdict::{AttemptResult, Verdict, is_given_up};
use super::wake::Wake;
use crate::config::settings::Confirm;
use crate::config::{LiveConfig, Merchant};
use crate::http::client::Repeat;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::inbox::attempt::{AttemptRecord, ClaimedEvent};
use crate::inbox::event::{Event, EventState, ReviewReason, Source};
use crate::platform::PlatformQuery;
use crate::platform::confirm::Confirmation;
use crate::protocol::result::ResultCode;
use crate::protocol::subject::Subject;
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::trace::Side;
use crate::time;
use crate::time::{Millis, Moments};

/// Takes claimed events to their apps.
pub struct Courier {
    /// The merchants, their apps' addresses among them.
    pub live: LiveConfig,
    /// Connections to the apps.
    pub apps: Arc<ClientsByOrigin>,
    /// Records each attempt.
    pub telemetry: Telemetry,
    /// The traces in which results came.
    pub wake: Arc<Wake>,
    /// The platform, which is queried first where results are to be confirmed.
    pub platform: PlatformQuery,
    /// The results that are confirmed first.
    pub confirm: Confirm,
    /// Time for which an event is attempted before it is parked.
    pub retry_for: Duration,
}

/// The end of an attempt.
pub(super) struct Attempted {
    pub(super) landing: Landing,
    pub(super) took: Duration,
    /// The reason for it, in words.
    pub(super) why: String,
    /// The part that is written down.
    pub(super) record: AttemptRecord,
}

impl Courier {
    /// Returns true where results of this merchant can be delivered now.
    pub(super) fn reaches(&self, merid: &str) -> bool {
        let live = self.live.load();
        live.merchant(merid).is_some_and(|it| it.back.is_some())
    }

    /// Makes one attempt, and records its outcome everywhere but in the store. Returns nothing, and does nothing, where the
    /// merchant has lost its address meanwhile.
    pub(super) async fn attempt(&self, mut claimed: ClaimedEvent) -> Option<Attempted> {
        let (at, started) = (time::now(), Instant::now());
        let number = claimed.event.attempts + 1;
        let snapshot = self.live.snapshot();
        let merchant = snapshot.merchant(&claimed.event.merid)?;
        let back = merchant.back.as_ref()?;
        let mut headers = message::headers(&claimed, number, merchant);
        self.wake.traces.put(&claimed.event.id, &mut headers);
        let span = self.telemetry.tracer.begin(Side::Client, &mut headers);
        let result = match self.confirmation(merchant, &claimed.event).await {
            Confirmation::Confirmed => self.offer(&mut claimed, &headers, merchant, back).await,
            Confirmation::NotYet(why) => AttemptResult::Unconfirmed(why),
            Confirmation::Contradicted(why) => AttemptResult::Contradicted(why),
        };
        let event = claimed.event;
        let verdict = Verdict::of(
            result,
            &event,
            number,
            is_given_up(&event, Moments::now(), self.retry_for),
            time::now(),
        );
        let took = started.elapsed();
        let subject = Subject::about(&event.merid, &event.orderid);
        if verdict.state == EventState::Disputed {
            let metrics = &self.telemetry.metrics;
            metrics.count_review(ReviewReason::Contradicted, "", &event.id, &subject);
        }
        if verdict.state != EventState::Pending {
            self.wake.traces.forget(&event.id);
        }
        let work = Work::Delivery {
            outcome: verdict.outcome,
            event: &event.id,
            attempt: number,
            why: &verdict.why,
        };
        let finished = Finished {
            work,
            subject: &subject,
            request_id: "",
            started,
            old_key: None,
        };
        self.telemetry.finish(finished, span);
        let millis = Millis::try_from(took.as_millis()).unwrap_or(Millis::MAX);
        Some(Attempted {
            record: verdict.record(event.id, number, at, millis),
            landing: verdict.landing,
            took,
            why: verdict.why,
        })
    }

    /// Queries the platform, where results like this one are confirmed first.
    async fn confirmation(&self, merchant: &Merchant, event: &Event) -> Confirmation {
        let is_asked_for = self.confirm == Confirm::Paid
            && event.source == Source::Notification
            && ResultCode::parse(&event.resultcode) == Some(ResultCode::Paid);
        match is_asked_for {
            true => self.platform.confirm(merchant, event).await,
            false => Confirmation::Confirmed,
        }
    }

    /// Posts the event to the app.
    async fn offer(
        &self,
        claimed: &mut ClaimedEvent,
        headers: &HeaderMap,
        merchant: &Merchant,
        back: &Url,
    ) -> AttemptResult {
        let (url, passed_over) = address::address(back, claimed.own_back.as_deref());
        if let Some(reason) = passed_over {
            tracing::warn!(
                event = claimed.event.id,
                merid = claimed.event.merid,
                orderid = claimed.event.orderid,
                reason = reason.reason(),
                "the order's own backurl is not used; the result goes to the merchant's back"
            );
        }
        let Some(client) = self.apps.client(&url) else {
            return AttemptResult::Silent("the address cannot be used".to_owned());
        };
        let path = &url[Position::BeforePath..Position::AfterQuery];
        let request = client.request(path, headers, &message::body(claimed, merchant));
        // The request has a copy. Hundreds of these may wait for hanging apps.
        claimed.event.json = String::new();
        claimed.event.raw = None;
        // Never repeated here: the app counts attempts.
        match client.send(&request, Repeat::Never).await {
            Ok(response) => {
                let headers = response.headers();
                let reply = AppReply {
                    status: response.status(),
                    headers: &headers,
                    body: response.body(),
                };
                if !reply.is_taken() {
                    return AttemptResult::Rejected(reply.kept(reply.explanation()));
                }
                // Any other reply may be another request's: its connection is closed.
                response.keep_connection();
                AttemptResult::Taken(reply.kept("taken".to_owned()))
            }
            Err(error) => AttemptResult::Silent(error.to_string()),
        }
    }
}
