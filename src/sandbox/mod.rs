//! A stand-in for the platform, for development: it answers as the platform's document says.
//!
//! It borrows the envelope's encoding from the protocol core and decides everything else from the document.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use maud::{DOCTYPE, html};
use serde_json::json;

use crate::http::serve::{Handler, Refusal};
use crate::protocol::envelope::{self, Envelope};
use crate::protocol::json::Object;
use crate::protocol::key::Key;
use crate::protocol::message::ResultCode;

/// The platform's side: merchants with their keys, orders with their results.
pub struct Sandbox {
    /// How a browser reaches it, without a slash at its end.
    origin: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Key>,
    orders: HashMap<(String, String), Order>,
    last: Option<Exchange>,
}

struct Order {
    amount: u64,
    queryid: String,
    result: ResultCode,
}

/// One request and its answer, as they went over the wire.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Method and path.
    pub request_line: String,
    /// The form that came.
    pub request: String,
    /// The answer's status.
    pub status: u16,
    /// Where the answer redirects to.
    pub location: Option<String>,
    /// The answer's body.
    pub response: String,
}

/// What the platform says before it knows whose key to use (document §2.2), or of an order.
struct Refused {
    respcode: &'static str,
    respmsg: &'static str,
}

impl Sandbox {
    /// A platform without merchants that is reached at `origin`.
    pub fn new(origin: String) -> Self {
        Self {
            origin,
            state: Mutex::default(),
        }
    }

    /// Gives a merchant a key, or another one.
    pub fn set_key(&self, merid: &str, key: Key) {
        self.state().keys.insert(merid.to_owned(), key);
    }

    /// The last exchange, once.
    pub fn take_last(&self) -> Option<Exchange> {
        self.state().last.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let (method, path) = (request.method(), request.uri().path());
        let query = request.uri().query().unwrap_or_default();
        match (method, path) {
            (&Method::POST, "/api/query") => self.enveloped(request.body(), Self::query),
            (&Method::POST, "/api/icashier") => self.enveloped(request.body(), Self::submit),
            (&Method::GET, "/apis/icashier") => self.enveloped(query.as_bytes(), Self::submit),
            (&Method::GET, "/pay") => self.payment_page(query),
            (&Method::POST, "/pay") => self.pay(query),
            _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
        }
    }

    /// Verifies what came and hands its message on; whatever goes wrong is answered in an envelope.
    fn enveloped(
        &self,
        form: &[u8],
        then: fn(&mut State, &str, &str, &Object<'_>) -> Outcome,
    ) -> Response<Bytes> {
        let unsigned = |respmsg| {
            unsigned(&Refused {
                respcode: "96",
                respmsg,
            })
        };
        let Ok(received) = envelope::read(form, "req") else {
            return unsigned("报文格式错误");
        };
        let message = received.unverified().unwrap_or_default();
        let Ok(object) = Object::parse(&message) else {
            return unsigned("报文格式错误");
        };
        let merid = object
            .string("merid")
            .and_then(Result::ok)
            .unwrap_or_default();
        let mut state = self.state();
        let Some(key) = state.keys.get(merid.as_ref()).cloned() else {
            return unsigned("商户号不存在");
        };
        let refused =
            |respcode, respmsg| signed(&json!({ "respcode": respcode, "respmsg": respmsg }), &key);
        if received.verify([&key]).is_err() {
            return refused("97", "签名错误");
        }
        match then(&mut state, &self.origin, &merid, &object) {
            Ok(Reply::Signed(answer)) => signed(&answer, &key),
            Ok(Reply::Redirect(url)) => redirect(&url),
            Err(Refused { respcode, respmsg }) => refused(respcode, respmsg),
        }
    }

    fn submit(state: &mut State, origin: &str, merid: &str, order: &Object<'_>) -> Outcome {
        let orderid = order
            .string("orderid")
            .and_then(Result::ok)
            .unwrap_or_default();
        let amount = order
            .integer("txnamt")
            .and_then(Result::ok)
            .filter(|&amount| amount > 0);
        let amount = amount.ok_or(Refused {
            respcode: "13",
            respmsg: "交易金额错误",
        })?;
        let number = state.orders.len() + 1;
        let place = (merid.to_owned(), orderid.to_string());
        if state.orders.contains_key(&place) {
            return Err(Refused {
                respcode: "94",
                respmsg: "订单号重复",
            });
        }
        let queryid = format!("Q{number:017}");
        state.orders.insert(
            place,
            Order {
                amount,
                queryid: queryid.clone(),
                result: ResultCode::NotPaid,
            },
        );
        Ok(Reply::Redirect(format!("{origin}/pay?{queryid}")))
    }

    fn query(state: &mut State, _origin: &str, merid: &str, query: &Object<'_>) -> Outcome {
        let member = |name| {
            query
                .string(name)
                .and_then(Result::ok)
                .filter(|text| !text.is_empty())
        };
        let (queryid, orderid) = (member("queryid"), member("orderid"));
        // A queryid that is sent makes the orderid count for nothing (document §3.4.3).
        let found = state.orders.iter().find(|((owner, number), order)| {
            owner == merid
                && match (&queryid, &orderid) {
                    (Some(queryid), _) => *queryid == order.queryid,
                    (None, Some(orderid)) => orderid == number,
                    (None, None) => false,
                }
        });
        let ((_, number), order) = found.ok_or(Refused {
            respcode: "25",
            respmsg: "订单不存在",
        })?;
        let paid = order.result != ResultCode::NotPaid;
        Ok(Reply::Signed(json!({
            "respcode": "00", "respmsg": "成功",
            "resultcode": order.result.code(), "resultmsg": order.result.chinese(),
            "queryid": order.queryid, "txnamt": order.amount, "merid": merid, "orderid": number,
            "paytime": if paid { "2017-03-01 12:00:05" } else { "" },
        })))
    }

    fn payment_page(&self, queryid: &str) -> Response<Bytes> {
        let state = self.state();
        let Some(((_, orderid), order)) = state
            .orders
            .iter()
            .find(|(_, order)| order.queryid == queryid)
        else {
            return text(StatusCode::NOT_FOUND, "no such order\n");
        };
        let page = html! {
            (DOCTYPE)
            html lang="zh" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { "Stand-in payment page" }
                    style { "body{font:1.1em/1.6 system-ui,sans-serif;margin:15vh auto;max-width:22em;text-align:center;padding:0 1em}button{font:inherit;padding:.6em 2em}" }
                }
                body {
                    h1 { "收银台" }
                    p { "订单 " code { (orderid) } }
                    p { (format!("¥ {}.{:02}", order.amount / 100, order.amount % 100)) " · " (order.result.chinese()) }
                    @if order.result == ResultCode::NotPaid {
                        form method="post" { button { "支付 · Pay" } }
                    }
                }
            }
        };
        let mut response = Response::new(Bytes::from(page.into_string()));
        let kind = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    fn pay(&self, queryid: &str) -> Response<Bytes> {
        if let Some(order) = self
            .state()
            .orders
            .values_mut()
            .find(|order| order.queryid == queryid)
        {
            order.result = ResultCode::Paid;
        }
        redirect(&format!("{}/pay?{queryid}", self.origin))
    }
}

enum Reply {
    Signed(serde_json::Value),
    Redirect(String),
}

type Outcome = Result<Reply, Refused>;

impl Handler for Sandbox {
    async fn handle(&self, request: Request<Bytes>, _started: Instant) -> Response<Bytes> {
        let response = self.answer(&request);
        let body = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let location = response.headers().get(header::LOCATION);
        self.state().last = Some(Exchange {
            request_line: format!("{} {}", request.method(), request.uri().path()),
            request: body(request.body()),
            status: response.status().as_u16(),
            location: location.and_then(|url| Some(url.to_str().ok()?.to_owned())),
            response: body(response.body()),
        });
        response
    }

    fn refuse(&self, _head: &Parts, _why: Refusal, _started: Instant) -> Response<Bytes> {
        text(
            StatusCode::BAD_REQUEST,
            "the stand-in cannot take this request\n",
        )
    }
}

fn signed(answer: &serde_json::Value, key: &Key) -> Response<Bytes> {
    form(Envelope::seal(answer.to_string().as_bytes(), key).form("resp"))
}

/// An answer with an empty sign: no key is known that it could be signed with (document §2.2).
fn unsigned(refused: &Refused) -> Response<Bytes> {
    let answer = json!({ "respcode": refused.respcode, "respmsg": refused.respmsg }).to_string();
    let nobody = Key::new("nobody's").expect("a key of eight bytes");
    let sealed = Envelope::seal(answer.as_bytes(), &nobody).form("resp");
    let text = sealed.split("&sign=").next().unwrap_or_default();
    form(format!("{text}&sign="))
}

fn form(body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn redirect(url: &str) -> Response<Bytes> {
    let mut response = text(StatusCode::FOUND, "");
    if let Ok(url) = HeaderValue::try_from(url) {
        response.headers_mut().insert(header::LOCATION, url);
    }
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
