//! The sidecar between the stand-ins of a history: plays steps, lets everything settle, and asks the model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::keeping::{Keeping, Kept};
use super::model::{Listed, Model, rank};
use super::neighbour::Neighbour;
use super::scene::Scene;
use super::step::{HistoryStep, Kind, ORDERS, STATES};
use crate::client::{Connection, post_bytes};
use crate::clock;
use crate::harness::{
    KEY, MERID, OTHER_KEY, exit_within, fresh_orderid, merchant, signal, submit_of,
};
use crate::shop::{BACK, FORM, Payment, Shop, inbox, is_acknowledged, merchant_at};
use crate::wire;

/// Time after the last step in which everything has to end.
const SETTLED: Duration = Duration::from_secs(60);
/// Notifications of a burst.
const BURST: usize = 12;
const AMOUNT: i64 = 1280;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) type Broken = Result<(), String>;

/// A payment at the platform.
struct Paying {
    orderid: String,
    /// The states that it had, as indexes of [`STATES`].
    states: Vec<usize>,
}

impl Paying {
    fn new() -> Self {
        Self {
            orderid: fresh_orderid(),
            states: vec![0],
        }
    }
}

/// Everybody.
pub(super) struct World {
    shop: Shop,
    neighbour: Neighbour,
    scene: Arc<Scene>,
    model: Model,
    payments: Vec<Paying>,
    kept: Kept,
}

impl World {
    pub(super) fn new(keeping: Keeping, confirms: bool) -> Self {
        let scene = Scene::new();
        let (neighbour, kept) = (Neighbour::new(), Kept::new(keeping));
        let (platform, app) = (scene.platform(), scene.app());
        let url = app.url();
        let shop = Shop::between(scene.book.clone(), platform, app, |conf| {
            conf.merchants = merchant_at(&url, MERID, KEY) + &neighbour.entry();
            conf.timeout = "1s";
            conf.inbox = "delivery_timeout = \"1s\"\n".to_owned();
            if confirms {
                conf.inbox += "confirm = \"paid\"\n";
            }
            conf.store = kept.address();
        });
        let mut world = Self {
            shop,
            neighbour,
            scene,
            model: Model {
                confirms,
                ..Model::default()
            },
            payments: (0..ORDERS).map(|_| Paying::new()).collect(),
            kept,
        };
        // No operator confirms a jump of the clock: the history has to do without.
        world.shop.sidecar.setup.clock_is_confirmed = false;
        for order in 0..ORDERS {
            // A platform knows each payment from its submit on, by its number too.
            world.scene.book.enter(world.payment(order, 0));
            world.submit(order, false);
        }
        world
    }

    /// Plays one step.
    pub(super) fn step(&mut self, step: HistoryStep) -> Broken {
        let HistoryStep {
            kind,
            order,
            number,
        } = step;
        match kind {
            Kind::Submit => self.submit(order, false),
            Kind::CutSubmit => self.submit(order, true),
            Kind::Notify => self.notify(order, number),
            Kind::Repeat => (0..number + 2).for_each(|_| self.tell_last(order)),
            Kind::Late => self.late(order, number),
            Kind::Forge => return self.forge(order, number),
            Kind::Misstate => self.misstate(order),
            Kind::AppTakes | Kind::AppRejects | Kind::AppHangs | Kind::AppUnheard => {
                self.scene.set_app(kind);
            }
            Kind::QueriesWork | Kind::QueriesLag | Kind::QueriesCut | Kind::QueriesForged => {
                self.scene.set_queries(kind);
            }
            Kind::PutBack | Kind::NoBack | Kind::NoMerchant => self.edit(kind),
            // A part of the history, not a wait for something.
            Kind::Wait => thread::sleep(Duration::from_millis(10 * number as u64)),
            Kind::Kill => self.shop.sidecar.restart(),
            Kind::KillBusy => self.kill_busy(number),
            Kind::Stop => self.stop(order, number),
            Kind::Drain => self.drain()?,
            Kind::Clock => self.set_clock(number),
            Kind::Flip => self.flip(),
            Kind::Replay => return self.decide(order, "replay"),
            Kind::Discard => return self.decide(order, "discard"),
            Kind::Other => return self.neighbour.is_served(self.shop.address()),
        }
        Ok(())
    }

    fn payment(&self, order: usize, state: usize) -> Payment {
        Payment::of(&self.payments[order].orderid).with_result(STATES[state])
    }

    fn submit(&mut self, order: usize, is_cut: bool) {
        let orderid = self.payments[order].orderid.clone();
        self.scene.set_cuts_submit(is_cut);
        // Counted before: whatever the reply, it may have arrived once.
        *self.model.submits.entry(orderid.clone()).or_default() += 1;
        self.shop.sidecar.submit(submit_of(MERID, &orderid, AMOUNT));
        self.scene.set_cuts_submit(false);
    }

    /// Notifies this, and puts it in the platform's book where it is the payment's state.
    fn tell(&mut self, payment: &Payment, is_state: bool) {
        let key = (
            payment.orderid.clone(),
            payment.resultcode.clone(),
            payment.txnamt,
        );
        let is_late = !self.model.told.contains_key(&key) && self.is_late(payment);
        let told = self.model.tell(key, [payment.json(), payment.answer()]);
        told.is_late |= is_late;
        if is_state {
            self.scene.book.enter(payment.clone());
        }
        if is_acknowledged(&self.shop.notify(payment)) {
            told.is_acknowledged = true;
        }
    }

    /// Returns true where a higher state of the payment is recorded as delivered.
    fn is_late(&self, payment: &Payment) -> bool {
        let Some(own) = rank(&payment.resultcode) else {
            return false;
        };
        let is_known = |key: &super::model::Key| key.0 == payment.orderid;
        if !self.model.told.keys().any(is_known) {
            return false;
        }
        self.list().iter().any(|line| {
            let other = rank(&line.key.1);
            is_known(&line.key) && line.state == "delivered" && other.is_some_and(|it| it > own)
        })
    }

    fn notify(&mut self, order: usize, state: usize) {
        let last = self.payments[order].states.last().copied().unwrap();
        // 0000 and 1003 are the end of a payment.
        if last < 3 && state > last {
            self.payments[order].states.push(state);
        }
        self.tell_last(order);
    }

    fn tell_last(&mut self, order: usize) {
        let last = self.payments[order].states.last().copied().unwrap();
        self.tell(&self.payment(order, last), true);
    }

    fn late(&mut self, order: usize, number: usize) {
        let states = &self.payments[order].states;
        let state = states[number % states.len()];
        self.tell(&self.payment(order, state), false);
    }

    fn forge(&mut self, order: usize, how: usize) -> Broken {
        let queryid = format!("F{}", self.payments[order].orderid);
        let payment = self.payment(order, 3).with_queryid(&queryid);
        let text = wire::base64(payment.json());
        let form = match how {
            0 => wire::answer_around(&text, &wire::sign(&text, OTHER_KEY)),
            1 => wire::answer_around(&text, &wire::sign(&wire::base64("{}"), KEY)),
            _ => wire::answer_around(&text, ""),
        };
        let reply = crate::shop::callback(self.shop.address(), form);
        match is_acknowledged(&reply) {
            true => Err(format!("I2: a forged result is acknowledged: {payment:?}")),
            false => Ok(()),
        }
    }

    fn misstate(&mut self, order: usize) {
        let last = self.payments[order].states.last().copied().unwrap();
        let payment = self.payment(order, last).with_amount(AMOUNT + 1);
        self.model.misstated.insert(payment.orderid.clone());
        self.tell(&payment, false);
    }

    fn edit(&self, kind: Kind) {
        let own = match kind {
            Kind::NoMerchant => String::new(),
            Kind::NoBack => merchant(MERID, KEY),
            _ => merchant_at(&self.shop.app.url(), MERID, KEY),
        };
        fs::write(
            self.shop.sidecar.merchants_file(),
            own + &self.neighbour.entry(),
        )
        .unwrap();
        let reply = self.shop.sidecar.reload();
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    fn kill_busy(&mut self, milliseconds: usize) {
        let burst: Vec<_> = (0..BURST).map(|_| Payment::of(&fresh_orderid())).collect();
        for payment in &burst {
            self.scene.book.enter(payment.clone());
        }
        let (address, kept) = (self.shop.address(), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for share in burst.chunks(BURST / 4) {
                let kept = &kept;
                scope.spawn(move || {
                    for payment in share {
                        let is_kept = try_notify(address, payment);
                        kept.lock().unwrap().push((payment, is_kept));
                    }
                });
            }
            thread::sleep(Duration::from_millis(milliseconds as u64));
            self.shop.sidecar.kill();
        });
        for (payment, is_kept) in kept.into_inner().unwrap() {
            let key = (payment.orderid.clone(), "0000".to_owned(), AMOUNT);
            let told = self.model.tell(key, [payment.json(), payment.answer()]);
            told.is_acknowledged |= is_kept;
        }
        self.shop.sidecar.restart();
    }

    fn stop(&mut self, order: usize, hundredths: usize) {
        signal(&self.shop.sidecar.child, "STOP");
        let process = self.shop.sidecar.child.id().to_string();
        let resumes = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10 * hundredths as u64));
            let mut kill = std::process::Command::new("kill");
            assert!(kill.args(["-CONT", &process]).status().unwrap().success());
        });
        let last = self.payments[order].states.last().copied().unwrap();
        let payment = self.payment(order, last);
        let key = (payment.orderid.clone(), payment.resultcode.clone(), AMOUNT);
        let told = self.model.tell(key, [payment.json(), payment.answer()]);
        told.is_acknowledged |= is_acknowledged(&self.shop.notify(&payment));
        resumes.join().unwrap();
    }

    fn drain(&mut self) -> Broken {
        signal(&self.shop.sidecar.child, "TERM");
        let ended = exit_within(&mut self.shop.sidecar.child, Duration::from_secs(30));
        if ended.and_then(|status| status.code()) != Some(0) {
            return Err(format!("SIGTERM: {ended:?}"));
        }
        self.shop.sidecar.restart();
        Ok(())
    }

    fn set_clock(&mut self, hundreds: usize) {
        if clock::can_be_moved("histories: clock") {
            self.shop.sidecar.setup.clock_ahead = DAY * 100 * hundreds as u32;
        }
        self.shop.sidecar.restart();
    }

    fn flip(&mut self) {
        let pending = self.list().into_iter().find(|line| line.state == "pending");
        let Some(Listed { id, .. }) = pending else {
            return;
        };
        self.shop.sidecar.kill();
        let file = self.shop.sidecar.setup.store();
        self.kept.alter(&file, &id, (AMOUNT, AMOUNT + 2));
        self.model.damaged.insert(id);
        self.shop.sidecar.restart();
    }

    fn decide(&mut self, order: usize, decision: &str) -> Broken {
        let orderid = &self.payments[order].orderid;
        let lines = self.list();
        let Some(line) = lines.iter().find(|line| line.key.0 == *orderid) else {
            return Ok(());
        };
        let before = self.shown(&line.id);
        self.decide_event(&line.id, decision);
        let after = self.shown(&line.id);
        // What was shown stays: the receipt, and each attempt.
        let gone = before.iter().find(|line| !after.contains(line));
        match gone {
            Some(line) => Err(format!(
                "history: after {decision}, {line:?} is gone: {after:?}"
            )),
            None => Ok(()),
        }
    }

    fn decide_event(&mut self, id: &str, decision: &str) {
        self.model.decided.insert(id.to_owned());
        let output = self.shop.inbox(&[decision, id]);
        if decision == "discard" && output.status.success() {
            self.model.discarded.insert(id.to_owned());
        }
    }

    fn shown(&self, id: &str) -> Vec<String> {
        let output = self.shop.inbox(&["show", id]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_history = |line: &&str| line.starts_with("kept") || line.starts_with("attempt");
        text.lines().filter(is_history).map(str::to_owned).collect()
    }

    fn list(&self) -> Vec<Listed> {
        let output = inbox(&self.shop.sidecar.setup, &["list", "--limit", "5000"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "inbox list: {said}");
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().filter(|line| line.contains(MERID));
        lines.filter_map(Listed::parse).collect()
    }

    /// Makes everything well, gives it time, and judges what then is there.
    pub(super) fn settle(&mut self) -> Broken {
        self.scene.set_app(Kind::AppTakes);
        self.scene.set_queries(Kind::QueriesWork);
        if !self.shop.sidecar.setup.clock_ahead.is_zero() {
            self.shop.sidecar.setup.clock_ahead = Duration::ZERO;
            self.shop.sidecar.restart();
        }
        self.edit(Kind::PutBack);
        self.neighbour.is_served(self.shop.address())?;
        let began = Instant::now();
        let lines = loop {
            let lines = self.list();
            let pending: Vec<_> = lines
                .iter()
                .filter(|line| line.state == "pending")
                .collect();
            if pending.is_empty() || began.elapsed() > SETTLED {
                break lines;
            }
            // The retry schedule goes to five minutes; an operator does not wait for it.
            for line in pending.iter().take(8) {
                self.decide_event(&line.id, "replay");
            }
            thread::sleep(Duration::from_millis(200));
        };
        let heard = self.scene.heard();
        self.model.judge_list(&lines, &heard)?;
        self.model.judge_heard(&lines, &heard)?;
        self.model.judge_submits(&self.arrived())?;
        self.judge_secrets()
    }

    fn arrived(&self) -> BTreeMap<String, usize> {
        let mut arrived = BTreeMap::new();
        for seen in self.shop.platform.seen() {
            if seen.target.ends_with("/icashier") {
                *arrived.entry(seen.member("orderid")).or_default() += 1;
            }
        }
        arrived
    }

    fn judge_secrets(&self) -> Broken {
        let contains = |bytes: &[u8]| bytes.windows(KEY.len()).any(|it| it == KEY.as_bytes());
        let store = self.shop.sidecar.setup.store();
        let kept = fs::read(Path::new(&store)).unwrap_or_default();
        match contains(self.shop.sidecar.output().as_bytes()) || contains(&kept) {
            true => Err("I5: a key is in the log or in the store".to_owned()),
            false => Ok(()),
        }
    }
}

/// Notifies a process that may die meanwhile; true where it acknowledged.
fn try_notify(address: std::net::SocketAddr, payment: &Payment) -> bool {
    let reply = Connection::open(address)
        .and_then(|mut it| it.exchange(post_bytes(BACK, &[FORM], payment.form())));
    reply.as_ref().is_ok_and(is_acknowledged)
}
