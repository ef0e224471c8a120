//! Parts of pages about one event: its result, and the decisions of operators with the links to them.

use maud::{Markup, html};

use super::page::Visit;
use crate::inbox::event::{Event, EventState, shown};
use crate::protocol::result::ResultCode;

/// A decision of an operator about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorDecision {
    Replay,
    Discard,
}

impl OperatorDecision {
    /// Finds a decision by the last segment of a path.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Replay, Self::Discard]
            .into_iter()
            .find(|decision| decision.name() == name)
    }

    /// The name in addresses and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }

    /// The label of the button.
    pub fn words(self, visit: &Visit<'_>) -> &'static str {
        match self {
            Self::Replay => visit.say("重放", "Replay"),
            Self::Discard => visit.say("丢弃", "Discard"),
        }
    }

    /// Returns true where the decision makes a difference: an accepted event can be replayed, but not be discarded.
    pub fn fits(self, state: EventState) -> bool {
        match self {
            Self::Replay => state != EventState::Pending,
            Self::Discard => !matches!(state, EventState::Delivered | EventState::Discarded),
        }
    }
}

/// Renders links to the decisions that an event allows.
pub fn actions(visit: &Visit<'_>, event: &Event) -> Markup {
    html! {
        span.actions {
            @for decision in [OperatorDecision::Replay, OperatorDecision::Discard] {
                @if decision.fits(event.state) {
                    @let words = decision.words(visit);
                    a href={ "/events/" (event.id) "/" (decision.name()) } aria-label={ (words) " " (shown(&event.orderid)) } { (words) }
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
