//! A stand-in for the platform, for development: it answers, calls back and shows a payment page as the platform's
//! document says, and gets things wrong on purpose.
//!
//! It borrows the envelope's encoding from the protocol core and decides everything else from the document.

pub mod dialect;

pub mod fault;

mod framed;

mod keys;

pub mod order;

mod notify;

mod interfaces;

mod pages;

mod explain;

mod overview;

pub mod conformance;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use url::form_urlencoded;

use crate::config::Snapshot;
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::server::handler::{Handler, Rejection};
use crate::protocol::json::Object;
use crate::protocol::key::Key;
use crate::protocol::result::ResultCode;
use crate::time;
use crate::web::reply::{see_other, text, typed};
use dialect::Dialect;
use fault::{CutOff, SandboxFault, Sealed};
use keys::SandboxKeys;
use order::{Message, SandboxOrder};

/// Orders that are remembered.
const MAX_ORDERS: usize = 10_000;
/// Messages of one order that are remembered.
const MAX_MESSAGES: usize = 200;

/// The options of a sandbox.
pub struct Options {
    /// The URL for browsers, without a slash at its end.
    pub origin: String,
    /// Notifications come this much faster.
    pub speed: f64,
    /// Notifications are posted instead of got.
    pub post: bool,
    /// Actions that no merchant has opened.
    pub closed: Vec<String>,
    /// Each message is written in other dialects, picked at random.
    pub random_dialect: bool,
}

/// The platform's side: merchants with their keys, orders with their results.
pub struct Sandbox {
    origin: String,
    speed: f64,
    post: bool,
    closed: Vec<String>,
    random_dialect: bool,
    clients: ClientsByOrigin,
    state: Mutex<SandboxState>,
}

#[derive(Default)]
struct SandboxState {
    keys: SandboxKeys,
    /// Oldest first.
    orders: Vec<SandboxOrder>,
    /// For all orders, and for single ones by their orderid.
    faults: Vec<SandboxFault>,
    faults_of: HashMap<String, Vec<SandboxFault>>,
    given_out: usize,
}

impl Sandbox {
    /// A platform without merchants.
    pub fn new(options: Options, clients: ClientsByOrigin) -> Self {
        Self {
            origin: options.origin,
            speed: options.speed,
            post: options.post,
            closed: options.closed,
            random_dialect: options.random_dialect,
            clients,
            state: Mutex::default(),
        }
    }

    /// Gives a merchant a key, and the one to change to.
    pub fn set_keys(&self, merid: &str, key: Key, next: Option<Key>) {
        self.state().keys.set(merid, key, next);
    }

    /// Knows these merchants and no others.
    pub fn set_merchants(&self, snapshot: &Snapshot) {
        self.state().keys.follow(snapshot);
    }

    /// Changes the keys of all merchants that have a next one, and returns their merids. From now on the other key verifies
    /// what they send, and signs all that they get.
    pub fn rotate(&self) -> Vec<String> {
        self.state().keys.rotate()
    }

    /// Goes wrong in these ways from now on: for one order by its orderid, or for all.
    pub fn set_faults(&self, orderid: Option<&str>, faults: Vec<SandboxFault>) {
        let mut state = self.state();
        match orderid {
            None => state.faults = faults,
            Some(orderid) if faults.is_empty() => drop(state.faults_of.remove(orderid)),
            Some(orderid) if state.faults_of.len() < MAX_ORDERS => {
                state.faults_of.insert(orderid.to_owned(), faults);
            }
            Some(_) => {}
        }
    }

    /// The order with this orderid, with all its messages.
    pub fn order_numbered(&self, orderid: &str) -> Option<SandboxOrder> {
        self.state()
            .orders
            .iter()
            .find(|order| order.orderid == orderid)
            .cloned()
    }

    fn state(&self) -> MutexGuard<'_, SandboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, queryid: &str) -> Option<SandboxOrder> {
        self.state()
            .orders
            .iter()
            .find(|order| order.queryid == queryid)
            .cloned()
    }

    fn with_order(&self, queryid: &str, change: impl FnOnce(&mut SandboxOrder)) {
        if let Some(order) = self
            .state()
            .orders
            .iter_mut()
            .find(|order| order.queryid == queryid)
        {
            change(order);
        }
    }

    fn note(&self, queryid: &str, kind: &str, plain: String, wire: String, answer: String) {
        let message = Message {
            at: time::now(),
            kind: kind.to_owned(),
            plain,
            wire,
            answer,
        };
        self.with_order(queryid, |order| {
            if order.messages.len() < MAX_MESSAGES {
                order.messages.push(message);
            }
        });
    }

    fn faults_of(&self, queryid: &str) -> Vec<SandboxFault> {
        let state = self.state();
        let order = state.orders.iter().find(|order| order.queryid == queryid);
        let own = order.and_then(|order| state.faults_of.get(&order.orderid));
        let chosen = state.faults.iter().chain(own.into_iter().flatten());
        let mut faults: Vec<_> = chosen.copied().collect();
        if self.random_dialect {
            faults.extend(Dialect::random().into_iter().map(SandboxFault::Dialect));
        }
        faults
    }

    /// A result as it goes over the wire, faults and all; `None` where the merchant is gone.
    fn sealed(
        &self,
        order: &SandboxOrder,
        result: ResultCode,
        is_answer: bool,
        faults: &[SandboxFault],
    ) -> Option<(String, Sealed)> {
        let amount = order.amount + u64::from(faults.contains(&SandboxFault::WrongAmount));
        let plain = order.result_json(result, amount, is_answer, &SandboxFault::dialects(faults));
        let key = self.state().keys.of(&order.merid)?;
        let sealed = fault::seal(&plain, &key, faults);
        Some((plain, sealed))
    }

    async fn answer(self: &Arc<Self>, request: &Request<Bytes>) -> Response<Bytes> {
        let (method, path) = (request.method(), request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        match (method, path) {
            (&Method::POST, "/api/query") => self.enveloped(request, Self::query).await,
            (&Method::POST, "/api/icashier") => self.enveloped(request, Self::submit).await,
            // A link that the customer's browser follows, so GET alone (§3.1.2).
            (&Method::GET, "/apis/icashier") => self.enveloped(request, Self::submit).await,
            (&Method::GET, "/pay") => self.payment_page(query, request.headers()),
            (&Method::POST, "/pay") => self.pay(query, request.body()),
            (&Method::GET, "/") => self.overview(query, request.headers()),
            (&Method::GET, "/sandbox/orders") => self.orders_json(),
            (&Method::POST, "/sandbox/faults") => self.take_faults(request.body()),
            (&Method::POST, "/sandbox/rotate") => self.rotated(),
            _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
        }
    }

    /// The customer pressed a button.
    fn pay(self: &Arc<Self>, query: &str, form: &[u8]) -> Response<Bytes> {
        let field = |of: &[u8], wanted: &str| {
            let mut pairs = form_urlencoded::parse(of);
            pairs
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.into_owned())
        };
        let queryid = field(query.as_bytes(), "q").unwrap_or_default();
        let chosen = field(form, "result").unwrap_or_default();
        let result = ResultCode::parse(&chosen);
        if result.is_none() && chosen != "cancel" {
            return text(
                StatusCode::BAD_REQUEST,
                "expected result=0000, 1001, 1002, 1003, 1004 or cancel\n",
            );
        }
        let (result, method) = (result.unwrap_or(ResultCode::NotPaid), field(form, "action"));
        self.with_order(&queryid, |order| {
            order.result = result;
            // 1002 is paid too, with the settlement pending (§3.3.3).
            let paid = matches!(result, ResultCode::Paid | ResultCode::Processing);
            order.paytime = if paid {
                order::paytime(time::now())
            } else {
                String::new()
            };
            if let Some(method) = method.filter(|_| order.action == "Arbi") {
                order.action = method;
            }
        });
        let Some(order) = self.order(&queryid) else {
            return text(StatusCode::NOT_FOUND, "no such order\n");
        };
        if chosen != "cancel" {
            tokio::spawn(self.clone().notify(queryid.clone()));
        }
        match self.front_link(&order) {
            Some(link) => redirect(&link),
            None => redirect(&format!("{}/pay?q={queryid}", self.origin)),
        }
    }

    /// The customer's next page: `fronturl` with the result in an envelope (document §3.2.2).
    fn front_link(&self, order: &SandboxOrder) -> Option<String> {
        let fronturl = order.fronturl.as_ref()?;
        let faults = self.faults_of(&order.queryid);
        let (plain, sealed) = self.sealed(order, order.result, false, &faults)?;
        let joint = if fronturl.contains('?') { '&' } else { '?' };
        let link = format!("{fronturl}{joint}{}", sealed.form);
        self.note(
            &order.queryid,
            "customer sent to fronturl",
            plain,
            link.clone(),
            String::new(),
        );
        Some(link)
    }

    /// `{"orderid": …, "faults": […]}`, or the same as a form.
    fn take_faults(&self, body: &[u8]) -> Response<Bytes> {
        let (orderid, names) = match Object::parse(body) {
            Ok(object) => {
                let orderid = object
                    .string("orderid")
                    .and_then(Result::ok)
                    .map(|text| text.into_owned());
                let names = object
                    .raw("faults")
                    .and_then(|raw| serde_json::from_str::<Vec<String>>(raw).ok());
                (orderid, names.unwrap_or_default())
            }
            Err(_) => {
                let pairs: Vec<_> = form_urlencoded::parse(body).into_owned().collect();
                let all = |wanted| {
                    pairs
                        .iter()
                        .filter(move |(name, _)| name == wanted)
                        .map(|(_, v)| v.clone())
                };
                (
                    all("orderid").find(|orderid| !orderid.is_empty()),
                    all("fault").collect(),
                )
            }
        };
        match names
            .iter()
            .map(|name| SandboxFault::parse(name))
            .collect::<Result<Vec<_>, _>>()
        {
            Ok(faults) => {
                self.set_faults(orderid.as_deref(), faults);
                redirect("/")
            }
            Err(expected) => typed(
                StatusCode::BAD_REQUEST,
                "text/plain; charset=utf-8",
                format!("faults: {expected}\n"),
            ),
        }
    }

    /// Changes the keys by hand.
    fn rotated(&self) -> Response<Bytes> {
        let merids = self.rotate();
        if merids.is_empty() {
            return text(
                StatusCode::CONFLICT,
                "no merchant has a next_key to change to\n",
            );
        }
        let merids = serde_json::json!({ "rotated": merids }).to_string();
        typed(StatusCode::OK, "application/json", merids)
    }

    fn orders_json(&self) -> Response<Bytes> {
        let state = self.state();
        let orders: Vec<_> = state
            .orders
            .iter()
            .map(|order| {
                let messages: Vec<_> = order
                    .messages
                    .iter()
                    .map(|m| json!({"at": m.at, "kind": m.kind, "plain": m.plain, "wire": m.wire, "answer": m.answer}))
                    .collect();
                let faults = state.faults_of.get(&order.orderid).into_iter().flatten();
                let faults: Vec<_> = faults.map(|fault| fault.name()).collect();
                json!({
                    "faults": faults, "merid": order.merid, "orderid": order.orderid, "queryid": order.queryid,
                    "txnamt": order.amount, "action": order.action, "resultcode": order.result.code(),
                    "next_call": order.next_call, "messages": messages,
                })
            })
            .collect();
        typed(
            StatusCode::OK,
            "application/json",
            serde_json::Value::from(orders).to_string(),
        )
    }
}

impl Handler for Arc<Sandbox> {
    async fn handle(&self, request: &mut Request<Bytes>, _started: Instant) -> Response<Bytes> {
        self.answer(request).await
    }

    fn cuts_off(&self, response: &Response<Bytes>) -> bool {
        response.extensions().get::<CutOff>().is_some()
    }

    fn reject(&self, _head: &Parts, _why: Rejection, _started: Instant) -> Response<Bytes> {
        text(
            StatusCode::BAD_REQUEST,
            "the sandbox cannot take this request\n",
        )
    }
}

/// Redirects as platforms do, with 302.
fn redirect(url: &str) -> Response<Bytes> {
    let mut response = see_other(url);
    *response.status_mut() = StatusCode::FOUND;
    response
}
