//! A delivery as it goes to the app: its headers and its body.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::Merchant;
use crate::config::merchants::DeliveryForm;
use crate::inbox::attempt::ClaimedEvent;
use crate::protocol::envelope::Envelope;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION")));
const EVENT: HeaderName = HeaderName::from_static("countersign-event");
const ATTEMPT: HeaderName = HeaderName::from_static("countersign-attempt");
const SOURCE: HeaderName = HeaderName::from_static("countersign-source");
const ORDER: HeaderName = HeaderName::from_static("countersign-order");
const SUPERSEDED: HeaderName = HeaderName::from_static("countersign-superseded");
// Not `Authorization`: PHP behind FastCGI often does not get that one.
const TOKEN: HeaderName = HeaderName::from_static("countersign-token");

/// Builds the headers of one attempt, all but the trace.
pub(super) fn headers(claimed: &ClaimedEvent, number: u32, merchant: &Merchant) -> HeaderMap {
    let event = &claimed.event;
    let order = if event.matched { "matched" } else { "unknown" };
    let content_type = match merchant.deliver {
        DeliveryForm::Json => "application/json",
        DeliveryForm::Envelope => "application/x-www-form-urlencoded",
    };
    // Ids are hex digits of our own; an older store may hold others.
    let id = HeaderValue::try_from(&event.id).unwrap_or(HeaderValue::from_static("-"));
    let mut headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        // Web application firewalls reject requests without these two.
        (header::USER_AGENT, AGENT),
        (header::ACCEPT, HeaderValue::from_static("*/*")),
        (EVENT, id),
        (ATTEMPT, number.into()),
        (SOURCE, HeaderValue::from_static(event.source.name())),
        (ORDER, HeaderValue::from_static(order)),
    ]);
    if claimed.superseded {
        headers.insert(SUPERSEDED, HeaderValue::from_static("true"));
    }
    if let Some(token) = &merchant.back_token
        && let Ok(mut token) = HeaderValue::try_from(token.expose())
    {
        token.set_sensitive(true);
        headers.insert(TOKEN, token);
    }
    headers
}

/// Builds the body. An envelope is signed here, with the key in the file: no signature is stored.
pub(super) fn body(claimed: &ClaimedEvent, merchant: &Merchant) -> Vec<u8> {
    let payload = claimed.event.payload();
    match merchant.deliver {
        DeliveryForm::Json => payload.to_vec(),
        DeliveryForm::Envelope => Envelope::seal(payload, &merchant.key).form("resp").into(),
    }
}
