//! Search for an order, and the list of rejections.

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};

use crate::admin::console::page::{Visit, order_address};
use crate::admin::console::steps::outcome_of;
use crate::admin::context::AdminContext;
use crate::inbox::activity::{ActivityEntry, ActivityKind};
use crate::inbox::event::shown;
use crate::inbox::store::{ActivityFilter, StoreError};
use crate::telemetry::outcome;
use crate::time::Millis;
use crate::web::reply::see_other;

/// Limit of orders that one search lists.
const FOUND: u32 = 50;
/// Limit of activity entries of one list.
const NOTES: u32 = 200;

/// Renders a search: redirects to a single match, lists several.
pub async fn search(
    admin: &AdminContext,
    visit: &Visit<'_>,
    wanted: &str,
) -> Result<Response<Bytes>, StoreError> {
    let found = admin.store.find(wanted, FOUND).await?;
    if let [(merid, orderid)] = found.as_slice() {
        return Ok(see_other(&order_address(merid, orderid)));
    }
    let notes = match found.is_empty() {
        true => {
            admin
                .store
                .notes(ActivityFilter::Request(wanted.to_owned()), NOTES)
                .await?
        }
        false => Vec::new(),
    };
    let content = html! {
        @if !found.is_empty() {
            section {
                ul {
                    @for (merid, orderid) in &found {
                        li {
                            a.number href=(order_address(merid, orderid)) { (shown(orderid)) }
                            " · " (visit.say("商户 ", "merchant ")) span.number { (merid) }
                        }
                    }
                }
            }
        } @else if !notes.is_empty() {
            section { (table(visit, &notes)) }
        } @else {
            section {
                p { (visit.say("没有找到：", "Nothing goes by: ")) code { (shown(wanted)) } }
                p.soft {
                    (visit.say(
                        "可按订单号 (orderid)、平台流水号 (queryid) 或请求号 (x-request-id) 完整查找。",
                        "Search for a whole orderid, queryid or x-request-id.",
                    ))
                }
            }
        }
    };
    let status = if found.is_empty() && notes.is_empty() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::OK
    };
    Ok(visit.page(status, visit.say("查找", "Search"), &content))
}

/// Renders the latest rejections, by reason.
pub async fn rejections(
    admin: &AdminContext,
    visit: &Visit<'_>,
) -> Result<Response<Bytes>, StoreError> {
    let notes = admin.store.notes(ActivityFilter::Refusals, NOTES).await?;
    let mut reasons: Vec<(ActivityKind, &str, usize, Millis)> = Vec::new();
    for note in &notes {
        match reasons
            .iter_mut()
            .find(|it| (it.0, it.1) == (note.what, &*note.outcome))
        {
            Some(reason) => reason.2 += 1,
            None => reasons.push((note.what, &note.outcome, 1, note.at)),
        }
    }
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.2));
    let labels = visit.say(
        ["原因", "对象", "次数", "最近"],
        ["Reason", "Of", "Times", "Latest"],
    );
    let content = html! {
        @if notes.is_empty() {
            section #reasons data-live {
                p { (visit.say("没有被拒的请求。", "Nothing was rejected.")) }
                p.soft {
                    (visit.say(
                        "被拒的调用和通知会带着原因出现在这里；陌生人的请求也在其中。",
                        "Rejected calls and callbacks appear here with their reason, those of strangers included.",
                    ))
                }
            }
        } @else {
            section #reasons data-live {
                h2 { (visit.say("按原因", "By reason")) }
                table {
                    caption { (visit.say("最近 ", "Of the latest ")) (notes.len()) (visit.say(" 条拒绝", " rejections")) }
                    thead { tr { @for label in labels { th scope="col" { (label) } } } }
                    tbody {
                        @for (what, reason, times, latest) in &reasons {
                            tr {
                                th scope="row" data-label=(labels[0]) {
                                    span { code { (reason) } " " span.soft { (outcome::label(*what, reason, visit.language)) } }
                                }
                                td data-label=(labels[1]) { (kind(visit, *what)) }
                                td data-label=(labels[2]) { (times) }
                                td data-label=(labels[3]) { span { (visit.when(*latest)) } }
                            }
                        }
                    }
                }
            }
            section #latest data-live { h2 { (visit.say("最近的拒绝", "The latest")) } (table(visit, &notes)) }
        }
    };
    Ok(visit.page(
        StatusCode::OK,
        visit.say("拒绝记录", "Rejections"),
        &content,
    ))
}

fn table(visit: &Visit<'_>, notes: &[ActivityEntry]) -> Markup {
    let labels = visit.say(
        ["时间", "类型", "原因", "订单", "商户", "请求"],
        ["When", "Kind", "Outcome", "Order", "Merchant", "Request"],
    );
    html! {
        table {
            caption { (visit.say("最新在前", "Newest first")) }
            thead { tr { @for label in labels { th scope="col" { (label) } } } }
            tbody {
                @for note in notes {
                    tr {
                        td data-label=(labels[0]) { span { (visit.when(note.at)) } }
                        td data-label=(labels[1]) { span { (kind(visit, note.what)) " (" (note.way) ")" } }
                        td data-label=(labels[2]) { span { (outcome_of(visit, note)) } }
                        td data-label=(labels[3]) {
                            @if note.orderid.is_empty() { span.soft { "–" } } @else {
                                span {
                                    a.number href=(order_address(&note.merid, &note.orderid)) { (note.orderid) }
                                    @if note.stranger { " " span.badge.warn { (visit.say("未验证", "unverified")) } }
                                }
                            }
                        }
                        td data-label=(labels[4]) { span.number { (note.merid) } }
                        td data-label=(labels[5]) { span.number { (note.request_id) } }
                    }
                }
            }
        }
    }
}

fn kind(visit: &Visit<'_>, what: ActivityKind) -> &'static str {
    match what {
        ActivityKind::Call => visit.say("调用", "call"),
        ActivityKind::Callback => visit.say("通知", "callback"),
        ActivityKind::Question => visit.say("查询", "query"),
    }
}
