//! The platform's interfaces for merchants: submit and query, each in an envelope.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::fault;
use super::fault::CutOff;
use super::fault::SandboxFault;
use super::framed::Framed;
use super::order::SandboxOrder;
use super::{MAX_ORDERS, Sandbox, redirect};
use crate::protocol::body::EncodedBody;
use crate::protocol::envelope;
use crate::protocol::json::{Object, quoted};
use crate::protocol::key::Key;
use crate::protocol::request::read_submit;
use crate::protocol::result::ResultCode;
use crate::web::reply::{text, typed};

/// The delay of [`SandboxFault::SlowAnswers`].
const SLOW: Duration = Duration::from_secs(5);

/// A rejection of the platform.
pub(super) struct InterfaceRejection {
    respcode: &'static str,
    respmsg: &'static str,
}

pub(super) enum Reply {
    /// An order's result, in answer to a query.
    Result(SandboxOrder),
    Redirect(String),
}

type InterfaceOutcome = Result<Reply, InterfaceRejection>;

impl Sandbox {
    /// Verifies what came and hands its message on; whatever goes wrong is answered in an envelope.
    pub(super) async fn enveloped(
        &self,
        request: &Request<Bytes>,
        then: fn(&Self, &str, &Object<'_>) -> InterfaceOutcome,
    ) -> Response<Bytes> {
        let query = request.uri().query().unwrap_or_default();
        let Ok(body) = EncodedBody::of_request(request.body(), request.headers()) else {
            return unsigned("96", "报文格式错误");
        };
        // §2.3: a POST may have its envelope in the URL, too.
        let read = match *request.method() {
            Method::GET => envelope::read(query.as_bytes(), "req"),
            _ => body.envelope_beside(query.as_bytes(), "req"),
        };
        let Ok(received) = read else {
            return unsigned("96", "报文格式错误");
        };
        let message = received.unverified().unwrap_or_default();
        let Ok(object) = Object::parse(&message) else {
            return unsigned("96", "报文格式错误");
        };
        let member = |name| object.string(name).and_then(Result::ok).unwrap_or_default();
        let (merid, orderid) = (member("merid"), member("orderid"));
        let Some(key) = self.state().keys.of(&merid) else {
            return unsigned("96", "商户号不存在");
        };
        let outcome = match received.verify([&key]) {
            Ok(_) => then(self, &merid, &object),
            Err(_) => Err(InterfaceRejection {
                respcode: "97",
                respmsg: "签名错误",
            }),
        };
        let known = match &outcome {
            Ok(Reply::Result(order)) => Some(order.queryid.clone()),
            _ => self.order_numbered(&orderid).map(|order| order.queryid),
        };
        let queryid = known.unwrap_or_default();
        let form = String::from_utf8_lossy(body.bytes());
        let came = [query, &form].into_iter().filter(|part| !part.is_empty());
        let came = came.collect::<Vec<_>>().join("\n");
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

    /// Writes the response, as well as the faults let it.
    async fn reply(
        &self,
        outcome: InterfaceOutcome,
        queryid: &str,
        key: &Key,
    ) -> (String, Response<Bytes>) {
        let faults = self.faults_of(queryid);
        if faults.contains(&SandboxFault::SlowAnswers) {
            tokio::time::sleep(SLOW).await;
        }
        if faults.contains(&SandboxFault::Status500) {
            return (
                String::new(),
                text(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n"),
            );
        }
        let (plain, sealed) = match outcome {
            Ok(Reply::Redirect(url)) => return (String::new(), redirect(&url)),
            Ok(Reply::Result(order)) => match self.sealed(&order, order.result, true, &faults) {
                Some(sealed) => sealed,
                None => return (String::new(), unsigned("96", "商户号不存在")),
            },
            Err(InterfaceRejection { respcode, respmsg }) => {
                let plain = format!(r#"{{"respcode":"{respcode}","respmsg":"{respmsg}"}}"#);
                let sealed = fault::seal(&plain, key, &faults);
                (plain, sealed)
            }
        };
        let framed = Framed::new(&sealed, true);
        let mut response = typed(StatusCode::OK, framed.content_type, framed.body);
        if let Some(coding) = framed.content_encoding {
            let coding = HeaderValue::from_static(coding);
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, coding);
        }
        if faults.contains(&SandboxFault::CutAnswers) {
            response.extensions_mut().insert(CutOff);
        }
        (plain, response)
    }

    pub(super) fn submit(&self, merid: &str, message: &Object<'_>) -> InterfaceOutcome {
        // The document defines 00 alone and leaves all other codes open (§3.4.4).
        let order = read_submit(message, &[]).map_err(|error| match error.field {
            "txnamt" => InterfaceRejection {
                respcode: "13",
                respmsg: "交易金额错误",
            },
            _ => InterfaceRejection {
                respcode: "30",
                respmsg: "报文字段错误",
            },
        })?;
        if self.closed.iter().any(|closed| closed == order.action) {
            return Err(InterfaceRejection {
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
            return Err(InterfaceRejection {
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
        state.orders.push(SandboxOrder {
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

    pub(super) fn query(&self, merid: &str, query: &Object<'_>) -> InterfaceOutcome {
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
        let order = found.ok_or(InterfaceRejection {
            respcode: "25",
            respmsg: "订单不存在",
        })?;
        Ok(Reply::Result(order.clone()))
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
    let sealed = fault::seal(&plain, &nobody, &[SandboxFault::EmptySign]);
    typed(
        StatusCode::OK,
        "application/x-www-form-urlencoded; charset=utf-8",
        sealed.form,
    )
}
