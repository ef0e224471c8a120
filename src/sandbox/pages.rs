//! The customer's payment page, and the frame of the sandbox's pages.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use maud::{Markup, html};
use url::form_urlencoded;

use super::Sandbox;
use super::order::SandboxOrder;
use crate::protocol::result::ResultCode;
use crate::web::language::Language;
use crate::web::reply::{Forms, Page, Style};

static STYLE: LazyLock<Style> = LazyLock::new(|| Style::new(include_str!("sandbox.css")));

/// Chinese unless a browser asks for English: so are the platform's customers.
pub(super) fn asked_for(headers: &HeaderMap) -> Language {
    Language::accepted(headers).unwrap_or(Language::Chinese)
}

impl Sandbox {
    pub(super) fn payment_page(&self, query: &str, headers: &HeaderMap) -> Response<Bytes> {
        let language = asked_for(headers);
        let title = language.say("收银台", "Checkout");
        let queryid = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "q");
        let order = queryid.and_then(|(_, queryid)| self.order(&queryid));
        let Some(order) = order else {
            let content = html! {
                main { h1 { (title) } section { p { (language.say("没有这样的订单。", "There is no such order.")) } } }
            };
            return page(StatusCode::NOT_FOUND, language, title, None, content);
        };
        let open = order
            .messages
            .iter()
            .all(|message| message.kind != "notification")
            && order.paytime.is_empty();
        let content = html! {
            main {
                h1 { (title) }
                section {
                    p.soft { @if open { (language.say("应付金额", "Amount due")) } @else { (language.say("金额", "Amount")) } }
                    p.amount { "¥ " (order.yuan()) }
                    dl {
                        dt { (language.say("商户", "Merchant")) } dd { (order.merid) }
                        dt { (language.say("订单号", "Order")) } dd { (order.orderid) }
                        @if order.action != "Arbi" {
                            dt { (language.say("支付方式", "Method")) } dd { (language.action(&order.action)) }
                        }
                        dt { (language.say("状态", "State")) } dd { (state(&order, language)) }
                    }
                }
                @if open {
                    (buttons(&order, language))
                } @else {
                    p.soft { (language.say("此订单的结果已定，可以关闭本页。", "This order has its result. You can close this page.")) }
                }
            }
        };
        page(StatusCode::OK, language, title, None, content)
    }
}

/// Renders an order's result in its colour.
pub(super) fn state(order: &SandboxOrder, language: Language) -> Markup {
    let tone = match order.result {
        ResultCode::Paid => "good",
        ResultCode::Failed => "bad",
        ResultCode::Processing | ResultCode::Investigation => "warn",
        ResultCode::NotPaid => "soft",
    };
    html! { span.(tone) { (language.result(order.result)) } }
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
            p.soft { (language.say("或者让支付有别的结果：", "Or let it end otherwise:")) }
            div.others {
                button name="result" value="1002" { (language.say("处理中", "Processing")) }
                button name="result" value="1003" { (language.say("支付失败", "Fail")) }
                button name="result" value="1004" { (language.say("协查调单", "Under investigation")) }
                button name="result" value="1001" { (language.say("未支付", "Leave unpaid")) }
            }
            button name="result" value="cancel" { (language.say("取消并返回商户", "Cancel, back to the shop")) }
        }
    }
}

/// Frames a page: its banner says that this is a sandbox.
pub(super) fn page(
    status: StatusCode,
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
        body: html! {
            p.banner role="note" {
                strong { (language.say("沙箱", "Sandbox")) } " "
                (language.say("模拟的支付平台，不产生真实交易。", "A stand-in for the payment platform. No money moves."))
            }
            (body)
        },
    };
    page.reply(status)
}
