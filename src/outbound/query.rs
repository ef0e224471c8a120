//! `/api/query` and `platform.extra_paths`: an envelope out, an envelope back.

use bytes::Bytes;
use http::Request;

use super::call::Call;
use super::rejection::CallRejection;
use super::reply::CallReply;
use super::route::Endpoint;
use super::upstream::Upstream;
use crate::relay::{self, FormBody};

/// Sends the call, and hands the verified payload of the response to the app.
pub(super) async fn query(
    upstream: &Upstream,
    endpoint: Endpoint,
    call: &Call,
    request: &Request<Bytes>,
) -> Result<CallReply, CallRejection> {
    let headers = relay::traced_headers(request.headers());
    let (path, form) = (request.uri().path(), FormBody(call.seal()));
    let response = upstream.post(endpoint, path, &headers, &form).await?;
    let verified = upstream.verify(endpoint, call, &response)?;
    Ok(CallReply::verified(call, verified))
}
