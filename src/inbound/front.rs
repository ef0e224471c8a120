//! `front`: the customer's browser comes back. Verified, then shown the app's page; never an event.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use maud::html;
use url::form_urlencoded;

use super::{CallbackRejection, CallbackReply, Inbound};
use crate::protocol::json::Object;
use crate::protocol::subject::Subject;
use crate::relay;
use crate::telemetry::outcome::CallbackOutcome;
use crate::web::reply::{Forms, NOTICE, Page};

/// Every field of the document's results (§3.2.3, §3.4.4), and the envelope's own.
const FIELDS: [&str; 11] = [
    "resp",
    "sign",
    "respcode",
    "respmsg",
    "resultcode",
    "resultmsg",
    "queryid",
    "txnamt",
    "merid",
    "orderid",
    "paytime",
];

impl Inbound {
    pub(super) async fn front(
        &self,
        request: &Request<Bytes>,
    ) -> Result<CallbackReply, CallbackRejection> {
        let query = request.uri().query().unwrap_or_default();
        let (outcome, old_key) = self.verify(query.as_bytes())?;
        let subject = Subject::about(&outcome.merid, &outcome.orderid);
        let refused = |reason| CallbackRejection {
            reason,
            subject: subject.clone(),
        };
        let snapshot = self.watch.snapshot();
        let front = snapshot
            .merchant(&outcome.merid)
            .and_then(|merchant| merchant.front.clone());
        let mut front = front.ok_or_else(|| refused(CallbackOutcome::NoFront))?;
        let object = Object::parse(outcome.json.as_bytes())
            .map_err(|_| refused(CallbackOutcome::Malformed))?;
        {
            let mut fields = front.query_pairs_mut();
            for (name, value) in form_urlencoded::parse(query.as_bytes()) {
                // What the shop put beside the envelope may pass. What could be taken for the platform's word, by a
                // reader that ignores case too, comes from the envelope alone.
                let ours = FIELDS
                    .into_iter()
                    .chain(object.names())
                    .any(|field| field.eq_ignore_ascii_case(&name));
                if !ours {
                    fields.append_pair(&name, &value);
                }
            }
            for (name, value) in object.plain_members() {
                fields.append_pair(name, &value);
            }
        }
        let client = self
            .apps
            .client(&front)
            .ok_or_else(|| refused(CallbackOutcome::NoFront))?;
        let headers = relay::browser_headers(request.headers());
        let page = client
            .get(
                &front[url::Position::BeforePath..url::Position::AfterQuery],
                &headers,
            )
            .await;
        let page = page.map_err(|fault| {
            tracing::warn!(merid = subject.shown_merid(), %fault, "the app's front page is not there");
            refused(CallbackOutcome::AppUnreachable)
        })?;
        Ok(CallbackReply {
            response: relay::response(page),
            outcome: CallbackOutcome::Accepted,
            subject,
            old_key,
        })
    }
}

/// What a customer sees where the shop's page cannot be shown; it says nothing about why.
pub(super) fn no_page(status: StatusCode) -> Response<Bytes> {
    let page = Page {
        language: "zh",
        title: "请回到商户页面 · Please go back to the shop",
        style: &NOTICE,
        forms: Forms::Own,
        script: None,
        head: html! {},
        body: html! {
            main {
                p { "无法显示此页面。请回到商户页面查看您的订单。" }
                p lang="en" { "This page cannot be shown. Please look at your order in the shop." }
            }
        },
    };
    page.reply(status)
}
