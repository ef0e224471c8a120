//! Pages: what a relayed page keeps, and the headers that every reply of ours has.

use crate::client::{Connection, Response, fetch};
use crate::harness::{Sidecar, fresh_orderid, submit_json};
use crate::platform::{Action, Platform, http};
use crate::shop::{FRONT, Payment, Shop};
use std::collections::BTreeSet;

const PAGE: &str = "<!doctype html><p>page</p>";

/// Fields that a page may depend on, as its sender wrote them.
const KEPT: [(&str, &str); 14] = [
    ("Refresh", "0; url=https://pay.example.com/next"),
    (
        "Content-Security-Policy",
        "default-src 'self'; frame-ancestors 'none'",
    ),
    ("Content-Security-Policy-Report-Only", "script-src 'self'"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "origin"),
    ("Permissions-Policy", "payment=(self)"),
    ("Cross-Origin-Opener-Policy", "same-origin-allow-popups"),
    ("Content-Encoding", "identity"),
    ("Vary", "Accept-Language, Cookie"),
    ("Cache-Control", "private, max-age=5"),
    ("Content-Language", "zh"),
    ("Link", "</pay.css>; rel=preload"),
    ("X-Powered-By", "a shop"),
];

/// Fields that belong to the connection, to the sender's origin, or to us.
const DROPPED: [&str; 7] = [
    "Keep-Alive: timeout=5",
    "Proxy-Authenticate: Basic",
    "Strict-Transport-Security: max-age=1",
    "Clear-Site-Data: \"*\"",
    "Countersign-Verified: true",
    "Countersign-Sent: no",
    "X-Request-Id: theirs",
];

fn page() -> Vec<u8> {
    let kept: Vec<_> = KEPT
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let lines = kept.iter().map(String::as_str).chain(DROPPED);
    http(
        200,
        &lines.chain(["Content-Type: text/html"]).collect::<Vec<_>>(),
        PAGE,
    )
}

#[track_caller]
fn is_whole(answer: &Response) {
    assert_eq!((answer.status, answer.text().as_str()), (200, PAGE));
    for (name, value) in KEPT {
        assert_eq!(answer.headers_named(name), [value], "{name}: {answer:?}");
    }
    for line in DROPPED {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(
            !answer.headers_named(name).contains(&value),
            "{line}: {answer:?}"
        );
    }
}

#[test]
fn a_relayed_page_keeps_what_it_needs_and_nothing_of_the_connection() {
    let platform = Platform::start(|_| Action::Reply(page()));
    let answer = Sidecar::before(&platform).submit(submit_json(&fresh_orderid()));
    is_whole(&answer);
    assert_eq!(answer.header("countersign-verified"), Some("false"));

    let shop = Shop::with(|_| Action::Reply(page()), |_| {});
    let target = format!("{FRONT}?{}", Payment::of(&shop.order()).form());
    is_whole(&fetch(shop.address(), &target).unwrap());
}

#[test]
fn a_field_that_the_sender_s_connection_names_is_not_relayed() {
    let lines = ["Connection: close, X-Hop", "X-Hop: 1", "X-Page: 1"];
    let platform = Platform::start(move |_| Action::Reply(http(200, &lines, PAGE)));
    let answer = Sidecar::before(&platform).submit(submit_json(&fresh_orderid()));
    assert_eq!(answer.header("x-page"), Some("1"));
    assert_eq!(answer.header("x-hop"), None);
}

#[test]
fn every_page_and_text_of_ours_has_the_same_security_headers() {
    let shop = Shop::open();
    let front = |query: &str| fetch(shop.address(), &format!("{FRONT}?{query}")).unwrap();
    let mut link = Connection::open(shop.sidecar.app()).unwrap();
    let body = submit_json(&fresh_orderid());
    let link = link.exchange(format!(
        "POST /apis/icashier HTTP/1.1\r\nHost: app\r\nAccept: text/html\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    for (what, answer) in [
        ("the console", shop.sidecar.admin("/")),
        ("probes", shop.sidecar.admin("/readyz")),
        ("metrics", shop.sidecar.admin("/metrics")),
        ("a rejected callback", fetch(shop.address(), "/").unwrap()),
        ("a rejected customer", front("")),
        ("a signed form", link.unwrap()),
    ] {
        let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("cache-control"), "no-store", "{what}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
        assert_eq!(header("x-frame-options"), "DENY", "{what}");
        assert!(!header("referrer-policy").is_empty(), "{what}");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{what}: {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{what}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{what}: {policy}");
    }
}

#[test]
fn request_ids_of_the_public_port_tell_nothing() {
    let shop = Shop::open();
    let mut ids = Vec::new();
    for _ in 0..40 {
        let answer = fetch(shop.address(), "/cashier/notify/back").unwrap();
        ids.push(answer.header("x-request-id").unwrap().to_owned());
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 40);
    // Each digit takes many values at each place: no start time, no counter.
    let length = ids[0].len();
    assert!(
        length >= 32 && ids.iter().all(|id| id.len() == length),
        "{ids:?}"
    );
    for place in 0..length {
        let digits: BTreeSet<_> = ids.iter().map(|id| id.as_bytes()[place]).collect();
        assert!(digits.len() > 5, "place {place}: {ids:?}");
    }
}
