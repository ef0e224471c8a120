//! The outside world that the threads of the stand-ins share: the app's and the platform's behaviour, and what they saw.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::model::Heard;
use super::step::Kind;
use crate::harness::{KEY, OTHER_KEY};
use crate::platform::{Action, Platform, Seen, enveloped};
use crate::shop::{Book, refused_by_app, taken};
use crate::wire;

/// Behaviour that steps change while requests come in.
pub(super) struct Scene {
    pub(super) book: Book,
    app: Mutex<Kind>,
    queries: Mutex<Kind>,
    cuts_submit: AtomicBool,
    /// Orders whose payment a query found paid.
    confirmed: Mutex<BTreeSet<String>>,
    heard: Mutex<Vec<Heard>>,
}

/// A lock that a failed assertion of another thread does not take away.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Scene {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            book: Book::default(),
            app: Mutex::new(Kind::AppTakes),
            queries: Mutex::new(Kind::QueriesWork),
            cuts_submit: AtomicBool::new(false),
            confirmed: Mutex::default(),
            heard: Mutex::default(),
        })
    }

    pub(super) fn set_app(&self, kind: Kind) {
        *held(&self.app) = kind;
    }

    pub(super) fn set_queries(&self, kind: Kind) {
        *held(&self.queries) = kind;
    }

    pub(super) fn set_cuts_submit(&self, cuts: bool) {
        self.cuts_submit.store(cuts, Ordering::SeqCst);
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        held(&self.heard).clone()
    }

    pub(super) fn platform(self: &Arc<Self>) -> Platform {
        let scene = Arc::clone(self);
        Platform::start(move |seen| scene.respond(seen))
    }

    pub(super) fn app(self: &Arc<Self>) -> Platform {
        let scene = Arc::clone(self);
        Platform::start(move |seen| scene.receive(seen))
    }

    fn respond(&self, seen: &Seen) -> Action {
        if seen.target.ends_with("/icashier") {
            return match self.cuts_submit.load(Ordering::SeqCst) {
                true => Action::Cut(Vec::new()),
                false => self.book.reply(seen),
            };
        }
        let payment = self.book.find(seen);
        match *held(&self.queries) {
            Kind::QueriesLag => {
                let answer = payment.with_result("1001").answer();
                Action::Reply(enveloped(wire::answer(answer, KEY)))
            }
            Kind::QueriesCut => Action::Cut(Vec::new()),
            Kind::QueriesForged => {
                Action::Reply(enveloped(wire::answer(payment.answer(), OTHER_KEY)))
            }
            _ => {
                if payment.resultcode == "0000" {
                    held(&self.confirmed).insert(payment.orderid.clone());
                }
                self.book.reply(seen)
            }
        }
    }

    fn receive(&self, seen: &Seen) -> Action {
        let app = *held(&self.app);
        let header = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        let body = seen.form();
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let member = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let orderid = member("orderid");
        let is_confirmed = held(&self.confirmed).contains(&orderid);
        held(&self.heard).push(Heard {
            event: header("countersign-event"),
            attempt: header("countersign-attempt").parse().unwrap_or_default(),
            is_superseded: header("countersign-superseded") == "true",
            resultcode: member("resultcode"),
            is_taken: matches!(app, Kind::AppTakes | Kind::AppUnheard),
            orderid,
            body,
            is_confirmed,
        });
        match app {
            Kind::AppRejects => refused_by_app(),
            Kind::AppHangs => Action::Hang,
            Kind::AppUnheard => Action::Cut(Vec::new()),
            _ => taken(),
        }
    }
}
