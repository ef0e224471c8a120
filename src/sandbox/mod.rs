//! A stand-in for the platform, for development: it answers, calls back and shows a payment page as the platform's
//! document says, and gets things wrong on purpose.
//!
//! It borrows the envelope's encoding from the protocol core and decides everything else from the document.

pub mod fault;

pub mod order;

mod notify;

mod pages;

pub mod conformance;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;
use url::form_urlencoded;

use crate::clock;
use crate::config::Snapshot;
use crate::http::clients::Clients;
use crate::http::serve::{CutOff, Handler, Refusal};
use crate::protocol::envelope;
use crate::protocol::json::{Object, quoted};
use crate::protocol::key::Key;
use crate::protocol::message::{ResultCode, read_submit};
use fault::{Fault, Sealed};
use order::{Message, Order};

/// How long [`Fault::SlowAnswers`] takes.
const SLOW: Duration = Duration::from_secs(5);
/// Orders that are remembered.
const MAX_ORDERS: usize = 10_000;
/// Messages of one order that are remembered.
const MAX_MESSAGES: usize = 200;

/// What a sandbox is told at its start.
pub struct Options {
    /// How a browser reaches it, without a slash at its end.
    pub origin: String,
    /// Notifications come this much faster.
    pub speed: f64,
    /// Notifications are posted instead of got.
    pub post: bool,
    /// Actions that no merchant has opened.
    pub closed: Vec<String>,
}

/// The platform's side: merchants with their keys, orders with their results.
pub struct Sandbox {
    origin: String,
    speed: f64,
    post: bool,
    closed: Vec<String>,
    clients: Clients,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Key>,
    /// Oldest first.
    orders: Vec<Order>,
    /// For all orders, and for single ones by their orderid.
    faults: Vec<Fault>,
    faults_of: HashMap<String, Vec<Fault>>,
    given_out: usize,
}

/// What the platform says where it does not do as asked.
struct Refused {
    respcode: &'static str,
    respmsg: &'static str,
}

enum Reply {
    /// An order's result, in answer to a query.
    Result(Order),
    Redirect(String),
}

type Outcome = Result<Reply, Refused>;

impl Sandbox {
    /// A platform without merchants.
    pub fn new(options: Options, clients: Clients) -> Self {
        Self {
            origin: options.origin,
            speed: options.speed,
            post: options.post,
            closed: options.closed,
            clients,
            state: Mutex::default(),
        }
    }

    /// Gives a merchant a key, or another one.
    pub fn set_key(&self, merid: &str, key: Key) {
        self.state().keys.insert(merid.to_owned(), key);
    }

    /// Knows these merchants and no others.
    pub fn set_merchants(&self, snapshot: &Snapshot) {
        let keys = snapshot
            .iter()
            .map(|merchant| (merchant.merid.clone(), merchant.key.clone()));
        self.state().keys = keys.collect();
    }

    /// Goes wrong in these ways from now on: for one order by its orderid, or for all.
    pub fn set_faults(&self, orderid: Option<&str>, faults: Vec<Fault>) {
        match orderid {
            Some(orderid) => {
                self.state().faults_of.insert(orderid.to_owned(), faults);
            }
            None => self.state().faults = faults,
        }
    }

    /// The order with this orderid, with everything that was said about it.
    pub fn order_numbered(&self, orderid: &str) -> Option<Order> {
        self.state()
            .orders
            .iter()
            .find(|order| order.orderid == orderid)
            .cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, queryid: &str) -> Option<Order> {
        self.state()
            .orders
            .iter()
            .find(|order| order.queryid == queryid)
            .cloned()
    }

    fn with_order(&self, queryid: &str, change: impl FnOnce(&mut Order)) {
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
            at: clock::now(),
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

    fn faults_of(&self, queryid: &str) -> Vec<Fault> {
        let state = self.state();
        let order = state.orders.iter().find(|order| order.queryid == queryid);
        let own = order.and_then(|order| state.faults_of.get(&order.orderid));
        state
            .faults
            .iter()
            .chain(own.into_iter().flatten())
            .copied()
            .collect()
    }

    /// A result as it goes over the wire, faults and all; `None` where the merchant is gone.
    fn sealed(
        &self,
        order: &Order,
        result: ResultCode,
        is_answer: bool,
    ) -> Option<(String, Sealed)> {
        let faults = self.faults_of(&order.queryid);
        let amount = order.amount + u64::from(faults.contains(&Fault::WrongAmount));
        let plain = order.result_json(result, amount, is_answer);
        let key = self.state().keys.get(&order.merid)?.clone();
        let sealed = fault::seal(&plain, &key, &faults);
        Some((plain, sealed))
    }

    async fn answer(self: &Arc<Self>, request: &Request<Bytes>) -> Response<Bytes> {
        let (method, path) = (request.method(), request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        match (method, path) {
            (&Method::POST, "/api/query") => {
                self.enveloped(request, request.body(), Self::query).await
            }
            (&Method::POST, "/api/icashier") => {
                self.enveloped(request, request.body(), Self::submit).await
            }
            (&Method::GET, "/apis/icashier") => {
                self.enveloped(request, query.as_bytes(), Self::submit)
                    .await
            }
            (&Method::GET, "/pay") => self.payment_page(query, request.headers()),
            (&Method::POST, "/pay") => self.pay(query, request.body()),
            (&Method::GET, "/") => self.overview(request.headers()),
            (&Method::GET, "/sandbox/live") => self.live(request.headers()),
            (&Method::GET, "/sandbox/orders") => self.orders_json(),
            (&Method::POST, "/sandbox/faults") => self.take_faults(request.body()),
            _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
        }
    }

    /// Verifies what came and hands its message on; whatever goes wrong is answered in an envelope.
    async fn enveloped(
        &self,
        request: &Request<Bytes>,
        form: &[u8],
        then: fn(&Self, &str, &Object<'_>) -> Outcome,
    ) -> Response<Bytes> {
        let Ok(received) = envelope::read(form, "req") else {
            return unsigned("96", "报文格式错误");
        };
        let message = received.unverified().unwrap_or_default();
        let Ok(object) = Object::parse(&message) else {
            return unsigned("96", "报文格式错误");
        };
        let member = |name| object.string(name).and_then(Result::ok).unwrap_or_default();
        let (merid, orderid) = (member("merid"), member("orderid"));
        let Some(key) = self.state().keys.get(merid.as_ref()).cloned() else {
            return unsigned("96", "商户号不存在");
        };
        let outcome = match received.verify([&key]) {
            Ok(_) => then(self, &merid, &object),
            Err(_) => Err(Refused {
                respcode: "97",
                respmsg: "签名错误",
            }),
        };
        let known = match &outcome {
            Ok(Reply::Result(order)) => Some(order.queryid.clone()),
            _ => self.order_numbered(&orderid).map(|order| order.queryid),
        };
        let queryid = known.unwrap_or_default();
        let came = String::from_utf8_lossy(form).into_owned();
        let kind = format!("{} {}", request.method(), request.uri().path());
        self.note(
            &queryid,
            &kind,
            object.text().to_owned(),
            came,
            String::new(),
        );
        let (plain, response) = self.reply(outcome, &queryid, &key).await;
        let kind = format!("answer {}", response.status().as_u16());
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|url| url.to_str().ok());
        let wire = location.map_or_else(|| String::from_utf8_lossy(response.body()), Cow::Borrowed);
        self.note(&queryid, &kind, plain, wire.into_owned(), String::new());
        response
    }

    /// The answer, as well as the faults let it.
    async fn reply(&self, outcome: Outcome, queryid: &str, key: &Key) -> (String, Response<Bytes>) {
        let faults = self.faults_of(queryid);
        if faults.contains(&Fault::SlowAnswers) {
            tokio::time::sleep(SLOW).await;
        }
        if faults.contains(&Fault::Status500) {
            return (
                String::new(),
                text(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n"),
            );
        }
        let (plain, sealed) = match outcome {
            Ok(Reply::Redirect(url)) => return (String::new(), redirect(&url)),
            Ok(Reply::Result(order)) => match self.sealed(&order, order.result, true) {
                Some(sealed) => sealed,
                None => return (String::new(), unsigned("96", "商户号不存在")),
            },
            Err(Refused { respcode, respmsg }) => {
                let plain = format!(r#"{{"respcode":"{respcode}","respmsg":"{respmsg}"}}"#);
                let sealed = fault::seal(&plain, key, &faults);
                (plain, sealed)
            }
        };
        let mut response = if faults.contains(&Fault::JsonEnvelope) {
            typed(StatusCode::OK, "application/json", sealed.json)
        } else {
            typed(
                StatusCode::OK,
                "application/x-www-form-urlencoded; charset=utf-8",
                sealed.form,
            )
        };
        if faults.contains(&Fault::CutAnswers) {
            response.extensions_mut().insert(CutOff);
        }
        (plain, response)
    }

    fn submit(&self, merid: &str, message: &Object<'_>) -> Outcome {
        let order = read_submit(message).map_err(|error| match error.field {
            "txnamt" => Refused {
                respcode: "13",
                respmsg: "交易金额错误",
            },
            _ => Refused {
                respcode: "30",
                respmsg: "报文字段错误",
            },
        })?;
        if self.closed.iter().any(|closed| closed == order.action) {
            return Err(Refused {
                respcode: "58",
                respmsg: "交易权限未开通",
            });
        }
        let mut state = self.state();
        if state
            .orders
            .iter()
            .any(|known| known.merid == merid && known.orderid == order.orderid)
        {
            return Err(Refused {
                respcode: "94",
                respmsg: "订单号重复",
            });
        }
        if state.orders.len() >= MAX_ORDERS {
            state.orders.remove(0);
        }
        state.given_out += 1;
        let queryid = format!("Q{:017}", state.given_out);
        let member = |name| {
            message
                .string(name)
                .and_then(Result::ok)
                .map(|text| text.into_owned())
        };
        state.orders.push(Order {
            merid: merid.to_owned(),
            orderid: order.orderid,
            queryid: queryid.clone(),
            amount: order.amount,
            action: order.action.to_owned(),
            backurl: member("backurl").unwrap_or_default(),
            fronturl: member("fronturl"),
            result: ResultCode::NotPaid,
            paytime: String::new(),
            messages: Vec::new(),
            next_call: None,
        });
        Ok(Reply::Redirect(format!("{}/pay?q={queryid}", self.origin)))
    }

    fn query(&self, merid: &str, query: &Object<'_>) -> Outcome {
        let member = |name| {
            query
                .string(name)
                .and_then(Result::ok)
                .filter(|text| !text.is_empty())
        };
        let (queryid, orderid) = (member("queryid"), member("orderid"));
        let state = self.state();
        // A queryid that is sent makes the orderid count for nothing (document §3.4.3).
        let found = state.orders.iter().find(|order| {
            order.merid == merid
                && match (&queryid, &orderid) {
                    (Some(queryid), _) => *queryid == order.queryid,
                    (None, Some(orderid)) => *orderid == order.orderid,
                    (None, None) => false,
                }
        });
        let order = found.ok_or(Refused {
            respcode: "25",
            respmsg: "订单不存在",
        })?;
        Ok(Reply::Result(order.clone()))
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
            let paid = matches!(result, ResultCode::Paid | ResultCode::Processing);
            order.paytime = if paid {
                order::paytime(clock::now())
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

    /// Where the customer goes: `fronturl` with the result in an envelope (document §3.2.2).
    fn front_link(&self, order: &Order) -> Option<String> {
        let fronturl = order.fronturl.as_ref()?;
        let (plain, sealed) = self.sealed(order, order.result, false)?;
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
            .map(|name| Fault::parse(name))
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
                json!({
                    "merid": order.merid, "orderid": order.orderid, "queryid": order.queryid,
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
    async fn handle(&self, request: Request<Bytes>, _started: Instant) -> Response<Bytes> {
        self.answer(&request).await
    }

    fn refuse(&self, _head: &Parts, _why: Refusal, _started: Instant) -> Response<Bytes> {
        text(
            StatusCode::BAD_REQUEST,
            "the sandbox cannot take this request\n",
        )
    }
}

/// An answer with an empty sign: no key is known that it could be signed with (document §2.2).
fn unsigned(respcode: &str, respmsg: &str) -> Response<Bytes> {
    let plain = format!(
        r#"{{"respcode":{},"respmsg":{}}}"#,
        quoted(respcode),
        quoted(respmsg)
    );
    let nobody = Key::new("nobody's").expect("is not empty");
    let sealed = fault::seal(&plain, &nobody, &[Fault::EmptySign]);
    typed(
        StatusCode::OK,
        "application/x-www-form-urlencoded; charset=utf-8",
        sealed.form,
    )
}

fn redirect(url: &str) -> Response<Bytes> {
    let mut response = text(StatusCode::FOUND, "");
    if let Ok(url) = HeaderValue::try_from(url) {
        response.headers_mut().insert(header::LOCATION, url);
    }
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Bytes> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
