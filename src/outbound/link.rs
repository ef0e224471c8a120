//! `/apis/icashier`: an order signed for the customer's browser, as a link, a form's fields, or a page that posts the form.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use maud::html;
use serde::Serialize;

use super::call::Call;
use super::orders::SignedOrders;
use super::rejection::CallRejection;
use super::reply::CallReply;
use super::upstream::Upstream;
use crate::http::client::error::Sent;
use crate::inbox::order::TryKind;
use crate::web::reply::{Forms, JSON, NOTICE, Page, data};

/// Records the order and signs it. The browser sends it, so nothing is sent here.
pub(super) async fn link(
    upstream: &Upstream,
    orders: &SignedOrders,
    call: &Call,
    request: &Request<Bytes>,
) -> Result<CallReply, CallRejection> {
    // From now on the browser may submit it at any time, and more than once.
    orders.record(call, TryKind::Link).await?;
    let envelope = upstream.seal(call).await.0;
    let (sign, form) = (envelope.sign().to_string(), envelope.form("req"));
    let signed = (envelope.text(), sign.as_str(), form.as_str());
    let response = response(upstream.url(), signed, request.headers());
    Ok(CallReply::ok(response, Sent::No))
}

#[derive(Serialize)]
struct Link<'a> {
    url: String,
    form: LinkForm<'a>,
}

#[derive(Serialize)]
struct LinkForm<'a> {
    action: String,
    fields: LinkFields<'a>,
}

#[derive(Serialize)]
struct LinkFields<'a> {
    req: &'a str,
    sign: &'a str,
}

const SUBMIT: &str = "document.forms[0].submit()";

/// Renders a signed order as JSON, or as a page for `Accept: text/html`. `platform` is the platform's URL without a trailing
/// slash; the order is its text, its signature, and both as `req=…&sign=…`.
pub(super) fn response(
    platform: &str,
    (req, sign, form): (&str, &str, &str),
    accept: &HeaderMap,
) -> Response<Bytes> {
    let link = Link {
        url: format!("{platform}/apis/icashier?{form}"),
        form: LinkForm {
            action: format!("{platform}/api/icashier"),
            fields: LinkFields { req, sign },
        },
    };
    if wants_page(accept) {
        return page(&link);
    }
    let body = serde_json::to_vec(&link).unwrap_or_default();
    data(StatusCode::OK, JSON, body)
}

/// Returns true where `text/html` is accepted before JSON, as browsers do; an HTTP library that takes anything gets JSON.
fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| {
        let first = accept.split(',').find_map(|range| {
            let kind = range.split(';').next().unwrap_or_default().trim();
            ["text/html", "application/json"]
                .into_iter()
                .find(|known| kind.eq_ignore_ascii_case(known))
        });
        first == Some("text/html")
    })
}

fn page(link: &Link<'_>) -> Response<Bytes> {
    let page = Page {
        language: "zh",
        title: "正在前往支付 · To payment",
        style: &NOTICE,
        // The platform redirects further.
        forms: Forms::Anywhere,
        script: Some(SUBMIT),
        head: html! {},
        body: html! {
            main {
                p { "正在前往支付页面…" br; span lang="en" { "Taking you to the payment page…" } }
                form method="post" action=(link.form.action) accept-charset="utf-8" {
                    input type="hidden" name="req" value=(link.form.fields.req);
                    input type="hidden" name="sign" value=(link.form.fields.sign);
                    button type="submit" { "继续支付 " span lang="en" { "Continue" } }
                }
            }
        },
    };
    page.reply(StatusCode::OK)
}
