//! The decisions of operators about one event: replay, release or discard. A page of its own confirms each.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use maud::{Markup, html};

use super::review::{self, Claim};
use crate::admin::console::decision::{fits, label, result};
use crate::admin::console::labels;
use crate::admin::console::page::{Visit, order_address};
use crate::admin::console::rejection::no_such;
use crate::admin::context::AdminContext;
use crate::http::server::client_address::ClientAddress;
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::review::{DecideOutcome, DecisionKind, Operator};
use crate::inbox::store::StoreError;
use crate::time;
use crate::web::reply::see_other;

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
    let content = html! {
        section {
            (about(visit, &claim, kind))
            (form(admin, visit, &claim.event, kind))
        }
    };
    let title = title(visit, kind, claim.event.state);
    Ok(visit.page(StatusCode::OK, title, &content))
}

/// Renders what is known of the event, and what the decision does.
fn about(visit: &Visit<'_>, claim: &Claim, kind: DecisionKind) -> Markup {
    let event = &claim.event;
    let (merid, orderid) = (&event.merid, &event.orderid);
    html! {
        dl {
            dt { (visit.say("订单", "Order")) } dd { a href=(order_address(merid, orderid)) { span.number { (shown(orderid)) } } }
            dt { (visit.say("商户", "Merchant")) } dd.number { (merid) }
            dt { (visit.say("结果", "Result")) } dd { (result(visit, &event.resultcode)) }
            (review::reason(visit, claim))
            dt { (visit.say("状态", "State")) } dd { (labels::state(visit.language, event.state)) }
            dt { (visit.say("事件", "Event")) } dd.number { (event.id) }
        }
        (review::compared(visit, claim))
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
    }
}

/// Renders the button, or the reason for which there is none.
fn form(admin: &AdminContext, visit: &Visit<'_>, event: &Event, kind: DecisionKind) -> Markup {
    html! {
        @if !fits(kind, event.state) {
            p.note { (visit.say("此事件当前的状态不需要这样做。", "Its present state does not allow this.")) }
        } @else if admin.guard.asks_for_token() {
            form method="post" {
                (visit.form_token())
                div.actions {
                    button.first { (label(visit, kind, event.state)) }
                    a href=(order_address(&event.merid, &event.orderid)) { (visit.say("取消", "Cancel")) }
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
}

/// The question above the form.
fn title(visit: &Visit<'_>, kind: DecisionKind, state: EventState) -> &'static str {
    match kind {
        DecisionKind::Replay if state == EventState::Pending => {
            visit.say("立即投递此事件？", "Deliver this event now?")
        }
        DecisionKind::Replay => visit.say("重放此事件？", "Replay this event?"),
        DecisionKind::Release => visit.say("放行此事件？", "Release this event?"),
        DecisionKind::Discard => visit.say("丢弃此事件？", "Discard this event?"),
    }
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
    let operator = operator(admin, request);
    let decided = admin.store.decide(id, kind, &operator, time::now()).await?;
    let done = matches!(decided, DecideOutcome::Done { .. });
    tracing::info!(
        event = id,
        decision = kind.name(),
        done,
        who = operator.who,
        from = operator.from,
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

/// Names who decides, and from where.
pub fn operator(admin: &AdminContext, request: &Request<Bytes>) -> Operator {
    Operator {
        who: admin.guard.who(request.headers()).to_owned(),
        from: client(request),
    }
}

/// Names the client for the history of decisions.
fn client(request: &Request<Bytes>) -> String {
    match request.extensions().get::<ClientAddress>() {
        Some(ClientAddress::Known(address)) => format!("console, {address}"),
        _ => "console".to_owned(),
    }
}
