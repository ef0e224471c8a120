//! Parts of pages about one event: its result, and the decisions of operators with the links to them.

use maud::{Markup, html};

use super::labels;
use super::page::Visit;
use crate::inbox::event::{Event, EventState, shown};
use crate::inbox::review::DecisionKind;
use crate::protocol::result::ResultCode;

/// Finds a decision by the last segment of a path.
pub fn parse(name: &str) -> Option<DecisionKind> {
    DecisionKind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
}

/// Returns the label of the decision's button.
pub fn label(visit: &Visit<'_>, kind: DecisionKind, state: EventState) -> &'static str {
    match kind {
        DecisionKind::Replay if state == EventState::Pending => {
            visit.say("立即投递", "Deliver now")
        }
        DecisionKind::Replay => visit.say("重放", "Replay"),
        DecisionKind::Release => visit.say("放行", "Release"),
        DecisionKind::Discard => visit.say("丢弃", "Discard"),
    }
}

/// Returns true where the console offers the decision: an accepted event can be replayed, but not be discarded, and a
/// result in review is released rather than replayed.
pub fn fits(kind: DecisionKind, state: EventState) -> bool {
    match kind {
        DecisionKind::Replay => state != EventState::Disputed,
        DecisionKind::Release => state == EventState::Disputed,
        DecisionKind::Discard => !matches!(state, EventState::Delivered | EventState::Discarded),
    }
}

/// Renders links to the decisions that an event allows.
pub fn actions(visit: &Visit<'_>, event: &Event) -> Markup {
    html! {
        span.actions {
            @for kind in DecisionKind::ALL {
                @if fits(kind, event.state) {
                    @let label = label(visit, kind, event.state);
                    a href={ "/events/" (event.id) "/" (kind.name()) } aria-label={ (label) " " (shown(&event.orderid)) } { (label) }
                }
            }
        }
    }
}

/// Renders a result code with its meaning.
pub fn result(visit: &Visit<'_>, code: &str) -> Markup {
    html! {
        @match ResultCode::parse(code) {
            Some(known) => { (visit.language.result(known)) " " span.soft.number { (shown(code)) } }
            None => { span.number { (shown(code)) } }
        }
    }
}

/// Renders an event's state.
pub fn badge(visit: &Visit<'_>, state: EventState) -> Markup {
    let tone = match state {
        EventState::Delivered => "good",
        EventState::Disputed => "bad",
        EventState::Parked => "warn",
        EventState::Pending | EventState::Discarded => "soft",
    };
    html! { span class={ "badge " (tone) } { (labels::state(visit.language, state)) } }
}
