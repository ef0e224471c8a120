//! The timeline of an order: every known step, oldest first.

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};

use super::decision::{actions, result};
use super::events::no_such;
use super::labels;
use super::page::Visit;
use crate::admin::context::AdminContext;
use crate::inbox::activity::{ActivityEntry, ActivityKind};
use crate::inbox::attempt::{AppResponse, AttemptRecord};
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::order::SignedOrder;
use crate::inbox::review::{DecisionKind, DecisionRecord};
use crate::inbox::store::{ActivityFilter, StoreError};
use crate::telemetry::outcome;
use crate::time::Millis;

/// Limit of events of one order; there is seldom more than one.
const EVENTS: u32 = 20;
/// Limit of activity entries of one order, or of one list.
const NOTES: u32 = 200;
/// Limit of attempts of one event: the first and the latest are shown.
const ATTEMPTS: usize = 50;

/// One step of a timeline.
struct TimelineStep {
    at: Millis,
    tone: Tone,
    title: String,
    details: Markup,
}

/// The appearance of a step.
enum Tone {
    Plain,
    Good,
    Bad,
    Odd,
}

impl Tone {
    fn class(&self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "ok",
            Self::Bad => "no",
            Self::Odd => "odd",
        }
    }
}

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
    let content = html! {
        p.soft { (visit.say("商户 ", "merchant ")) span.number { (merid) } }
        (done(visit))
        (summary(visit, signed.as_ref(), &events))
        section {
            h2 { (visit.say("经过", "What happened")) }
            ol.story {
                @for step in &steps {
                    li class=(step.tone.class()) {
                        div.head { h3 { (step.title) } p.soft { (visit.when(step.at)) } }
                        (step.details)
                    }
                }
            }
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
            }
        }
    }
}

fn badge(visit: &Visit<'_>, state: EventState) -> Markup {
    let tone = match state {
        EventState::Delivered => "good",
        EventState::Disputed => "bad",
        EventState::Parked => "warn",
        EventState::Pending | EventState::Discarded => "soft",
    };
    html! { span class={ "badge " (tone) } { (labels::state(visit.language, state)) } }
}

fn of_ledger(visit: &Visit<'_>, signed: &SignedOrder) -> TimelineStep {
    TimelineStep {
        at: signed.signed_at,
        tone: Tone::Plain,
        title: visit.say("签名", "Signed").to_owned(),
        details: html! { p { (labels::yuan(signed.amount)) " · " (visit.language.action(&signed.action)) } },
    }
}

fn of_note(
    visit: &Visit<'_>,
    note: &ActivityEntry,
    signed: Option<&SignedOrder>,
    events: &[Event],
) -> Vec<TimelineStep> {
    match note.what {
        ActivityKind::Call => of_call(visit, note, signed),
        ActivityKind::Callback => vec![of_callback(visit, note, events)],
        ActivityKind::Question => vec![of_question(visit, note)],
    }
}

fn of_call(
    visit: &Visit<'_>,
    note: &ActivityEntry,
    signed: Option<&SignedOrder>,
) -> Vec<TimelineStep> {
    let mut steps = Vec::new();
    let left = note.sent != "no";
    let began = note.at - note.took;
    let signed_at = signed.map(|signed| signed.signed_at);
    // An order is signed after its call has begun, and before it is sent.
    let signed_at = signed_at.filter(|at| (began..=note.at).contains(at));
    if left {
        steps.push(TimelineStep {
            at: signed_at.unwrap_or(began),
            tone: Tone::Plain,
            title: format!(
                "{} ({})",
                visit.say("发往平台", "Sent to the platform"),
                note.way
            ),
            details: html! {},
        });
    }
    let title = match (left, note.refused) {
        (true, false) => visit.say("已应答", "Answered"),
        (false, false) => visit.say(
            "已签名交给应用，由浏览器发送",
            "Handed to the app signed, for the browser to send",
        ),
        (_, true) => visit.say("调用失败", "Rejected"),
    };
    steps.push(TimelineStep {
        at: note.at,
        tone: match (note.refused, &*note.sent) {
            (false, _) => Tone::Good,
            (true, "unknown") => Tone::Odd,
            (true, _) => Tone::Bad,
        },
        title: title.to_owned(),
        details: html! {
            p { (outcome_of(visit, note)) " · " (note.took) " ms" }
            p { "sent: " code { (note.sent) } " " span.soft { (labels::sent(visit.language, &note.sent)) } }
            (request(visit, note))
        },
    });
    steps
}

fn of_callback(visit: &Visit<'_>, note: &ActivityEntry, events: &[Event]) -> TimelineStep {
    // Both the end and the duration are rounded down, so their difference can be a millisecond late: never after what
    // the callback brought.
    let began = note.at - note.took;
    let brought = events.iter().map(|event| event.received_at);
    let brought = brought.filter(|at| (began - 1..=note.at).contains(at));
    let title = match (note.refused, &*note.outcome) {
        (true, _) => visit.say("通知被拒", "Callback rejected"),
        (false, "repeated") => visit.say("重复的通知", "Callback repeated"),
        (false, _) => visit.say("通知被接受", "Callback accepted"),
    };
    TimelineStep {
        at: brought.fold(began, Millis::min),
        tone: if note.refused { Tone::Bad } else { Tone::Good },
        title: format!("{title} ({})", note.way),
        details: html! {
            p { (outcome_of(visit, note)) " · " (note.took) " ms" }
            @if note.stranger {
                p.warn {
                    (visit.say(
                        "未验证：来者只是自称与此订单有关。",
                        "Unverified: the sender only claimed that it is about this order.",
                    ))
                }
            }
            (request(visit, note))
        },
    }
}

fn of_question(visit: &Visit<'_>, note: &ActivityEntry) -> TimelineStep {
    TimelineStep {
        at: note.at,
        tone: match &*note.outcome {
            "found" | "known" => Tone::Good,
            "disputed" | "not-stored" => Tone::Bad,
            _ => Tone::Plain,
        },
        title: visit
            .say("监看查询平台", "Reconciliation queried the platform")
            .to_owned(),
        details: html! { p { (outcome_of(visit, note)) " · " (note.took) " ms" } },
    }
}

fn of_event(visit: &Visit<'_>, event: &Event) -> TimelineStep {
    let tone = match event.state {
        EventState::Disputed => Tone::Bad,
        EventState::Parked => Tone::Odd,
        _ => Tone::Good,
    };
    TimelineStep {
        at: event.received_at,
        tone,
        title: visit.say("结果已保存", "Result kept").to_owned(),
        details: html! {
            p {
                (result(visit, &event.resultcode)) " · " (labels::yuan(event.amount)) " · "
                (labels::source(visit.language, event.source)) " · " (badge(visit, event.state))
            }
            @if event.state == EventState::Disputed { p.bad { (labels::about_state(visit.language, event.state)) } }
            @if let Some(reason) = event.review {
                p.bad {
                    code { (reason.name()) } " " (labels::review(visit.language, reason))
                    @if !event.field.is_empty() { ": " code { (shown(&event.field)) } }
                }
            }
            p.soft { "queryid " span.number { (shown(&event.queryid)) } " · " (visit.say("事件 ", "event ")) span.number { (event.id) } }
        },
    }
}

/// Shows the first and the latest attempts, where an app was down for days.
fn of_attempts(visit: &Visit<'_>, attempts: &[AttemptRecord]) -> Vec<TimelineStep> {
    let latest = attempts.len().saturating_sub(ATTEMPTS);
    let shown_ones = attempts
        .iter()
        .enumerate()
        .filter(|(i, _)| *i == 0 || *i >= latest);
    shown_ones
        .map(|(_, attempt)| {
            let taken = attempt.outcome == "taken";
            TimelineStep {
                at: attempt.at,
                tone: if taken { Tone::Good } else { Tone::Bad },
                title: format!("{} {}", visit.say("投递", "Delivery attempt"), attempt.number),
                details: html! {
                    p {
                        @if taken { (visit.say("应用已收下", "The app accepted it")) } @else { (shown(&attempt.outcome)) }
                        " · " (attempt.took) " ms"
                    }
                    @if let Some(response) = &attempt.response { (app_response(visit, response)) }
                },
            }
        })
        .collect()
}

/// Renders the response of an app that did not accept a delivery.
fn app_response(visit: &Visit<'_>, response: &AppResponse) -> Markup {
    let beginning = String::from_utf8_lossy(&response.first_bytes);
    html! {
        p.soft {
            (visit.say("应用的应答：", "response of the app: ")) (response.status)
            @if !response.content_type.is_empty() { ", " (shown(&response.content_type)) }
            @if !response.explanation.is_empty() { " · " strong { (shown(&response.explanation)) } }
        }
        @if !response.location.is_empty() { p.soft { "→ " code { (shown(&response.location)) } } }
        @if !beginning.is_empty() { p.soft { code { (shown(&beginning)) } } }
    }
}

fn of_decision(visit: &Visit<'_>, decision: &DecisionRecord) -> TimelineStep {
    let title = match decision.kind {
        DecisionKind::Replay => visit.say("人工重放", "Replayed by an operator"),
        DecisionKind::Release => visit.say("人工放行", "Released by an operator"),
        DecisionKind::Discard => visit.say("人工丢弃", "Discarded by an operator"),
    };
    TimelineStep {
        at: decision.at,
        tone: Tone::Odd,
        title: title.to_owned(),
        details: html! {
            p { (shown(&decision.operator.who)) " · " (shown(&decision.operator.from)) }
            p.soft { (visit.say("此前状态：", "state before: ")) (labels::state(visit.language, decision.from)) }
        },
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

/// Renders the outcome of an activity entry with its meaning.
pub fn outcome_of(visit: &Visit<'_>, note: &ActivityEntry) -> Markup {
    html! {
        code { (note.outcome) } " " span.soft { (outcome::label(note.what, &note.outcome, visit.language)) }
        @if !note.old_key.is_empty() {
            " · " span.warn { (visit.say("以旧密钥签名 ", "signed with the old key ")) code { (note.old_key) } }
        }
    }
}

fn request(visit: &Visit<'_>, note: &ActivityEntry) -> Markup {
    html! { p.soft { (visit.say("请求 ", "request ")) span.number { (note.request_id) } } }
}
