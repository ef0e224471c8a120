//! The frame, style and headers of every console page. Pages work without scripts and load nothing from other hosts.

use std::sync::LazyLock;

use ::time::UtcOffset;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use super::labels;
use crate::admin::auth::{Guard, cookie_named};
use crate::admin::health::typed;
use crate::inbox::event::EventState;
use crate::time;
use crate::time::Millis;
use crate::web::language::Language;

const LANGUAGE_COOKIE: &str = "countersign-language";

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2530;--soft:#576473;--line:#d9dfe6;--paper:#fff;--ground:#f4f6f8;--act:#0a5cb8;--good:#1a7f4b;--bad:#b3261e;--warn:#8a5a00;--on-act:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e5eaf0;--soft:#a0acb9;--line:#333e4a;--paper:#19212a;--ground:#10161c;--act:#7cb8ff;--good:#6fd3a0;--bad:#ff9c94;--warn:#f0c36d;--on-act:#0c1622}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,'PingFang SC','Noto Sans CJK SC','Microsoft YaHei',sans-serif}
a{color:var(--act)}
:focus-visible{outline:3px solid var(--act);outline-offset:2px;border-radius:.2rem}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;background:var(--paper);padding:.4rem .8rem;z-index:1}
header{background:var(--paper);border-bottom:1px solid var(--line)}
header>div,main,footer{max-width:68rem;margin:0 auto;padding:0 1.25rem}
header>div{display:flex;flex-wrap:wrap;align-items:center;gap:.5rem 1.5rem;padding-top:.8rem;padding-bottom:.8rem}
.brand{font-weight:650;font-size:1.1rem;text-decoration:none;color:var(--ink)}
.search{display:flex;flex:1 1 18rem;gap:.5rem;margin:0}
.search input{flex:1;min-width:0}
nav{flex-basis:100%}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;margin:0;padding:0}
nav a{display:inline-block;padding:.15rem 0;text-decoration:none;border-bottom:2px solid transparent}
nav a:hover{text-decoration:underline}
nav a[aria-current]{color:var(--ink);border-color:var(--act);font-weight:600}
main{padding-top:1.25rem;padding-bottom:1.5rem}
footer{color:var(--soft);font-size:.85rem;padding-bottom:2rem}
h1{font-size:1.4rem;line-height:1.3;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .6rem}
section{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:1rem 1.1rem;margin:1rem 0}
section>:last-child{margin-bottom:0}
p{margin:.3rem 0 .8rem}
.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
code,.number{font-family:ui-monospace,Consolas,'Liberation Mono',monospace;font-size:.88em;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1rem 0;padding:0;list-style:none}
.tiles a,.tiles div{display:block;height:100%;background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:.7rem .9rem;text-decoration:none;color:var(--ink)}
.tiles a:hover{border-color:var(--act)}
.tiles strong{display:block;font-size:1.6rem;line-height:1.2;font-weight:600}
.tiles .soft{font-size:.85rem;display:block}
.plots{display:grid;grid-template-columns:1fr 1fr;gap:1rem;margin:1rem 0}
figure{margin:0;background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:.8rem .9rem}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 .8rem;font-weight:600}
figcaption span{font-weight:400;color:var(--soft);font-size:.85rem}
figcaption span span{font-size:inherit;white-space:nowrap;margin-left:.6rem}figcaption span span:first-child{margin-left:0}
svg{display:block;width:100%;height:4.5rem;margin:.5rem 0 .2rem;border-bottom:1px solid var(--line)}
path{fill:none;stroke:var(--act);stroke-width:1.5}
path.second{stroke:var(--bad);stroke-dasharray:4 2}
.axis{display:flex;justify-content:space-between;color:var(--soft);font-size:.8rem}
.key{display:inline-block;width:1.4rem;border-top:2px solid var(--act);vertical-align:middle;margin-right:.3rem}
.key.second{border-top:2px dashed var(--bad)}
table{width:100%;border-collapse:collapse;font-size:.92rem}
caption{text-align:left;color:var(--soft);padding-bottom:.5rem}
th,td{text-align:left;vertical-align:top;padding:.5rem .9rem .5rem 0;border-top:1px solid var(--line);overflow-wrap:break-word}
th[scope=row]{font-weight:inherit}
thead th{color:var(--soft);font-weight:600;border-top:0;white-space:nowrap}
td:last-child,th:last-child{padding-right:0}
.amount{white-space:nowrap;font-variant-numeric:tabular-nums}
time,.ago{white-space:nowrap;font-variant-numeric:tabular-nums}
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1.2rem;margin:0 0 .5rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.story{list-style:none;margin:0;padding:0 0 0 1.1rem;border-left:2px solid var(--line)}
.story li{position:relative;margin:0 0 1.1rem}
.story li:last-child{margin-bottom:0}
.story li::before{content:'';position:absolute;left:-1.55rem;top:.45rem;width:.75rem;height:.75rem;border-radius:50%;background:var(--soft);border:2px solid var(--paper)}
.story .ok::before{background:var(--good)}.story .no::before{background:var(--bad)}.story .odd::before{background:var(--warn)}
.story h3{font-size:1rem;margin:0}
.story .head{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem}
.story .head p{font-size:.9rem}
.story p{margin:.1rem 0 0}
.badge{display:inline-block;border:1px solid currentColor;border-radius:1rem;padding:0 .55rem;font-size:.82rem;line-height:1.5;white-space:nowrap}
.note{border-left:4px solid var(--act);padding:.6rem 1rem;background:var(--paper);border-radius:.3rem;margin:1rem 0}
.note.bad{border-color:var(--bad);color:var(--ink)}.note.warn{border-color:var(--warn);color:var(--ink)}
.note ul{margin:.3rem 0;padding-left:1.2rem}
input,button{font:inherit;color:var(--ink);background:var(--paper);border:1px solid var(--soft);border-radius:.45rem;padding:.45rem .7rem}
input{width:100%}
button{cursor:pointer}
button.first{background:var(--act);border-color:var(--act);color:var(--on-act);font-weight:600}
.actions{display:flex;flex-wrap:wrap;gap:.6rem 1rem;align-items:center}
form{margin:0}
label{display:block;margin-bottom:.3rem}
@media(max-width:44rem){
header>div,main,footer{padding-left:1rem;padding-right:1rem}
.plots{grid-template-columns:1fr}
nav ul{column-gap:.8rem}
thead{position:absolute;left:-99rem}
table,tbody,tr,td,tbody th,caption{display:block;white-space:normal}
tr{border-top:1px solid var(--line);padding:.6rem 0}
td,tbody th{border:0;padding:.1rem 0;display:grid;grid-template-columns:7rem 1fr;gap:.6rem;color:inherit;font-weight:inherit}
td::before,tbody th::before{content:attr(data-label);color:var(--soft);font-weight:400}
}
";

/// Nothing but our own style, forms that come back to us, and no frame around us.
static CONTENT_SECURITY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 and constants are a header value")
});

/// One request of a browser: its page, language and form token.
pub struct Visit<'r> {
    pub language: Language,
    /// Chosen on the page just now, and to be remembered.
    chosen: bool,
    path: &'r str,
    query: &'r str,
    form_token: &'r str,
    asks_for_token: bool,
}

impl<'r> Visit<'r> {
    pub fn new(path: &'r str, query: &'r str, headers: &HeaderMap, guard: &'r Guard) -> Self {
        let chosen = parameter(query.as_bytes(), "lang").and_then(|tag| Language::parse(&tag));
        let kept = || cookie_named(headers, LANGUAGE_COOKIE).and_then(Language::parse);
        let language = chosen
            .or_else(kept)
            .or_else(|| Language::accepted(headers))
            .unwrap_or(Language::English);
        Self {
            language,
            chosen: chosen.is_some(),
            path,
            query,
            form_token: guard.form_token(),
            asks_for_token: guard.asks_for_token(),
        }
    }

    pub fn say<T>(&self, chinese: T, english: T) -> T {
        self.language.say(chinese, english)
    }

    /// Returns one parameter of the address.
    pub fn parameter(&self, name: &str) -> Option<String> {
        parameter(self.query.as_bytes(), name)
    }

    /// Renders the hidden field that each form carries against cross-site requests.
    pub fn form_token(&self) -> Markup {
        html! { input type="hidden" name="form" value=(self.form_token); }
    }

    /// Renders a page with header and navigation. `title` is its heading too.
    pub fn page(&self, status: StatusCode, title: &str, content: &Markup) -> Response<Bytes> {
        self.framed(status, title, Some(self.header()), content)
    }

    /// Renders a page without navigation, for callers who are not signed in.
    pub fn bare_page(&self, status: StatusCode, title: &str, content: &Markup) -> Response<Bytes> {
        self.framed(status, title, None, content)
    }

    fn framed(
        &self,
        status: StatusCode,
        title: &str,
        around: Option<Markup>,
        content: &Markup,
    ) -> Response<Bytes> {
        let live = around.is_some() && self.parameter("live").is_some();
        let page = html! {
            (DOCTYPE)
            html lang=(self.language.tag()) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    @if live { meta http-equiv="refresh" content="30"; }
                    title { (title) " · Countersign" }
                    link rel="icon" href="data:,";
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    a.skip href="#main" { (self.say("跳到内容", "Skip to content")) }
                    @if let Some(around) = around { (around) }
                    main #main { h1 { (title) } (content) }
                    footer {
                        p {
                            "Countersign " (env!("CARGO_PKG_VERSION")) " · "
                            (self.say("时间为 UTC", "times are UTC")) " · " (self.other_language())
                        }
                    }
                }
            }
        };
        self.with_headers(status, page.into_string())
    }

    fn with_headers(&self, status: StatusCode, page: String) -> Response<Bytes> {
        let mut response = typed(status, "text/html; charset=utf-8", page.into());
        let headers = response.headers_mut();
        let mut put = |name, value| headers.insert(name, value);
        put(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY.clone());
        // Not less: without a referrer browsers do not say where a form comes from.
        put(
            header::REFERRER_POLICY,
            HeaderValue::from_static("same-origin"),
        );
        put(
            header::VARY,
            HeaderValue::from_static("Accept, Accept-Language, Cookie"),
        );
        put(
            header::CONTENT_LANGUAGE,
            HeaderValue::from_static(self.language.tag()),
        );
        if self.chosen {
            let tag = self.language.tag();
            let cookie = format!(
                "{LANGUAGE_COOKIE}={tag}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict"
            );
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                put(header::SET_COOKIE, cookie);
            }
        }
        response
    }

    fn header(&self) -> Markup {
        let states = [
            EventState::Pending,
            EventState::Parked,
            EventState::Disputed,
        ];
        let state = self.parameter("state").unwrap_or_default();
        let current = |is: bool| is.then_some("page");
        html! {
            header {
                div {
                    a.brand href="/" { "Countersign" }
                    form.search role="search" action="/orders" {
                        input type="search" name="q" required maxlength="128" autocomplete="off" spellcheck="false"
                            aria-label=(self.say("按订单号、平台流水号或请求号查找", "Find by orderid, queryid or request id"))
                            placeholder="orderid, queryid, x-request-id" value=[self.parameter("q")];
                        button { (self.say("查找", "Find")) }
                    }
                    nav aria-label=(self.say("主导航", "Main")) {
                        ul {
                            li { a href="/" aria-current=[current(self.path == "/")] { (self.say("概览", "Overview")) } }
                            @for known in states {
                                @let here = self.path == "/events" && state == known.name();
                                li { a href={ "/events?state=" (known.name()) } aria-current=[current(here)] { (labels::state(self.language, known)) } }
                            }
                            li { a href="/refusals" aria-current=[current(self.path == "/refusals")] { (self.say("拒绝记录", "Refusals")) } }
                            li { a href="/merchants" aria-current=[current(self.path == "/merchants")] { (self.say("商户", "Merchants")) } }
                            @if self.asks_for_token {
                                li { a href="/logout" { (self.say("退出", "Sign out")) } }
                            }
                        }
                    }
                }
            }
        }
    }

    fn other_language(&self) -> Markup {
        let (tag, name) = self.say(("en", "English"), ("zh", "中文"));
        let others =
            form_urlencoded::parse(self.query.as_bytes()).filter(|(name, _)| name != "lang");
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(others)
            .append_pair("lang", tag)
            .finish();
        // Without the path, which a stranger may have chosen: `//evil.example` would lead there.
        html! { a href={ "?" (query) } lang=(tag) hreflang=(tag) { (name) } }
    }

    /// Renders a time with its age.
    pub fn when(&self, at: Millis) -> Markup {
        let text = time::shown(at, UtcOffset::UTC);
        html! {
            time datetime={ (text.replace(' ', "T")) "Z" } { (text) }
            " " span.soft.ago { "(" (self.ago(time::now() - at)) ")" }
        }
    }

    fn ago(&self, time: Millis) -> String {
        let text = self.duration(time.abs());
        if time < 0 {
            format!("{}{text}{}", self.say("", "in "), self.say("后", ""))
        } else {
            format!("{text}{}", self.say("前", " ago"))
        }
    }

    /// Formats a time span in its largest unit.
    pub fn duration(&self, time: Millis) -> String {
        let seconds = time / 1000;
        let (number, unit) = match seconds {
            0..60 => (seconds, self.say(" 秒", " s")),
            60..3600 => (seconds / 60, self.say(" 分钟", " min")),
            3600..172_800 => (seconds / 3600, self.say(" 小时", " h")),
            _ => (seconds / 86_400, self.say(" 天", " days")),
        };
        format!("{number}{unit}")
    }
}

/// Finds the first parameter of this name in a form or an address. A value with a NUL counts as absent, because PostgreSQL
/// accepts no such text.
pub fn parameter(form: &[u8], name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(form);
    let found = pairs.find_map(|(found, value)| (found == name).then(|| value.into_owned()));
    found.filter(|value| !value.contains('\0'))
}

/// Redirects a browser with GET.
pub fn see_other(place: &str) -> Response<Bytes> {
    let mut response = typed(
        StatusCode::SEE_OTHER,
        "text/plain; charset=utf-8",
        Bytes::new(),
    );
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// The address of an order's timeline.
pub fn order_address(merid: &str, orderid: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("merid", merid)
        .append_pair("orderid", orderid)
        .finish();
    format!("/order?{query}")
}
