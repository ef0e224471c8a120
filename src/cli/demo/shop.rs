//! A small shop as a legacy app would be: plain JSON to the sidecar and from it, no key, no signing.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use maud::{Markup, html};
use url::form_urlencoded;

use crate::http::client::{Client, Repeat};
use crate::http::server::handler::{Handler, Rejection};
use crate::protocol::json::Object;
use crate::protocol::result::ResultCode;
use crate::web::language::Language;
use crate::web::reply::{Forms, Page, Style, see_other, text};

const PRICE: u64 = 1280;

static STYLE: LazyLock<Style> = LazyLock::new(|| Style::new(include_str!("shop.css")));

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
    /// By event id, because a result may be delivered more than once.
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

    /// The booking of an order.
    pub(super) fn result(&self, orderid: &str) -> Option<ResultCode> {
        self.state().orders.get(orderid)?.result
    }

    fn state(&self) -> MutexGuard<'_, ShopState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let language = Language::accepted(request.headers()).unwrap_or(Language::Chinese);
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/") => self.window(language),
            (&Method::POST, "/buy") => self.buy(language).await,
            (&Method::POST, "/down") => {
                let down = !self.state().down;
                self.set_down(down);
                see_other("/")
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
                self.thanks(&field("orderid").unwrap_or_default(), seen, language)
            }
            (&Method::GET, path) => match path.strip_prefix("/orders/") {
                Some(orderid) => self.thanks(orderid, None, language),
                None => text(StatusCode::NOT_FOUND, "nothing here\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
        }
    }

    /// The whole of a legacy app's work: JSON to localhost, and the browser on its way.
    async fn buy(&self, language: Language) -> Response<Bytes> {
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
            Some(url) => see_other(&url),
            None => page(
                language,
                html! {
                    section {
                        p { (language.say("Countersign 没有签名此订单，原因在它的日志里。", "Countersign did not sign the order; its log says why.")) }
                        p { a href="/" { (language.say("返回商店", "Back to the shop")) } }
                    }
                },
            ),
        }
    }

    /// A result, verified by the sidecar: booked once for each event.
    fn book(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let mut state = self.state();
        if state.down {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "down for maintenance\n");
        }
        let Ok(object) = Object::parse(request.body()) else {
            return text(StatusCode::BAD_REQUEST, "expected JSON\n");
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
        order.result = latest(order.result, ResultCode::parse(&resultcode));
        order.booked.insert(event.to_owned(), resultcode);
        text(StatusCode::OK, "0000")
    }

    fn window(&self, language: Language) -> Response<Bytes> {
        let (orders, down) = {
            let state = self.state();
            (state.orders.clone(), state.down)
        };
        page(
            language,
            html! {
                section {
                    h1 { (language.say("一罐好茶", "A tin of good tea")) }
                    p.price { "¥ " (PRICE / 100) "." (format!("{:02}", PRICE % 100)) }
                    form method="post" action="/buy" { button { (language.say("购买", "Buy")) } }
                }
                @if !orders.is_empty() {
                    section {
                        table {
                            tr { th { (language.say("订单", "Order")) } th { (language.say("结果", "Result")) } th { (language.say("入账次数", "Booked")) } }
                            @for (orderid, order) in orders.iter().rev().take(20) {
                                tr { td { a href={ "/orders/" (orderid) } { (orderid) } } td { (shown(order.result, language)) } td { (order.booked.len()) } }
                            }
                        }
                    }
                }
                section {
                    p.soft { @if down { (language.say("商户系统停机中：结果由旁路保存。", "The shop is down: results are kept for it.")) }
                        @else { (language.say("商户系统正常接收结果。", "The shop takes results.")) } }
                    form method="post" action="/down" {
                        button.quiet { @if down { (language.say("恢复", "Bring it up")) } @else { (language.say("模拟停机", "Take it down")) } }
                    }
                }
            },
        )
    }

    /// An order's page. What the customer came back with is `seen`: for showing that nothing was paid, never for booking.
    fn thanks(
        &self,
        orderid: &str,
        seen: Option<ResultCode>,
        language: Language,
    ) -> Response<Bytes> {
        let order = self.state().orders.get(orderid).cloned();
        let Some(order) = order else {
            return text(StatusCode::NOT_FOUND, "no such order\n");
        };
        let unpaid = seen.filter(|seen| *seen == ResultCode::NotPaid);
        let result = order.result.or(unpaid);
        let here = format!("{}/orders/{orderid}", self.origin);
        page(
            language,
            html! {
                @if result.is_none() {
                    // The shop's own page, not the sidecar's address that showed it.
                    meta http-equiv="refresh" content={ "1; url=" (here) };
                }
                section {
                    h1 { (language.say("订单", "Order")) " " (orderid) }
                    p.price { (shown(result, language)) }
                    p { a href={ (self.origin) "/" } { (language.say("返回商店", "Back to the shop")) } }
                }
            },
        )
    }
}

/// Returns the state of an order after another result: results may come out of order, so a lesser one never replaces a
/// greater one. An investigation has no rank.
fn latest(known: Option<ResultCode>, new: Option<ResultCode>) -> Option<ResultCode> {
    let rank = |result: Option<ResultCode>| match result? {
        ResultCode::NotPaid => Some(1),
        ResultCode::Failed => Some(2),
        ResultCode::Processing => Some(3),
        ResultCode::Paid => Some(4),
        ResultCode::Investigation => Some(5),
    };
    match (known, new) {
        (Some(ResultCode::Investigation), Some(new)) => Some(new),
        (known, new) if rank(new) >= rank(known) => new,
        (known, _) => known,
    }
}

impl Handler for Arc<Shop> {
    async fn handle(&self, request: &mut Request<Bytes>, _started: Instant) -> Response<Bytes> {
        self.answer(request).await
    }

    fn reject(&self, _head: &Parts, _why: Rejection, _started: Instant) -> Response<Bytes> {
        text(
            StatusCode::BAD_REQUEST,
            "the shop cannot take this request\n",
        )
    }
}

fn shown(result: Option<ResultCode>, language: Language) -> &'static str {
    let waits = language.say("等待支付结果", "Waiting for the result");
    result.map_or(waits, |result| language.result(result))
}

fn page(language: Language, content: Markup) -> Response<Bytes> {
    let title = language.say("茶叶店", "Tea shop");
    let page = Page {
        language: language.tag(),
        title,
        style: &STYLE,
        // Buying redirects to the platform.
        forms: Forms::Anywhere,
        script: None,
        head: html! {},
        body: html! {
            p.banner role="note" { (language.say("演示商店：不产生真实交易。", "Demo shop: no money moves.")) }
            main { (content) }
        },
    };
    page.reply(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lesser_result_that_comes_late_changes_nothing() {
        let after = |codes: &[&str]| {
            let results = codes.iter().map(|code| ResultCode::parse(code));
            results.fold(None, latest).map(ResultCode::code)
        };
        assert_eq!(after(&["0000", "1002"]), Some("0000"));
        assert_eq!(after(&["0000", "1003", "1001"]), Some("0000"));
        assert_eq!(after(&["1001", "1003", "1002", "0000"]), Some("0000"));
        assert_eq!(after(&["0000", "1004"]), Some("1004"));
        assert_eq!(after(&["1004", "0000"]), Some("0000"));
        assert_eq!(after(&["0000", "9999"]), Some("0000"));
        assert_eq!(after(&[]), None);
    }
}
