//! `front`: a customer's browser comes back. Its callback is verified, and the app's page is shown; it books nothing.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use maud::{Markup, html};
use url::{Host, Position, Url, form_urlencoded};

use super::reply::{CallbackRejection, CallbackReply};
use super::verify::{PayloadReading, VerifiedCallback};
use crate::http::client::by_origin::ClientsByOrigin;
use crate::http::server::client_address::ClientAddress;
use crate::protocol::envelope::Verified;
use crate::protocol::json::Object;
use crate::protocol::result::{PaymentResult, ResultCode};
use crate::relay;
use crate::telemetry::outcome::CallbackOutcome;
use crate::web::language::Language;
use crate::web::reply::{Forms, NOTICE, Page, see_other};

/// Every field of the document's results (§3.2.3, §3.4.4), and the envelope's own.
const FIELDS: [&str; 11] = [
    "resp",
    "sign",
    "respcode",
    "respmsg",
    "resultcode",
    "resultmsg",
    "queryid",
    "txnamt",
    "merid",
    "orderid",
    "paytime",
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Shows customers their shop's page.
pub(super) struct FrontPages {
    pub(super) apps: Arc<ClientsByOrigin>,
    /// The address of the callback listener as browsers see it.
    pub(super) public_url: Option<Url>,
    /// The listener speaks https itself.
    pub(super) is_https: bool,
}

impl FrontPages {
    /// Shows the app's page for a verified callback.
    pub(super) async fn show(
        &self,
        callback: VerifiedCallback<'_>,
        request: &Request<Bytes>,
    ) -> Result<CallbackReply, CallbackRejection> {
        let subject = &callback.subject;
        let (result, object) = match &callback.reading {
            PayloadReading::Result(result, object) => (result, object),
            PayloadReading::Reflected => {
                return Err(CallbackRejection::about(
                    CallbackOutcome::Reflected,
                    subject,
                ));
            }
            PayloadReading::Unreadable(error) => {
                let rejection = CallbackRejection::about(CallbackOutcome::Incomplete, subject);
                return Err(rejection.at(error.field_in_review().unwrap_or_default()));
            }
        };
        let query = request.uri().query().unwrap_or_default();
        let merchant = &callback.merchant;
        let shown = match (&merchant.front_redirect, &merchant.front) {
            (Some(page), _) => Ok(see_other(with_fields(page, query, object).as_str())),
            (None, Some(page)) => {
                let target = with_fields(page, query, object);
                self.page(&target, request).await
            }
            (None, None) => Err((CallbackOutcome::NoFront, String::new())),
        };
        let response = shown.map_err(|(outcome, error)| CallbackRejection {
            error: error.into(),
            page: is_paid(result).then(|| {
                let shop = self.shop(merchant.front.as_ref(), request.headers());
                Box::new(payment_received(result, &shop, request.headers()))
            }),
            ..CallbackRejection::about(outcome, subject)
        })?;
        Ok(CallbackReply {
            response,
            outcome: CallbackOutcome::Accepted,
            subject: callback.subject,
            old_key: callback.old_key,
        })
    }

    /// Fetches the app's page. A 5xx is no page for a customer who has just paid.
    async fn page(
        &self,
        target: &Url,
        request: &Request<Bytes>,
    ) -> Result<Response<Bytes>, (CallbackOutcome, String)> {
        let unreachable = |error| (CallbackOutcome::AppUnreachable, error);
        let client = self.apps.client(target);
        let client = client.ok_or((CallbackOutcome::NoFront, String::new()))?;
        let public = self.origin(request.headers());
        let mut headers = relay::browser_headers(request.headers());
        headers.extend(forwarded(request, public.as_ref()));
        let path = &target[Position::BeforePath..Position::AfterQuery];
        let page = client.get(path, &headers).await;
        let page = page.map_err(|error| unreachable(format!("front: {error}")))?;
        if page.status().is_server_error() {
            let status = page.status().as_u16();
            return Err(unreachable(format!(
                "front: the app responded with status {status}"
            )));
        }
        let mut response = relay::response(page);
        if let Some(place) = public.and_then(|public| moved(&response, target, &public)) {
            response.headers_mut().insert(header::LOCATION, place);
        }
        Ok(response)
    }

    /// The origin that the browser has called: `public_url`, or what the request says.
    fn origin(&self, headers: &HeaderMap) -> Option<Url> {
        if let Some(url) = &self.public_url {
            return Some(url.clone());
        }
        let scheme = if self.is_https { "https" } else { "http" };
        let host = headers.get(header::HOST)?.to_str().ok()?;
        Url::parse(&format!("{scheme}://{host}/")).ok()
    }

    /// The shop's address for a link: the app's own where browsers can reach it, or the root of the origin that was called.
    fn shop(&self, front: Option<&Url>, headers: &HeaderMap) -> String {
        let front = front.filter(|url| !is_internal(url)).cloned();
        let origin = front.or_else(|| self.origin(headers));
        origin.map_or_else(
            || "/".to_owned(),
            |url| format!("{}/", url.origin().ascii_serialization()),
        )
    }
}

/// Adds the fields of a result to the address of a page.
///
/// Parameters that the shop put beside the envelope may pass. Any that an app could take for a field of the result comes
/// from the envelope alone: by its own name in either case, or by one that a framework turns into it, as PHP does with
/// `resultcode[]`, ` resultcode` and `resultcode%00`. Names of letters, digits, `_` and `-` are turned into nothing else.
fn with_fields(page: &Url, query: &str, object: &Verified<Object<'_>>) -> Url {
    let mut page = page.clone();
    let is_plain = |name: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        !name.is_empty() && name.bytes().all(plain)
    };
    let is_field = |name: &str| {
        let mut fields = FIELDS.into_iter().chain(object.names());
        fields.any(|field| field.eq_ignore_ascii_case(name))
    };
    let mut fields = page.query_pairs_mut();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if is_plain(&name) && !is_field(&name) {
            fields.append_pair(&name, &value);
        }
    }
    for (name, value) in object.plain_members() {
        fields.append_pair(name, &value);
    }
    drop(fields);
    page
}

/// The fields by which an app behind a proxy learns who called, and by which address.
fn forwarded(request: &Request<Bytes>, public: Option<&Url>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name, value: &str| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    if let Some(ClientAddress::Known(address)) = request.extensions().get() {
        put(FORWARDED_FOR, &address.to_string());
    }
    if let Some(public) = public {
        put(
            FORWARDED_HOST,
            &public[Position::BeforeHost..Position::AfterPort],
        );
        put(FORWARDED_PROTO, public.scheme());
    }
    headers
}

/// Turns an app's redirect to its own internal origin, which no browser reaches, into the public one. Apps build such
/// addresses from the `Host` that they are called by.
fn moved(response: &Response<Bytes>, page: &Url, public: &Url) -> Option<HeaderValue> {
    let place = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let place = Url::parse(place).ok()?;
    if place.origin() != page.origin() || !is_internal(page) {
        return None;
    }
    let origin = public.origin().ascii_serialization();
    HeaderValue::try_from(format!("{origin}{}", &place[Position::BeforePath..])).ok()
}

/// Returns true for an address that browsers elsewhere cannot reach.
fn is_internal(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => {
            address.is_loopback() || address.is_private() || address.is_link_local()
        }
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
        // A name without a dot is resolved by a search list or a hosts file (RFC 6762 for `.local`).
        Some(Host::Domain(name)) => {
            !name.contains('.')
                || [".localhost", ".local", ".internal"]
                    .iter()
                    .any(|it| name.ends_with(it))
        }
        None => true,
    }
}

/// Returns true for `0000` and `1002`: the customer's money has moved.
fn is_paid(result: &PaymentResult) -> bool {
    let code = ResultCode::parse(&result.resultcode);
    matches!(code, Some(ResultCode::Paid | ResultCode::Processing))
}

/// The page of a customer who has paid and whose shop does not answer. A customer who reads nothing here pays again.
fn payment_received(result: &PaymentResult, shop: &str, headers: &HeaderMap) -> Response<Bytes> {
    let language = Language::accepted(headers).unwrap_or(Language::Chinese);
    let both = match language {
        Language::Chinese => [Language::Chinese, Language::English],
        Language::English => [Language::English, Language::Chinese],
    };
    let page = Page {
        language: language.tag(),
        title: language.say("已收到您的付款", "Payment received"),
        style: &NOTICE,
        forms: Forms::Own,
        script: None,
        head: html! {},
        body: html! { main { @for language in both { (received(language, result, shop)) } } },
    };
    page.reply(StatusCode::SERVICE_UNAVAILABLE)
}

fn received(language: Language, result: &PaymentResult, shop: &str) -> Markup {
    let (yuan, fen) = (result.amount / 100, result.amount % 100);
    html! {
        section lang=(language.tag()) {
            h1 { (language.say("已收到您的付款", "Your payment was received")) }
            dl {
                dt { (language.say("订单号", "Order")) } dd { (result.orderid) }
                dt { (language.say("金额", "Amount")) } dd { "¥ " (yuan) "." (format!("{fen:02}")) }
            }
            p { strong { (language.say("请勿再次付款。", "Do not pay again.")) } }
            p {
                (language.say(
                    "商户页面暂时无法显示，商户会收到支付结果。",
                    "The shop's page cannot be shown at the moment. The shop is told of your payment.",
                ))
            }
            p {
                // An empty reference is this very address, without a copy of what the browser sent.
                a href="" { (language.say("重试", "Try again")) }
                " · "
                a href=(shop) { (language.say("前往商户", "Go to the shop")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_redirect_becomes_a_public_one() {
        let public = Url::parse("https://shop.example.com/cashier").unwrap();
        let moved = |page: &str, place: &str| {
            let mut response = Response::new(Bytes::new());
            let place = HeaderValue::try_from(place).unwrap();
            response.headers_mut().insert(header::LOCATION, place);
            let moved = moved(&response, &Url::parse(page).unwrap(), &public)?;
            Some(moved.to_str().unwrap().to_owned())
        };
        let internal = "http://127.0.0.1:9000/pay/front";
        assert_eq!(
            moved(internal, "http://127.0.0.1:9000/orders/1?a=b#c").as_deref(),
            Some("https://shop.example.com/orders/1?a=b#c")
        );
        assert_eq!(moved(internal, "/orders/1"), None);
        assert_eq!(moved(internal, "http://127.0.0.1:9001/orders/1"), None);
        assert_eq!(moved(internal, "https://other.example.com/"), None);
        let own = "https://www.example.com/pay/front";
        assert_eq!(moved(own, "https://www.example.com/orders/1"), None);
    }

    #[test]
    fn addresses_that_browsers_cannot_reach_are_internal() {
        for url in [
            "http://127.0.0.1/",
            "http://10.1.2.3/",
            "http://192.168.1.1/",
            "http://[::1]/",
            "http://[fd00::1]/",
            "http://localhost:8000/",
            "http://app/",
            "http://shop.internal/",
        ] {
            assert!(is_internal(&Url::parse(url).unwrap()), "{url}");
        }
        for url in [
            "https://shop.example.com/",
            "http://203.0.113.1/",
            "http://[2001:db8::1]/",
        ] {
            assert!(!is_internal(&Url::parse(url).unwrap()), "{url}");
        }
    }
}
