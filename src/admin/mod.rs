//! The listener for ops: health, metrics, version, reload, and the console.
//!
//! Keeps promise I5 for what it shows: keys by fingerprint, and of a result its fields, never its text. The platform
//! being down is not this process's unreadiness.

mod health;

pub mod auth;

pub mod pulse;

mod console;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use maud::html;

use crate::config::LiveConfig;
use crate::http::server::connection::{Handler, Rejection};
use crate::inbox::store::{Store, StoreError};
use crate::process::drain::Drain;
use crate::telemetry::metrics::Metrics;
use auth::{Guard, Stop};
use console::events::OperatorDecision;
use console::page::{Visit, parameter, see_other};
use health::text;
use pulse::Pulse;

/// The ops' side of the sidecar.
pub struct Admin {
    /// The merchants in force.
    pub watch: LiveConfig,
    /// Asked whether it can be written, and what it knows of orders.
    pub store: Arc<dyn Store>,
    /// What is exposed.
    pub metrics: Arc<Metrics>,
    /// Whether the end has begun.
    pub drain: Arc<Drain>,
    /// Who is let in.
    pub guard: Guard,
    /// How the last hours went.
    pub pulse: Arc<Pulse>,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AdminPage<'p> {
    Live,
    Ready,
    Metrics,
    Version,
    Reload,
    Login,
    Logout,
    Front,
    Orders,
    Order,
    Events,
    Decide(&'p str, OperatorDecision),
    Refusals,
    Merchants,
}

impl<'p> AdminPage<'p> {
    fn of(path: &'p str) -> Option<Self> {
        Some(match path {
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/version" => Self::Version,
            "/-/reload" => Self::Reload,
            "/login" => Self::Login,
            "/logout" => Self::Logout,
            "/" => Self::Front,
            "/orders" => Self::Orders,
            "/order" => Self::Order,
            "/events" => Self::Events,
            "/refusals" => Self::Refusals,
            "/merchants" => Self::Merchants,
            _ => {
                let (id, decision) = path.strip_prefix("/events/")?.split_once('/')?;
                Self::Decide(id, OperatorDecision::parse(decision)?)
            }
        })
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Reload => "POST",
            Self::Login | Self::Logout | Self::Decide(..) | Self::Merchants => "GET, HEAD, POST",
            _ => "GET, HEAD",
        }
    }
}

impl Admin {
    /// What may be asked for by whom, and who answers.
    async fn answer(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, StoreError> {
        let (path, query) = (
            request.uri().path(),
            request.uri().query().unwrap_or_default(),
        );
        let visit = Visit::new(path, query, request.headers(), &self.guard);
        let place = AdminPage::of(path);
        // Probes come from anywhere and learn one word.
        let admitted = match place {
            Some(AdminPage::Live | AdminPage::Ready) => Ok(()),
            Some(AdminPage::Login) => self.guard.admit_browser(request),
            _ => self.guard.admit(request),
        };
        if let Err(stop) = admitted {
            return Ok(stopped(&visit, request.headers(), stop));
        }
        let Some(place) = place else {
            return Ok(nothing_here(&visit, request.headers()));
        };
        let methods = place.methods();
        if !methods.split(", ").any(|method| request.method() == method) {
            return Ok(wrong_method(&visit, request.headers(), methods));
        }
        if request.method() == Method::POST && place != AdminPage::Reload {
            let form_token = parameter(request.body(), "form");
            if let Err(stop) = self.guard.admit_form(form_token.as_deref()) {
                return Ok(stopped(&visit, request.headers(), stop));
            }
            return self.act(place, &visit, request).await;
        }
        match place {
            AdminPage::Live => Ok(text(StatusCode::OK, "live\n")),
            AdminPage::Ready => Ok(self.ready().await),
            AdminPage::Metrics => Ok(self.metrics().await),
            AdminPage::Version => Ok(self.version()),
            AdminPage::Reload => Ok(self.reload().await),
            AdminPage::Login => Ok(self.login_page(&visit, StatusCode::OK)),
            AdminPage::Logout => Ok(logout_page(&visit)),
            AdminPage::Front => self.front(&visit).await,
            AdminPage::Orders => self.orders(&visit).await,
            AdminPage::Order => self.order(&visit).await,
            AdminPage::Events => self.events(&visit).await,
            AdminPage::Decide(id, decision) => self.confirm(&visit, id, decision).await,
            AdminPage::Refusals => self.refusals(&visit).await,
            AdminPage::Merchants => self.merchants(&visit).await,
        }
    }

    /// The forms.
    async fn act(
        &self,
        place: AdminPage<'_>,
        visit: &Visit<'_>,
        request: &Request<Bytes>,
    ) -> Result<Response<Bytes>, StoreError> {
        match place {
            AdminPage::Decide(id, decision) => self.decide(visit, id, decision).await,
            AdminPage::Merchants => Ok(self.reload_by_hand().await),
            AdminPage::Logout => {
                let cookie = self.guard.sign_out(request.headers());
                Ok(with_cookie(see_other("/login"), cookie))
            }
            _ => {
                let given = parameter(request.body(), "token").unwrap_or_default();
                Ok(match self.guard.sign_in(&given) {
                    Some(cookie) => with_cookie(see_other("/"), cookie),
                    None => {
                        tracing::warn!("somebody gave a wrong admin token at the console");
                        self.login_page(visit, StatusCode::UNAUTHORIZED)
                    }
                })
            }
        }
    }

    fn login_page(&self, visit: &Visit<'_>, status: StatusCode) -> Response<Bytes> {
        let content = html! {
            section {
                @if status != StatusCode::OK {
                    p.note.bad role="alert" { (visit.say("令牌不正确。", "This is not the token.")) }
                }
                form method="post" action="/login" {
                    (visit.form_token())
                    label for="token" { (visit.say("管理令牌（admin.token）", "The admin token (admin.token)")) }
                    p { input #token type="password" name="token" required autocomplete="current-password"; }
                    button.first { (visit.say("登录", "Sign in")) }
                }
            }
        };
        visit.bare_page(status, visit.say("登录", "Sign in"), &content)
    }
}

impl Handler for Admin {
    async fn handle(&self, request: &mut Request<Bytes>, _started: Instant) -> Response<Bytes> {
        self.answer(request).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the console cannot read the store");
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the store does not answer: {error}\n"),
            )
        })
    }

    fn refuse(&self, _head: &Parts, why: Rejection, _started: Instant) -> Response<Bytes> {
        match why {
            Rejection::Malformed | Rejection::NotAllowed => {
                text(StatusCode::BAD_REQUEST, "expected an HTTP/1.1 request\n")
            }
            Rejection::BodyTooLarge => {
                text(StatusCode::PAYLOAD_TOO_LARGE, "expected a short form\n")
            }
            Rejection::BodyIncomplete => {
                text(StatusCode::REQUEST_TIMEOUT, "the body did not come whole\n")
            }
            Rejection::Overloaded => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests at once\n",
            ),
            Rejection::Draining | Rejection::CutShort => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            Rejection::Panicked => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a defect; the log has more\n",
            ),
        }
    }
}

fn logout_page(visit: &Visit<'_>) -> Response<Bytes> {
    let content = html! {
        section { form method="post" action="/logout" { (visit.form_token()) button.first { (visit.say("退出", "Sign out")) } } }
    };
    visit.page(StatusCode::OK, visit.say("退出？", "Sign out?"), &content)
}

fn stopped(visit: &Visit<'_>, headers: &HeaderMap, stop: Stop) -> Response<Bytes> {
    let (status, words) = match stop {
        Stop::NotSignedIn if wants_page(headers) => return see_other("/login"),
        Stop::NotSignedIn => (
            StatusCode::UNAUTHORIZED,
            "expected the admin token, as in \"authorization: bearer …\"",
        ),
        Stop::ForeignHost => (
            StatusCode::MISDIRECTED_REQUEST,
            "expected a host that is loopback, the listen address or one of admin.names",
        ),
        Stop::CrossSite => (
            StatusCode::FORBIDDEN,
            "expected an action from a page of this console; load the page again",
        ),
    };
    let mut response = refusal(visit, headers, status, words);
    if stop == Stop::NotSignedIn {
        let challenge = HeaderValue::from_static("Bearer realm=\"countersign\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn nothing_here(visit: &Visit<'_>, headers: &HeaderMap) -> Response<Bytes> {
    let words = "expected /, /livez, /readyz, /metrics, /version or POST /-/reload";
    refusal(visit, headers, StatusCode::NOT_FOUND, words)
}

fn wrong_method(visit: &Visit<'_>, headers: &HeaderMap, methods: &'static str) -> Response<Bytes> {
    let words = "this address does not take this method";
    let mut response = refusal(visit, headers, StatusCode::METHOD_NOT_ALLOWED, words);
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

/// A page for browsers, a line for everybody else.
fn refusal(
    visit: &Visit<'_>,
    headers: &HeaderMap,
    status: StatusCode,
    words: &str,
) -> Response<Bytes> {
    if !wants_page(headers) {
        let mut response = text(status, format!("{words}\n"));
        let by_accept = HeaderValue::from_static("Accept");
        response.headers_mut().insert(header::VARY, by_accept);
        return response;
    }
    let content = html! { section { p lang="en" { (words) } p { a href="/" { (visit.say("回到概览", "Back to the overview")) } } } };
    visit.bare_page(
        status,
        status.canonical_reason().unwrap_or("Refused"),
        &content,
    )
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(header::ACCEPT)
        .and_then(|accepted| accepted.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

fn with_cookie(mut response: Response<Bytes>, cookie: String) -> Response<Bytes> {
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
