//! `/api/query` and `platform.extra_paths`: an envelope out, an envelope back.

use bytes::Bytes;
use http::Request;

use super::call::Call;
use super::rejection::CallRejection;
use super::reply::CallReply;
use super::route::Endpoint;
use super::upstream::Upstream;
use crate::relay;

/// Sends the call, and hands the verified payload of the response to the app.
pub(super) async fn query(
    upstream: &Upstream,
    endpoint: Endpoint,
    call: &Call,
    request: &Request<Bytes>,
) -> Result<CallReply, CallRejection> {
    let headers = relay::traced_headers(request.headers());
    let path = request.uri().path();
    let verified = match endpoint {
        Endpoint::Query => upstream.query(call, path, &headers).await?,
        _ => {
            let form = upstream.seal(call).await;
            let response = upstream.post(endpoint, path, &headers, &form).await?;
            upstream.verify(endpoint, call, &response).await?
        }
    };
    Ok(CallReply::verified(call, verified))
}
