//! One request through a session of Pingora's: every callback, the console, and every call that is not plain.
//!
//! The request is there as a whole, and its framing can be read in one way only. The session parses it, decodes its body
//! and writes the response; it reads nothing from the stream itself.

use std::net::IpAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, header};
use pingora::http::ResponseHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::{Error, ErrorType};
use tokio::time::timeout;

use super::client_address::ClientAddress;
use super::fast_path;
use super::handler::{Handler, Rejection};
use super::service::Service;
use crate::process::drain::Subscription;

/// A connection whose next request is whole.
pub(super) struct WholeRequest {
    pub(super) stream: Stream,
    /// The request, and what came behind it.
    pub(super) bytes: BytesMut,
    /// Bytes of the request.
    pub(super) length: usize,
    /// The other end, unless that is a socket in the file system.
    pub(super) peer: Option<IpAddr>,
}

/// Answers a request. `responded` is called before its response is written, and returns false where the connection has been
/// cut. Gives the stream back where it can carry another, with the bytes behind the request.
pub(super) async fn exchange<H: Handler>(
    service: &Service<H>,
    request: WholeRequest,
    subscription: &mut Subscription<'_>,
    responded: impl FnOnce() -> bool,
) -> Option<(Stream, BytesMut)> {
    let started = Instant::now();
    let behind = request.bytes.len() - request.length;
    let mut session = ServerSession::new_http1(request.stream);
    // Keep-alive without a time of its own: the connection's loop has one. Set before the request is read, because
    // setting it later would undo what the session concluded from the head.
    session.set_keepalive(Some(0));
    session.set_pipelined_prefix(request.bytes);
    // Requests that were sent before the last response wait their turn instead of being dropped.
    session.set_pipelining_enabled(true);
    let read = timeout(
        service.limits.body_time,
        read(service, &mut session, request.peer),
    );
    let Ok(Ok(request)) = read.await else {
        reject_malformed(service, &mut session).await;
        return None;
    };
    let response = service.respond(request, started, subscription).await;
    if service.drain.is_draining() {
        session.set_keepalive(None);
    }
    let cuts_off = service.handler.cuts_off(&response);
    if !responded() {
        return None;
    }
    // Ended within the same time: without keep-alive the end writes as well, TLS's close_notify.
    let ended = async {
        write(&mut session, response, cuts_off).await?;
        session.finish().await
    };
    let ended = timeout(service.limits.write_time, ended);
    let (stream, rest) = ended.await.ok()?.ok()??.into_parts();
    let rest = rest.unwrap_or_default();
    // The session found another end of the request than the framing did: the next one could be a part of this one.
    (rest.len() == behind).then_some((stream, rest))
}

/// Reads the request from what is there already.
async fn read<H: Handler>(
    service: &Service<H>,
    session: &mut ServerSession,
    peer: Option<IpAddr>,
) -> pingora::Result<Request<Bytes>> {
    if !session.read_request().await? {
        return Err(Error::new(ErrorType::ConnectionClosed));
    }
    let mut head = session.req_header().as_owned_parts();
    // Most bodies come in one part, which is passed on without a copy.
    let first = session.read_request_body().await?.unwrap_or_default();
    let body = match session.read_request_body().await? {
        None => first,
        Some(second) => {
            let mut body = BytesMut::from(first);
            body.extend_from_slice(&second);
            while let Some(part) = session.read_request_body().await? {
                body.extend_from_slice(&part);
            }
            body.freeze()
        }
    };
    // Before unread fields are removed: no handler reads `X-Forwarded-For` itself.
    let client = ClientAddress::of(peer, &head.headers, &service.admission.trusted);
    head.extensions.insert(client);
    let fields = head.headers.keys();
    let unread = fields.filter(|field| !service.handler.reads(field, &body));
    for field in unread.cloned().collect::<Vec<_>>() {
        head.headers.remove(field);
    }
    Ok(Request::from_parts(head, body))
}

/// Answers what the session does not take for a request, and ends the connection.
async fn reject_malformed<H: Handler>(service: &Service<H>, session: &mut ServerSession) {
    let head = Request::new(()).into_parts().0;
    let response = service
        .handler
        .reject(&head, Rejection::Malformed, Instant::now());
    let (mut parts, body) = response.into_parts();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, body.len().into());
    let written = session.write_error_response(ResponseHeader::from(parts), body);
    // The other side may be gone already.
    let _ = timeout(service.limits.write_time, written).await;
}

async fn write(
    session: &mut ServerSession,
    response: Response<Bytes>,
    cuts_off: bool,
) -> pingora::Result<()> {
    let head_only = session.req_header().method == Method::HEAD;
    let (mut parts, body) = response.into_parts();
    if !fast_path::is_bodiless(parts.status) {
        let length = body.len() + usize::from(cuts_off);
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let header = ResponseHeader::from(parts);
    session.write_response_header(Box::new(header)).await?;
    if !head_only && !body.is_empty() {
        session.write_response_body(body, true).await?;
    }
    match cuts_off {
        // An error keeps the stream from being used again: the client still waits for the byte that was announced.
        true => Err(Error::new(ErrorType::InternalError)),
        false => Ok(()),
    }
}
