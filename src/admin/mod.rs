//! The admin listener: health, metrics, version, reload, and the console.
//!
//! Pages show keys by fingerprint, and of a result its fields, never its bytes. A platform that is down does not make the
//! sidecar unready.

mod guesses;

pub mod auth;

pub mod pulse;

pub mod decisions;

pub mod context;

mod health;

mod console;

mod route;

use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};

use crate::http::server::handler::{Handler, Rejection};
use crate::inbox::store::StoreError;
use crate::web::description::description;
use crate::web::reply::{see_other, text};
use auth::Stop;
use console::lists::{bulk, decide, events, orders, search};
use console::page::{Visit, parameter};
use console::{login, merchants, overview, rejection, timeline};
use context::AdminContext;
use route::AdminPage;

/// The handler behind the admin listener.
pub struct Admin(AdminContext);

impl Admin {
    /// Serves these parts.
    pub fn new(context: AdminContext) -> Self {
        Self(context)
    }

    /// Admits a request and renders its page.
    async fn answer(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, StoreError> {
        let (path, query) = (
            request.uri().path(),
            request.uri().query().unwrap_or_default(),
        );
        let admin = &self.0;
        let visit = Visit::new(path, query, request.headers(), &admin.guard);
        let place = AdminPage::of(path);
        // Probes come from any address and learn one word.
        let admitted = match place {
            Some(AdminPage::Live | AdminPage::Ready) => Ok(()),
            Some(AdminPage::Login) => admin.guard.admit_browser(request),
            _ => admin.guard.admit(request),
        };
        if let Err(stop) = admitted {
            return Ok(rejection::stopped(&visit, request.headers(), stop));
        }
        let Some(place) = place else {
            return Ok(rejection::not_found(&visit, request.headers()));
        };
        let methods = place.methods();
        if !methods.split(", ").any(|method| request.method() == method) {
            return Ok(rejection::wrong_method(&visit, request.headers(), methods));
        }
        // A reload comes from scripts and carries no form token. `admit` has rejected the pages of other sites already.
        if request.method() == Method::POST && place != AdminPage::Reload {
            let form_token = parameter(request.body(), "form");
            if let Err(stop) = admin.guard.admit_form(form_token.as_deref()) {
                return Ok(rejection::stopped(&visit, request.headers(), stop));
            }
            return self.act(place, &visit, request).await;
        }
        match place {
            AdminPage::Live => Ok(text(StatusCode::OK, "live\n")),
            AdminPage::Ready => Ok(health::ready(admin).await),
            AdminPage::Metrics => Ok(health::metrics(admin).await),
            AdminPage::Version => Ok(health::version()),
            AdminPage::Description => Ok(description()),
            AdminPage::Reload => Ok(health::reload(admin).await),
            AdminPage::Login => Ok(login::login_page(&visit, StatusCode::OK)),
            AdminPage::Logout => Ok(login::logout_page(&visit)),
            AdminPage::Overview => overview::overview(admin, &visit).await,
            AdminPage::Orders => match visit.searched() {
                Some(number) => search::search(admin, &visit, &number).await,
                None => orders::orders(admin, &visit).await,
            },
            AdminPage::Order => timeline::order(admin, &visit).await,
            AdminPage::Events => events::events(admin, &visit).await,
            AdminPage::Decide(id, decision) => decide::confirm(admin, &visit, id, decision).await,
            AdminPage::DecideAll(decision) => bulk::confirm(admin, &visit, decision).await,
            AdminPage::Rejections => search::rejections(admin, &visit).await,
            AdminPage::Merchants => merchants::merchants(admin, &visit).await,
        }
    }

    /// Carries out the form of a page.
    async fn act(
        &self,
        place: AdminPage<'_>,
        visit: &Visit<'_>,
        request: &Request<Bytes>,
    ) -> Result<Response<Bytes>, StoreError> {
        let admin = &self.0;
        match place {
            // Any program of this host, and any page in its browsers, reaches a tokenless console.
            AdminPage::Decide(..) | AdminPage::DecideAll(_) if !admin.guard.asks_for_token() => {
                Ok(rejection::needs_token(visit, request.headers()))
            }
            AdminPage::Decide(id, decision) => {
                decide::decide(admin, visit, id, decision, request).await
            }
            AdminPage::DecideAll(decision) => bulk::decide(admin, visit, decision, request).await,
            AdminPage::Merchants => Ok(merchants::reload_by_hand(admin).await),
            AdminPage::Logout => {
                let cookie = admin.guard.sign_out(request.headers());
                Ok(login::with_cookie(see_other("/login"), cookie))
            }
            _ => {
                let given = parameter(request.body(), "token").unwrap_or_default();
                Ok(match admin.guard.sign_in(&given, request) {
                    Ok(cookie) => login::with_cookie(see_other("/"), cookie),
                    Err(Stop::TooManyGuesses) => {
                        rejection::stopped(visit, request.headers(), Stop::TooManyGuesses)
                    }
                    Err(_) => login::login_page(visit, StatusCode::UNAUTHORIZED),
                })
            }
        }
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

    fn reject(&self, _head: &Parts, why: Rejection, _started: Instant) -> Response<Bytes> {
        match why {
            Rejection::Malformed => text(StatusCode::BAD_REQUEST, "expected an HTTP/1.1 request\n"),
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
