//! The list of orders, newest first, and its export.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use maud::{Markup, html};

use super::filter::ListFilter;
use crate::admin::console::decision::{badge, result};
use crate::admin::console::labels;
use crate::admin::console::page::{Visit, order_address};
use crate::admin::context::AdminContext;
use crate::inbox::event::shown;
use crate::inbox::listing::{
    LISTED, ListedOrder, OrderFilter, OrderPage, OrderPlace, OrderState, csv_line,
};
use crate::inbox::store::StoreError;
use crate::web::reply::{CSV, JSON, typed};

/// Orders of one page.
const SHOWN: u32 = 100;
/// Limit of orders of one export; the command line exports more.
const EXPORTED: usize = 5_000;
/// Limit of pages that one export reads, where a filter leaves most of them empty.
const PAGES: u32 = 50;

/// Renders the list, or exports it.
pub async fn orders(
    admin: &AdminContext,
    visit: &Visit<'_>,
) -> Result<Response<Bytes>, StoreError> {
    let list = ListFilter::of(visit);
    let (from, until) = list.times();
    let state = visit.parameter("state").unwrap_or_default();
    let filter = OrderFilter {
        merid: list.merid.clone(),
        prefix: list.prefix.clone(),
        from,
        until,
        state: OrderState::parse(&state),
    };
    let after = visit.parameter("after");
    let after = after.and_then(|place| OrderPlace::parse(&place));
    match visit.parameter("format").as_deref() {
        Some("csv") => return export(admin, &filter, after, Format::Csv).await,
        Some("json") => return export(admin, &filter, after, Format::Json).await,
        _ => {}
    }
    let is_first = after.is_none();
    let page = admin.store.orders(&filter, after, SHOWN).await?;
    let place = ("/orders", "");
    let content = html! {
        (list.form(visit, place, &admin.watch.snapshot(), &state_field(visit, filter.state)))
        section #list data-live {
            @if page.orders.is_empty() {
                (nothing(visit, &filter, &page, list.is_empty() && is_first))
            } @else {
                (head(visit, &page))
                (table(visit, &page.orders))
            }
            (next(visit, &page))
        }
    };
    Ok(visit.page(StatusCode::OK, visit.say("订单", "Orders"), &content))
}

fn state_field(visit: &Visit<'_>, chosen: Option<OrderState>) -> Markup {
    html! {
        label {
            span { (visit.say("状态", "State")) }
            select name="state" {
                option value="" { (visit.say("全部", "All")) }
                @for state in OrderState::ALL {
                    option value=(state.name()) selected[chosen == Some(state)] { (labels::order_state(visit.language, state)) }
                }
            }
        }
    }
}

fn head(visit: &Visit<'_>, page: &OrderPage) -> Markup {
    let export = |format| {
        format!(
            "?{}",
            visit.query_with(&[("format", Some(format)), ("live", None)])
        )
    };
    html! {
        p.bulk {
            span {
                strong { (page.orders.len()) }
                (visit.say(" 笔", if page.orders.len() == 1 { " order" } else { " orders" }))
                @if page.next.is_some() { (visit.say("，还有更多", ", and more")) }
            }
            span.soft { (visit.say("导出：", "Export: ")) a href=(export("csv")) { "CSV" } " · " a href=(export("json")) { "JSON" } }
        }
    }
}

fn nothing(visit: &Visit<'_>, filter: &OrderFilter, page: &OrderPage, is_bare: bool) -> Markup {
    html! {
        @if is_bare && filter.state.is_none() {
            p { (visit.say("还没有订单。", "No orders yet.")) }
            p.soft {
                (visit.say(
                    "应用经由 Countersign 提交的每笔订单，签名后就会出现在这里。",
                    "Each order that the app submits through Countersign appears here once it is signed.",
                ))
            }
        } @else {
            p {
                @if page.next.is_some() {
                    (visit.say("这一段时间里没有符合筛选条件的订单。", "No order of this stretch fits the filter."))
                } @else {
                    (visit.say("没有符合筛选条件的订单。", "No order fits the filter."))
                }
                " " a href="/orders" { (visit.say("清除筛选", "Clear the filter")) }
            }
        }
    }
}

fn next(visit: &Visit<'_>, page: &OrderPage) -> Markup {
    html! {
        @if let Some(next) = &page.next {
            @let place = next.to_string();
            p { a href={ "?" (visit.query_with(&[("after", Some(&place))])) } { (visit.say("更早的订单", "Older orders")) } }
        }
    }
}

fn table(visit: &Visit<'_>, orders: &[ListedOrder]) -> Markup {
    let labels = visit.say(
        [
            "签名时间",
            "订单",
            "商户",
            "方式",
            "签名金额",
            "状态",
            "结果",
            "结果金额",
            "投递",
        ],
        [
            "Signed", "Order", "Merchant", "Method", "Amount", "State", "Result", "Claimed",
            "Delivery",
        ],
    );
    html! {
        table {
            caption { (visit.say("最新在前", "Newest first")) }
            thead { tr { @for label in labels { th scope="col" { (label) } } } }
            tbody { @for order in orders { (row(visit, order, labels)) } }
        }
    }
}

fn row(visit: &Visit<'_>, order: &ListedOrder, labels: [&str; 9]) -> Markup {
    let signed = &order.row;
    let differs = order
        .result
        .as_ref()
        .is_some_and(|result| result.amount != signed.amount);
    html! {
        tr data-key={ (signed.merid) "/" (signed.orderid) } {
            td data-label=(labels[0]) { span { (visit.when(signed.signed_at)) } }
            th scope="row" data-label=(labels[1]) {
                a.number href=(order_address(&signed.merid, &signed.orderid)) { (shown(&signed.orderid)) }
            }
            td data-label=(labels[2]) { span.number { (signed.merid) } }
            td data-label=(labels[3]) { (visit.language.action(&signed.action)) }
            td data-label=(labels[4]) { span.amount { (labels::yuan(signed.amount)) } }
            td data-label=(labels[5]) { span class={ "badge " (tone(order.state)) } { (labels::order_state(visit.language, order.state)) } }
            @if let Some(found) = &order.result {
                td data-label=(labels[6]) { span { (result(visit, &found.resultcode)) } }
                td data-label=(labels[7]) { span.amount.bad[differs] { (labels::yuan(found.amount)) } }
                td data-label=(labels[8]) { (badge(visit, found.state)) }
            } @else {
                @for label in &labels[6..] { td data-label=(label) { span.soft { "–" } } }
            }
        }
    }
}

fn tone(state: OrderState) -> &'static str {
    match state {
        OrderState::Paid => "good",
        OrderState::Differs => "bad",
        OrderState::Failed => "warn",
        OrderState::Open | OrderState::Closed => "soft",
    }
}

#[derive(Clone, Copy)]
enum Format {
    Csv,
    Json,
}

/// Exports what the filter selects, from the newest on; the reply says where it ends early.
async fn export(
    admin: &AdminContext,
    filter: &OrderFilter,
    mut after: Option<OrderPlace>,
    format: Format,
) -> Result<Response<Bytes>, StoreError> {
    let mut orders = Vec::new();
    let mut next = None;
    for _ in 0..PAGES {
        let page = admin.store.orders(filter, after, LISTED).await?;
        orders.extend(page.orders);
        next = page.next.clone();
        after = page.next;
        if after.is_none() || orders.len() >= EXPORTED {
            break;
        }
    }
    let (kind, name, body) = match format {
        Format::Csv => {
            let lines = orders.iter().map(ListedOrder::csv);
            let body: String = std::iter::once(csv_line(ListedOrder::COLUMNS))
                .chain(lines)
                .collect();
            (CSV, "orders.csv", body)
        }
        Format::Json => {
            let orders: Vec<_> = orders.iter().map(ListedOrder::json).collect();
            let next = next.as_ref().map(ToString::to_string);
            let body = serde_json::json!({ "orders": orders, "next": next });
            (JSON, "orders.json", body.to_string())
        }
    };
    let mut response = typed(StatusCode::OK, kind, body);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    if let Some(next) = next.and_then(|next| HeaderValue::try_from(next.to_string()).ok()) {
        headers.insert("countersign-next", next);
    }
    Ok(response)
}
