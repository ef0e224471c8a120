//! Lists of events by state.

use bytes::Bytes;
use http::{Response, StatusCode};
use maud::{Markup, html};

use super::bulk;
use super::filter::ListFilter;
use super::review::{self, claims};
use super::table::table;
use crate::admin::console::labels;
use crate::admin::console::page::Visit;
use crate::admin::context::AdminContext;
use crate::inbox::event::{EventState, FILTERED};
use crate::inbox::store::StoreError;

/// Events of one list, at first and with "show more".
const LISTED: u32 = 200;
const MOST_LISTED: u32 = 5000;

/// Renders the list of one state.
pub async fn events(
    admin: &AdminContext,
    visit: &Visit<'_>,
) -> Result<Response<Bytes>, StoreError> {
    let named = visit.parameter("state").unwrap_or_default();
    let state = EventState::parse(&named).unwrap_or(EventState::Pending);
    let filter = ListFilter::of(visit);
    let wanted = visit
        .parameter("limit")
        .and_then(|limit| limit.parse().ok());
    let limit = wanted.unwrap_or(LISTED).clamp(1, MOST_LISTED);
    let events = match filter.is_empty() {
        true => admin.store.events(Some(state), limit).await?,
        false => {
            admin
                .store
                .filtered_events(filter.events(state), limit)
                .await?
        }
    };
    let is_full = events.len() >= limit as usize && limit < MOST_LISTED;
    let is_empty = events.is_empty();
    let bulk = bulk::links(visit, state, events.len(), is_full);
    let list = match state {
        EventState::Disputed => review::table(visit, &claims(admin, events).await?),
        _ => table(visit, &events),
    };
    let own_field = html! { input type="hidden" name="state" value=(state.name()); };
    let place = ("/events", state.name());
    let content = html! {
        p.soft { (labels::about_state(visit.language, state)) }
        (bulk::done(visit))
        (filter.form(visit, place, &admin.watch.snapshot(), &own_field))
        // A long list is as it was loaded: thousands of rows are not made anew every few seconds.
        section #list data-live[limit <= LISTED] {
            @if is_empty {
                (nothing(visit, state, &filter))
            } @else {
                (bulk)
                (list)
                @if is_full {
                    @let more = MOST_LISTED.to_string();
                    p { a href={ "?" (visit.query_with(&[("limit", Some(&more))])) } { (visit.say("显示更多", "Show more")) } }
                }
            }
        }
    };
    Ok(visit.page(
        StatusCode::OK,
        labels::state(visit.language, state),
        &content,
    ))
}

fn nothing(visit: &Visit<'_>, state: EventState, filter: &ListFilter) -> Markup {
    html! {
        @if filter.is_empty() {
            p { (labels::no_events(visit.language, state)) }
        } @else {
            p {
                (visit.say("没有符合筛选条件的结果。", "No result here fits the filter."))
                " " a href={ "/events?state=" (state.name()) } { (visit.say("清除筛选", "Clear the filter")) }
            }
            p.soft {
                (visit.say("按商户或订单号筛选时查看最近的 ", "A filter by merchant or order looks at the newest ")) (FILTERED)
                (visit.say(" 条；更早的请加上日期。", " of a state; for older ones add a day."))
            }
        }
    }
}
