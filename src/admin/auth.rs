//! Authentication of the admin listener: the token, browser sessions, and protection against pages of other sites.
//!
//! A page of another site can make a browser send requests here, and with a name of its own that points here (DNS
//! rebinding) even read the answers. So a browser must call us by a name of ours, and an action must come from a page
//! of ours. Who shows the token in `Authorization` is no such browser.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use url::Host;

use super::guesses::{Guess, Guesses};
use crate::config::settings;
use crate::config::token::LiveToken;
use crate::http::log_limit::LogLimit;
use crate::http::request_id::random_hex;
use crate::http::server::caller::Caller;
use crate::http::server::client_address::ClientAddress;

/// A browser gives the token again after this.
pub const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);
/// Browsers signed in at once; one more signs the oldest out.
const SESSIONS: usize = 64;
const COOKIE: &str = "countersign-console";

/// The reason that a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It calls us by a name that is not ours.
    ForeignHost,
    /// It acts on behalf of another site's page, or of no page of ours.
    CrossSite,
    /// The token is missing or wrong.
    NotSignedIn,
    /// Too many wrong tokens came from this caller; it has to wait for a second.
    TooManyGuesses,
}

/// The admin listener's guard.
pub struct Guard {
    listen: SocketAddr,
    names: Vec<String>,
    token: Option<LiveToken>,
    form_token: String,
    sessions: Mutex<Vec<Session>>,
    guesses: Guesses,
    /// Lines about wrong tokens.
    log: LogLimit,
}

struct Session {
    id: String,
    since: Instant,
}

impl Guard {
    /// Builds the guard that `[admin]` describes.
    pub fn new(settings: &settings::AdminSettings) -> Self {
        Self {
            listen: settings.listen,
            names: settings.names.clone(),
            token: settings.token.clone(),
            form_token: random(),
            sessions: Mutex::default(),
            guesses: Guesses::default(),
            log: LogLimit::default(),
        }
    }

    /// The secret that each of our forms carries.
    pub fn form_token(&self) -> &str {
        &self.form_token
    }

    /// Returns true where a token is configured.
    pub fn asks_for_token(&self) -> bool {
        self.token.is_some()
    }

    /// Admits a request or returns the reason against it.
    pub fn admit(&self, request: &Request<Bytes>) -> Result<(), Stop> {
        if let Some(token) = &self.token {
            if let Some(given) = bearer(request.headers()) {
                match self.guess(token, given, request) {
                    Guess::Right => return Ok(()),
                    Guess::Wrong => {}
                    Guess::TooMany => return Err(Stop::TooManyGuesses),
                }
            }
            self.admit_browser(request)?;
            return if self.has_session(request.headers()) {
                Ok(())
            } else {
                Err(Stop::NotSignedIn)
            };
        }
        self.admit_browser(request)
    }

    /// Admits requests that need no token: by one of our host names, and not from another site's page.
    pub fn admit_browser(&self, request: &Request<Bytes>) -> Result<(), Stop> {
        let host = host(request);
        if host.is_some_and(|host| !self.is_ours(host)) {
            return Err(Stop::ForeignHost);
        }
        if request.method() == Method::POST && is_cross_site(request.headers(), host) {
            return Err(Stop::CrossSite);
        }
        Ok(())
    }

    /// Admits a form that a page of ours rendered.
    pub fn admit_form(&self, given: Option<&str>) -> Result<(), Stop> {
        if is_same(given.unwrap_or_default(), &self.form_token) {
            Ok(())
        } else {
            Err(Stop::CrossSite)
        }
    }

    /// Looks at a token that a caller gives.
    fn guess(&self, token: &LiveToken, given: &str, request: &Request<Bytes>) -> Guess {
        let client = request.extensions().get::<ClientAddress>();
        let caller = client.map_or(Caller::Local, ClientAddress::caller);
        let guess = self
            .guesses
            .check(caller, Instant::now(), || token.is(given));
        if guess != Guess::Right
            && let Some(since_last_line) = self.log.due()
        {
            let caller = caller.to_string();
            tracing::warn!(caller, since_last_line, "a wrong admin token was given");
        }
        guess
    }

    /// Exchanges the token for a session, and returns the value of `Set-Cookie`.
    pub fn sign_in(&self, given: &str, request: &Request<Bytes>) -> Result<String, Stop> {
        let token = self.token.as_ref().ok_or(Stop::NotSignedIn)?;
        match self.guess(token, given.trim(), request) {
            Guess::Right => {}
            Guess::Wrong => return Err(Stop::NotSignedIn),
            Guess::TooMany => return Err(Stop::TooManyGuesses),
        }
        let id = random();
        let cookie = cookie(&id, SESSION_TIME);
        let mut sessions = self.sessions.lock();
        if sessions.len() >= SESSIONS {
            // The oldest: sessions are kept in the order of signing in.
            sessions.remove(0);
        }
        sessions.push(Session {
            id,
            since: Instant::now(),
        });
        Ok(cookie)
    }

    /// Ends the session; the value of `Set-Cookie`.
    pub fn sign_out(&self, headers: &HeaderMap) -> String {
        let given = session_id(headers).unwrap_or_default();
        self.sessions
            .lock()
            .retain(|session| !is_same(&session.id, given));
        cookie("", Duration::ZERO)
    }

    /// Names the credential of an admitted request, for the history of decisions.
    pub fn who(&self, headers: &HeaderMap) -> &'static str {
        if self.token.is_none() {
            "anyone on this host"
        } else if bearer(headers).is_some() {
            "bearer of the admin token"
        } else {
            "signed-in operator"
        }
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let Some(given) = session_id(headers) else {
            return false;
        };
        let mut sessions = self.sessions.lock();
        sessions.retain(|session| session.since.elapsed() < SESSION_TIME);
        sessions.iter().any(|session| is_same(&session.id, given))
    }

    /// Returns true for our own addresses and configured names. An address cannot be made to point elsewhere; a name can.
    fn is_ours(&self, authority: &str) -> bool {
        let name = authority
            .rsplit_once(':')
            .map_or(authority, |(name, port)| {
                if port.bytes().all(|b| b.is_ascii_digit()) {
                    name
                } else {
                    authority
                }
            });
        let bound = self.listen.ip();
        let is_our_address =
            |address: IpAddr| address.is_loopback() || bound.is_unspecified() || address == bound;
        match Host::parse(name) {
            Ok(Host::Ipv4(address)) => is_our_address(address.into()),
            Ok(Host::Ipv6(address)) => is_our_address(address.into()),
            Ok(Host::Domain(name)) => name == "localhost" || self.names.contains(&name),
            Err(_) => false,
        }
    }
}

/// The authority that a request is for: of an absolute target, or of `Host`. Browsers always send one.
fn host(request: &Request<Bytes>) -> Option<&str> {
    let target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let host = request.headers().get(header::HOST);
    // A `Host` that is no text becomes `?`, which is no host of ours; left out it would pass as a script's request.
    target.or_else(|| host.map(|host| host.to_str().unwrap_or("?")))
}

/// Returns true for actions from a page of another site. Browsers send `Origin`, newer ones `Sec-Fetch-Site` too (Fetch
/// Metadata); scripts send neither.
fn is_cross_site(headers: &HeaderMap, host: Option<&str>) -> bool {
    let elsewhere = |site: &http::HeaderValue| site != "same-origin";
    if headers.get("sec-fetch-site").is_some_and(elsewhere) {
        return true;
    }
    headers.get(header::ORIGIN).is_some_and(|origin| {
        // A proxy in front may have taken TLS off: the scheme says nothing.
        let origin = origin.to_str().unwrap_or_default().split_once("://");
        origin.map(|(_, authority)| authority) != host
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The value of one of our cookies.
pub fn cookie_named<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = all
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find_map(|(found, value)| (found == name).then_some(value))
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    cookie_named(headers, COOKIE)
}

fn cookie(id: &str, time: Duration) -> String {
    let seconds = time.as_secs();
    // Without `Secure`: the listener speaks plain HTTP, where browsers ignore such a cookie (RFC 6265bis, "Storage Model").
    format!("{COOKIE}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict")
}

fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// Returns 128 random bits in hex.
fn random() -> String {
    random_hex().map(char::from).iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(listen: &str, names: &[&str]) -> Guard {
        Guard::new(&settings::AdminSettings {
            listen: listen.parse().unwrap(),
            names: names.iter().map(ToString::to_string).collect(),
            token: None,
        })
    }

    #[test]
    fn only_our_own_names_are_ours() {
        let local = guard("127.0.0.1:9900", &["ops.example.com"]);
        for host in [
            "127.0.0.1:9900",
            "localhost:9900",
            "LOCALHOST",
            "[::1]:9900",
            "127.9.9.9",
            "Ops.Example.com",
        ] {
            assert!(local.is_ours(host), "{host}");
        }
        for host in [
            "evil.example",
            "10.0.0.1",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "?",
            "a b",
            ":9900",
        ] {
            assert!(!local.is_ours(host), "{host}");
        }
        assert!(guard("0.0.0.0:9900", &[]).is_ours("10.0.0.1:9900"));
        assert!(guard("10.0.0.1:9900", &[]).is_ours("10.0.0.1"));
        assert!(!guard("10.0.0.1:9900", &[]).is_ours("10.0.0.2"));
    }
}
