//! What people see of the sandbox: the customer's payment page, and the developer's page of what happened.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use url::form_urlencoded;

use super::fault::SandboxFault;
use super::order;
use super::order::SandboxOrder;
use super::{Sandbox, text, typed};
use crate::time;
use crate::web::language::Language;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5b6875;--line:#d8dee5;--paper:#fff;--ground:#f3f5f8;--act:#0b62c4}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9fabb8;--line:#35404c;--paper:#1a222b;--ground:#11171e;--act:#6cb0ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,'PingFang SC','Noto Sans CJK SC','Microsoft YaHei',sans-serif}
main{max-width:26rem;margin:0 auto;padding:1.25rem}
main.wide{max-width:64rem}
h1{font-size:1.3rem;margin:.5rem 0 1rem}
section,details{background:var(--paper);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin:0 0 1rem}
section>:first-child{margin-top:0}section>:last-child{margin-bottom:0}
.amount{font-size:2.2rem;font-weight:600;margin:.2rem 0}
dl{display:grid;grid-template-columns:auto 1fr;gap:.2rem 1rem;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
button{font:inherit;width:100%;padding:.8rem;margin:.35rem 0;border-radius:.5rem;border:1px solid var(--line);background:var(--paper);color:var(--ink);cursor:pointer}
button.first{background:var(--act);border-color:var(--act);color:var(--paper);font-weight:600}
fieldset{border:0;padding:0;margin:0 0 .8rem}legend{color:var(--soft);padding:0}
label{display:inline-block;margin:.15rem 1rem .15rem 0}
summary{cursor:pointer;-webkit-tap-highlight-color:transparent;overflow-wrap:anywhere}
ol{list-style:none;margin:.8rem 0 0;padding:0}
li{border-top:1px solid var(--line);padding:.6rem 0;overflow-wrap:anywhere}
code{font:.82rem/1.45 ui-monospace,Consolas,monospace;word-break:break-all}
.soft{color:var(--soft)}
.faults button{width:auto;padding:.4rem 1.2rem}
input[type=text]{font:inherit;padding:.35rem .5rem;border:1px solid var(--line);border-radius:.4rem;background:var(--paper);color:var(--ink);max-width:100%}
";

/// Replaces what changes every second, while the page is looked at.
const LIVE: &str = "setInterval(async()=>{if(document.hidden)return;try{const r=await fetch('/sandbox/live');if(!r.ok)return;
const open=[...document.querySelectorAll('details[open]')].map(d=>d.id);const live=document.getElementById('live');
live.innerHTML=await r.text();open.forEach(id=>document.getElementById(id)?.setAttribute('open',''))}catch{}},1000)";

impl Language {
    /// What a message is, where the reader's language has another word for it.
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
        page(language, language.say("收银台", "Checkout"), content)
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
                            @for fault in SandboxFault::ALL {
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
            script { (PreEscaped(LIVE)) }
        };
        page(
            language,
            language.say("支付平台沙箱", "Payment platform sandbox"),
            content,
        )
    }

    pub(super) fn live(&self, headers: &HeaderMap) -> Response<Bytes> {
        let content = self.orders_markup(asked_for(headers)).into_string();
        typed(StatusCode::OK, "text/html; charset=utf-8", content)
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

fn page(language: Language, title: &str, content: Markup) -> Response<Bytes> {
    let page = html! {
        (DOCTYPE)
        html lang=(language.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (content) }
        }
    };
    typed(
        StatusCode::OK,
        "text/html; charset=utf-8",
        page.into_string(),
    )
}
