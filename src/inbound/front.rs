//! `front`: the customer's browser comes back. Verified, then shown the app's page; never an event.

use bytes::Bytes;
use http::{Request, Response};
use url::form_urlencoded;

use super::{Inbound, Reason, Refused, Taken};
use crate::outbound::relay;
use crate::protocol::json::Object;
use crate::protocol::message::Subject;

impl Inbound {
    pub(super) async fn front(&self, request: &Request<Bytes>) -> Result<Taken, Refused> {
        let query = request.uri().query().unwrap_or_default();
        let outcome = self.verify(query.as_bytes())?;
        let subject = Subject {
            merid: Some(outcome.merid.clone()),
            orderid: Some(outcome.orderid.clone()),
            queryid: Some(outcome.queryid.clone()),
        };
        let refused = |reason| Refused {
            reason,
            subject: subject.clone(),
        };
        let snapshot = self.watch.snapshot();
        let front = snapshot
            .merchant(&outcome.merid)
            .and_then(|merchant| merchant.front.clone());
        let mut front = front.ok_or_else(|| refused(Reason::NoFront))?;
        let object =
            Object::parse(outcome.json.as_bytes()).map_err(|_| refused(Reason::Malformed))?;
        {
            let mut fields = front.query_pairs_mut();
            for (name, value) in form_urlencoded::parse(query.as_bytes()) {
                // What the platform or the shop put beside the envelope; the envelope's own fields come after and alone.
                if name != "resp" && name != "sign" && object.raw(&name).is_none() {
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
            .ok_or_else(|| refused(Reason::NoFront))?;
        let headers = relay::browser_headers(request.headers());
        let page = client
            .get(
                &front[url::Position::BeforePath..url::Position::AfterQuery],
                &headers,
            )
            .await;
        let page: Response<Bytes> = page.map_err(|fault| {
            tracing::warn!(merid = subject.shown_merid(), %fault, "the app's front page is not there");
            refused(Reason::AppUnreachable)
        })?;
        Ok(Taken {
            response: relay::response(page),
            outcome: "accepted",
            subject,
        })
    }
}
