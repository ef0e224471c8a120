//! The timeline of an order: every known step, oldest first.

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};

use super::decision::{actions, badge, result};
use super::labels;
use super::lists::review::{Claim, compared};
use super::page::Visit;
use super::rejection::no_such;
use super::steps::{of_attempts, of_decision, of_event, of_ledger, of_note};
use crate::admin::context::AdminContext;
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::order::SignedOrder;
use crate::inbox::store::{ActivityFilter, StoreError};

/// Limit of events of one order; there is seldom more than one.
const EVENTS: u32 = 20;
/// Limit of activity entries of one order, or of one list.
const NOTES: u32 = 200;

pub async fn order(admin: &AdminContext, visit: &Visit<'_>) -> Result<Response<Bytes>, StoreError> {
    let [merid, orderid] =
        ["merid", "orderid"].map(|name| visit.parameter(name).unwrap_or_default());
    let signed = admin.store.signed(&merid, &orderid).await?;
    let events = admin.store.events_of(&merid, &orderid, EVENTS).await?;
    let wanted = ActivityFilter::Order(merid.clone(), orderid.clone());
    let notes = admin.store.notes(wanted, NOTES).await?;
    if signed.is_none() && events.is_empty() && notes.is_empty() {
        return Ok(no_such(visit));
    }
    let mut steps: Vec<_> = signed
        .iter()
        .map(|signed| of_ledger(visit, signed))
        .collect();
    // Newest first in the store: what happened in one millisecond stays in its order.
    for note in notes.iter().rev() {
        steps.extend(of_note(visit, note, signed.as_ref(), &events));
    }
    for event in &events {
        steps.push(of_event(visit, event));
        let attempts = admin.store.attempts(&event.id).await?;
        steps.extend(of_attempts(visit, &attempts));
        let decisions = admin.store.decisions(&event.id).await?;
        steps.extend(
            decisions
                .iter()
                .map(|decision| of_decision(visit, decision)),
        );
    }
    // Stable: within a millisecond, causes were pushed before what they caused.
    steps.sort_by_key(|step| step.at);
    let gaps = steps
        .iter()
        .skip(1)
        .zip(&steps)
        .map(|(step, before)| step.at - before.at);
    let gaps = std::iter::once(None).chain(gaps.map(Some));
    let content = html! {
        p.soft {
            (visit.say("商户 ", "merchant ")) (visit.copied(&merid))
            " · " (visit.say("订单号 ", "orderid ")) (visit.copied(&orderid))
        }
        (done(visit))
        div #summary data-live { (summary(visit, signed.as_ref(), &events)) }
        section #steps data-live {
            h2 { (visit.say("经过", "What happened")) }
            ol.story { @for (number, (step, gap)) in steps.iter().zip(gaps).enumerate() { (step.show(visit, number, gap)) } }
            (ahead(visit, signed.as_ref(), &events))
        }
    };
    let title = format!("{} {}", visit.say("订单", "Order"), shown(&orderid));
    Ok(visit.page(StatusCode::OK, &title, &content))
}

fn done(visit: &Visit<'_>) -> Markup {
    let said = match visit.parameter("done").as_deref() {
        Some("replay" | "release") => visit.say("已安排重放。", "The app gets it again."),
        Some("discard") => visit.say("已丢弃。", "Discarded."),
        Some(_) => visit.say(
            "没有改变：状态已不同。",
            "Nothing changed: its state is different by now.",
        ),
        None => return html! {},
    };
    html! { p.note role="status" { (said) } }
}

fn summary(visit: &Visit<'_>, signed: Option<&SignedOrder>, events: &[Event]) -> Markup {
    html! {
        section {
            @if let Some(signed) = signed {
                dl {
                    dt { (visit.say("金额", "Amount")) } dd { (labels::yuan(signed.amount)) }
                    dt { (visit.say("方式", "Action")) } dd { (visit.language.action(&signed.action)) " " span.soft { (shown(&signed.action)) } }
                }
            } @else {
                p.note.warn {
                    (visit.say(
                        "不在签名账本中：此订单不是由本机签名。",
                        "Not in the ledger: this order was not signed here.",
                    ))
                }
            }
            @if events.is_empty() {
                p { (visit.say("尚无结果。", "No result yet.")) }
            }
            @for event in events {
                p {
                    strong { (result(visit, &event.resultcode)) } " · " (labels::yuan(event.amount)) " · "
                    (badge(visit, event.state)) " " (actions(visit, event))
                }
                @if event.state == EventState::Disputed {
                    (compared(visit, &Claim { event: event.clone(), signed: signed.cloned() }))
                }
            }
        }
    }
}

/// Renders the next automatic steps.
fn ahead(visit: &Visit<'_>, signed: Option<&SignedOrder>, events: &[Event]) -> Markup {
    let next_look = signed.and_then(|signed| signed.next_look);
    html! {
        @for event in events.iter().filter(|event| event.state == EventState::Pending) {
            @match event.waits {
                Some(reason) => p.warn { (visit.say("等待：", "Waits: ")) code { (reason.name()) } " " (labels::waits(visit.language, reason)) },
                None => p.soft { (visit.say("下次投递：", "Next attempt: ")) (visit.when(event.next_attempt)) },
            }
        }
        @if let Some(at) = next_look {
            p.soft { (visit.say("监看下次查询：", "Next query of the platform: ")) (visit.when(at)) }
        }
    }
}
