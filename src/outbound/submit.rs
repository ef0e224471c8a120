//! `/api/icashier`: an order out, once; the platform's page or redirect back, or an envelope.

use bytes::Bytes;
use http::{Request, header};

use super::call::Call;
use super::orders::SignedOrders;
use super::rejection::CallRejection;
use super::reply::CallReply;
use super::response::{gateway_error, must_be_envelope};
use super::route::Endpoint;
use super::upstream::Upstream;
use crate::http::client::RawResponse;
use crate::http::client::error::Sent;
use crate::inbox::order::TryKind;
use crate::relay;

/// Records the order, sends it, and passes on what a customer is to see. What an app could take for a result is verified.
pub(super) async fn submit(
    upstream: &Upstream,
    orders: &SignedOrders,
    call: &Call,
    request: &Request<Bytes>,
) -> Result<CallReply, CallRejection> {
    // On stable storage before anything is sent: a callback may be faster than the reply.
    let tried = orders.record(call, TryKind::Submit).await?;
    let headers = relay::page_headers(request.headers());
    let form = upstream.seal(call).await;
    let response = upstream
        .post(Endpoint::Submit, "/api/icashier", &headers, &form)
        .await;
    let result = match response {
        Ok(response) => reply(upstream, call, response).await,
        Err(error) => Err(error.into()),
    };
    if let Some(tried) = tried {
        orders.settle(tried, &result).await;
    }
    result
}

async fn reply(
    upstream: &Upstream,
    call: &Call,
    response: RawResponse,
) -> Result<CallReply, CallRejection> {
    // A page cannot be verified; it is for the customer to see, and no app believes it.
    if !must_be_envelope(&response) {
        let error = error_in_front(upstream, &response);
        return Ok(CallReply::page(relay::response(response), error));
    }
    // An envelope in place of a page is a rejection, perhaps of the key; a submit is never repeated to find that out.
    upstream.doubt_key(call);
    // Only what is signed comes through: no status, cookie or redirect beside it.
    let verified = upstream.verify(Endpoint::Submit, call, &response).await?;
    Ok(CallReply::verified(call, verified).says_sent())
}

/// Returns whether the order may have arrived, where the response is a gateway's error.
pub(super) fn error_in_front(upstream: &Upstream, response: &RawResponse) -> Option<Sent> {
    // Read only for a redirect: the fields of most pages are not read otherwise.
    let location = || {
        let headers = response.headers();
        let location = headers.get(header::LOCATION)?.to_str().ok()?;
        Some(location.to_owned())
    };
    gateway_error(response.status(), location, upstream.submits())
}
