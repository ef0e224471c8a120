//! The filter of a list: merchant, day and the beginning of the order number, as parameters of the address.

use maud::{Markup, html};

use crate::admin::console::page::Visit;
use crate::config::Snapshot;
use crate::inbox::event::{EventFilter, EventState};
use crate::time;
use crate::time::Millis;

/// Merchants that the field suggests.
const SUGGESTED: usize = 200;
const DAY: Millis = 24 * 60 * 60 * 1000;

/// The filter of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// The merchant; empty for all.
    pub merid: String,
    /// The beginning of the order numbers; empty for all.
    pub prefix: String,
    /// The day in UTC, as `YYYY-MM-DD`; empty for all.
    day: String,
    /// The first millisecond of the day.
    begins: Option<Millis>,
}

impl ListFilter {
    /// Reads the filter from the address. A day that is none counts as absent.
    pub fn of(visit: &Visit<'_>) -> Self {
        let text = |name| visit.parameter(name).unwrap_or_default().trim().to_owned();
        let begins = time::first_of_day(&text("day"));
        Self {
            merid: text("merid"),
            prefix: text("orderid"),
            day: begins.map_or_else(String::new, |_| text("day")),
            begins,
        }
    }

    /// Returns true where it selects everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the time from which on, and the time before which.
    pub fn times(&self) -> (Millis, Millis) {
        self.begins
            .map_or((Millis::MIN, Millis::MAX), |at| (at, at + DAY))
    }

    /// Selects events of a state.
    pub fn events(&self, state: EventState) -> EventFilter {
        let (from, until) = self.times();
        EventFilter {
            state,
            merid: self.merid.clone(),
            prefix: self.prefix.clone(),
            from,
            until,
        }
    }

    /// Renders the form. `further` are fields of the list's own.
    pub fn form(
        &self,
        visit: &Visit<'_>,
        (path, state): (&str, &str),
        merchants: &Snapshot,
        further: &Markup,
    ) -> Markup {
        html! {
            form.filter action=(path) role="search" aria-label=(visit.say("筛选", "Filter")) {
                (further)
                label {
                    span { (visit.say("商户", "Merchant")) }
                    input name="merid" value=(self.merid) maxlength="64" list="merids" autocomplete="off" spellcheck="false";
                    datalist #merids { @for merchant in merchants.iter().take(SUGGESTED) { option value=(merchant.merid) {} } }
                }
                label { span { (visit.say("日期 (UTC)", "Day (UTC)")) } input type="date" name="day" value=(self.day); }
                label {
                    span { (visit.say("订单号开头", "Order begins with")) }
                    input name="orderid" value=(self.prefix) maxlength="64" autocomplete="off" spellcheck="false";
                }
                div.actions {
                    button { (visit.say("筛选", "Filter")) }
                    @if !self.is_empty() {
                        a href={ (path) @if !state.is_empty() { "?state=" (state) } } { (visit.say("清除", "Clear")) }
                    }
                }
            }
        }
    }
}
