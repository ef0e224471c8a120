//! Rotation of a merchant's key: no query fails while the platform switches, and no submit is repeated.

use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, eventually, fresh_orderid, query_json, submit_json,
};
use crate::platform::{Action, Platform, Seen, full_answer, http, unsigned};
use crate::shop::{Payment, SOON, acknowledged, callback};
use crate::wire;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const NEXT: &str = "a94f0e1d7c2b48d1b5e6f70819a2b3c4";

/// A platform that knows one key at a time, and signs with it.
struct Switching {
    platform: Platform,
    key: Arc<Mutex<&'static str>>,
}

impl Switching {
    /// `tells` is for a platform that signs its rejection of a signature, with the key that it knows.
    fn start(tells: bool) -> Self {
        let key = Arc::new(Mutex::new(KEY));
        let known = Arc::clone(&key);
        let platform = Platform::start(move |seen| {
            let key = *known.lock().unwrap();
            Action::Reply(reply(seen, key, tells))
        });
        Self { platform, key }
    }

    fn switch(&self) {
        *self.key.lock().unwrap() = NEXT;
    }

    fn setup(&self) -> Setup {
        let url = self.platform.url();
        Setup::new(|conf| {
            conf.platform = url;
            conf.merchants = format!(
                "[[merchant]]\nmerid = \"{MERID}\"\nkey = \"{KEY}\"\nnext_key = \"{NEXT}\"\n"
            );
            conf.callbacks = Some(String::new());
        })
    }

    fn submits(&self) -> Vec<Seen> {
        let mut seen = self.platform.seen();
        seen.retain(|seen| seen.target == "/api/icashier");
        seen
    }
}

fn reply(seen: &Seen, key: &str, tells: bool) -> Vec<u8> {
    match seen.is_signed_with(key) {
        true if seen.target == "/api/icashier" => http(200, &["Content-Type: text/html"], "<html>"),
        true => crate::platform::enveloped(wire::answer(full_answer(seen), key)),
        false if tells => {
            let json = r#"{"respcode":"97","respmsg":"签名错误"}"#;
            crate::platform::enveloped(wire::answer(json, key))
        }
        false => unsigned("97", "签名错误"),
    }
}

fn switches(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().sum(&["countersign_key_switches_total"])
}

#[track_caller]
fn query(sidecar: &Sidecar) {
    let answer = sidecar.query(query_json(MERID, ORDERID));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["respcode"], "00", "{}", answer.text());
}

#[test]
fn no_query_fails_around_the_switch() {
    for tells in [false, true] {
        let switching = Switching::start(tells);
        let mut sidecar = switching.setup().start();
        query(&sidecar);
        assert_eq!(sidecar.submit(submit_json(&fresh_orderid())).status, 200);
        assert_eq!(switches(&sidecar), 0.0, "the old key is in use");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !ended.load(Ordering::SeqCst) {
                        query(&sidecar);
                    }
                });
            }
            std::thread::sleep(SOON / 40);
            switching.switch();
            std::thread::sleep(SOON / 20);
            ended.store(true, Ordering::SeqCst);
        });
        assert_eq!(switches(&sidecar), 1.0);
        assert!(
            sidecar.output().contains("next_key"),
            "{}",
            sidecar.output()
        );
        for secret in [KEY, NEXT] {
            assert!(!sidecar.output().contains(secret), "a key is in the log");
        }
        // From now on the new key signs at once, after a restart too.
        sidecar.restart();
        let answer = sidecar.submit(submit_json(&fresh_orderid()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let link = sidecar.post("/apis/icashier", submit_json(&fresh_orderid()));
        let fields = &link.json()["form"]["fields"];
        let (req, sign) = (fields["req"].as_str(), fields["sign"].as_str());
        assert_eq!(sign, Some(wire::sign(req.unwrap(), NEXT).as_str()));
        let before = switching.platform.count();
        query(&sidecar);
        assert_eq!(switching.platform.count(), before + 1, "no repetition");
    }
}

#[test]
fn a_rejected_submit_is_reported_and_never_repeated() {
    let switching = Switching::start(false);
    let sidecar = switching.setup().start();
    query(&sidecar);
    // The sidecar's first probe may be on its way beside this query, and would find the switch out before the submit.
    let mut before = 0;
    while switching.platform.count() != before {
        before = switching.platform.count();
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    switching.switch();
    let answer = sidecar.submit(submit_json(&fresh_orderid()));
    let problem = answer.problem(502, "unsigned-answer", "yes");
    assert_eq!(problem["platform"]["respcode"], "97");
    assert_eq!(switching.submits().len(), 1);
    // The next query finds the switch out, and the next submit is signed with the new key.
    query(&sidecar);
    let answer = sidecar.submit(submit_json(&fresh_orderid()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(switching.submits().len(), 2);
}

#[test]
fn a_callback_is_verified_with_either_key_and_switches_nothing() {
    let switching = Switching::start(false);
    let sidecar = switching.setup().start();
    query(&sidecar);
    for key in [NEXT, KEY] {
        let payment = Payment::of(&fresh_orderid());
        let form = wire::answer(payment.json(), key);
        acknowledged(&callback(sidecar.setup.callbacks, form));
    }
    assert_eq!(switches(&sidecar), 0.0);
    let answer = sidecar.submit(submit_json(&fresh_orderid()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(switching.submits()[0].is_signed_with(KEY));
}

#[test]
fn where_nothing_else_is_asked_a_probe_finds_the_switch_out() {
    let switching = Switching::start(false);
    switching.switch();
    let sidecar = switching.setup().start();
    eventually("the switch is found out", SOON, || {
        switches(&sidecar) == 1.0
    });
    let seen = switching.platform.seen();
    assert!(seen.iter().all(|seen| seen.target == "/api/query"));
    assert!(
        seen.iter()
            .all(|seen| seen.member("orderid").starts_with("PROBE"))
    );
}

#[test]
fn without_a_next_key_nothing_is_probed_or_repeated() {
    let platform = Platform::start(|_| Action::Reply(unsigned("97", "签名错误")));
    let sidecar = Sidecar::before(&platform);
    let answer = sidecar.query(query_json(MERID, ORDERID));
    answer.problem(502, "unsigned-answer", "yes");
    assert_eq!(platform.count(), 1);
}

#[test]
fn a_response_that_neither_key_signed_is_rejected() {
    let platform = Platform::start(|seen| {
        let form = wire::answer(full_answer(seen), "another key");
        Action::Reply(crate::platform::enveloped(form))
    });
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants =
            format!("[[merchant]]\nmerid = \"{MERID}\"\nkey = \"{KEY}\"\nnext_key = \"{NEXT}\"\n");
    });
    let answer = sidecar.query(query_json(MERID, ORDERID));
    answer.problem(502, "bad-signature", "yes");
    assert_eq!(switches(&sidecar), 0.0);
}
