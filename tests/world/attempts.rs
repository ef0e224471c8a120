//! One attempt from its claim to its record: the platform's word, the app's reply, the product's verdict.

use std::time::Duration;

use super::deliver::Dispatcher;
use super::model::{RETRY_FOR, SLACK};
use super::platform::AMOUNT;
use super::run::{MERID, Played, World, orderid};
use super::step::AppMood;
use crate::delivery::verdict::{AttemptResult, Verdict, is_given_up};
use crate::inbox::attempt::{AppResponse, ClaimedEvent};
use crate::inbox::contract::outcome;
use crate::inbox::event::{EventState, Source};
use crate::inbox::store::Store;
use crate::platform::confirm;
use crate::platform::confirm::Confirmation;
use crate::platform::query::PaymentName;
use crate::time::Millis;

/// An attempt that is under way.
pub(super) struct Flight {
    pub(super) claimed: Box<ClaimedEvent>,
    pub(super) began: Millis,
    pub(super) lands: Millis,
    pub(super) took: u64,
    pub(super) mood: AppMood,
}

/// The end of an attempt with an app in this mood, after how many milliseconds.
pub(super) fn duration(mood: AppMood) -> u64 {
    match mood {
        AppMood::Takes | AppMood::TakesUnheard => 3,
        AppMood::Rejects => 2,
        AppMood::Silent => 1,
        AppMood::Slow => 1_500,
        AppMood::Hangs => 10_000,
    }
}

impl World {
    /// Judges an event that the app is about to get.
    pub(super) fn judge_claim(&self, claimed: &ClaimedEvent) -> Result<(), String> {
        let event = &claimed.event;
        let Some(known) = self.model.events.get(&event.id) else {
            return match event.merid.starts_with('5') {
                true => Ok(()),
                false => Err(format!("I2: the app gets what nobody notified: {event:?}")),
            };
        };
        if event.json != known.payload {
            return Err(format!(
                "I2: the app gets an altered payload: {}",
                event.json
            ));
        }
        let is_superseded = self.model.is_superseded(&event.id);
        if claimed.superseded != is_superseded && !self.permitted.is_unsure {
            return Err(format!(
                "late states: {} is marked {}, expected {is_superseded}",
                event.id, claimed.superseded
            ));
        }
        Ok(())
    }

    /// Ends one attempt: the platform's word, the app's reply, the verdict, and the record of it.
    pub(super) async fn record(
        &mut self,
        flight: &Flight,
        store: &dyn Store,
        dispatcher: &mut Dispatcher,
    ) -> Played {
        let event = &flight.claimed.event;
        let result = self.result(&flight.claimed, flight.mood);
        if matches!(result, AttemptResult::Taken(_)) {
            self.permitted.taken.insert(event.id.clone());
        }
        let number = event.attempts + 1;
        let now = self.clocks.moments();
        let retry_for = Duration::from_millis(u64::try_from(RETRY_FOR).unwrap_or_default());
        let is_given_up = is_given_up(event, now, retry_for);
        let verdict = Verdict::of(result, event, number, is_given_up, now.now);
        let took = Duration::from_millis(flight.took);
        let rounds = &mut dispatcher.rounds;
        rounds.landed(&event.id, verdict.landing, took, verdict.why.clone());
        let at = now.now - (self.clocks.up - flight.began);
        let millis = Millis::try_from(flight.took).unwrap_or_default();
        let record = verdict.record(event.id.clone(), number, at, millis);
        let next = (record.state == EventState::Pending).then_some(record.next);
        let state = record.state;
        match store.attempted(record).await {
            Ok(is_written) => {
                rounds.recorded(&event.id, next);
                let known = self.model.events.get(&event.id);
                if let Some(known) = known.filter(|_| is_written) {
                    let is_done = state == EventState::Delivered;
                    if is_done || known.state == EventState::Pending {
                        self.judge_verdict(&event.id, state)?;
                    }
                }
            }
            Err(error) => {
                rounds.withdrawn(&event.id);
                self.payment_ended(&event.id, dispatcher);
                return Err(error.into());
            }
        }
        self.payment_ended(&event.id, dispatcher);
        Ok(())
    }

    /// Takes in at once what was written: later attempts of this step depend on it.
    fn judge_verdict(&mut self, id: &str, state: EventState) -> Result<(), String> {
        let trusted = self.clocks.trusted();
        let misstated = &self.model.misstated;
        let Some(known) = self.model.events.get_mut(id) else {
            return Ok(());
        };
        match state {
            EventState::Parked if trusted - known.offered <= RETRY_FOR - SLACK => Err(format!(
                "clocks: given up {} ms after it was offered: {known:?}",
                trusted - known.offered
            )),
            EventState::Disputed if !misstated.contains(&known.queryid) => {
                Err(format!("confirm: contradicted without a reason: {known:?}"))
            }
            state => {
                known.state = state;
                Ok(())
            }
        }
    }

    fn payment_ended(&self, id: &str, dispatcher: &mut Dispatcher) {
        if let Some(merid) = dispatcher.payments.end(id) {
            let wall = self.clocks.now();
            dispatcher.rounds.announce(&merid, wall, |_| true);
        }
    }

    fn result(&self, claimed: &ClaimedEvent, mood: AppMood) -> AttemptResult {
        let event = &claimed.event;
        let is_asked = event.source == Source::Notification && event.resultcode == "0000";
        let confirmation = match is_asked {
            true => self.confirmation(claimed),
            false => Confirmation::Confirmed,
        };
        match confirmation {
            Confirmation::NotYet(why) => return AttemptResult::Unconfirmed(why),
            Confirmation::Contradicted(why) => return AttemptResult::Contradicted(why),
            Confirmation::Confirmed => {}
        }
        let response = AppResponse {
            status: 200,
            content_type: String::new(),
            first_bytes: Vec::new(),
            location: String::new(),
            explanation: "said".to_owned(),
        };
        match mood {
            AppMood::Takes | AppMood::TakesUnheard | AppMood::Slow => {
                AttemptResult::Taken(response)
            }
            AppMood::Rejects => AttemptResult::Rejected(response),
            AppMood::Silent | AppMood::Hangs => AttemptResult::Silent("silent".to_owned()),
        }
    }

    /// The platform's response to the product's query, compared by the product.
    fn confirmation(&self, claimed: &ClaimedEvent) -> Confirmation {
        let event = &claimed.event;
        let found = match confirm::question(event) {
            PaymentName::Queryid(queryid) => self.payments.iter().find(|it| it.queryid == queryid),
            PaymentName::Orderid(name) => self
                .payments
                .iter()
                .rev()
                .find(|it| orderid(it.order) == name),
        };
        let Some(payment) = found else {
            return Confirmation::NotYet("no such payment".to_owned());
        };
        let state = if self.lags { "1001" } else { payment.state() };
        let result = outcome(
            MERID,
            &orderid(payment.order),
            &payment.queryid,
            state,
            AMOUNT,
        );
        confirm::compare(event, &result)
    }
}
