//! Requests that get no page: a page with the reason for browsers, one line of text for other clients.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use maud::html;

use super::page::Visit;
use crate::admin::auth::Stop;
use crate::web::reply::see_other;
use crate::web::reply::text;

/// Words for a page, in Chinese and in English; other clients get the English.
type Words = (&'static str, &'static str);

/// Rejects a request that authentication stopped.
pub fn stopped(visit: &Visit<'_>, headers: &HeaderMap, stop: Stop) -> Response<Bytes> {
    let (status, words) = match stop {
        Stop::NotSignedIn if wants_page(headers) => return see_other("/login"),
        Stop::NotSignedIn => (
            StatusCode::UNAUTHORIZED,
            (
                "需要管理令牌，例如 \"authorization: bearer …\"",
                "expected the admin token, as in \"authorization: bearer …\"",
            ),
        ),
        Stop::TooManyGuesses => (
            StatusCode::TOO_MANY_REQUESTS,
            (
                "此地址多次使用错误的令牌，请一秒后再试",
                "too many wrong tokens from this address; try again in a second",
            ),
        ),
        Stop::ForeignHost => (
            // RFC 9110 §15.5.20.
            StatusCode::MISDIRECTED_REQUEST,
            (
                "主机名应为本机地址、监听地址或 admin.names 之一",
                "expected a host that is loopback, the listen address or one of admin.names",
            ),
        ),
        Stop::CrossSite => (
            StatusCode::FORBIDDEN,
            (
                "此操作应来自控制台自己的页面，请重新打开页面",
                "expected an action from a page of this console; load the page again",
            ),
        ),
    };
    let mut response = rejection(visit, headers, status, words);
    // Mandatory beside 401 (RFC 9110 §15.5.2).
    if stop == Stop::NotSignedIn {
        let challenge = HeaderValue::from_static("Bearer realm=\"countersign\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    if stop == Stop::TooManyGuesses {
        let second = HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, second);
    }
    response
}

/// Rejects a path that is none of ours.
pub fn not_found(visit: &Visit<'_>, headers: &HeaderMap) -> Response<Bytes> {
    let words = (
        "应为 /、/livez、/readyz、/metrics、/version 或 POST /-/reload",
        "expected /, /livez, /readyz, /metrics, /version or POST /-/reload",
    );
    rejection(visit, headers, StatusCode::NOT_FOUND, words)
}

/// Rejects a decision where no token is configured.
pub fn needs_token(visit: &Visit<'_>, headers: &HeaderMap) -> Response<Bytes> {
    let words = (
        "在控制台作决定需要 admin.token 或 admin.token_file；没有令牌时请用 countersign inbox replay 或 discard",
        "decisions at the console need admin.token or admin.token_file; without one, use countersign inbox replay or \
         discard",
    );
    rejection(visit, headers, StatusCode::FORBIDDEN, words)
}

/// Rejects a method that the page does not accept.
pub fn wrong_method(
    visit: &Visit<'_>,
    headers: &HeaderMap,
    methods: &'static str,
) -> Response<Bytes> {
    let words = (
        "此地址不接受这种方法",
        "this address does not take this method",
    );
    let mut response = rejection(visit, headers, StatusCode::METHOD_NOT_ALLOWED, words);
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

/// Renders the page for an event or an order that is not there.
pub fn no_such(visit: &Visit<'_>) -> Response<Bytes> {
    let content = html! { section { p { (visit.say("可能已过保存期限。", "It may have been forgotten after inbox.keep.")) } } };
    visit.page(
        StatusCode::NOT_FOUND,
        visit.say("没有这样的事件或订单", "No such event or order"),
        &content,
    )
}

/// A page for browsers, one line of text for other clients.
fn rejection(
    visit: &Visit<'_>,
    headers: &HeaderMap,
    status: StatusCode,
    (chinese, english): Words,
) -> Response<Bytes> {
    if !wants_page(headers) {
        let mut response = text(status, format!("{english}\n"));
        let by_accept = HeaderValue::from_static("Accept");
        response.headers_mut().insert(header::VARY, by_accept);
        return response;
    }
    let content = html! {
        section {
            p { (visit.say(chinese, english)) }
            p { a href="/" { (visit.say("回到概览", "Back to the overview")) } }
        }
    };
    visit.bare_page(status, title(visit, status), &content)
}

fn title(visit: &Visit<'_>, status: StatusCode) -> &'static str {
    let chinese = match status {
        StatusCode::NOT_FOUND => "没有此页面",
        StatusCode::METHOD_NOT_ALLOWED => "方法不对",
        StatusCode::TOO_MANY_REQUESTS => "请求过多",
        StatusCode::MISDIRECTED_REQUEST => "主机名不对",
        _ => "被拒绝",
    };
    visit.say(chinese, status.canonical_reason().unwrap_or("Rejected"))
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(header::ACCEPT)
        .and_then(|accepted| accepted.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}
