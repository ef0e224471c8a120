//! Plays the steps: the platform, the app and the operator here, the product's store and decisions there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::model::{Known, KnownOrder, Model, Permitted, Stored};
use super::step::{AppMood, FileState, Sending, Step};
use crate::config::StoreAddress;
use crate::delivery::verdict::{AttemptResult, Verdict};
use crate::inbox;
use crate::inbox::attempt::{AppResponse, ClaimOutcome, ClaimedEvent};
use crate::inbox::contract::outcome;
use crate::inbox::event;
use crate::inbox::event::{EventState, Source, WaitReason};
use crate::inbox::order::{NewTry, RecordOutcome, TryKind, TryState};
use crate::inbox::review::{DecideOutcome, DecisionKind, Operator};
use crate::inbox::store::{Arrival, PutOutcome, Store, StoreError};
use crate::platform::confirm;
use crate::platform::confirm::Confirmation;
use crate::platform::query::PaymentName;
use crate::protocol::request::Order;
use crate::time::Millis;

const MERID: &str = "1";
const AMOUNT: u64 = 1280;
const MINUTE: Millis = 60_000;
/// Time for which an event is attempted.
const RETRY_FOR: Millis = 72 * 60 * MINUTE;
/// Time since its newest try for which an order is queried.
const LAST_QUERY: Millis = 24 * 60 * MINUTE;
const KEEP: Millis = 30 * 24 * 60 * MINUTE;
/// The platform's states by the number in a step.
const STATES: [&str; 5] = ["1001", "1003", "1002", "0000", "1004"];
/// An end takes no more rounds than this.
const ROUNDS: usize = 40;

/// A payment as the platform has it.
struct PaymentAtPlatform {
    order: usize,
    queryid: String,
    /// All states that it has had.
    states: Vec<&'static str>,
}

impl PaymentAtPlatform {
    fn state(&self) -> &'static str {
        self.states.last().copied().unwrap_or("1001")
    }
}

/// Everybody.
pub(super) struct World {
    folder: tempfile::TempDir,
    store: Option<Arc<dyn Store>>,
    now: Millis,
    payments: Vec<PaymentAtPlatform>,
    file: FileState,
    lags: bool,
    model: Model,
    permitted: Permitted,
}

type Broken = Result<(), String>;

fn failed(error: StoreError) -> String {
    format!("the store failed: {error}")
}

fn orderid(order: usize) -> String {
    format!("ORDER{order:05}")
}

impl World {
    pub(super) fn new() -> Self {
        // Thousands of commits a run: nothing here is about the disk.
        let memory = std::path::Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        let mut world = Self {
            folder,
            store: None,
            // A real store compares with the real clock here and there.
            now: crate::time::now(),
            payments: Vec::new(),
            file: FileState::Back,
            lags: false,
            model: Model::default(),
            permitted: Permitted::default(),
        };
        world.open();
        world
    }

    fn open(&mut self) {
        // The writer of a dropped handle gives its lock back on its own thread.
        self.store = None;
        let address = StoreAddress::Sqlite(self.folder.path().join("a.db"));
        self.store = Some(loop {
            match inbox::open(&address) {
                Err(StoreError::InUse(_)) => std::thread::sleep(Duration::from_millis(1)),
                opened => break opened.unwrap(),
            }
        });
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    /// Plays one step, and judges the store after it.
    pub(super) async fn step(&mut self, step: Step) -> Broken {
        self.permitted = Permitted::default();
        match step {
            Step::Submit { order, sent } => self.submit(order as usize, sent).await?,
            Step::Pay { payment, state } => self.pay(payment, state),
            Step::Notify { payment, state } => self.notify(payment, state).await?,
            Step::Misstate { payment } => self.misstate(payment).await?,
            Step::Lag { on } => self.lags = on,
            Step::Deliver { app } => self.deliver(app).await?,
            Step::Reconcile => self.reconcile().await?,
            Step::Decide { event, kind } => self.decide(event as usize, kind).await?,
            Step::Back { file } => self.edit(file).await?,
            Step::Wait { minutes } => self.now += Millis::from(minutes) * MINUTE + 1_000,
            Step::Restart => self.open(),
            Step::Forget => {
                let before = self.now - KEEP;
                self.permitted.forget_before = Some(before);
                self.model.has_forgotten = true;
                self.store().forget(before).await.map_err(failed)?;
            }
        }
        self.judge().await
    }

    /// Gives everybody the time and the will, and judges what then is not done.
    pub(super) async fn settle(&mut self) -> Broken {
        self.step(Step::Back {
            file: FileState::Back,
        })
        .await?;
        self.step(Step::Lag { on: false }).await?;
        for _ in 0..ROUNDS {
            if !self.model.has_pending() {
                break;
            }
            self.step(Step::Deliver {
                app: AppMood::Takes,
            })
            .await?;
            self.step(Step::Wait { minutes: 6 }).await?;
        }
        self.model.judge_end()
    }

    async fn submit(&mut self, order: usize, sent: Sending) -> Broken {
        let store = self.store();
        let signed = Order {
            orderid: orderid(order),
            amount: AMOUNT,
            action: "AliPay",
        };
        let new = NewTry {
            kind: TryKind::Submit,
            backurl: None,
        };
        let recorded = store
            .record(MERID, &signed, new, self.now)
            .await
            .map_err(failed)?;
        let RecordOutcome::Agrees(which) = recorded else {
            return Err("the same order conflicts with itself".to_owned());
        };
        let state = match sent {
            Sending::No => TryState::No,
            Sending::Yes => TryState::Yes,
            Sending::Unknown => TryState::Unknown,
        };
        let freed = store.settle_try(&which, state).await.map_err(failed)?;
        let known = self.model.orders.entry(order).or_default();
        if freed && known.was_sent {
            return Err(format!(
                "tries: order {order} was freed although a try of it was sent"
            ));
        }
        if sent == Sending::No {
            return Ok(());
        }
        known.was_sent = true;
        known.is_given_up = false;
        let is_paid = known.is_paid;
        if sent == Sending::Unknown {
            store
                .hasten(MERID, &signed.orderid, self.now)
                .await
                .map_err(failed)?;
            let due = store.open_orders(self.now, 1_000).await.map_err(failed)?;
            if !is_paid && !due.iter().any(|it| it.orderid == signed.orderid) {
                return Err(format!(
                    "tries: order {order} may have arrived, and is not queried at once"
                ));
            }
        }
        self.payments.push(PaymentAtPlatform {
            order,
            queryid: format!("Q{:05}", self.payments.len()),
            states: vec!["1001"],
        });
        Ok(())
    }

    fn pay(&mut self, payment: u8, state: u8) {
        let count = self.payments.len();
        if count == 0 {
            return;
        }
        let payment = &mut self.payments[payment as usize % count];
        if !["0000", "1003"].contains(&payment.state()) {
            payment.states.push(STATES[state as usize % STATES.len()]);
        }
    }

    async fn notify(&mut self, payment: u8, state: u8) -> Broken {
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

    async fn misstate(&mut self, payment: u8) -> Broken {
        let count = self.payments.len();
        if count == 0 {
            return Ok(());
        }
        let payment = payment as usize % count;
        self.model.misstated.insert(payment);
        let code = self.payments[payment].state();
        self.put(payment, code, AMOUNT + 1, Source::Notification)
            .await
    }

    async fn put(&mut self, payment: usize, code: &str, amount: u64, source: Source) -> Broken {
        let PaymentAtPlatform { order, queryid, .. } = &self.payments[payment];
        let (order, result) = (
            *order,
            outcome(MERID, &orderid(*order), queryid, code, amount),
        );
        let waits = match self.file {
            FileState::Back => None,
            FileState::NoBack => Some(WaitReason::NoBack),
            // Without its key nothing of a merchant can be verified.
            FileState::NoMerchant => return Ok(()),
        };
        let arrival = Arrival {
            source,
            at: self.now,
            waits,
        };
        let put = self.store().put(&result, arrival).await.map_err(failed)?;
        let (id, state, is_new) = match put {
            PutOutcome::Kept { id, state } => (id, state, true),
            PutOutcome::Repeated { id, state } => (id, state, false),
            PutOutcome::Disputed { id, new, .. } => (id, EventState::Disputed, new),
            other => return Err(format!("the platform's result became {other:?}")),
        };
        if id != event::id(&result) {
            return Err(format!("one result has two ids: {id}"));
        }
        if is_new == self.model.events.contains_key(&id) {
            return Err(format!("I4: {id} is new, or it is not: {is_new}"));
        }
        let is_paid = ["0000", "1002"].contains(&code) && state != EventState::Disputed;
        let known: &mut KnownOrder = self.model.orders.entry(order).or_default();
        known.is_paid |= is_paid;
        if is_new {
            self.permitted.kept.insert(id.clone());
            let known = Known {
                payment,
                resultcode: code.to_owned(),
                payload: result.json.clone(),
                received_at: self.now,
                state,
                attempts: 0,
                decisions: 0,
            };
            self.model.events.insert(id, known);
        }
        Ok(())
    }

    async fn edit(&mut self, file: FileState) -> Broken {
        self.file = file;
        if file == FileState::Back {
            for merid in self.store().waiting().await.map_err(failed)? {
                self.store()
                    .resume(&merid, self.now)
                    .await
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, app: AppMood) -> Broken {
        let store = self.store();
        let due = store.due(self.now, 16).await.map_err(failed)?;
        let reason = match self.file {
            FileState::Back => None,
            FileState::NoBack => Some(WaitReason::NoBack),
            FileState::NoMerchant => Some(WaitReason::NoMerchant),
        };
        if let Some(reason) = reason {
            for merchant in due {
                store
                    .wait_for(&merchant.merid, reason, self.now)
                    .await
                    .map_err(failed)?;
            }
            return Ok(());
        }
        for merchant in due {
            for event in merchant.events {
                // One at a time, as for events of one payment.
                for claim in store.claim(vec![event]).await.map_err(failed)? {
                    match claim {
                        ClaimOutcome::Claimed(claimed) => self.attempt(*claimed, app).await?,
                        ClaimOutcome::Gone { id } => {
                            return Err(format!("{id} was due and is gone"));
                        }
                        ClaimOutcome::Damaged { id, why } => return Err(format!("{id}: {why}")),
                    }
                }
                self.judge().await?;
                self.permitted = Permitted::default();
            }
        }
        if app == AppMood::TakesUnheard {
            drop(store);
            self.open();
        }
        Ok(())
    }

    async fn attempt(&mut self, claimed: ClaimedEvent, app: AppMood) -> Broken {
        let event = &claimed.event;
        if claimed.superseded != self.model.is_superseded(&event.id) {
            return Err(format!(
                "late states: {} is marked {}",
                event.id, claimed.superseded
            ));
        }
        let is_asked = event.source == Source::Notification && event.resultcode == "0000";
        let confirmation = match is_asked {
            true => self.confirmation(&claimed),
            false => Confirmation::Confirmed,
        };
        let response = AppResponse {
            status: 200,
            content_type: String::new(),
            first_bytes: Vec::new(),
            location: String::new(),
            explanation: "said".to_owned(),
        };
        let result = match (confirmation, app) {
            (Confirmation::NotYet(why), _) => AttemptResult::Unconfirmed(why),
            (Confirmation::Contradicted(why), _) => AttemptResult::Contradicted(why),
            (Confirmation::Confirmed, AppMood::Takes) => AttemptResult::Taken(response),
            (Confirmation::Confirmed, AppMood::Rejects) => AttemptResult::Rejected(response),
            (Confirmation::Confirmed, AppMood::Silent) => {
                AttemptResult::Silent("silent".to_owned())
            }
            // The record is never written.
            (Confirmation::Confirmed, AppMood::TakesUnheard) => return Ok(()),
        };
        if matches!(result, AttemptResult::Taken(_)) {
            self.permitted.taken.insert(event.id.clone());
        }
        let is_given_up = self.now - event.offered_since > RETRY_FOR;
        if is_given_up {
            self.permitted.given_up.insert(event.id.clone());
        }
        let number = event.attempts + 1;
        let verdict = Verdict::of(result, event, number, is_given_up, self.now);
        let record = verdict.record(event.id.clone(), number, self.now, 1);
        let is_written = self.store().attempted(record).await.map_err(failed)?;
        is_written
            .then_some(())
            .ok_or_else(|| format!("the attempt at {} was not written down", event.id))
    }

    /// The platform's response to the product's question, compared by the product.
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

    async fn reconcile(&mut self) -> Broken {
        let store = self.store();
        if self.file == FileState::NoMerchant {
            return Ok(());
        }
        for open in store.open_orders(self.now, 16).await.map_err(failed)? {
            let newest = self
                .payments
                .iter()
                .rposition(|it| orderid(it.order) == open.orderid);
            if let Some(payment) = newest.filter(|_| !self.lags) {
                let state = self.payments[payment].state();
                if state != "1001" {
                    self.put(payment, state, AMOUNT, Source::Query).await?;
                }
            }
            let is_given_up = self.now - open.signed_at >= LAST_QUERY;
            let next = (!is_given_up).then(|| self.now + 20 * MINUTE);
            store.asked(&open, next).await.map_err(failed)?;
            for (order, known) in &mut self.model.orders {
                known.is_given_up |= is_given_up && orderid(*order) == open.orderid;
            }
        }
        Ok(())
    }

    async fn decide(&mut self, which: usize, kind: u8) -> Broken {
        let ids: Vec<_> = self.model.events.keys().cloned().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = &ids[which % ids.len()];
        let kind = DecisionKind::ALL[kind as usize % DecisionKind::ALL.len()];
        let operator = Operator {
            who: "somebody".to_owned(),
            from: "command line".to_owned(),
        };
        let decided = self.store().decide(id, kind, &operator, self.now).await;
        if let DecideOutcome::Done { from } = decided.map_err(failed)? {
            let before = self.model.events[id].state;
            if from != before {
                return Err(format!(
                    "history: decided from {}, it was {}",
                    from.name(),
                    before.name()
                ));
            }
            self.permitted.decided = Some((id.clone(), kind.state()));
        }
        Ok(())
    }

    async fn judge(&mut self) -> Broken {
        let store = self.store();
        let mut stored = Vec::new();
        for event in store.events(None, 1_000).await.map_err(failed)? {
            stored.push(Stored {
                attempts: store.attempts(&event.id).await.map_err(failed)?.len(),
                decisions: store.decisions(&event.id).await.map_err(failed)?.len(),
                event,
            });
        }
        self.model.judge(stored, &self.permitted)?;
        let open = store
            .open_orders(Millis::MAX, 1_000)
            .await
            .map_err(failed)?;
        let open: BTreeSet<_> = (0..8)
            .filter(|order| open.iter().any(|it| it.orderid == orderid(*order)))
            .collect();
        self.model.judge_orders(&open)
    }
}
