//! One decision about all events that a list shows. A page says how many and which, and its form names them: what came or
//! changed meanwhile is left alone, and counted.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response, StatusCode};
use maud::{Markup, html};

use super::decide::operator;
use super::filter::ListFilter;
use super::review::{self, claims};
use super::table::table;
use crate::admin::console::decision::{self, fits, label};
use crate::admin::console::labels;
use crate::admin::console::page::{Visit, parameter};
use crate::admin::console::rejection::no_such;
use crate::admin::context::AdminContext;
use crate::inbox::event::{Event, EventState};
use crate::inbox::review::{DecideOutcome, DecisionKind, Operator};
use crate::inbox::store::StoreError;
use crate::time;
use crate::web::reply::see_other;

/// Events of one decision. Their ids have to fit into the form, 33 bytes each (`Limits::ADMIN`).
const TOGETHER: u32 = 200;
/// Decisions that are made at a time: they share commits, and leave room for callbacks between them.
const AT_A_TIME: usize = 20;

/// Renders the decisions that a list allows about all that it shows.
pub fn links(visit: &Visit<'_>, state: EventState, listed: usize, has_more: bool) -> Markup {
    let query = visit.query_with(&[
        ("state", Some(state.name())),
        ("limit", None),
        ("did", None),
        ("done", None),
        ("changed", None),
    ]);
    html! {
        p.bulk {
            span {
                @if has_more { (visit.say("至少 ", "At least ")) }
                strong { (listed) } (visit.say(" 条", if listed == 1 { " result" } else { " results" }))
            }
            @for kind in DecisionKind::ALL.into_iter().filter(|kind| fits(*kind, state)) {
                a href={ "/events/all/" (kind.name()) "?" (query) } { (label_for_all(visit, kind, state)) }
            }
        }
    }
}

fn label_for_all(visit: &Visit<'_>, kind: DecisionKind, state: EventState) -> &'static str {
    match kind {
        DecisionKind::Replay if state == EventState::Pending => {
            visit.say("全部立即投递…", "Deliver all now…")
        }
        DecisionKind::Replay => visit.say("全部重放…", "Replay all…"),
        DecisionKind::Release => visit.say("全部放行…", "Release all…"),
        DecisionKind::Discard => visit.say("全部丢弃…", "Discard all…"),
    }
}

/// Renders the page that confirms a decision about all.
pub async fn confirm(
    admin: &AdminContext,
    visit: &Visit<'_>,
    kind: DecisionKind,
) -> Result<Response<Bytes>, StoreError> {
    let Some(state) = state(visit).filter(|state| fits(kind, *state)) else {
        return Ok(no_such(visit));
    };
    let filter = ListFilter::of(visit).events(state);
    let mut events = admin.store.filtered_events(filter, TOGETHER + 1).await?;
    let has_more = events.len() > TOGETHER as usize;
    events.truncate(TOGETHER as usize);
    let (count, all) = (events.len(), Selected::of(&events));
    let list = match state {
        EventState::Disputed => review::table(visit, &claims(admin, events).await?),
        _ => table(visit, &events),
    };
    let back = format!("/events?{}", visit.query_with(&[]));
    let content = html! {
        section {
            (about(visit, kind, state, &all))
            @if has_more {
                p.note.warn {
                    (visit.say("符合条件的不止这些：一次最多 ", "More fit the filter than are taken at once: the newest "))
                    (TOGETHER) (visit.say(" 条，先处理最新的，其余可再来一次。", " come first, the rest after them in the same way."))
                }
            }
            @if count == 0 {
                p { (visit.say("没有符合条件的结果了。", "Nothing fits the filter any more.")) " " a href=(back) { (visit.say("返回列表", "Back to the list")) } }
            } @else if admin.guard.asks_for_token() {
                form method="post" {
                    (visit.form_token())
                    input type="hidden" name="ids" value=(all.ids.join(","));
                    div.actions {
                        button.first { (label(visit, kind, state)) (visit.say("：", ": ")) (count) }
                        a href=(back) { (visit.say("取消", "Cancel")) }
                    }
                }
            } @else {
                p.note {
                    (visit.say(
                        "控制台没有令牌（admin.token 或 admin.token_file），不能在此决定。",
                        "Decisions here need a token (admin.token or admin.token_file); without one, use countersign inbox.",
                    ))
                }
            }
        }
        @if count > 0 { section { h2 { (visit.say("涉及的结果", "Which")) } (list) } }
    };
    let title = title(visit, kind, state, count);
    Ok(visit.page(StatusCode::OK, &title, &content))
}

fn title(visit: &Visit<'_>, kind: DecisionKind, state: EventState, count: usize) -> String {
    let results = if count == 1 { "result" } else { "results" };
    match kind {
        DecisionKind::Replay if state == EventState::Pending => visit.say(
            format!("立即投递这 {count} 条结果？"),
            format!("Deliver {count} {results} now?"),
        ),
        DecisionKind::Replay => visit.say(
            format!("重放这 {count} 条结果？"),
            format!("Replay {count} {results}?"),
        ),
        DecisionKind::Release => visit.say(
            format!("放行这 {count} 条结果？"),
            format!("Release {count} {results}?"),
        ),
        DecisionKind::Discard => visit.say(
            format!("丢弃这 {count} 条结果？"),
            format!("Discard {count} {results}?"),
        ),
    }
}

/// Sums of the selected events.
struct Selected {
    ids: Vec<String>,
    amount: u64,
    merchants: usize,
}

impl Selected {
    fn of(events: &[Event]) -> Self {
        let mut merchants: Vec<_> = events.iter().map(|event| &event.merid).collect();
        merchants.sort_unstable();
        merchants.dedup();
        Self {
            ids: events.iter().map(|event| event.id.clone()).collect(),
            amount: events
                .iter()
                .fold(0, |sum, event| sum.saturating_add(event.amount)),
            merchants: merchants.len(),
        }
    }
}

fn about(visit: &Visit<'_>, kind: DecisionKind, state: EventState, all: &Selected) -> Markup {
    html! {
        dl {
            dt { (visit.say("结果", "Results")) } dd.number { (all.ids.len()) }
            dt { (visit.say("商户", "Merchants")) } dd.number { (all.merchants) }
            dt { (visit.say("金额合计", "Amounts together")) } dd.amount { (labels::yuan(all.amount)) }
            dt { (visit.say("状态", "State")) } dd { (labels::state(visit.language, state)) }
        }
        p {
            @match kind {
                DecisionKind::Replay | DecisionKind::Release => (visit.say(
                    "将立即以相同的事件号投递给应用。",
                    "The apps get them at once, each under its own event id.",
                )),
                DecisionKind::Discard => (visit.say("应用将不会得知这些结果。", "The apps will not get these results.")),
            }
            " "
            (visit.say(
                "只处理下面列出的结果；其间状态已变的保持不变。",
                "Only those listed below are decided about; one whose state changes meanwhile stays as it is.",
            ))
        }
        @if kind == DecisionKind::Release {
            p.note.bad { (labels::about_state(visit.language, state)) }
        }
    }
}

/// Carries out a decision about the events that the form names, and redirects to the list.
pub async fn decide(
    admin: &AdminContext,
    visit: &Visit<'_>,
    kind: DecisionKind,
    request: &Request<Bytes>,
) -> Result<Response<Bytes>, StoreError> {
    let Some(state) = state(visit).filter(|state| fits(kind, *state)) else {
        return Ok(no_such(visit));
    };
    let ids = parameter(request.body(), "ids").unwrap_or_default();
    let ids: Vec<_> = ids
        .split(',')
        .filter(|id| !id.is_empty())
        .take(TOGETHER as usize)
        .collect();
    let operator = operator(admin, request);
    let mut done = 0;
    for some in ids.chunks(AT_A_TIME) {
        let decisions = some
            .iter()
            .map(|id| decide_one(admin, id, (kind, state), &operator));
        for decided in join_all(decisions).await {
            done += usize::from(decided?);
        }
    }
    let changed = ids.len() - done;
    tracing::info!(
        decision = kind.name(),
        state = state.name(),
        done,
        changed,
        who = operator.who,
        from = operator.from,
        "decided about a list at the console"
    );
    let (done, changed) = (done.to_string(), changed.to_string());
    let query = visit.query_with(&[
        ("did", Some(kind.name())),
        ("done", Some(&done)),
        ("changed", Some(&changed)),
    ]);
    Ok(see_other(&format!("/events?{query}")))
}

/// Decides about one event that is still in the list's state; returns true where it did.
async fn decide_one(
    admin: &AdminContext,
    id: &str,
    (kind, state): (DecisionKind, EventState),
    operator: &Operator,
) -> Result<bool, StoreError> {
    // The store allows a replay in any state: what was delivered meanwhile is not to be delivered twice.
    let event = admin.store.event(id).await?;
    if event.is_none_or(|event| event.state != state) {
        return Ok(false);
    }
    let decided = admin.store.decide(id, kind, operator, time::now()).await?;
    Ok(matches!(decided, DecideOutcome::Done { .. }))
}

/// Renders what a decision about a list has done.
pub fn done(visit: &Visit<'_>) -> Markup {
    let number = |name| visit.parameter(name).and_then(|it| it.parse::<u32>().ok());
    let kind = visit
        .parameter("did")
        .and_then(|name| decision::parse(&name));
    let (Some(kind), Some(done)) = (kind, number("done")) else {
        return html! {};
    };
    let changed = number("changed").unwrap_or_default();
    let words = match kind {
        DecisionKind::Replay => visit.say("已安排投递：", "Handed to delivery: "),
        DecisionKind::Release => visit.say("已放行：", "Released: "),
        DecisionKind::Discard => visit.say("已丢弃：", "Discarded: "),
    };
    html! {
        p.note role="status" {
            (words) strong { (done) } "."
            @if changed > 0 {
                " " (visit.say("其间状态已变、保持不变的：", "Left as they are, because their state had changed: ")) strong { (changed) } "."
            }
        }
    }
}

fn state(visit: &Visit<'_>) -> Option<EventState> {
    visit
        .parameter("state")
        .and_then(|name| EventState::parse(&name))
}
