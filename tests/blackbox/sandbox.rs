//! `countersign sandbox`: each fault with what a real sidecar makes of it, the schedule as an app sees it, the demo's keys.

use crate::client::{self, Response};
use crate::harness::{
    KEY, MERID, Setup, Sidecar, command, eventually, exit_within, free_port, fresh_orderid,
    merchant, query_json,
};
use crate::platform::{Action, Platform, Seen, http};
use crate::wire;
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For whatever is to happen at once; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds before each notification (document §3.3.1).
const GAPS: [f64; 10] = [0., 10., 10., 10., 60., 60., 60., 180., 180., 180.];

/// The sandbox's process, with the vectors' merchant.
struct Sandbox {
    process: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Sandbox {
    fn start(speed: &str) -> Self {
        Self::with(&["--speed", speed])
    }

    fn with(flags: &[&str]) -> Self {
        Self::of(&merchant(MERID, KEY), flags)
    }

    fn of(entries: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let merchants = folder.path().join("merchants.toml");
        fs::write(&merchants, entries).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = command()
            .args(["sandbox", "--listen", &address.to_string()])
            .args(flags)
            .arg("--merchants")
            .arg(merchants)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sandbox = Self {
            process,
            address,
            _folder: folder,
        };
        eventually("the sandbox is there", PATIENCE, || {
            client::fetch(address, "/").is_ok_and(|page| page.status == 200)
        });
        sandbox
    }

    /// This order goes wrong from now on.
    #[track_caller]
    fn go_wrong(&self, orderid: &str, fault: &str) {
        let body = json!({"orderid": orderid, "faults": [fault]}).to_string();
        let taken = client::post(self.address, "/sandbox/faults", body);
        assert_eq!(taken.status, 302, "{fault}: {}", taken.text());
    }

    fn order(&self, orderid: &str) -> Value {
        let orders = client::fetch(self.address, "/sandbox/orders").unwrap();
        let orders = orders.json();
        let mut all = orders.as_array().unwrap().iter();
        all.find(|order| order["orderid"] == orderid)
            .unwrap_or_else(|| panic!("no order {orderid}"))
            .clone()
    }

    /// What the customer's browser does on the payment page, and where it is sent then.
    #[track_caller]
    fn pay(&self, orderid: &str) -> String {
        let order = self.order(orderid);
        let path = format!("/pay?q={}", order["queryid"].as_str().unwrap());
        let paid = client::post_with(self.address, &path, &[], "result=0000");
        assert_eq!(paid.status, 302, "{}", paid.text());
        paid.header("location").unwrap().to_owned()
    }

    /// A call of an app that signs for itself: status, the JSON of the answer's envelope, and whether it is signed.
    #[track_caller]
    fn asked(&self, path: &str, form: impl AsRef<[u8]>) -> (u16, Value, bool) {
        let encoding = ["Content-Type: application/x-www-form-urlencoded"];
        let answer = client::post_with(self.address, path, &encoding, form);
        let text = wire::value(&answer.text(), "resp").unwrap_or_default();
        let sign = wire::value(&answer.text(), "sign").unwrap_or_default();
        let json = wire::unbase64(&text).and_then(|json| serde_json::from_slice(&json).ok());
        let is_signed = sign == wire::sign(&text, KEY);
        (answer.status, json.unwrap_or_default(), is_signed)
    }

    /// An order of an app that speaks the protocol itself, paid.
    #[track_caller]
    fn sell_for(&self, app: &Platform) -> String {
        let orderid = fresh_orderid();
        let order = submit(&orderid, Some(&format!("{}/back?shop=1", app.url())));
        let (status, said, _) = self.asked("/api/icashier", wire::request(order, KEY));
        assert_eq!(status, 302, "{said}");
        self.pay(&orderid);
        orderid
    }

    /// What each notification of an order was answered with, once so many were sent.
    #[track_caller]
    fn notifications(&self, orderid: &str, count: usize) -> Vec<String> {
        let mut answers = Vec::new();
        eventually("the notifications are sent", PATIENCE, || {
            let order = self.order(orderid);
            let all = order["messages"].as_array().unwrap().iter();
            answers = all
                .filter(|message| message["kind"] == "notification")
                .map(|message| message["answer"].as_str().unwrap().to_owned())
                .collect();
            answers.len() >= count
        });
        answers
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The sandbox, a sidecar before it, and an app behind that takes everything.
struct Stage {
    sandbox: Sandbox,
    sidecar: Sidecar,
    app: Platform,
}

impl Stage {
    fn set() -> Self {
        let sandbox = Sandbox::start("60");
        let app = Platform::start(|_| Action::Reply(http(200, &[], "0000")));
        let merchants = with_line(
            &merchant(MERID, KEY),
            &format!("back = \"{0}/back\"\nfront = \"{0}/front\"", app.url()),
        );
        let callbacks = format!("127.0.0.1:{}", free_port());
        let sidecar = Sidecar::start(|conf| {
            conf.platform = format!("http://{}", sandbox.address);
            conf.merchants = merchants;
            conf.timeout = "1s";
            conf.further = format!(
                "[callbacks]\nlisten = [{callbacks:?}]\npublic_url = \"http://{callbacks}\"\n"
            );
        });
        Self {
            sandbox,
            sidecar,
            app,
        }
    }

    /// An order that the platform has, and that goes wrong from here on.
    #[track_caller]
    fn order_with(&self, fault: &str) -> String {
        let orderid = self.order();
        self.sandbox.go_wrong(&orderid, fault);
        orderid
    }

    #[track_caller]
    fn order(&self) -> String {
        let orderid = fresh_orderid();
        let submitted = self.sidecar.submit(submit(&orderid, None));
        assert_eq!(submitted.status, 302, "{}", submitted.text());
        orderid
    }

    fn query(&self, orderid: &str) -> Response {
        self.sidecar.query(query_json(MERID, orderid))
    }

    /// The results of an order that the app heard, in their order: event and JSON.
    fn heard(&self, orderid: &str) -> Vec<(String, Value)> {
        let all = self.app.seen().into_iter();
        all.filter(|seen| seen.target == "/back")
            .map(|seen| {
                let event = seen.header("countersign-event").unwrap_or_default();
                (
                    event.to_owned(),
                    serde_json::from_slice(&seen.body).unwrap(),
                )
            })
            .filter(|(_, result): &(_, Value)| result["orderid"] == orderid)
            .collect()
    }

    #[track_caller]
    fn hears(&self, orderid: &str, count: usize) -> Vec<(String, Value)> {
        eventually("the app hears of it", PATIENCE, || {
            self.heard(orderid).len() >= count
        });
        self.heard(orderid)
    }

    /// Another order, without a fault, comes through: what was to come before it has come.
    #[track_caller]
    fn comes_through(&self) {
        let orderid = self.order();
        self.sandbox.pay(&orderid);
        self.hears(&orderid, 1);
    }

    fn callbacks(&self, outcome: &str) -> f64 {
        let metrics = self.sidecar.metrics();
        metrics.sum(&["countersign_callbacks_total", &format!("\"{outcome}\"")])
    }

    fn oddities(&self, kind: &str) -> f64 {
        let metrics = self.sidecar.metrics();
        metrics.sum(&["countersign_oddities_total", &format!("\"{kind}\"")])
    }
}

/// A merchant's entry with one more line.
fn with_line(merchant: &str, line: &str) -> String {
    format!("{}\n{line}\n", merchant.trim_end())
}

fn submit(orderid: &str, backurl: Option<&str>) -> String {
    let backurl = backurl.unwrap_or("https://shop.example.com/pay/back");
    json!({"action": "AliPay", "txnamt": 1280, "merid": MERID, "orderid": orderid, "backurl": backurl})
        .to_string()
}

#[test]
fn an_answer_and_a_callback_whose_sign_is_wrong_are_refused() {
    let stage = Stage::set();
    for (n, (fault, code, reason)) in [
        ("wrong-sign", "bad-signature", "bad-signature"),
        ("other-key", "bad-signature", "bad-signature"),
        ("empty-sign", "unsigned-answer", "unsigned"),
    ]
    .into_iter()
    .enumerate()
    {
        let orderid = stage.order_with(fault);
        stage.query(&orderid).problem(502, code, "yes");
        let before = stage.callbacks(reason);
        stage.sandbox.pay(&orderid);
        let answers = stage.sandbox.notifications(&orderid, 1);
        assert!(answers[0].starts_with("400 "), "{fault}: {answers:?}");
        assert!(stage.callbacks(reason) > before, "{fault}");
        stage.comes_through();
        assert_eq!(stage.heard(&orderid), [], "{fault}");
        assert_eq!(stage.app.count(), n + 1, "{fault}");
    }
}

#[test]
fn a_callback_over_another_amount_is_held_for_a_person() {
    let stage = Stage::set();
    let orderid = stage.order_with("wrong-amount");
    stage.sandbox.pay(&orderid);
    let answers = stage.sandbox.notifications(&orderid, 2);
    assert!(
        answers.iter().all(|answer| answer.starts_with("400 ")),
        "{answers:?}"
    );
    assert!(stage.callbacks("disputed") >= 2.0);
    let metrics = stage.sidecar.metrics();
    assert_eq!(metrics.sum(&["countersign_disputes_total"]), 1.0);
    let listed = command()
        .args(["inbox", "list", "--state", "disputed", "-c"])
        .arg(stage.sidecar.setup.conf_file())
        .output();
    let listed = String::from_utf8_lossy(&listed.unwrap().stdout).into_owned();
    assert!(listed.contains(&orderid), "{listed}");
    stage.comes_through();
    assert_eq!(stage.heard(&orderid), []);
}

#[test]
fn an_answer_over_another_amount_reaches_the_app_as_the_platform_signed_it() {
    let stage = Stage::set();
    let orderid = stage.order_with("wrong-amount");
    let answer = stage.query(&orderid);
    assert_eq!(answer.header("countersign-verified"), Some("true"));
    assert_eq!(answer.json()["txnamt"], 1281);
}

#[test]
fn a_customer_comes_back_only_with_a_sign_that_fits() {
    let stage = Stage::set();
    for (fault, status) in [
        ("wrong-sign", 400),
        ("other-key", 400),
        ("empty-sign", 400),
        ("raw-plus", 200),
        ("line-breaks", 200),
        ("upper-case-sign", 200),
    ] {
        let orderid = fresh_orderid();
        let order = json!({"action": "Bank", "txnamt": 1280, "merid": MERID, "orderid": orderid, "fronturl": "https://a.example/f"});
        assert_eq!(stage.sidecar.submit(order.to_string()).status, 302);
        stage.sandbox.go_wrong(&orderid, fault);
        let front = stage.sandbox.pay(&orderid);
        let (address, target) = front
            .strip_prefix("http://")
            .and_then(|rest| rest.split_at_checked(rest.find('/')?))
            .unwrap();
        let page = client::fetch(address.parse().unwrap(), target).unwrap();
        assert_eq!(page.status, status, "{fault}: {}", page.text());
        let shown = format!("orderid={orderid}");
        let seen = stage.app.seen();
        let came = seen
            .iter()
            .any(|seen| seen.target.starts_with("/front?") && seen.target.contains(&shown));
        assert_eq!(came, status == 200, "{fault}");
    }
}

#[test]
fn a_fault_by_flag_is_every_orders_until_it_is_taken_back() {
    let sandbox = Sandbox::with(&["--fault", "wrong-sign"]);
    let query = wire::request(query_json(MERID, &fresh_orderid()), KEY);
    let (_, json, is_signed) = sandbox.asked("/api/query", &query);
    assert_eq!((json["respcode"].as_str(), is_signed), (Some("25"), false));
    let healed = client::post(sandbox.address, "/sandbox/faults", r#"{"faults":[]}"#);
    assert_eq!(healed.status, 302);
    assert!(sandbox.asked("/api/query", &query).2);
}

#[test]
fn the_sandbox_refuses_what_a_platform_refuses() {
    let sandbox = Sandbox::with(&["--closed", "WeiXin"]);
    let orderid = fresh_orderid();
    let order = |change: &str, value: Value| {
        let mut order: Value = serde_json::from_str(&submit(&orderid, None)).unwrap();
        order[change] = value;
        order.to_string()
    };
    let right = submit(&orderid, None);
    for (what, form, respcode, signed) in [
        ("no envelope", "{}".to_owned(), "96", false),
        (
            "an unknown merchant",
            wire::request(order("merid", "2".into()), KEY),
            "96",
            false,
        ),
        ("another key", wire::request(&right, "another"), "97", true),
        (
            "an amount in quotes",
            wire::request(order("txnamt", "1280".into()), KEY),
            "13",
            true,
        ),
        (
            "an amount of nothing",
            wire::request(order("txnamt", 0.into()), KEY),
            "13",
            true,
        ),
        (
            "a short orderid",
            wire::request(order("orderid", "1".into()), KEY),
            "30",
            true,
        ),
        (
            "an action that is closed",
            wire::request(order("action", "WeiXin".into()), KEY),
            "58",
            true,
        ),
    ] {
        let (status, json, is_signed) = sandbox.asked("/api/icashier", form);
        assert_eq!(
            (status, json["respcode"].as_str(), is_signed),
            (200, Some(respcode), signed),
            "{what}"
        );
    }
    let right = wire::request(right, KEY);
    assert_eq!(sandbox.asked("/api/icashier", &right).0, 302);
    let (_, json, _) = sandbox.asked("/api/icashier", &right);
    assert_eq!(json["respcode"], "94", "an orderid twice");
    // A queryid that is sent makes the orderid count for nothing (document §3.4.3).
    let query = json!({"merid": MERID, "orderid": orderid, "queryid": "Q1"}).to_string();
    let (_, json, _) = sandbox.asked("/api/query", wire::request(query, KEY));
    assert_eq!(json["respcode"], "25");
}

#[test]
fn the_sandbox_takes_an_envelope_from_the_url_of_a_post() {
    let sandbox = Sandbox::with(&[]);
    let orderid = fresh_orderid();
    let order = wire::request(submit(&orderid, None), KEY);
    let query = wire::request(json!({"merid": MERID, "orderid": orderid}).to_string(), KEY);
    // §2.3: `post/get`, with the envelope behind the question mark.
    assert_eq!(sandbox.asked(&format!("/api/icashier?{order}"), "").0, 302);
    for (url, body) in [(query.as_str(), ""), ("", &query), (&query, &query)] {
        let (status, json, signed) = sandbox.asked(&format!("/api/query?{url}"), body);
        let respcode = json["respcode"].as_str();
        assert_eq!(
            (status, respcode, signed),
            (200, Some("00"), true),
            "{url} {body}"
        );
        assert_eq!(json["orderid"], orderid.as_str());
    }
    let other = query.replace("sign=", "sign=0");
    for (url, body) in [
        (query.as_str(), other.as_str()),
        (&other, ""),
        ("sign=0", &query),
    ] {
        let (_, json, _) = sandbox.asked(&format!("/api/query?{url}"), body);
        assert_ne!(json["respcode"], "00", "{url} {body}");
    }
}

#[test]
fn a_notification_that_comes_twice_is_delivered_once() {
    let stage = Stage::set();
    let orderid = stage.order_with("doubled");
    stage.sandbox.pay(&orderid);
    assert_eq!(stage.sandbox.notifications(&orderid, 2), ["0000", "0000"]);
    stage.comes_through();
    assert_eq!(stage.heard(&orderid).len(), 1);
    assert_eq!(stage.callbacks("repeated"), 1.0);
}

#[test]
fn results_out_of_order_are_two_events_told_as_they_came() {
    let stage = Stage::set();
    let orderid = stage.order_with("reordered");
    stage.sandbox.pay(&orderid);
    assert_eq!(stage.sandbox.notifications(&orderid, 2), ["0000", "0000"]);
    let heard = stage.hears(&orderid, 2);
    let codes: Vec<_> = heard
        .iter()
        .map(|(_, result)| &result["resultcode"])
        .collect();
    assert_eq!(codes, ["0000", "1002"]);
    assert_ne!(heard[0].0, heard[1].0, "one event for two results");
    // What was final stays so for whoever asks.
    assert_eq!(stage.query(&orderid).json()["resultcode"], "0000");
}

#[test]
fn a_notification_that_is_late_is_delivered_when_it_comes() {
    let stage = Stage::set();
    let orderid = stage.order_with("delayed");
    stage.sandbox.pay(&orderid);
    let began = Instant::now();
    assert_eq!(stage.hears(&orderid, 1)[0].1["resultcode"], "0000");
    // 30 s, sixty times faster.
    assert!(
        began.elapsed() > Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn without_a_notification_there_is_no_event_and_a_query_tells() {
    let stage = Stage::set();
    let orderid = stage.order_with("never");
    stage.sandbox.pay(&orderid);
    stage.comes_through();
    assert_eq!(stage.heard(&orderid), []);
    let answer = stage.query(&orderid);
    assert_eq!(answer.header("countersign-verified"), Some("true"));
    assert_eq!(answer.json()["resultcode"], "0000");
}

#[test]
fn answers_that_do_not_come_whole_say_what_may_have_happened() {
    let stage = Stage::set();
    for (fault, status, code, sent) in [
        ("slow-answers", 504, "platform-timeout", "unknown"),
        ("cut-answers", 502, "platform-cut-off", "unknown"),
        ("status-500", 502, "platform-error", "yes"),
    ] {
        let orderid = stage.order_with(fault);
        let problem = stage.query(&orderid).problem(status, code, sent);
        assert_eq!(problem["orderid"], orderid, "{fault}");
        // Only the answers go wrong: the notification comes.
        stage.sandbox.pay(&orderid);
        stage.hears(&orderid, 1);
    }
}

#[test]
fn careless_encodings_are_understood_and_counted() {
    let stage = Stage::set();
    for (fault, oddity) in [
        ("raw-plus", Some("raw-plus")),
        ("line-breaks", Some("line-breaks")),
        ("upper-case-sign", None),
        ("json-envelope", None),
        ("amount-with-zeros", None),
        ("byte-order-mark", None),
        ("content-encoding", None),
        ("deflate", None),
        ("gzip", None),
        ("in-url", None),
        ("in-url-and-body", None),
        ("integers", None),
        ("left-out", None),
        ("multipart", None),
        ("no-respcode", None),
        ("nul", None),
        ("null-sign", None),
        ("nulls", None),
        ("other-scalars", None),
        ("quoted-amount", None),
        ("unpadded", None),
        ("whitespace", None),
    ] {
        let orderid = stage.order_with(fault);
        let odd = || oddity.map_or(0.0, |kind| stage.oddities(kind));
        let before = odd();
        let answer = stage.query(&orderid);
        assert_eq!(answer.status, 200, "{fault}: {}", answer.text());
        assert_eq!(
            answer.header("countersign-verified"),
            Some("true"),
            "{fault}"
        );
        assert_eq!(answer.json()["orderid"], orderid, "{fault}");
        let asked = odd();
        stage.sandbox.pay(&orderid);
        assert_eq!(
            stage.sandbox.notifications(&orderid, 1),
            ["0000"],
            "{fault}"
        );
        assert_eq!(
            stage.hears(&orderid, 1)[0].1["resultcode"],
            "0000",
            "{fault}"
        );
        if oddity.is_some() {
            assert!(before < asked, "{fault}: not counted in an answer");
            assert!(asked < odd(), "{fault}: not counted in a callback");
        }
    }
}

#[test]
fn every_fault_of_the_page_is_tried_here() {
    let sandbox = Sandbox::start("60");
    let page = client::fetch(sandbox.address, "/").unwrap().text();
    let mut offered: Vec<_> = page
        .split("name=\"fault\" value=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    offered.sort_unstable();
    let mut tried = [
        "wrong-sign",
        "other-key",
        "empty-sign",
        "wrong-amount",
        "doubled",
        "reordered",
        "delayed",
        "never",
        "slow-answers",
        "cut-answers",
        "status-500",
        "raw-plus",
        "line-breaks",
        "upper-case-sign",
        "json-envelope",
        "amount-with-zeros",
        "byte-order-mark",
        "content-encoding",
        "deflate",
        "gzip",
        "in-url",
        "in-url-and-body",
        "integers",
        "left-out",
        "multipart",
        "no-respcode",
        "nul",
        "null-sign",
        "nulls",
        "other-scalars",
        "quoted-amount",
        "unpadded",
        "whitespace",
    ];
    tried.sort_unstable();
    assert_eq!(offered, tried);
    let unknown = json!({"faults": ["no-such-fault"]}).to_string();
    let answer = client::post(sandbox.address, "/sandbox/faults", unknown);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("wrong-sign"), "{}", answer.text());
}

#[test]
fn notifications_are_posted_by_choice() {
    let sandbox = Sandbox::with(&["--post"]);
    let app = Platform::start(|_| Action::Reply(http(200, &[], "0000")));
    sandbox.sell_for(&app);
    app.wait_for(1);
    let told = app.last();
    assert_eq!(
        (told.method.as_str(), told.target.as_str()),
        ("POST", "/back?shop=1")
    );
    let text = wire::value(&told.form(), "resp").unwrap();
    assert_eq!(
        wire::value(&told.form(), "sign").unwrap(),
        wire::sign(&text, KEY)
    );
}

/// Pays an order at `sandbox` whose backurl is an app that speaks the protocol itself and says `0000` from its n-th call on;
/// when each call came, after the last of them.
fn calls_until(sandbox: &Sandbox, n: usize) -> Vec<Instant> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&calls);
    let app = Platform::start(move |seen: &Seen| {
        let mut calls = kept.lock().unwrap();
        calls.push(Instant::now());
        assert_eq!(seen.method, "GET");
        assert!(
            seen.target.starts_with("/back?shop=1&resp="),
            "{}",
            seen.target
        );
        let body = if calls.len() < n { "not yet" } else { "0000" };
        Action::Reply(http(200, &[], body))
    });
    let orderid = sandbox.sell_for(&app);
    eventually("no call is due any more", PATIENCE, || {
        !calls.lock().unwrap().is_empty() && sandbox.order(&orderid)["next_call"].is_null()
    });
    let calls = calls.lock().unwrap().clone();
    assert_eq!(
        sandbox.notifications(&orderid, calls.len()).len(),
        calls.len()
    );
    calls
}

#[test]
fn an_app_that_refuses_is_called_ten_times_with_growing_gaps() {
    const SPEED: f64 = 600.;
    let sandbox = Sandbox::start("600");
    let calls = calls_until(&sandbox, usize::MAX);
    assert_eq!(calls.len(), GAPS.len());
    for (pair, seconds) in calls.windows(2).zip(&GAPS[1..]) {
        let (gap, due) = (pair[1] - pair[0], Duration::from_secs_f64(seconds / SPEED));
        assert!(gap >= due, "{gap:?} where {due:?} was due");
        // As much again for a busy machine.
        assert!(
            gap < due + Duration::from_secs(1),
            "{gap:?} where {due:?} was due"
        );
    }
}

#[test]
fn the_calls_stop_at_0000() {
    let sandbox = Sandbox::start("600");
    assert_eq!(calls_until(&sandbox, 1).len(), 1);
    assert_eq!(calls_until(&sandbox, 3).len(), 3);
}

#[test]
fn a_sandbox_that_rotates_is_followed_and_check_says_so() {
    const NEXT: &str = "a94f0e1d7c2b48d1b5e6f70819a2b3c4";
    let next = format!("next_key = \"{NEXT}\"");
    let merchants = with_line(&merchant(MERID, KEY), &next);
    let sandbox = Sandbox::of(&merchants, &["--rotate-at", "1s"]);
    let url = format!("http://{}", sandbox.address);
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = merchants.clone();
        conf.callbacks = Some(String::new());
    });
    let check = || {
        let conf = sidecar.setup.conf_file();
        let output = command().arg("check").arg("-c").arg(conf).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let is_switched = || {
        let metrics = sidecar.metrics();
        metrics.sum(&["rotating_merchants", "next_key"]) == 1.0
    };
    if !is_switched() {
        assert!(!check().contains("next_key signs"), "{}", check());
    }
    // Whatever the moment: no query of an order fails.
    let orderid = fresh_orderid();
    let order = json!({
        "action": "AliPay", "txnamt": 1280, "orderid": orderid,
        "backurl": format!("http://{}/cashier/notify/back", sidecar.setup.callbacks),
    });
    let submitted = sidecar.submit(order.to_string());
    assert_eq!(submitted.status, 302, "{}", submitted.text());
    // Another one to ask about: the sandbox remembers so many messages of an order.
    let other = fresh_orderid();
    assert_eq!(sidecar.submit(submit(&other, None)).status, 302);
    eventually("the platform rotates", PATIENCE, || {
        let answer = sidecar.query(query_json(MERID, &other));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["respcode"], "00", "{}", answer.text());
        is_switched()
    });
    assert!(check().contains(" (next_key signs since "), "{}", check());
    // A notification is signed with the new key, and taken.
    drop(sandbox.pay(&orderid));
    eventually("the result is kept", PATIENCE, || {
        let order = sandbox.order(&orderid);
        let messages = order["messages"].as_array().unwrap().iter();
        let told = |it: &&Value| it["kind"] == "notification" && it["answer"] == "0000";
        messages
            .rev()
            .find(told)
            .is_some_and(|it| signature_is(it["wire"].as_str().unwrap(), NEXT))
    });
    let again = client::post(sandbox.address, "/sandbox/rotate", "");
    assert_eq!(again.json()["rotated"], json!([MERID]), "{}", again.text());
    let answer = sidecar.query(query_json(MERID, &orderid));
    assert_eq!(answer.status, 200, "{}", answer.text());
    // An edit ends it.
    fs::write(sidecar.merchants_file(), merchant(MERID, KEY)).unwrap();
    assert_eq!(sidecar.reload().status, 200);
    assert!(!check().contains("signs since"), "{}", check());
}

/// Returns true for an envelope in a URL that is signed with this key.
fn signature_is(url: &str, key: &str) -> bool {
    let query = url.split_once('?').unwrap().1;
    let text = wire::value(query, "resp").unwrap();
    wire::value(query, "sign").unwrap() == wire::sign(&text, key)
}

#[test]
fn a_sandbox_without_a_next_key_has_nothing_to_rotate_to() {
    let sandbox = Sandbox::start("1");
    let answer = client::post(sandbox.address, "/sandbox/rotate", "");
    assert_eq!(answer.status, 409, "{}", answer.text());
    let refused = command()
        .args(["sandbox", "--rotate-at", "tomorrow"])
        .output();
    assert_eq!(refused.unwrap().status.code(), Some(2));
}

#[test]
fn nobody_deploys_the_demos_keys() {
    let setup =
        Setup::new(|conf| conf.merchants = merchant(MERID, "demo-key-one-0123456789abcdef0123"));
    drop(setup.start());
    for key in [
        "demo-key-one-0123456789abcdef0123",
        "demo-key-two-0123456789abcdef0123",
    ] {
        let old = with_line(&merchant(MERID, KEY), &format!("old_keys = [\"{key}\"]"));
        for merchants in [merchant(MERID, key), old] {
            let setup = Setup::new(|conf| {
                conf.merchants = merchants;
                conf.platform = "https://pay.example.com".to_owned();
            });
            let (code, said) = setup.refused(PATIENCE);
            assert_eq!(code, Some(78), "{said}");
            assert!(
                said.contains("demo's key")
                    && said.contains("merchants.toml:")
                    && said.contains("merchant[1]."),
                "{said}"
            );
            assert!(!said.contains(key), "{said}");
        }
    }
}

#[test]
fn a_running_sidecar_takes_no_public_key_and_check_agrees() {
    let sidecar = Sidecar::start(|conf| conf.platform = "https://pay.example.com".to_owned());
    let good = fs::read_to_string(sidecar.merchants_file()).unwrap();
    let entry = |line: &str| format!("[[merchant]]\nmerid = \"{MERID}\"\n{line}\n");
    for bad in [
        entry("key = \"demo-key-one-0123456789abcdef0123\""),
        entry("key = \"placeholder-put-the-key-from-the-platform-here\""),
        entry("key = \"${PAY_KEY}\""),
        entry("key = \"<PUT-KEY-HERE>\""),
        entry(&format!(
            "key = \"{KEY}\"\nnext_key = \"demo-key-two-0123456789abcdef0123\""
        )),
    ] {
        fs::write(sidecar.merchants_file(), &bad).unwrap();
        let answer = sidecar.reload();
        assert_ne!(answer.status, 200, "{bad}: {}", answer.text());
        assert!(answer.text().contains("merchant[1]."), "{}", answer.text());
        for further in [&["--files"][..], &[]] {
            let conf = sidecar.setup.conf_file();
            let check = command()
                .arg("check")
                .args(further)
                .arg("-c")
                .arg(conf)
                .output();
            assert_eq!(check.unwrap().status.code(), Some(78), "{bad} {further:?}");
        }
    }
    fs::write(sidecar.merchants_file(), good).unwrap();
    assert_eq!(sidecar.reload().status, 200);
}

#[test]
fn an_address_that_is_taken_is_named() {
    // Where somebody else has the demo's port already, that serves as well.
    let _taken = TcpListener::bind(("127.0.0.1", 8000));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let run = |command: &mut Command| {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let file = fs::File::create(&output).unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stderr(file)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let status = exit_within(&mut child, PATIENCE);
        drop(child.kill());
        drop(child.wait());
        (
            status.and_then(|status| status.code()),
            fs::read_to_string(output).unwrap(),
        )
    };
    let (code, said) = run(command().arg("demo"));
    assert_eq!(code, Some(75), "{said}");
    assert!(
        said.contains("127.0.0.1:8000") && said.contains("--free-ports"),
        "{said}"
    );
    let (code, said) = run(command().args(["sandbox", "--listen", &address]));
    assert_eq!(code, Some(75), "{said}");
    let holder = format!("process {}", std::process::id());
    assert!(said.contains(&address) && said.contains(&holder), "{said}");
}

/// The page in a language.
fn seen_in(sandbox: &Sandbox, path: &str, language: &str) -> String {
    let mut connection = client::Connection::open(sandbox.address).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: sandbox\r\nAccept-Language: {language}\r\n\r\n");
    let answer = connection.exchange(request).unwrap();
    let policy = answer.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    answer.text()
}

#[test]
fn the_page_shows_which_faults_are_active_for_which_order_and_ends_them() {
    let sandbox = Sandbox::with(&["--fault", "doubled"]);
    let [orderid, other] = [(); 2].map(|()| {
        let orderid = fresh_orderid();
        let request = wire::request(submit(&orderid, None), KEY);
        assert_eq!(sandbox.asked("/api/icashier", request).0, 302);
        orderid
    });
    sandbox.go_wrong(&orderid, "wrong-amount");
    assert_eq!(sandbox.order(&orderid)["faults"], json!(["wrong-amount"]));
    assert_eq!(sandbox.order(&other)["faults"], json!([]));
    for (language, banner, group, words, end) in [
        (
            "en",
            "No money moves",
            "Must be rejected or reviewed",
            "over one cent more",
            "End",
        ),
        (
            "zh-CN",
            "不产生真实交易",
            "必须被拒绝或核实",
            "金额多一分",
            "取消",
        ),
    ] {
        let page = seen_in(&sandbox, "/", language);
        for part in [
            banner,
            group,
            words,
            end,
            "data-key=\"faults-\"",
            "data-live",
        ] {
            assert!(page.contains(part), "{language}: {part}");
        }
        assert!(
            page.contains(&format!("data-key=\"faults-{orderid}\"")),
            "{language}"
        );
        assert!(
            !page.contains(&format!("data-key=\"faults-{other}\"")),
            "{language}"
        );
        // Each token of a message as it came, in lines.
        assert!(
            page.contains("\n  &quot;txnamt&quot;: 1280") || page.contains("\n  \"txnamt\": 1280"),
            "{page}"
        );
    }
    let checked = |path: &str| {
        let page = seen_in(&sandbox, path, "en");
        let boxes = page.split("<input type=\"checkbox\"").skip(1);
        let checked = boxes.filter(|it| it.split('>').next().unwrap().contains(" checked"));
        let names = checked.map(|it| {
            it.split("value=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .to_owned()
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(checked("/"), ["doubled"]);
    assert_eq!(checked(&format!("/?orderid={orderid}")), ["wrong-amount"]);
    assert_eq!(checked(&format!("/?orderid={other}")), [""; 0]);
    // What the button of the order sends.
    let form = ["Content-Type: application/x-www-form-urlencoded"];
    let ended = client::post_with(
        sandbox.address,
        "/sandbox/faults",
        &form,
        format!("orderid={orderid}"),
    );
    assert_eq!(ended.status, 302);
    assert_eq!(sandbox.order(&orderid)["faults"], json!([]));
    assert_eq!(checked("/"), ["doubled"], "those of all orders stay");
}
