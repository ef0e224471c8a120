//! The steps of a timeline, each from what the store kept: the order, an activity entry, an event, an attempt, a decision.

use maud::{Markup, html};

use super::decision::{badge, result};
use super::labels;
use super::page::Visit;
use crate::inbox::activity::{ActivityEntry, ActivityKind};
use crate::inbox::attempt::{AppResponse, AttemptRecord};
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::order::SignedOrder;
use crate::inbox::review::{DecisionKind, DecisionRecord};
use crate::telemetry::outcome;
use crate::time::Millis;

/// Limit of attempts of one event: the first and the latest are shown.
const ATTEMPTS: usize = 50;

/// One step of a timeline.
pub struct TimelineStep {
    /// The time at which it happened.
    pub at: Millis,
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

impl TimelineStep {
    /// Renders the step. `gap` is the pause since the step before.
    pub fn show(&self, visit: &Visit<'_>, number: usize, gap: Option<Millis>) -> Markup {
        html! {
            li class=(self.tone.class()) data-key={ "step-" (number) } {
                div.head {
                    h3 { (self.title) }
                    p.soft {
                        @if let Some(gap) = gap { span.gap { (visit.gap(gap)) } }
                        (visit.moment(self.at))
                    }
                }
                (self.details)
            }
        }
    }
}

/// Makes the step of an order's first signature.
pub fn of_ledger(visit: &Visit<'_>, signed: &SignedOrder) -> TimelineStep {
    TimelineStep {
        at: signed.signed_at,
        tone: Tone::Plain,
        title: visit.say("签名", "Signed").to_owned(),
        details: html! { p { (labels::yuan(signed.amount)) " · " (visit.language.action(&signed.action)) } },
    }
}

/// Makes the steps of an activity entry.
pub fn of_note(
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
        (true, false) => visit.say("平台已应答", "Platform responded"),
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

/// Makes the step of a result that was kept.
pub fn of_event(visit: &Visit<'_>, event: &Event) -> TimelineStep {
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
            p.soft { "queryid " (visit.copied(&event.queryid)) " · " (visit.say("事件 ", "event ")) (visit.copied(&event.id)) }
        },
    }
}

/// Makes the steps of attempts: the first and the latest, where an app was down for days.
pub fn of_attempts(visit: &Visit<'_>, attempts: &[AttemptRecord]) -> Vec<TimelineStep> {
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
                    @if let Some(response) = &attempt.response { (app_response(visit, response, &attempt.outcome)) }
                },
            }
        })
        .collect()
}

/// Renders the app's response. `outcome` has its explanation already, where it was not accepted.
fn app_response(visit: &Visit<'_>, response: &AppResponse, outcome: &str) -> Markup {
    let beginning = String::from_utf8_lossy(&response.first_bytes);
    let explanation = &response.explanation;
    html! {
        p.soft {
            (visit.say("应用的应答：", "response of the app: ")) (response.status)
            @if !response.content_type.is_empty() { ", " (shown(&response.content_type)) }
            @if !explanation.is_empty() && explanation != outcome { " · " strong { (shown(explanation)) } }
        }
        @if !response.location.is_empty() { p.soft { "→ " code { (shown(&response.location)) } } }
        @if !beginning.is_empty() { p.bytes { code { (shown(beginning.trim_end())) } } }
    }
}

/// Makes the step of an operator's decision.
pub fn of_decision(visit: &Visit<'_>, decision: &DecisionRecord) -> TimelineStep {
    let title = match decision.kind {
        DecisionKind::Replay if decision.from == EventState::Pending => {
            visit.say("人工立即投递", "Delivered at once by an operator")
        }
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
    html! { p.soft { (visit.say("请求 ", "request ")) (visit.copied(&note.request_id)) } }
}
