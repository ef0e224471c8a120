//! What other senders get slightly wrong and the sidecar forgives: still verified, and each counted.

use crate::harness::{KEY, MERID, Sidecar, query_json};
use crate::platform::{Action, Platform, enveloped, http};
use crate::wire;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const ORDERID: &str = "ODDITY0001";

/// Base64 of it has a `+`, and without its padding it is short of one `=`.
fn json() -> String {
    let mut json = format!(
        "{{\"respcode\":\"00\",\"respmsg\":\"~~~???>>>ÿþ\",\"queryid\":\"Q1\",\"txnamt\":1,\
         \"merid\":\"{MERID}\",\"orderid\":\"{ORDERID}\"}}"
    );
    while json.len() % 3 != 1 {
        json.push(' ');
    }
    assert!(wire::base64(&json).contains('+'));
    json
}

fn broken_into_lines(text: &str, end: &str) -> String {
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    lines.join(end) + end
}

fn signed(text: &str) -> Vec<u8> {
    enveloped(wire::answer_around(text, &wire::sign(text, KEY)))
}

/// Each of these is verified like the plain answer, and counted under a kind of its own, of which there are so many.
#[track_caller]
fn verified_and_counted(odd: Vec<(&str, Vec<u8>)>, kinds: usize) {
    let reply = Arc::new(Mutex::new(signed(&wire::base64(json()))));
    let said = Arc::clone(&reply);
    let platform = Platform::start(move |_| Action::Reply(said.lock().unwrap().clone()));
    let sidecar = Sidecar::before(&platform);
    let counted = || -> BTreeMap<String, f64> {
        let mut samples = sidecar.metrics().samples;
        samples.retain(|name, count| name.contains("oddities") && *count > 0.0);
        samples
    };
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    assert!(counted().is_empty(), "nothing odd, nothing counted");

    let mut sum = 0.0;
    for (name, bytes) in odd {
        *reply.lock().unwrap() = bytes;
        let answer = sidecar.query(query_json(MERID, ORDERID));
        assert_eq!((answer.status, answer.text()), (200, json()), "{name}");
        let verified = answer.header("countersign-verified");
        assert_eq!(verified, Some("true"), "{name}");
        let counted = counted();
        let now = counted.values().sum::<f64>();
        assert!(now > sum, "{name} is counted nowhere: {counted:?}");
        sum = now;
    }
    assert_eq!(counted().len(), kinds, "{:?}", counted());
}

#[test]
fn a_text_that_came_a_little_changed_is_verified_and_counted() {
    let text = wire::base64(json());
    let raw = text.replace('=', "%3D");
    let odd = vec![
        (
            "a raw plus",
            enveloped(format!("resp={raw}&sign={}", wire::sign(&text, KEY))),
        ),
        ("lines with LF", signed(&broken_into_lines(&text, "\n"))),
        (
            "lines with CR LF",
            signed(&broken_into_lines(&text, "\r\n")),
        ),
        ("no padding", signed(text.trim_end_matches('='))),
        (
            "upper case",
            enveloped(wire::answer_around(
                &text,
                &wire::sign(&text, KEY).to_uppercase(),
            )),
        ),
    ];
    verified_and_counted(odd, 4);
}

#[test]
fn an_envelope_of_another_make_is_verified_and_nothing_odd() {
    let text = wire::base64(json());
    let sign = wire::sign(&text, KEY);
    let object = serde_json::json!({"resp": text, "sign": sign}).to_string();
    for (name, bytes) in [
        ("a form", enveloped(wire::answer_around(&text, &sign))),
        (
            "a JSON envelope",
            http(200, &["Content-Type: application/json"], object),
        ),
    ] {
        let platform = Platform::start(move |_| Action::Reply(bytes.clone()));
        let sidecar = Sidecar::before(&platform);
        let answer = sidecar.query(query_json(MERID, ORDERID));
        assert_eq!((answer.status, answer.text()), (200, json()), "{name}");
        let mut samples = sidecar.metrics().samples;
        samples.retain(|name, count| name.contains("oddities") && *count > 0.0);
        assert!(samples.is_empty(), "{name}: {samples:?}");
    }
}

#[test]
fn further_parameters_and_the_other_order_are_no_matter() {
    let text = wire::base64(json());
    let form = format!(
        "sign={}&charset=utf-8&resp={}",
        wire::sign(&text, KEY),
        wire::percent(&text)
    );
    let platform = Platform::start(move |_| Action::Reply(enveloped(&form)));
    let answer = Sidecar::before(&platform).query(query_json(MERID, ORDERID));
    assert_eq!((answer.status, answer.text()), (200, json()));
}

#[test]
fn the_envelope_counts_and_not_its_content_type() {
    let text = wire::base64(json());
    let form = wire::answer_around(&text, &wire::sign(&text, KEY));
    for line in [
        "Content-Type: text/plain",
        "Content-Type: text/html;charset=UTF-8",
        "X-No-Content-Type: 1",
    ] {
        let bytes = http(200, &[line], &form);
        let platform = Platform::start(move |_| Action::Reply(bytes.clone()));
        let answer = Sidecar::before(&platform).query(query_json(MERID, ORDERID));
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
    }
}
