//! A small shop as a legacy app would be: plain JSON to the sidecar and from it, no key, no signing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use url::form_urlencoded;

use crate::http::client::{Client, Repeat};
use crate::http::server::handler::{Handler, Rejection};
use crate::protocol::json::Object;
use crate::protocol::result::ResultCode;

const PRICE: u64 = 1280;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#2a2118;--soft:#756858;--paper:#fff;--ground:#faf6f0;--line:#e6dccd;--act:#9a3b12}
@media(prefers-color-scheme:dark){:root{--ink:#f2e9dd;--soft:#b6a793;--paper:#241d16;--ground:#17120d;--line:#43382b;--act:#f0a06f}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,'PingFang SC','Noto Sans CJK SC','Microsoft YaHei',sans-serif}
main{max-width:30rem;margin:0 auto;padding:1.25rem}
section{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin:0 0 1rem}
section>:first-child{margin-top:0}section>:last-child{margin-bottom:0}
h1{font-size:1.4rem}.price{font-size:1.8rem;font-weight:600;margin:.2rem 0}
button{font:inherit;padding:.7rem 1.6rem;border-radius:.5rem;border:1px solid var(--act);background:var(--act);color:var(--paper);cursor:pointer}
button.quiet{background:none;color:var(--act)}
a{color:var(--act)}.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .4rem .3rem 0;border-bottom:1px solid var(--line);overflow-wrap:anywhere}
";

/// The shop: its orders, and what was booked for them.
pub(super) struct Shop {
    origin: String,
    sidecar: Client,
    state: Mutex<ShopState>,
}

#[derive(Default)]
struct ShopState {
    orders: BTreeMap<String, ShopOrder>,
    down: bool,
    sold: usize,
}

#[derive(Clone, Default)]
struct ShopOrder {
    /// By event id, because a result may be told more than once.
    booked: BTreeMap<String, String>,
    result: Option<ResultCode>,
}

impl Shop {
    /// A shop that is reached at `origin` and calls the sidecar by `sidecar`.
    pub(super) fn new(origin: String, sidecar: Client) -> Self {
        Self {
            origin,
            sidecar,
            state: Mutex::default(),
        }
    }

    /// Stops taking results, or takes them again.
    pub(super) fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// What was booked for an order.
    pub(super) fn result(&self, orderid: &str) -> Option<ResultCode> {
        self.state().orders.get(orderid)?.result
    }

    fn state(&self) -> MutexGuard<'_, ShopState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let english = prefers_english(request.headers());
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => self.window(english),
            (&Method::POST, "/buy") => self.buy(english).await,
            (&Method::POST, "/down") => {
                let down = !self.state().down;
                self.set_down(down);
                redirect("/")
            }
            (&Method::POST, "/pay/back") => self.book(request),
            (&Method::GET, "/pay/front") => {
                let query = request.uri().query().unwrap_or_default();
                let field = |wanted: &str| {
                    let mut pairs = form_urlencoded::parse(query.as_bytes());
                    pairs
                        .find(|(name, _)| name == wanted)
                        .map(|(_, value)| value.into_owned())
                };
                let seen = field("resultcode").and_then(|code| ResultCode::parse(&code));
                self.thanks(&field("orderid").unwrap_or_default(), seen, english)
            }
            (&Method::GET, path) => match path.strip_prefix("/orders/") {
                Some(orderid) => self.thanks(orderid, None, english),
                None => plain(StatusCode::NOT_FOUND, "nothing here\n"),
            },
            _ => plain(StatusCode::NOT_FOUND, "nothing here\n"),
        }
    }

    /// The whole of a legacy app's work: JSON to localhost, and the browser on its way.
    async fn buy(&self, english: bool) -> Response<Bytes> {
        let orderid = {
            let mut state = self.state();
            state.sold += 1;
            let orderid = format!("SHOP{:08}", state.sold);
            state.orders.insert(orderid.clone(), ShopOrder::default());
            orderid
        };
        let Self { origin, .. } = self;
        let order = format!(
            r#"{{"action":"Arbi","txnamt":{PRICE},"orderid":"{orderid}","backurl":"{origin}/pay/back","fronturl":"{origin}/pay/front"}}"#
        );
        let sent = self
            .sidecar
            .post("/apis/icashier", &HeaderMap::new(), &order, Repeat::Never)
            .await;
        let url = sent.ok().and_then(|response| {
            let object = Object::parse(response.body()).ok()?;
            Some(object.string("url")?.ok()?.into_owned())
        });
        match url {
            Some(url) => redirect(&url),
            None => page(
                english,
                html! { p { "The sidecar did not sign the order; its log says why." } },
            ),
        }
    }

    /// A result, verified by the sidecar: booked once for each event.
    fn book(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let mut state = self.state();
        if state.down {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "down for maintenance\n");
        }
        let Ok(object) = Object::parse(request.body()) else {
            return plain(StatusCode::BAD_REQUEST, "expected JSON\n");
        };
        let member = |name| object.string(name).and_then(Result::ok).unwrap_or_default();
        let event = request
            .headers()
            .get("countersign-event")
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default();
        let order = state
            .orders
            .entry(member("orderid").into_owned())
            .or_default();
        let resultcode = member("resultcode").into_owned();
        order.result = ResultCode::parse(&resultcode);
        order.booked.insert(event.to_owned(), resultcode);
        plain(StatusCode::OK, "0000")
    }

    fn window(&self, english: bool) -> Response<Bytes> {
        let (orders, down) = {
            let state = self.state();
            (state.orders.clone(), state.down)
        };
        page(
            english,
            html! {
                section {
                    h1 { (say(english, "一罐好茶", "A tin of good tea")) }
                    p.price { "¥ " (PRICE / 100) "." (format!("{:02}", PRICE % 100)) }
                    form method="post" action="/buy" { button { (say(english, "购买", "Buy")) } }
                }
                @if !orders.is_empty() {
                    section {
                        table {
                            tr { th { (say(english, "订单", "Order")) } th { (say(english, "结果", "Result")) } th { (say(english, "入账次数", "Booked")) } }
                            @for (orderid, order) in orders.iter().rev().take(20) {
                                tr { td { a href={ "/orders/" (orderid) } { (orderid) } } td { (shown(order.result, english)) } td { (order.booked.len()) } }
                            }
                        }
                    }
                }
                section {
                    p.soft { @if down { (say(english, "商户系统停机中：结果由旁路保存。", "The shop is down: results are kept for it.")) }
                        @else { (say(english, "商户系统正常接收结果。", "The shop takes results.")) } }
                    form method="post" action="/down" {
                        button.quiet { @if down { (say(english, "恢复", "Bring it up")) } @else { (say(english, "模拟停机", "Take it down")) } }
                    }
                }
            },
        )
    }

    /// An order's page. What the customer came back with is `seen`: for showing that nothing was paid, never for booking.
    fn thanks(&self, orderid: &str, seen: Option<ResultCode>, english: bool) -> Response<Bytes> {
        let order = self.state().orders.get(orderid).cloned();
        let Some(order) = order else {
            return plain(StatusCode::NOT_FOUND, "no such order\n");
        };
        let unpaid = seen.filter(|seen| *seen == ResultCode::NotPaid);
        let result = order.result.or(unpaid);
        let here = format!("{}/orders/{orderid}", self.origin);
        page(
            english,
            html! {
                @if result.is_none() {
                    // The shop's own page, not the sidecar's address that showed it.
                    meta http-equiv="refresh" content={ "1; url=" (here) };
                }
                section {
                    h1 { (say(english, "订单", "Order")) " " (orderid) }
                    p.price { (shown(result, english)) }
                    p { a href={ (self.origin) "/" } { (say(english, "返回商店", "Back to the shop")) } }
                }
            },
        )
    }
}

impl Handler for Arc<Shop> {
    async fn handle(&self, request: &mut Request<Bytes>, _started: Instant) -> Response<Bytes> {
        self.answer(request).await
    }

    fn reject(&self, _head: &Parts, _why: Rejection, _started: Instant) -> Response<Bytes> {
        plain(
            StatusCode::BAD_REQUEST,
            "the shop cannot take this request\n",
        )
    }
}

fn shown(result: Option<ResultCode>, english: bool) -> &'static str {
    match result {
        Some(ResultCode::Paid) => say(english, "已支付", "Paid"),
        Some(ResultCode::NotPaid) => say(english, "未支付", "Not paid"),
        Some(ResultCode::Processing) => say(english, "处理中", "Processing"),
        Some(ResultCode::Failed) => say(english, "支付失败", "Payment failed"),
        Some(ResultCode::Investigation) => say(english, "协查调单", "Under investigation"),
        None => say(english, "等待支付结果", "Waiting for the result"),
    }
}

fn say(english: bool, in_chinese: &'static str, in_english: &'static str) -> &'static str {
    if english { in_english } else { in_chinese }
}

fn prefers_english(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(header::ACCEPT_LANGUAGE)
        .and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.trim_start().to_ascii_lowercase().starts_with("en"))
}

fn page(english: bool, content: Markup) -> Response<Bytes> {
    let title = say(english, "茶叶店", "Tea shop");
    let page = html! {
        (DOCTYPE)
        html lang=(say(english, "zh", "en")) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (content) } }
        }
    };
    let mut response = Response::new(Bytes::from(page.into_string()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn redirect(url: &str) -> Response<Bytes> {
    let mut response = plain(StatusCode::SEE_OTHER, "");
    if let Ok(url) = HeaderValue::try_from(url) {
        response.headers_mut().insert(header::LOCATION, url);
    }
    response
}

fn plain(status: StatusCode, body: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
