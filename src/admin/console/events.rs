//! Lists of events, and the decisions of operators about one: replay or discard. A second page confirms each.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use maud::{Markup, html};

use super::decision::{actions, fits, label, result};
use super::labels;
use super::page::{Visit, order_address};
use super::review::{self, Claim};
use crate::admin::context::AdminContext;
use crate::http::server::client_address::ClientAddress;
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::review::{DecideOutcome, DecisionKind, Operator};
use crate::inbox::store::StoreError;
use crate::time;
use crate::web::reply::see_other;

/// Events of one list, at first and with "show more".
const LISTED: u32 = 200;
const MOST_LISTED: u32 = 5000;

pub async fn events(
    admin: &AdminContext,
    visit: &Visit<'_>,
) -> Result<Response<Bytes>, StoreError> {
    let named = visit.parameter("state").unwrap_or_default();
    let state = EventState::parse(&named).unwrap_or(EventState::Pending);
    let wanted = visit
        .parameter("limit")
        .and_then(|limit| limit.parse().ok());
    let limit = wanted.unwrap_or(LISTED).min(MOST_LISTED);
    let events = admin.store.events(Some(state), limit).await?;
    let is_full = events.len() >= limit as usize && limit < MOST_LISTED;
    let is_empty = events.is_empty();
    let list = match state {
        EventState::Disputed => review::table(visit, &claims(admin, events).await?),
        _ => table(visit, &events),
    };
    let content = html! {
        p.soft { (labels::about_state(visit.language, state)) }
        @if is_empty {
            section { p { (visit.say("没有。", "None.")) } }
        } @else {
            section { (list) }
            @if is_full {
                p { a href={ "/events?state=" (state.name()) "&limit=" (MOST_LISTED) } { (visit.say("显示更多", "Show more")) } }
            }
        }
    };
    Ok(visit.page(
        StatusCode::OK,
        labels::state(visit.language, state),
        &content,
    ))
}

/// Renders the page that confirms a decision.
pub async fn confirm(
    admin: &AdminContext,
    visit: &Visit<'_>,
    id: &str,
    kind: DecisionKind,
) -> Result<Response<Bytes>, StoreError> {
    let Some(event) = admin.store.event(id).await? else {
        return Ok(no_such(visit));
    };
    let signed = admin.store.signed(&event.merid, &event.orderid).await?;
    let claim = Claim { event, signed };
    let event = &claim.event;
    let (merid, orderid) = (&event.merid, &event.orderid);
    let content = html! {
        section {
            dl {
                dt { (visit.say("订单", "Order")) } dd { a href=(order_address(merid, orderid)) { span.number { (shown(orderid)) } } }
                dt { (visit.say("商户", "Merchant")) } dd.number { (merid) }
                dt { (visit.say("结果", "Result")) } dd { (result(visit, &event.resultcode)) }
                (review::entries(visit, &claim))
                dt { (visit.say("状态", "State")) } dd { (labels::state(visit.language, event.state)) }
                dt { (visit.say("事件", "Event")) } dd.number { (event.id) }
            }
            p {
                @match kind {
                    DecisionKind::Replay | DecisionKind::Release => (visit.say(
                        "将立即以相同的事件号再次投递给应用。",
                        "The app gets it again at once, under the same event id.",
                    )),
                    DecisionKind::Discard => (visit.say("应用将不会得知此结果。", "The app will not get this result.")),
                }
            }
            @if kind == DecisionKind::Release {
                p.note.bad {
                    (visit.say("此事件有争议：", "This event is disputed. "))
                    (labels::about_state(visit.language, event.state))
                }
            }
            @if !fits(kind, event.state) {
                p.note { (visit.say("此事件当前的状态不需要这样做。", "Its present state does not allow this.")) }
            } @else if admin.guard.asks_for_token() {
                form method="post" {
                    (visit.form_token())
                    div.actions {
                        button.first { (label(visit, kind, event.state)) }
                        a href=(order_address(merid, orderid)) { (visit.say("取消", "Cancel")) }
                    }
                }
            } @else {
                p.note {
                    (visit.say(
                        "控制台没有令牌（admin.token 或 admin.token_file），不能在此决定。请在命令行执行：",
                        "Decisions here need a token (admin.token or admin.token_file). On the command line: ",
                    ))
                    code { "countersign inbox " (command(kind)) " " (event.id) }
                }
            }
        }
    };
    let title = match kind {
        DecisionKind::Replay if event.state == EventState::Pending => {
            visit.say("立即投递此事件？", "Deliver this event now?")
        }
        DecisionKind::Replay => visit.say("重放此事件？", "Replay this event?"),
        DecisionKind::Release => visit.say("放行此事件？", "Release this event?"),
        DecisionKind::Discard => visit.say("丢弃此事件？", "Discard this event?"),
    };
    Ok(visit.page(StatusCode::OK, title, &content))
}

/// Carries out a decision and redirects to the order's timeline.
pub async fn decide(
    admin: &AdminContext,
    visit: &Visit<'_>,
    id: &str,
    kind: DecisionKind,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, StoreError> {
    let Some(event) = admin.store.event(id).await? else {
        return Ok(no_such(visit));
    };
    let from = client(request);
    let operator = Operator {
        who: admin.guard.who(request.headers()).to_owned(),
        from: from.clone(),
    };
    let decided = admin.store.decide(id, kind, &operator, time::now()).await?;
    let done = matches!(decided, DecideOutcome::Done { .. });
    tracing::info!(
        event = id,
        decision = kind.name(),
        done,
        who = operator.who,
        from,
        "decided at the console"
    );
    // The redirect shows the state as it is by now: another operator may have decided first.
    let said = if done { kind.name() } else { "nothing" };
    let address = order_address(&event.merid, &event.orderid);
    Ok(see_other(&format!("{address}&done={said}")))
}

/// Returns the command that makes the same decision; a replay releases what is in review too.
fn command(kind: DecisionKind) -> &'static str {
    match kind {
        DecisionKind::Replay | DecisionKind::Release => "replay",
        DecisionKind::Discard => "discard",
    }
}

/// Names the client for the history of decisions.
fn client(request: &Request<Bytes>) -> String {
    match request.extensions().get::<ClientAddress>() {
        Some(ClientAddress::Known(address)) => format!("console, {address}"),
        _ => "console".to_owned(),
    }
}

/// Looks up the orders of events under review.
async fn claims(admin: &AdminContext, events: Vec<Event>) -> Result<Vec<Claim>, StoreError> {
    let mut claims = Vec::with_capacity(events.len());
    for event in events {
        let signed = admin.store.signed(&event.merid, &event.orderid).await?;
        claims.push(Claim { event, signed });
    }
    Ok(claims)
}

fn table(visit: &Visit<'_>, events: &[Event]) -> Markup {
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
                    tr {
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

pub fn no_such(visit: &Visit<'_>) -> Response<Bytes> {
    let content = html! { section { p { (visit.say("可能已过保存期限。", "It may have been forgotten after inbox.keep.")) } } };
    visit.page(
        StatusCode::NOT_FOUND,
        visit.say("没有这样的事件或订单", "No such event or order"),
        &content,
    )
}
