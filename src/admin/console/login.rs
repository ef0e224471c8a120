//! Signing in and out.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use maud::html;

use super::page::Visit;

/// Renders the form that exchanges the admin token for a session.
pub fn login_page(visit: &Visit<'_>, status: StatusCode) -> Response<Bytes> {
    let content = html! {
        section {
            @if status != StatusCode::OK {
                p.note.bad role="alert" { (visit.say("令牌不正确。", "This is not the token.")) }
            }
            form method="post" action="/login" {
                (visit.form_token())
                label for="token" { (visit.say("管理令牌（admin.token）", "The admin token (admin.token)")) }
                p { input #token type="password" name="token" required autocomplete="current-password"; }
                button.first { (visit.say("登录", "Sign in")) }
            }
        }
    };
    visit.bare_page(status, visit.say("登录", "Sign in"), &content)
}

/// Renders the form that ends a session.
pub fn logout_page(visit: &Visit<'_>) -> Response<Bytes> {
    let content = html! {
        section { form method="post" action="/logout" { (visit.form_token()) button.first { (visit.say("退出", "Sign out")) } } }
    };
    visit.page(StatusCode::OK, visit.say("退出？", "Sign out?"), &content)
}

/// Adds `Set-Cookie`.
pub fn with_cookie(mut response: Response<Bytes>, cookie: String) -> Response<Bytes> {
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
