//! The frame, style and headers of every console page. Pages work without scripts and load nothing from other hosts.

use std::sync::LazyLock;

use ::time::UtcOffset;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use maud::{Markup, html};
use url::form_urlencoded;

use super::labels;
use crate::admin::auth::{Guard, cookie_named};
use crate::inbox::event::{EventState, shown};
use crate::time;
use crate::time::Millis;
use crate::web::language::Language;
use crate::web::live;
use crate::web::reply::{Forms, Page, Style};

const LANGUAGE_COOKIE: &str = "countersign-language";
/// Seconds between two refreshes of a page that is looked at.
const EVERY: u32 = 5;

static STYLE: LazyLock<Style> = LazyLock::new(|| Style::new(include_str!("console.css")));

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

    /// Returns the number that the page is to find, if any. One that no store can hold is looked for in vain.
    pub fn searched(&self) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        let (_, number) = pairs.find(|(name, _)| name == "q")?;
        let number = number.trim().replace('\0', "\u{fffd}");
        (!number.is_empty()).then_some(number)
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
        let is_signed_in = around.is_some();
        let loads_again = is_signed_in && self.parameter("live").is_some();
        let page = Page {
            language: self.language.tag(),
            title: &format!("{title} · Countersign"),
            style: &STYLE,
            forms: Forms::Own,
            script: is_signed_in.then_some(live::SCRIPT),
            head: html! { @if loads_again { noscript { meta http-equiv="refresh" content="10"; } } },
            body: html! {
                a.skip href="#main" { (self.say("跳到内容", "Skip to content")) }
                @if let Some(around) = around { (around) }
                main #main data-every=(EVERY) {
                    div.title {
                        h1 { (title) }
                        @if is_signed_in { (live::status(self.language)) noscript { (self.reload_link(loads_again)) } }
                    }
                    (content)
                }
                footer {
                    p {
                        "Countersign " (env!("CARGO_PKG_VERSION")) " · "
                        (self.say("时间为 UTC", "times are UTC")) " · " (self.other_language())
                    }
                }
            },
        };
        self.with_headers(page.reply(status))
    }

    fn with_headers(&self, mut response: Response<Bytes>) -> Response<Bytes> {
        let headers = response.headers_mut();
        // Not less: without a referrer browsers do not say where a form comes from.
        headers.insert(
            header::REFERRER_POLICY,
            HeaderValue::from_static("same-origin"),
        );
        headers.insert(
            header::VARY,
            HeaderValue::from_static("Accept, Accept-Language, Cookie"),
        );
        if self.chosen {
            let tag = self.language.tag();
            let cookie = format!(
                "{LANGUAGE_COOKIE}={tag}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict"
            );
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                headers.insert(header::SET_COOKIE, cookie);
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
                            li { a href="/orders" aria-current=[current(self.path == "/orders")] { (self.say("订单", "Orders")) } }
                            @for known in states {
                                @let here = self.path == "/events" && state == known.name();
                                li { a href={ "/events?state=" (known.name()) } aria-current=[current(here)] { (labels::state(self.language, known)) } }
                            }
                            li { a href="/refusals" aria-current=[current(self.path == "/refusals")] { (self.say("拒绝记录", "Rejections")) } }
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

    /// Renders the refresh for browsers without scripts: a link that begins it, or ends it.
    fn reload_link(&self, loads_again: bool) -> Markup {
        let query = self.query_with(&[("live", (!loads_again).then_some("1"))]);
        html! {
            p.live {
                @if loads_again {
                    (self.say("每 10 秒刷新。", "This page loads itself again every 10 s.")) " "
                    a href={ "?" (query) } { (self.say("停止", "Stop")) }
                } @else {
                    a href={ "?" (query) } { (self.say("每 10 秒自动刷新", "Load this page again every 10 s")) }
                }
            }
        }
    }

    /// Returns the query of this page with some parameters set, or left out.
    pub fn query_with(&self, changes: &[(&str, Option<&str>)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let kept = form_urlencoded::parse(self.query.as_bytes());
        query.extend_pairs(kept.filter(|(name, _)| changes.iter().all(|(it, _)| it != name)));
        for (name, value) in changes {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }

    fn other_language(&self) -> Markup {
        let (tag, name) = self.say(("en", "English"), ("zh", "中文"));
        let query = self.query_with(&[("lang", Some(tag))]);
        // Without the path, which a stranger may have chosen: `//evil.example` would lead there.
        html! { a href={ "?" (query) } lang=(tag) hreflang=(tag) { (name) } }
    }

    /// Renders a time with its age.
    pub fn when(&self, at: Millis) -> Markup {
        html! {
            time datetime=(live::stamp(at)) { (time::shown(at, UtcOffset::UTC)) }
            " " span.soft.ago { "(" (self.ago(time::now() - at)) ")" }
        }
    }

    /// Renders a time with its milliseconds, and the reader's own time beside it.
    pub fn moment(&self, at: Millis) -> Markup {
        html! {
            time datetime=(live::stamp(at)) { (time::shown(at, UtcOffset::UTC)) (format!(".{:03}", at.rem_euclid(1000))) " UTC" }
            span.local {}
        }
    }

    /// Renders a number with a button that copies it.
    pub fn copied(&self, number: &str) -> Markup {
        html! { span.number { (shown(number)) } (live::copy(self.language, number)) }
    }

    fn ago(&self, time: Millis) -> String {
        let text = self.duration(time.abs());
        if time < 0 {
            format!("{}{text}{}", self.say("", "in "), self.say("后", ""))
        } else {
            format!("{text}{}", self.say("前", " ago"))
        }
    }

    /// Formats a pause between two steps, to the millisecond while that can matter.
    pub fn gap(&self, time: Millis) -> String {
        match time {
            0..1000 => format!("+{time} ms"),
            1000..60_000 => format!(
                "+{}.{:03}{}",
                time / 1000,
                time % 1000,
                self.say(" 秒", " s")
            ),
            60_000..3_600_000 => format!(
                "+{}{} {}{}",
                time / 60_000,
                self.say(" 分", " min"),
                time / 1000 % 60,
                self.say(" 秒", " s")
            ),
            _ => format!("+{}", self.duration(time)),
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

/// The address of an order's timeline.
pub fn order_address(merid: &str, orderid: &str) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("merid", merid)
        .append_pair("orderid", orderid)
        .finish();
    format!("/order?{query}")
}
