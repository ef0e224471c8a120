//! The developer's page: faults to choose, and every message of each order, kept fresh.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use maud::{Markup, html};
use url::form_urlencoded;

use super::Sandbox;
use super::explain::{FaultGroup, about};
use super::fault::SandboxFault;
use super::order::{self, Message, SandboxOrder};
use super::pages::{asked_for, page, state};
use crate::time;
use crate::web::language::Language;
use crate::web::live;

/// Orders that the page shows, the newest.
const SHOWN: usize = 50;
/// Seconds between two refreshes.
const EVERY: u32 = 1;

impl Language {
    /// The kind of a message in the reader's language.
    fn kind(self, kind: &str) -> Cow<'_, str> {
        match (self, kind.strip_prefix("answer ")) {
            (Self::English, Some(status)) => format!("response {status}").into(),
            (Self::English, None) => kind.into(),
            (Self::Chinese, Some(status)) => format!("应答 {status}").into(),
            (Self::Chinese, None) => match kind {
                "notification" => "后台通知".into(),
                "customer sent to fronturl" => "客户跳转 fronturl".into(),
                _ => kind.into(),
            },
        }
    }
}

impl Sandbox {
    pub(super) fn overview(&self, query: &str, headers: &HeaderMap) -> Response<Bytes> {
        let language = asked_for(headers);
        let title = language.say("支付平台沙箱", "Payment platform sandbox");
        let chosen = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "orderid");
        let chosen = chosen.map(|(_, orderid)| orderid.into_owned());
        let content = html! {
            main.wide #main data-every=(EVERY) {
                div.title {
                    h1 { (title) }
                    (live::status(language))
                    noscript { p.live { a href="/" { (language.say("刷新本页", "Load this page again")) } } }
                }
                (self.fault_form(language, chosen.as_deref()))
                div #live data-live { (self.orders_markup(language)) }
            }
        };
        page(StatusCode::OK, language, title, Some(live::SCRIPT), content)
    }

    /// Renders the form that chooses faults, for all orders or for the chosen one.
    fn fault_form(&self, language: Language, chosen: Option<&str>) -> Markup {
        let faults = match chosen {
            Some(orderid) => self.state().faults_of.get(orderid).cloned(),
            None => Some(self.state().faults.clone()),
        };
        let faults = faults.unwrap_or_default();
        html! {
            details.faults #faults data-key="faults" open[chosen.is_some()] {
                summary {
                    strong { (language.say("人为故障与方言", "Faults and dialects on purpose")) }
                    " " span.soft { (language.say("选择让哪些事出错，或换一种写法", "choose what goes wrong, or is written otherwise")) }
                }
                form method="post" action="/sandbox/faults" {
                    div.groups {
                        @for group in FaultGroup::ALL {
                            fieldset {
                                legend { (group.title(language)) }
                                p.soft { (group.about(language)) }
                                @for fault in group.faults() {
                                    label {
                                        input type="checkbox" name="fault" value=(fault.name()) checked[faults.contains(&fault)];
                                        span { code { (fault.name()) } " " span.soft { (about(fault, language)) } }
                                    }
                                }
                            }
                        }
                    }
                    div.apply {
                        label { (language.say("仅此订单号（空＝全部）", "Only this order (empty = all)")) " "
                            input type="text" name="orderid" maxlength="32" value=[chosen]; }
                        button.first { (language.say("应用", "Apply")) }
                        @if chosen.is_some() { a href="/" { (language.say("改为全部订单", "For all orders instead")) } }
                    }
                }
            }
        }
    }

    /// Renders the faults that are active, and the newest orders.
    fn orders_markup(&self, language: Language) -> Markup {
        let (orders, faults, of_orders) = {
            let state = self.state();
            let newest: Vec<_> = state.orders.iter().rev().take(SHOWN).cloned().collect();
            let mut of_orders: Vec<_> = state
                .faults_of
                .iter()
                .map(|(orderid, faults)| (orderid.clone(), faults.clone()))
                .collect();
            of_orders.sort_by(|one, other| one.0.cmp(&other.0));
            (newest, state.faults.clone(), of_orders)
        };
        html! {
            @if !faults.is_empty() || !of_orders.is_empty() {
                section.active {
                    h2 { (language.say("生效中", "Active")) }
                    @if !faults.is_empty() {
                        (active(language, None, &faults))
                    }
                    @for (orderid, faults) in &of_orders { (active(language, Some(orderid), faults)) }
                }
            }
            h2 { (language.say("订单，最新在前", "Orders, newest first")) }
            @if orders.is_empty() {
                section {
                    p { (language.say("还没有订单。", "No orders yet.")) }
                    p.soft {
                        (language.say(
                            "应用经由 Countersign 提交第一笔订单后，每条报文都会显示在这里：明文、线上的样子，以及对方的应答。",
                            "Once the app submits one through Countersign, each message is shown here: plain, as it was sent, and what the other side replied.",
                        ))
                    }
                }
            }
            @for order in &orders {
                @let own = of_orders.iter().find(|(orderid, _)| *orderid == order.orderid);
                (order_markup(language, order, own.map(|(_, faults)| faults.as_slice()).unwrap_or_default()))
            }
        }
    }
}

/// Renders active faults with a button that ends them.
fn active(language: Language, orderid: Option<&str>, faults: &[SandboxFault]) -> Markup {
    html! {
        form.active method="post" action="/sandbox/faults" data-key={ "faults-" (orderid.unwrap_or_default()) } {
            @if let Some(orderid) = orderid { input type="hidden" name="orderid" value=(orderid); }
            strong { (orderid.unwrap_or_else(|| language.say("全部订单", "All orders"))) } " "
            (badges(language, faults))
            button.small { (language.say("取消", "End")) }
        }
    }
}

fn badges(language: Language, faults: &[SandboxFault]) -> Markup {
    html! { @for fault in faults { span.badge title=(about(*fault, language)) { (fault.name()) } " " } }
}

fn order_markup(language: Language, order: &SandboxOrder, faults: &[SandboxFault]) -> Markup {
    let query: String = form_urlencoded::byte_serialize(order.orderid.as_bytes()).collect();
    html! {
        details id=(order.queryid) data-key=(order.queryid) {
            summary {
                strong { (order.orderid) } " · ¥ " (order.yuan()) " · " (state(order, language))
                " · " span.soft { (language.action(&order.action)) }
                @if !faults.is_empty() { " " (badges(language, faults)) }
                @if let Some(next) = order.next_call {
                    " · " span.soft { (language.say("下次通知", "next call")) " " ((next - time::now()).max(0) / 1000) " s" }
                }
            }
            p.soft {
                (language.say("商户 ", "merchant ")) code { (order.merid) } (live::copy(language, &order.merid))
                " · queryid " code { (order.queryid) } (live::copy(language, &order.queryid))
                " · " a href={ "/pay?q=" (order.queryid) } { (language.say("收银台", "payment page")) }
                " · " a href={ "/?orderid=" (query) "#faults" } { (language.say("此订单的故障", "faults of this order")) }
            }
            ol {
                @for (number, message) in order.messages.iter().enumerate() {
                    (message_markup(language, message, &format!("{}-{number}", order.queryid)))
                }
            }
        }
    }
}

fn message_markup(language: Language, message: &Message, key: &str) -> Markup {
    html! {
        li data-key=(key) {
            time.soft datetime=(live::stamp(message.at)) { (order::paytime(message.at)) " UTC+8" } " " strong { (language.kind(&message.kind)) }
            @if !message.plain.is_empty() { pre { (pretty(&message.plain)) } }
            @if !message.wire.is_empty() {
                details.wire data-key={ (key) "-wire" } {
                    summary { (language.say("线上的样子", "As it was sent")) " " span.soft { (message.wire.len()) " B" } }
                    code.soft { (message.wire) } (live::copy(language, &message.wire))
                }
            }
            @if !message.answer.is_empty() { p.answer { "→ " code { (message.answer) } } }
        }
    }
}

/// Breaks JSON into lines, and leaves every token as it is: a number keeps its digits.
fn pretty(json: &str) -> String {
    let mut lines = String::new();
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    let new_line = |lines: &mut String, depth: usize| {
        lines.push('\n');
        lines.push_str(&"  ".repeat(depth));
    };
    for c in json.trim().chars() {
        if in_text {
            lines.push(c);
            in_text = c != '"' || is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            continue;
        }
        match c {
            '{' | '[' => {
                depth += 1;
                lines.push(c);
                new_line(&mut lines, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut lines, depth);
                lines.push(c);
            }
            ',' => {
                lines.push(c);
                new_line(&mut lines, depth);
            }
            ':' => lines.push_str(": "),
            c if c.is_whitespace() => {}
            c => {
                in_text = c == '"';
                lines.push(c);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_broken_into_lines_and_its_tokens_stay() {
        let json = r#"{"a":"x,\"{:\\","b": 1280.00 ,"c":[true,null],"d":9007199254740993}"#;
        let lines = "{\n  \"a\": \"x,\\\"{:\\\\\",\n  \"b\": 1280.00,\n  \"c\": [\n    true,\n    null\n  ],\n  \"d\": 9007199254740993\n}";
        assert_eq!(pretty(json), lines);
        let values =
            [json, lines].map(|text| serde_json::from_str::<serde_json::Value>(text).unwrap());
        assert_eq!(values[0], values[1]);
    }
}
