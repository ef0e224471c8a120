//! The platform's side, and what the sidecar knows of orders: submits, notifications, queries.

use futures_util::future::join_all;

use super::model::{Known, KnownOrder};
use super::run::{HEALTHY, MERID, Played, World, orderid};
use super::step::{AppMood, FileState, Sending};
use crate::inbox::contract::outcome;
use crate::inbox::event;
use crate::inbox::event::{EventState, Source, WaitReason};
use crate::inbox::order::{NewTry, RecordOutcome, TryKind, TryState};
use crate::inbox::store::{Arrival, PutOutcome};
use crate::protocol::request::Order;
use crate::reconcile;

pub(super) const AMOUNT: u64 = 1280;
/// Results of each merchant in a crowd.
const CROWD_RESULTS: usize = 2;
/// The platform's states by the number in a step.
const STATES: [&str; 5] = ["1001", "1003", "1002", "0000", "1004"];

/// A payment as the platform has it.
pub(super) struct PaymentAtPlatform {
    pub(super) order: usize,
    pub(super) queryid: String,
    /// All states that it has had.
    states: Vec<&'static str>,
}

impl PaymentAtPlatform {
    pub(super) fn state(&self) -> &'static str {
        self.states.last().copied().unwrap_or("1001")
    }
}

/// A result on its way to the store.
struct Told {
    merid: &'static str,
    orderid: String,
    queryid: String,
    code: &'static str,
    amount: u64,
    source: Source,
}

impl World {
    pub(super) async fn submit(&mut self, order: usize, sent: Sending) -> Played {
        let (store, now) = (self.store(), self.clocks.moments());
        let signed = Order {
            orderid: orderid(order),
            amount: AMOUNT,
            action: "AliPay",
        };
        let new = NewTry {
            kind: TryKind::Submit,
            backurl: None,
        };
        let recorded = store.record(MERID, &signed, new, now.now).await?;
        let RecordOutcome::Agrees(which) = recorded else {
            return Err("the same order conflicts with itself".to_owned().into());
        };
        let state = match sent {
            Sending::No => TryState::No,
            Sending::Yes => TryState::Yes,
            Sending::Unknown => TryState::Unknown,
        };
        let trusted = self.clocks.trusted();
        if sent != Sending::No {
            // Before the store hears of it: it may fail, and the platform has it.
            let known = self.model.orders.entry(order).or_default();
            known.was_sent = true;
            known.signed.get_or_insert(trusted);
            known.tried = trusted;
            known.is_given_up = false;
            self.payments.push(PaymentAtPlatform {
                order,
                queryid: format!("Q{:05}", self.payments.len()),
                states: vec!["1001"],
            });
        }
        let freed = store.settle_try(&which, state).await?;
        let known = self.model.orders.entry(order).or_default();
        if freed && known.was_sent {
            let broken = format!("tries: order {order} was freed although a try of it was sent");
            return Err(broken.into());
        }
        if sent == Sending::Unknown {
            let is_paid = known.is_paid;
            store.hasten(MERID, &signed.orderid, now.now).await?;
            let due = store.open_orders(now.now, 1_000).await?;
            if !is_paid && !due.iter().any(|it| it.orderid == signed.orderid) {
                let broken =
                    format!("tries: order {order} may have arrived, and is not queried at once");
                return Err(broken.into());
            }
        }
        Ok(())
    }

    pub(super) fn pay(&mut self, payment: u8, state: u8) {
        let count = self.payments.len();
        if count == 0 {
            return;
        }
        let payment = &mut self.payments[payment as usize % count];
        if !["0000", "1003"].contains(&payment.state()) {
            payment.states.push(STATES[state as usize % STATES.len()]);
        }
    }

    pub(super) async fn notify(&mut self, payment: u8, state: u8) -> Played {
        let count = self.payments.len();
        if count == 0 {
            return Ok(());
        }
        let payment = payment as usize % count;
        let states = &self.payments[payment].states;
        // Late and repeated notifications are of states that were.
        let code = states[states.len() - 1 - state as usize % states.len()];
        self.put(payment, code, AMOUNT, Source::Notification).await
    }

    pub(super) async fn misstate(&mut self, payment: u8) -> Played {
        let count = self.payments.len();
        if count == 0 {
            return Ok(());
        }
        let payment = payment as usize % count;
        let PaymentAtPlatform { queryid, .. } = &self.payments[payment];
        self.model.misstated.insert(queryid.clone());
        let code = self.payments[payment].state();
        self.inject("misstated-amount");
        self.put(payment, code, AMOUNT + 1, Source::Notification)
            .await
    }

    /// Notifies a payment of the merchant whose app always works.
    pub(super) async fn notify_healthy(&mut self) -> Played {
        self.healthy_results += 1;
        let number = self.healthy_results;
        let told = Told {
            merid: HEALTHY,
            orderid: format!("HEALTHY{number:05}"),
            queryid: format!("H{number:05}"),
            code: "1002",
            amount: AMOUNT,
            source: Source::Notification,
        };
        self.keep(told).await.map(drop)
    }

    /// Brings payments of many merchants, whose apps are like this from now on.
    pub(super) async fn crowd(&mut self, size: u8, app: AppMood) -> Played {
        self.crowd_mood = app;
        self.inject("crowd-of-failing-apps");
        let (store, at) = (self.store(), self.clocks.moments());
        let number = self.injected["crowd-of-failing-apps"];
        let results: Vec<_> = (0..usize::from(size) * CROWD_RESULTS)
            .map(|result| {
                let merid = format!("5{:04}", result % usize::from(size));
                let id = format!("C{number:03}{result:04}");
                outcome(&merid, &format!("CROWD{id}"), &id, "0000", AMOUNT)
            })
            .collect();
        let arrival = Arrival {
            source: Source::Query,
            at: at.now,
            waits: None,
        };
        let puts = results.iter().map(|result| store.put(result, arrival));
        for put in join_all(puts).await {
            put?;
        }
        for result in &results {
            let rounds = &mut self.dispatcher.rounds;
            rounds.announce(&result.merid, at.now, |_| true);
        }
        Ok(())
    }

    pub(super) async fn put(
        &mut self,
        payment: usize,
        code: &'static str,
        amount: u64,
        source: Source,
    ) -> Played {
        // Without its key nothing of a merchant can be verified.
        if self.file == FileState::NoMerchant {
            return Ok(());
        }
        let PaymentAtPlatform { order, queryid, .. } = &self.payments[payment];
        let order = *order;
        let told = Told {
            merid: MERID,
            orderid: orderid(order),
            queryid: queryid.clone(),
            code,
            amount,
            source,
        };
        let kept = self.keep(told).await;
        // A write that failed may have been made.
        let is_disputed = matches!(kept, Ok(EventState::Disputed));
        let known: &mut KnownOrder = self.model.orders.entry(order).or_default();
        known.is_paid |= ["0000", "1002"].contains(&code) && !is_disputed;
        kept.map(drop)
    }

    /// Hands a result to the store, whose success is an acknowledgement.
    async fn keep(&mut self, told: Told) -> Result<EventState, super::run::Trouble> {
        let result = outcome(
            told.merid,
            &told.orderid,
            &told.queryid,
            told.code,
            told.amount,
        );
        let at = self.clocks.moments();
        let has_no_back = self.file == FileState::NoBack && told.merid == MERID;
        let arrival = Arrival {
            source: told.source,
            at: at.now,
            waits: has_no_back.then_some(WaitReason::NoBack),
        };
        let id = event::id(&result);
        let trusted = self.clocks.trusted();
        let was_known = self.model.events.contains_key(&id);
        self.model.events.entry(id.clone()).or_insert(Known {
            merid: told.merid.to_owned(),
            queryid: told.queryid,
            resultcode: told.code.to_owned(),
            payload: result.json.clone(),
            received_at: at.now,
            is_acknowledged: false,
            kept: trusted,
            offered: trusted,
            is_damaged: false,
            state: EventState::Pending,
            attempts: 0,
            next_attempt: at.now,
            decisions: 0,
        });
        let put = self.store().put(&result, arrival).await?;
        let (found, state, is_new) = match put {
            PutOutcome::Kept { id, state } => (id, state, true),
            PutOutcome::Repeated { id, state } => (id, state, false),
            PutOutcome::Disputed { id, new, .. } => (id, EventState::Disputed, new),
            other => return Err(format!("the platform's result became {other:?}").into()),
        };
        if found != id {
            return Err(format!("I4: one result has two ids: {id}, {found}").into());
        }
        if is_new == was_known {
            return Err(format!("I4: {id} is new, or it is not: {is_new}").into());
        }
        if let Some(known) = self.model.events.get_mut(&id) {
            known.is_acknowledged = true;
            if is_new {
                known.state = state;
            }
        }
        if state == EventState::Pending {
            let file = self.file;
            let merid = told.merid;
            let rounds = &mut self.dispatcher.rounds;
            rounds.announce(merid, at.now, |_| merid != MERID || file == FileState::Back);
        }
        Ok(state)
    }

    pub(super) async fn reconcile(&mut self) -> Played {
        let store = self.store();
        let at = self.clocks.moments();
        for open in store.open_orders(at.now, 16).await? {
            let newest = self
                .payments
                .iter()
                .rposition(|it| orderid(it.order) == open.orderid);
            let is_told = self.file != FileState::NoMerchant && !self.lags;
            let mut next = reconcile::later(&open, at);
            if let Some(payment) = newest.filter(|_| is_told) {
                let state = self.payments[payment].state();
                if state != "1001" {
                    self.put(payment, state, AMOUNT, Source::Query).await?;
                }
                if state == "0000" {
                    next = None;
                }
            }
            store.asked(&open, next).await?;
        }
        Ok(())
    }
}
