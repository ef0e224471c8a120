//! Verified payloads that cannot be read: kept for review alike on every path, once each, and never with personal data.

use crate::harness::{KEY, MERID, Sidecar, eventually, fresh_orderid, query_json, submit_json};
use crate::platform::{Action, Platform, enveloped};
use crate::shop::{Book, Payment, SOON, Shop, callback, refused, taken};
use crate::wire;
use std::fs;
use std::sync::{Arc, Mutex};

/// The response to every query; submits are cut off.
type Said = Arc<Mutex<String>>;

fn shop_that_says(said: &Said, inbox: &'static str) -> Shop {
    let saying = Arc::clone(said);
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Cut(Vec::new()),
        _ => Action::Reply(enveloped(wire::answer(
            saying.lock().unwrap().as_str(),
            KEY,
        ))),
    });
    let app = Platform::start(|_| taken());
    Shop::between(Book::default(), platform, app, |conf| {
        conf.inbox = inbox.to_owned();
    })
}

/// Changes of a response that make it unreadable, with the field that is named; empty for the whole.
const UNREADABLE: [(&str, &str, &str); 7] = [
    (":1280", ":12.80", "txnamt"),
    (":1280", ":\"1,280\"", "txnamt"),
    ("\"queryid\"", "\"query_id\"", "queryid"),
    ("\"0000\"", "0", "resultcode"),
    ("\"0000\"", "[\"0000\"]", "resultcode"),
    (
        "\"respmsg\"",
        "\"paytime\":{},\"paytim\":1,\"respmsg\"",
        "paytime",
    ),
    ("{", "{\"txnamt\":1,", ""),
];

fn unreadable(payment: &Payment, (from, to, _): (&str, &str, &str)) -> String {
    let json = payment
        .answer()
        .replacen("\"paytime\":\"2017-03-01 12:00:05\",", "", 1);
    let changed = json.replacen(from, to, 1);
    assert_ne!(json, changed, "{from}");
    changed
}

fn disputes(sidecar: &Sidecar, field: &str) -> f64 {
    let field = format!("field=\"{field}\"");
    let reasons = ["unreadable", "malformed"].map(|reason| {
        let words = ["countersign_disputes_total", reason, field.as_str()];
        sidecar.metrics().sum(&words)
    });
    reasons.iter().sum()
}

#[test]
fn an_unreadable_response_to_the_apps_query_is_kept_once_and_names_its_field() {
    let said = Said::default();
    let shop = shop_that_says(&said, "");
    for change in UNREADABLE {
        let payment = Payment::of(&fresh_orderid());
        let json = unreadable(&payment, change);
        said.lock().unwrap().clone_from(&json);
        let field = change.2;
        let before = disputes(&shop.sidecar, field);
        for _ in 0..3 {
            let answer = shop.sidecar.query(query_json(MERID, &payment.orderid));
            let problem = answer.problem(502, "malformed-answer", "yes");
            let named = problem["field"].as_str().unwrap_or_default();
            assert_eq!(named, field, "{json}");
        }
        // The same payload by a callback is the same event.
        refused(&json, &callback(shop.address(), wire::answer(&json, KEY)));
        assert_eq!(disputes(&shop.sidecar, field) - before, 1.0, "{json}");
        shop.listed(&payment.orderid, "disputed");
        let page = shop.sidecar.admin("/events?state=disputed&lang=en").text();
        assert!(page.contains(&payment.orderid) && page.contains(field));
    }
    assert_eq!(shop.list().len(), UNREADABLE.len());
    assert_eq!(shop.app.count(), 0);
}

#[test]
fn what_is_no_result_of_a_payment_is_rejected_and_not_kept() {
    let said = Said::default();
    let shop = shop_that_says(&said, "");
    let orderid = fresh_orderid();
    let payment = Payment::of(&orderid);
    let with = |member: &str| payment.answer().replacen('{', &format!("{{{member},"), 1);
    for json in [
        query_json(MERID, &orderid),
        submit_json(&orderid),
        with("\"action\":\"AliPay\""),
        with("\"action\":\"AliPay\",\"resultmsg\":[]"),
        format!(
            "{{\"respcode\":\"00\",\"respmsg\":\"ok\",\"merid\":\"{MERID}\",\"orderid\":\"{orderid}\"}}"
        ),
        "{}".to_owned(),
        // About another order, which the alert for forged responses is about.
        Payment::of("ANOTHERORDER1").answer(),
    ] {
        said.lock().unwrap().clone_from(&json);
        let answer = shop.sidecar.query(query_json(MERID, &orderid));
        assert_eq!(answer.status, 502, "{json}: {}", answer.text());
    }
    assert!(shop.list().is_empty(), "{:?}", shop.list());
    // A failed query is relayed, and not kept.
    *said.lock().unwrap() = "{\"respcode\":\"25\",\"respmsg\":\"no\"}".to_owned();
    assert_eq!(shop.sidecar.query(query_json(MERID, &orderid)).status, 200);
    assert!(shop.list().is_empty());
}

#[test]
fn an_unreadable_response_to_our_own_queries_is_kept_too() {
    let said = Said::default();
    let shop = shop_that_says(&said, "confirm = \"paid\"");
    let payment = Payment::of(&fresh_orderid());
    *said.lock().unwrap() = unreadable(&payment, UNREADABLE[0]);
    let submitted = shop.sidecar.submit(submit_json(&payment.orderid));
    submitted.problem(502, "platform-cut-off", "unknown");
    // Reconciliation.
    shop.listed(&payment.orderid, "disputed");
    assert_eq!(disputes(&shop.sidecar, "txnamt"), 1.0);
    // `confirm`: not yet, and another payload.
    *said.lock().unwrap() = unreadable(&payment, UNREADABLE[3]);
    crate::shop::acknowledged(&shop.notify(&payment));
    eventually("the other payload is kept", SOON, || {
        disputes(&shop.sidecar, "resultcode") == 1.0
    });
    shop.listed(&payment.orderid, "pending");
    assert_eq!(shop.app.count(), 0);
    // Once the platform's payload can be read, the app gets it.
    *said.lock().unwrap() = payment.answer();
    shop.hears(&payment.orderid, 1);
    assert_eq!(disputes(&shop.sidecar, "txnamt"), 1.0);
    assert_eq!(disputes(&shop.sidecar, "resultcode"), 1.0);
}

#[test]
fn an_unreadable_response_to_a_shadow_query_is_passed_on_and_kept() {
    let said = Said::default();
    let shop = shop_that_says(&said, "");
    let payment = Payment::of(&fresh_orderid());
    let json = unreadable(&payment, UNREADABLE[1]);
    said.lock().unwrap().clone_from(&json);
    let form = wire::request(query_json(MERID, &payment.orderid), KEY);
    let answer = shop.sidecar.query(form);
    assert_eq!(
        (answer.status, answer.text()),
        (200, wire::answer(&json, KEY))
    );
    assert_eq!(answer.header("countersign-verified"), Some("false"));
    shop.listed(&payment.orderid, "disputed");
}

#[test]
fn no_payload_in_review_names_a_customer() {
    if std::env::var_os("COUNTERSIGN_TEST_STORE").is_some() {
        return;
    }
    let said = Said::default();
    let shop = shop_that_says(&said, "");
    let orderid = fresh_orderid();
    let json = Payment::of(&orderid).answer();
    let with = |member: &str| json.replacen('{', &format!("{{{member},"), 1);
    let (name, number) = ("\"accname\":\"CANARYNAME\"", "\"accno\":\"CANARYNUMBER\"");
    let whole = with(&format!("{name},{number}"));
    for payload in [
        whole.replacen(":1280", ":12.80", 1),
        whole.replacen("\"0000\"", "0", 1),
        whole.replacen("\"queryid\"", "\"query\"", 1),
        whole
            .replacen("{", "{\"respcode\":\"25\",\"x\":1,", 1)
            .replacen("\"respcode\":\"00\",", "", 1),
        whole[..whole.len() - 1].to_owned(),
        whole.replacen('{', "{\"txnamt\":1,", 1),
        format!("[{whole}]"),
        with(number).replacen(":1280", ":-1", 1),
    ] {
        refused(
            &payload,
            &callback(shop.address(), wire::answer(&payload, KEY)),
        );
        said.lock().unwrap().clone_from(&payload);
        shop.sidecar.query(query_json(MERID, &orderid));
    }
    shop.goes_well();
    let folder = shop.sidecar.setup.folder.path();
    let files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files.iter().filter(|file| file.is_file()) {
        let bytes = fs::read(file).unwrap();
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        assert!(!holds(b"CANARY"), "{}", file.display());
    }
}
