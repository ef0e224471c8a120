//! The table of events, with a link to each decision.

use maud::{Markup, html};

use crate::admin::console::decision::{actions, result};
use crate::admin::console::labels;
use crate::admin::console::page::{Visit, order_address};
use crate::inbox::event::{Event, shown};

/// Renders events, newest first.
pub fn table(visit: &Visit<'_>, events: &[Event]) -> Markup {
    let labels = visit.say(
        [
            "收到",
            "订单",
            "商户",
            "结果",
            "金额",
            "次数",
            "上次投递",
            "操作",
        ],
        [
            "Kept",
            "Order",
            "Merchant",
            "Result",
            "Amount",
            "Attempts",
            "Last attempt",
            "Action",
        ],
    );
    let [
        kept,
        order,
        merchant,
        resulted,
        amount,
        attempts,
        last,
        action,
    ] = labels;
    html! {
        table {
            caption { (visit.say("最新在前：", "Newest first: ")) (events.len()) }
            thead { tr { @for label in labels { th scope="col" { (label) } } } }
            tbody {
                @for event in events {
                    tr data-key=(event.id) {
                        td data-label=(kept) { span { (visit.when(event.received_at)) } }
                        th scope="row" data-label=(order) { a.number href=(order_address(&event.merid, &event.orderid)) { (shown(&event.orderid)) } }
                        td data-label=(merchant) { span.number { (event.merid) } }
                        td data-label=(resulted) { span { (result(visit, &event.resultcode)) } }
                        td data-label=(amount) { span.amount { (labels::yuan(event.amount)) } }
                        td data-label=(attempts) { (event.attempts) }
                        td data-label=(last) { span { @if event.attempts == 0 { "–" } @else { (shown(&event.last_attempt)) } } }
                        td data-label=(action) { (actions(visit, event)) }
                    }
                }
            }
        }
    }
}
