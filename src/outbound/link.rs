//! A signed order for the customer's browser: a link, a form's fields, or a page that posts the form itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use maud::{DOCTYPE, PreEscaped, html};
use serde::Serialize;
use sha2::{Digest, Sha256};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

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

/// The signed order, as JSON or as a page for `Accept: text/html`. `platform` is the platform's URL without
/// a slash at its end, `form` the same envelope as `req=…&sign=…`.
pub(super) fn response(
    platform: &str,
    req: &str,
    sign: &str,
    form: &str,
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
    let mut response = Response::new(Bytes::from(serde_json::to_vec(&link).unwrap_or_default()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Browsers name text/html first; an HTTP library that takes anything gets JSON.
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
    let page = html! {
        (DOCTYPE)
        html lang="zh" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "正在前往支付 · To payment" }
                style { "body{font:1.1em/1.5 system-ui,sans-serif;margin:20vh auto;max-width:20em;text-align:center;padding:0 1em}button{font:inherit;padding:.6em 2em}" }
            }
            body {
                p { "正在前往支付页面…" br; span lang="en" { "Taking you to the payment page…" } }
                form method="post" action=(link.form.action) accept-charset="utf-8" {
                    input type="hidden" name="req" value=(link.form.fields.req);
                    input type="hidden" name="sign" value=(link.form.fields.sign);
                    button type="submit" { "继续支付 " span lang="en" { "Continue" } }
                }
                script { (PreEscaped(SUBMIT)) }
            }
        }
    };
    let mut response = Response::new(Bytes::from(page.into_string()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Only this page's own script and style run. `form-action` would also bind the platform's redirects.
    let script = STANDARD.encode(Sha256::digest(SUBMIT));
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; base-uri 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}
