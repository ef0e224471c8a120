//! The one builder of replies: every text, document and page of ours carries the same security headers.
//!
//! What another server made and we pass on is built in `relay`, not here.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// The type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The type of a page.
pub const HTML: &str = "text/html; charset=utf-8";
/// The type of a JSON document.
pub const JSON: &str = "application/json";

/// The type of comma-separated values (RFC 4180).
pub const CSV: &str = "text/csv; charset=utf-8";

/// Colours and the rules that every page shares.
const PALETTE: &str = include_str!("palette.css");

/// Nothing of ours is kept by a cache, taken for another type, framed by another site, or named to the next one.
const SECURITY: [(HeaderName, HeaderValue); 5] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (
        header::CONTENT_SECURITY_POLICY,
        // The other two do not fall back to default-src, which covers only what a page fetches (CSP Level 3 §6.1).
        HeaderValue::from_static("default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    ),
];

/// Replies with a document of this type.
pub fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    secured(status, kind, body, SECURITY)
}

/// Replies with plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    typed(status, TEXT, body)
}

/// Replies to an app's call. An app is no browser, and each further field costs a call a hundredth of its time, so only
/// the two that a proxy or a page around the app could need are there.
pub fn data(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    secured(status, kind, body, SECURITY.into_iter().take(2))
}

fn secured(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
    fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in fields {
        headers.insert(name, value);
    }
    response
}

/// Sends a browser to another address with GET.
pub fn see_other(place: &str) -> Response<Bytes> {
    let mut response = text(StatusCode::SEE_OTHER, "");
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// The style of a page: the palette and the page's own rules.
pub struct Style {
    css: String,
    source: String,
}

impl Style {
    /// Joins the palette and a page's own rules.
    pub fn new(css: &str) -> Self {
        let css = format!("{PALETTE}{css}");
        let source = hash_source(&css);
        Self { css, source }
    }
}

/// The style of a page with a few sentences.
pub static NOTICE: LazyLock<Style> = LazyLock::new(|| Style::new(include_str!("notice.css")));

/// The places that a page's forms may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forms {
    /// To the page's own origin.
    Own,
    /// Anywhere: `form-action` would also bind the redirects that follow, to the platform or to the shop.
    Anywhere,
}

/// A page of ours. It works without scripts but its own, and loads nothing from other hosts.
pub struct Page<'a> {
    /// The language tag.
    pub language: &'static str,
    /// The title.
    pub title: &'a str,
    /// The style.
    pub style: &'static Style,
    /// The places that forms may be sent to.
    pub forms: Forms,
    /// The page's own script, if it has one.
    pub script: Option<&'static str>,
    /// Further elements of the head.
    pub head: Markup,
    /// The body.
    pub body: Markup,
}

impl Page<'_> {
    /// Replies with the page.
    pub fn reply(&self, status: StatusCode) -> Response<Bytes> {
        let page = html! {
            (DOCTYPE)
            html lang=(self.language) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    (self.head)
                    title { (self.title) }
                    // Without it browsers ask for /favicon.ico.
                    link rel="icon" href="data:,";
                    style { (PreEscaped(&self.style.css)) }
                }
                body {
                    (self.body)
                    @if let Some(script) = self.script { script { (PreEscaped(script)) } }
                }
            }
        };
        let mut response = typed(status, HTML, page.into_string());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy());
        headers.insert(
            header::CONTENT_LANGUAGE,
            HeaderValue::from_static(self.language),
        );
        response
    }

    fn policy(&self) -> HeaderValue {
        let scripts = self.script.map_or_else(String::new, |script| {
            let source = hash_source(script);
            format!("script-src {source}; connect-src 'self'; ")
        });
        let forms = match self.forms {
            Forms::Own => "form-action 'self'; ",
            Forms::Anywhere => "",
        };
        // `img-src data:` is for the icon in the head.
        let policy = format!(
            "default-src 'none'; style-src {}; img-src data:; {scripts}{forms}base-uri 'none'; frame-ancestors 'none'",
            self.style.source
        );
        HeaderValue::try_from(policy).expect("base64 and constants are a header value")
    }
}

fn hash_source(inline: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inline)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_allows_its_own_style_and_script_and_nothing_else() {
        let page = Page {
            language: "en",
            title: "<T>",
            style: &NOTICE,
            forms: Forms::Own,
            script: Some("f('<')"),
            head: html! {},
            body: html! { p { "text" } },
        };
        let response = page.reply(StatusCode::OK);
        let text = std::str::from_utf8(response.body()).unwrap();
        assert!(
            text.contains("<title>&lt;T&gt;</title>") && text.contains("<script>f('<')</script>")
        );
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        // From `printf "f('<')" | openssl dgst -sha256 -binary | base64`.
        assert!(
            policy.contains("script-src 'sha256-3RSu7GfT27usqYios8m0504zIzUNjtjkDjiG2BtQ9kc='"),
            "{policy}"
        );
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"));
        assert_eq!(
            response
                .headers()
                .get_all(header::CONTENT_SECURITY_POLICY)
                .iter()
                .count(),
            1
        );
    }

    #[test]
    fn every_reply_has_the_security_headers() {
        for response in [text(StatusCode::OK, "t"), see_other("/")] {
            for (name, value) in SECURITY {
                assert_eq!(response.headers()[&name], value, "{name}");
            }
        }
        assert_eq!(see_other("/a").headers()[header::LOCATION], "/a");
        assert_eq!(data(StatusCode::OK, JSON, "{}").headers().len(), 3);
    }
}
