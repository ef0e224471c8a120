//! Platform → app: a callback is verified, kept and acknowledged. Delivery follows in the background.
//!
//! Knows no socket and no SQL. Keeps the promises that `0000` is sent only for what is on stable storage (I1), that
//! nothing unverified is kept or delivered (I2), and that a stranger learns nothing from a rejection.

mod reply;

mod verify;

mod back;

mod front;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use ipnet::IpNet;

use crate::config::LiveConfig;
use crate::config::settings::Settings;
use crate::delivery::Wake;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::request_id::{REQUEST_ID, random_request_id};
use crate::http::server::client_address::ClientAddress;
use crate::http::server::handler::{Handler, Rejection};
use crate::inbox::store::Store;
use crate::protocol::body::{BodyError, EncodedBody};
use crate::protocol::oddity::Oddity;
use crate::protocol::subject::Subject;
use crate::telemetry::Telemetry;
use crate::telemetry::finish::{Finished, Work};
use crate::telemetry::outcome::{CallbackKind, CallbackOutcome};
use crate::telemetry::trace::{Side, Span};
use crate::web::reply::text;
use back::Notifications;
use front::FrontPages;
use reply::{CallbackRejection, CallbackReply};
use verify::{envelope_of, verify};

/// The path that load balancers probe.
const HEALTH: &str = "/healthz";

/// The platform's side of the sidecar: everything that comes in from the internet.
pub struct Inbound {
    live: LiveConfig,
    telemetry: Telemetry,
    notifications: Notifications,
    front_pages: FrontPages,
    /// The addresses that may notify; empty means all.
    allow_from: Vec<IpNet>,
    /// The path of `public_url`, which a proxy may take off.
    prefix: String,
}

/// The kind of a callback, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CallbackRoute {
    kind: CallbackKind,
    /// The path has slashes too many, as it has where two halves of an address were joined by hand.
    is_odd: bool,
}

impl Inbound {
    /// Assembles the handler from the settings.
    pub fn new(
        settings: &Settings,
        live: LiveConfig,
        store: Arc<dyn Store>,
        apps: Arc<ClientsByOrigin>,
        wake: Arc<Wake>,
        telemetry: Telemetry,
    ) -> Self {
        let callbacks = settings.callbacks.as_ref();
        let public_url = callbacks.and_then(|callbacks| callbacks.public_url.clone());
        Self {
            live,
            notifications: Notifications {
                store,
                wake,
                metrics: telemetry.metrics.clone(),
                acknowledge: settings.inbox.acknowledge,
            },
            telemetry,
            allow_from: callbacks.map_or_else(Vec::new, |callbacks| callbacks.allow_from.clone()),
            prefix: public_url.as_ref().map_or_else(String::new, |url| {
                url.path().trim_end_matches('/').to_owned()
            }),
            front_pages: FrontPages {
                apps,
                public_url,
                is_https: callbacks.is_some_and(|callbacks| callbacks.tls.is_some()),
            },
        }
    }

    /// Handles one callback: one decode, one parse, and one snapshot of the merchants, taken when the request is there as a
    /// whole.
    async fn callback(
        &self,
        route: CallbackRoute,
        request: &Request<Bytes>,
    ) -> Result<CallbackReply, CallbackRejection> {
        let client = request.extensions().get::<ClientAddress>();
        let is_allowed = || client.is_some_and(|client| client.is_allowed(&self.allow_from));
        match (route.kind, request.method()) {
            // Customers' browsers bring `front` from anywhere, so addresses count for `back` alone.
            (CallbackKind::Back, _) if !is_allowed() => Err(CallbackOutcome::NotAllowed)?,
            (CallbackKind::Back, &Method::GET | &Method::POST)
            | (CallbackKind::Front, &Method::GET) => {}
            (CallbackKind::None, _) => Err(CallbackOutcome::NotFound)?,
            _ => Err(CallbackOutcome::BadRequest)?,
        }
        let body = EncodedBody::of_request(request.body(), request.headers())
            .map_err(|_: BodyError| CallbackOutcome::Malformed)?;
        let payload = envelope_of(request, &body)?;
        let payload = payload.decode().map_err(|_| CallbackOutcome::Malformed)?;
        let mut callback = verify(&payload, &self.live.snapshot())?;
        callback.oddities.add_if(route.is_odd, Oddity::Path);
        self.telemetry.metrics.count_oddities_of(callback.oddities);
        match route.kind {
            CallbackKind::Front => self.front_pages.show(callback, request).await,
            _ => self.notifications.keep(callback, request.headers()).await,
        }
    }

    fn route(&self, path: &str) -> CallbackRoute {
        let tidy = tidy(path);
        let below = tidy.strip_prefix(self.prefix.as_str()).unwrap_or(&tidy);
        let kind = match (below, &*tidy) {
            ("/notify/back", _) | (_, "/notify/back") => CallbackKind::Back,
            ("/notify/front", _) | (_, "/notify/front") => CallbackKind::Front,
            _ => CallbackKind::None,
        };
        let is_odd = matches!(tidy, Cow::Owned(_));
        CallbackRoute { kind, is_odd }
    }

    fn finish(
        &self,
        kind: CallbackKind,
        uri: &Uri,
        client: Option<&ClientAddress>,
        times: (Span, Instant),
        result: Result<CallbackReply, CallbackRejection>,
    ) -> Response<Bytes> {
        // A stranger's own id could be another request's.
        let request_id = random_request_id();
        let (mut field, mut error) = ("", Box::<str>::default());
        let done = result.unwrap_or_else(|mut rejection| {
            (field, error) = (rejection.field, std::mem::take(&mut rejection.error));
            CallbackReply {
                response: rejection.response(kind),
                outcome: rejection.outcome,
                subject: rejection.subject,
                old_key: None,
            }
        });
        let mut response = done.response;
        let (span, started) = times;
        let finished = Finished {
            work: Work::Callback {
                kind,
                outcome: done.outcome,
                status: response.status(),
                path: uri.path(),
                client,
                field,
                error: &error,
            },
            subject: &done.subject,
            request_id: request_id.to_str().unwrap_or_default(),
            started,
            old_key: done.old_key,
        };
        self.telemetry.finish(finished, span);
        response.headers_mut().insert(REQUEST_ID, request_id);
        response
    }
}

impl Handler for Inbound {
    async fn handle(&self, request: &mut Request<Bytes>, started: Instant) -> Response<Bytes> {
        let path = request.uri().path();
        if path == HEALTH && matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::OK, "ok\n");
        }
        let route = self.route(path);
        let tracer = &self.telemetry.tracer;
        let span = tracer.begin(Side::Server, request.headers_mut());
        let result = self.callback(route, request).await;
        let client = request.extensions().get();
        self.finish(route.kind, request.uri(), client, (span, started), result)
    }

    fn reject(&self, head: &Parts, why: Rejection, started: Instant) -> Response<Bytes> {
        let outcome = match why {
            Rejection::Malformed | Rejection::BodyTooLarge | Rejection::BodyIncomplete => {
                CallbackOutcome::BadRequest
            }
            Rejection::Overloaded | Rejection::Draining | Rejection::CutShort => {
                CallbackOutcome::Overloaded
            }
            // 503, so that the platform notifies again (§3.3.1): nothing is known to be kept.
            Rejection::Panicked => CallbackOutcome::NotStored,
        };
        let CallbackRoute { kind, .. } = self.route(head.uri.path());
        let times = (Span::default(), started);
        let rejection = CallbackRejection::about(outcome, &Subject::default());
        self.finish(
            kind,
            &head.uri,
            head.extensions.get(),
            times,
            Err(rejection),
        )
    }
}

/// Takes repeated and trailing slashes out of a path.
fn tidy(path: &str) -> Cow<'_, str> {
    if !path.contains("//") && !path.ends_with('/') {
        return Cow::Borrowed(path);
    }
    let parts = path.split('/').filter(|part| !part.is_empty());
    Cow::Owned(parts.flat_map(|part| ["/", part]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_too_many_are_taken_out_of_a_path() {
        for (path, expected) in [
            ("/notify/back", "/notify/back"),
            ("//notify/back", "/notify/back"),
            ("/notify//back/", "/notify/back"),
            ("/notify/back///", "/notify/back"),
            ("/", ""),
            ("/notify/back/x", "/notify/back/x"),
        ] {
            assert_eq!(tidy(path), expected);
            assert_eq!(matches!(tidy(path), Cow::Owned(_)), path != expected);
        }
    }
}
