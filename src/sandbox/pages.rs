//! Pages of the sandbox: the customer's payment page, and the developer's page of messages.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use maud::{Markup, html};
use url::form_urlencoded;

use super::Sandbox;
use super::fault::SandboxFault;
use super::order;
use super::order::SandboxOrder;
use crate::time;
use crate::web::language::Language;
use crate::web::reply::{Forms, HTML, Page, Style, text, typed};

static STYLE: LazyLock<Style> = LazyLock::new(|| Style::new(include_str!("sandbox.css")));

/// Replaces what changes every second, while the page is looked at.
const LIVE: &str = "setInterval(async()=>{if(document.hidden)return;try{const r=await fetch('/sandbox/live');if(!r.ok)return;
const open=[...document.querySelectorAll('details[open]')].map(d=>d.id);const live=document.getElementById('live');
live.innerHTML=await r.text();open.forEach(id=>document.getElementById(id)?.setAttribute('open',''))}catch{}},1000)";

impl Language {
    /// The kind of a message in the reader's language.
    fn kind(self, kind: &str) -> Cow<'_, str> {
        match (self, kind.strip_prefix("answer ")) {
            (Self::English, _) => kind.into(),
            (Self::Chinese, Some(status)) => format!("应答 {status}").into(),
            (Self::Chinese, None) => match kind {
                "notification" => "后台通知".into(),
                "customer sent to fronturl" => "客户跳转 fronturl".into(),
                _ => kind.into(),
            },
        }
    }
}

/// Chinese unless a browser asks for English: so are the platform's customers.
fn asked_for(headers: &HeaderMap) -> Language {
    Language::accepted(headers).unwrap_or(Language::Chinese)
}

impl Sandbox {
    pub(super) fn payment_page(&self, query: &str, headers: &HeaderMap) -> Response<Bytes> {
        let language = asked_for(headers);
        let queryid = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "q");
        let order = queryid.and_then(|(_, queryid)| self.order(&queryid));
        let Some(order) = order else {
            return text(StatusCode::NOT_FOUND, "no such order\n");
        };
        let open = order
            .messages
            .iter()
            .all(|message| message.kind != "notification")
            && order.paytime.is_empty();
        let content = html! {
            main {
                h1 { (language.say("收银台", "Checkout")) }
                section {
                    p.soft { (language.say("应付金额", "Amount due")) }
                    p.amount { "¥ " (order.yuan()) }
                    dl {
                        dt { (language.say("商户", "Merchant")) } dd { (order.merid) }
                        dt { (language.say("订单号", "Order")) } dd { (order.orderid) }
                        @if order.action != "Arbi" {
                            dt { (language.say("支付方式", "Method")) } dd { (language.action(&order.action)) }
                        }
                        dt { (language.say("状态", "State")) } dd { (language.result(order.result)) }
                    }
                }
                @if open {
                    (buttons(&order, language))
                }
                p.soft { (language.say("沙箱：不产生真实交易。", "Sandbox: no money moves.")) }
            }
        };
        page(language, language.say("收银台", "Checkout"), None, content)
    }

    pub(super) fn overview(&self, headers: &HeaderMap) -> Response<Bytes> {
        let language = asked_for(headers);
        let content = html! {
            main.wide {
                h1 { (language.say("支付平台沙箱", "Payment platform sandbox")) }
                section.faults {
                    form method="post" action="/sandbox/faults" {
                        fieldset {
                            legend { (language.say("人为故障", "Go wrong on purpose")) }
                            @for fault in SandboxFault::all() {
                                label { input type="checkbox" name="fault" value=(fault.name()) checked[self.state().faults.contains(&fault)]; " " (fault.name()) }
                            }
                        }
                        label { (language.say("仅此订单号（空＝全部）", "Only this order (empty = all)")) " " input type="text" name="orderid" maxlength="32"; }
                        button { (language.say("应用", "Apply")) }
                    }
                }
                div #live { (self.orders_markup(language)) }
            }
            noscript { meta http-equiv="refresh" content="3"; }
        };
        page(
            language,
            language.say("支付平台沙箱", "Payment platform sandbox"),
            Some(LIVE),
            content,
        )
    }

    pub(super) fn live(&self, headers: &HeaderMap) -> Response<Bytes> {
        let content = self.orders_markup(asked_for(headers)).into_string();
        typed(StatusCode::OK, HTML, content)
    }

    fn orders_markup(&self, language: Language) -> Markup {
        let orders = self.state().orders.clone();
        html! {
            @if orders.is_empty() {
                p.soft { (language.say("还没有订单。", "No orders yet.")) }
            }
            @for order in orders.iter().rev().take(50) {
                details id=(order.queryid) {
                    summary {
                        strong { (order.orderid) } " · ¥ " (order.yuan()) " · " (language.result(order.result))
                        @if let Some(next) = order.next_call {
                            " · " span.soft { (language.say("下次通知", "next call")) " " ((next - time::now()).max(0) / 1000) " s" }
                        }
                    }
                    ol {
                        @for message in &order.messages {
                            li {
                                span.soft { (order::paytime(message.at)) } " " strong { (language.kind(&message.kind)) }
                                @if !message.plain.is_empty() { br; code { (message.plain) } }
                                br; code.soft { (message.wire) }
                                @if !message.answer.is_empty() { br; "→ " code { (message.answer) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn buttons(order: &SandboxOrder, language: Language) -> Markup {
    html! {
        form method="post" {
            @if order.action == "Arbi" {
                fieldset {
                    legend { (language.say("请选择支付方式", "Choose a method")) }
                    @for (index, action) in ["AliPay", "WeiXin", "Bank"].into_iter().enumerate() {
                        label { input type="radio" name="action" value=(action) checked[index == 0]; " " (language.action(action)) }
                    }
                }
            }
            button.first name="result" value="0000" { (language.say("支付成功", "Pay")) }
            button name="result" value="1002" { (language.say("处理中", "Processing")) }
            button name="result" value="1003" { (language.say("支付失败", "Fail")) }
            button name="result" value="1004" { (language.say("协查调单", "Under investigation")) }
            button name="result" value="1001" { (language.say("未支付", "Leave unpaid")) }
            button name="result" value="cancel" { (language.say("取消", "Cancel")) }
        }
    }
}

fn page(
    language: Language,
    title: &str,
    script: Option<&'static str>,
    body: Markup,
) -> Response<Bytes> {
    let page = Page {
        language: language.tag(),
        title,
        style: &STYLE,
        // A customer's choice redirects to the shop.
        forms: Forms::Anywhere,
        script,
        head: html! {},
        body,
    };
    page.reply(StatusCode::OK)
}
