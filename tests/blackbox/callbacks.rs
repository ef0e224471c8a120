//! Callbacks as real platforms, proxies and load balancers send them; what is rejected can be acted on.

use crate::client::{Connection, Response, fetch, post_bytes, post_with};
use crate::harness::{KEY, MERID, OTHER_KEY, eventually, fresh_orderid};
use crate::shop::{
    BACK, FORM, FRONT, Payment, SOON, Shop, acknowledged, callback, callback_from, id_of,
    is_acknowledged, merchant_at, refused, taken,
};
use crate::wire::{self, answer, base64};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

const CALLBACKS: &str = "countersign_callbacks_total";

fn count(shop: &Shop, words: &[&str]) -> f64 {
    shop.sidecar.metrics().sum(words)
}

#[track_caller]
fn raw(shop: &Shop, request: &str) -> Response {
    let mut connection = Connection::open(shop.address()).unwrap();
    connection.exchange(request).unwrap()
}

#[test]
fn slashes_too_many_change_nothing_and_another_path_is_named_in_the_log() {
    let shop = Shop::open();
    for path in [
        "//notify/back",
        "/notify/back/",
        "/cashier//notify/back",
        "/cashier/notify/back//",
        "//cashier///notify//back/",
    ] {
        let payment = Payment::of(&shop.order());
        acknowledged(&post_with(shop.address(), path, &[FORM], payment.form()));
        shop.hears(&payment.orderid, 1);
    }
    assert_eq!(
        count(&shop, &["countersign_oddities_total", "\"path\""]),
        5.0
    );
    let payment = Payment::of(&shop.order());
    for path in [
        "/notify/backs",
        "/notify/back/x",
        "/notify",
        "/notify/Back",
        "/notify/back%2F",
    ] {
        refused(
            path,
            &post_with(shop.address(), path, &[FORM], payment.form()),
        );
        let line = format!("path=\"{path}\" from=127.0.0.1");
        eventually(&line, SOON, || shop.sidecar.output().contains(&line));
    }
    let form = payment.form();
    refused(
        "escaped",
        &fetch(shop.address(), &format!("/notify/back%3F{form}")).unwrap(),
    );
    let line = "path=\"/notify/back\" from=127.0.0.1";
    eventually(line, SOON, || shop.sidecar.output().contains(line));
    let sign = wire::value(&form, "sign").unwrap();
    assert!(!shop.sidecar.output().contains(&sign));
}

#[test]
fn a_load_balancer_s_probe_is_answered_and_not_logged() {
    let shop = Shop::open();
    for _ in 0..30 {
        let answer = fetch(shop.address(), "/healthz").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut connection = Connection::open(shop.address()).unwrap();
    connection
        .send("HEAD /healthz HTTP/1.1\r\nHost: lb\r\n\r\n")
        .unwrap();
    assert_eq!(connection.receive_head().unwrap().0, 200);
    for path in ["/", "/healthz/x", "/healthy"] {
        refused(path, &fetch(shop.address(), path).unwrap());
    }
    refused(
        "POST",
        &raw(
            &shop,
            "POST /healthz HTTP/1.1\r\nHost: lb\r\nContent-Length: 0\r\n\r\n",
        ),
    );
    eventually("the rejections are logged", SOON, || {
        shop.sidecar.output().matches(" callback ").count() == 4
    });
    assert_eq!(count(&shop, &[CALLBACKS]), 4.0);
}

#[test]
fn an_envelope_may_be_in_the_url_of_a_post_without_a_body() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order());
    let target = format!("{BACK}?{}", payment.form());
    acknowledged(&post_with(shop.address(), &target, &[], ""));
    shop.hears(&payment.orderid, 1);
    // Another envelope beside the body's is for another reader.
    let other = Payment::of(&shop.order());
    let both = post_with(shop.address(), &target, &[FORM], other.form());
    refused("two envelopes", &both);
}

#[test]
fn a_coding_that_codes_nothing_is_no_obstacle() {
    let shop = Shop::open();
    for coding in ["UTF-8", "identity", "utf8"] {
        let payment = Payment::of(&shop.order());
        let lines = [FORM, &format!("Content-Encoding: {coding}")];
        let answer = post_with(shop.address(), BACK, &lines, payment.form());
        assert!(is_acknowledged(&answer), "{coding}: {answer:?}");
    }
    let lines = [FORM, "Content-Encoding: gzip"];
    let answer = post_with(
        shop.address(),
        BACK,
        &lines,
        Payment::of(&shop.order()).form(),
    );
    assert_eq!(answer.status, 400);
}

/// Sends a head, changes the merchants' file, and sends the body when the change is in force.
#[track_caller]
fn across_an_edit(shop: &Shop, form: &str, merchants: &str) -> Response {
    let mut stream = TcpStream::connect(shop.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "POST {BACK} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{FORM}\r\nContent-Length: {}\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let applied = || count(shop, &["countersign_reloads_total", "\"applied\""]);
    let before = applied();
    fs::write(shop.sidecar.merchants_file(), merchants).unwrap();
    eventually("the edit is in force", SOON, || applied() > before);
    stream.write_all(form.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let fields = lines.map(|line| line.split_once(": ").unwrap());
    Response {
        status,
        headers: fields
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body: body.as_bytes().to_vec(),
        interim: Vec::new(),
    }
}

#[test]
fn an_edit_between_head_and_body_is_judged_by_one_snapshot() {
    let shop = Shop::open();
    let second_app = crate::platform::Platform::start(|_| taken());
    // The new key verifies, and the new address is told: never one of the two alone.
    let payment = Payment::of(&fresh_orderid());
    let new = merchant_at(&second_app.url(), MERID, OTHER_KEY);
    let form = answer(payment.json(), OTHER_KEY);
    acknowledged(&across_an_edit(&shop, &form, &new));
    second_app.wait_for(1);
    assert_eq!(shop.app.count(), 0);
    // The old key verifies no longer.
    let payment = Payment::of(&fresh_orderid());
    let old = answer(payment.json(), OTHER_KEY);
    let back = merchant_at(&shop.app.url(), MERID, KEY);
    refused("the old key", &across_an_edit(&shop, &old, &back));
    // A merchant that goes while its callback arrives is unknown, and nothing of it is kept.
    let payment = Payment::of(&fresh_orderid());
    let gone = merchant_at(&shop.app.url(), crate::harness::OTHER_MERID, OTHER_KEY);
    refused(
        "a merchant that is gone",
        &across_an_edit(&shop, &payment.form(), &gone),
    );
    assert_eq!(shop.list().len(), 1);
}

/// Verified payloads that are no complete, readable result, with the field that the reader fails at.
fn unreadable(json: &str) -> Vec<(String, &'static str)> {
    let changed = |from: &str, to: &str| {
        assert!(json.contains(from), "{from} in {json}");
        json.replacen(from, to, 1)
    };
    vec![
        (changed(":1280", ":12.80"), "txnamt"),
        (changed(":1280", ":\"1,280\""), "txnamt"),
        (changed("\"queryid\":\"", "\"query_id\":\""), "queryid"),
        (changed("\"0000\"", "true"), "resultcode"),
        (changed("{", "{\"respcode\":\"25\","), "respcode"),
        (changed("{", "{\"orderid\":\"TWICE001\","), ""),
    ]
}

#[test]
fn a_verified_payload_that_cannot_be_read_is_kept_for_review_and_names_its_field() {
    let shop = Shop::open();
    let orderid = shop.order();
    let json = Payment::of(&orderid).json();
    let cases = unreadable(&json);
    for (payload, field) in &cases {
        for _ in 0..3 {
            refused(payload, &callback(shop.address(), answer(payload, KEY)));
        }
        // The same payload in another coat is the same payload.
        let spaced = answer(payload, KEY).replace("%2B", "+");
        refused(payload, &callback(shop.address(), spaced));
        if !field.is_empty() {
            let line = format!("field=\"{field}\"");
            eventually(&line, SOON, || shop.sidecar.output().contains(&line));
        }
    }
    let listed = shop.list();
    assert_eq!(listed.len(), cases.len(), "{listed:#?}");
    assert!(
        listed.iter().all(|line| line.contains("disputed")),
        "{listed:#?}"
    );
    assert_eq!(shop.app.count(), 0);
    let disputes = "countersign_disputes_total";
    assert_eq!(count(&shop, &[disputes, "unreadable", "\"txnamt\""]), 2.0);
    assert_eq!(count(&shop, &[disputes, "\"malformed\""]), 1.0);
    let outcomes = [CALLBACKS, "\"back\"", "\"disputed\""];
    assert_eq!(count(&shop, &outcomes), 4.0 * cases.len() as f64);
    // The console shows it, with the field.
    let page = shop.sidecar.admin("/events?state=disputed&lang=en").text();
    for field in ["txnamt", "queryid", "resultcode", "respcode"] {
        assert!(page.contains(field), "{field} in {page}");
    }
    // The order is not lost for the app: a readable result of it is delivered.
    let other = Payment::of(&orderid).with_queryid("QOTHER");
    acknowledged(&shop.notify(&other));
    shop.hears(&orderid, 1);
}

#[test]
fn what_strangers_and_customers_can_send_is_never_reviewed() {
    let shop = Shop::open();
    let orderid = shop.order();
    let json = Payment::of(&orderid).json();
    let own = crate::harness::submit_of(MERID, &orderid, 1280);
    let query = crate::harness::query_json(MERID, &orderid);
    let failed = r#"{"respcode":"25","respmsg":"no such order","resultcode":"","queryid":"","txnamt":0,"merid":"","orderid":""}"#;
    // Without a merchant there is no key to verify with.
    let failed = failed.replace("\"merid\":\"\"", &format!("\"merid\":\"{MERID}\""));
    for reflected in [&own, &query, &failed] {
        refused(reflected, &callback(shop.address(), answer(reflected, KEY)));
    }
    assert_eq!(count(&shop, &[CALLBACKS, "\"reflected\""]), 3.0);
    for (payload, _) in unreadable(&json) {
        refused(
            &payload,
            &callback(shop.address(), answer(&payload, OTHER_KEY)),
        );
        let target = format!("{FRONT}?{}", answer(&payload, KEY));
        assert_eq!(fetch(shop.address(), &target).unwrap().status, 400);
    }
    let text = base64("no json at all");
    for form in [
        answer("no json at all", OTHER_KEY),
        wire::answer_around(&text, ""),
    ] {
        refused(&form, &callback(shop.address(), form.clone()));
    }
    assert!(shop.list().is_empty(), "{:?}", shop.list());
}

#[test]
fn reviews_of_a_merchant_are_bounded_and_the_oldest_stay() {
    let shop = Shop::open();
    let unreadable = |n: usize| {
        let json = Payment::of(&format!("REVIEW{n:05}")).json();
        answer(json.replacen(":1280", ":12.5", 1), KEY)
    };
    let mut connection = Connection::open(shop.address()).unwrap();
    for n in 0..1010 {
        let bytes = post_bytes(BACK, &[FORM], unreadable(n));
        let reply = connection.exchange(&bytes).unwrap();
        refused("unreadable", &reply);
        if reply.header("connection") == Some("close") {
            connection = Connection::open(shop.address()).unwrap();
        }
    }
    let metrics = shop.sidecar.metrics();
    assert_eq!(metrics.sum(&["countersign_review_full_total"]), 10.0);
    assert_eq!(metrics.sum(&["countersign_events{", "disputed"]), 1000.0);
    let found = shop.inbox(&["list", "--state", "disputed", "--limit", "2000"]);
    let list = String::from_utf8(found.stdout).unwrap();
    if found.status.success() {
        assert!(list.contains("REVIEW00000") && !list.contains("REVIEW01005"));
        assert!(!id_of(&list).is_empty());
    }
    shop.goes_well();
}

#[test]
fn allow_from_is_about_notifications_and_says_what_it_could_not_read() {
    let shop = Shop::with(
        |_| taken(),
        |conf| {
            conf.callbacks = Some(
                "allow_from = [\"127.0.9.0/24\", \"203.0.113.0/24\", \"2001:db8::/32\"]\ntrust_forwarded_from = [\"127.0.7.0/24\"]"
                    .to_owned(),
            );
        },
    );
    let form = || Payment::of(&shop.order()).form();
    let (allowed, other) = (Ipv4Addr::new(127, 0, 9, 1), Ipv4Addr::new(127, 0, 8, 1));
    acknowledged(&callback_from(allowed, shop.address(), form()));
    refused(
        "another address",
        &callback_from(other, shop.address(), form()),
    );
    // Customers come from anywhere.
    let target = format!("{FRONT}?{}", form());
    let mut browser = Connection::open_from(other, shop.address()).unwrap();
    let page = browser.exchange(format!("GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n"));
    assert_eq!(page.unwrap().status, 200);
    let proxied = |entry: &str| {
        let line = format!("X-Forwarded-For: {entry}");
        let bytes = post_bytes(BACK, &[FORM, &line], form());
        let mut proxy = Connection::open_from(Ipv4Addr::new(127, 0, 7, 1), shop.address()).unwrap();
        proxy.exchange(bytes).unwrap()
    };
    for entry in [
        "203.0.113.7:51234",
        "[2001:db8::7]:443",
        "[2001:db8::7]",
        "2001:db8::7",
    ] {
        acknowledged(&proxied(entry));
    }
    for entry in ["\u{ff}", "nonsense", "203.0.113.7:"] {
        refused(entry, &proxied(entry));
    }
    let said = "unreadable X-Forwarded-For entry nonsense from 127.0.7.1, expected an IP address";
    eventually(said, SOON, || shop.sidecar.output().contains(said));
}

#[test]
fn a_flood_of_strangers_writes_few_lines() {
    let shop = Shop::open();
    let requests = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n".repeat(500);
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let mut stream = TcpStream::connect(shop.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // The sidecar may close before it has read all of it.
        drop(stream.write_all(requests.as_bytes()));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut answers = Vec::new();
        drop(stream.read_to_end(&mut answers));
    }
    let rejected = count(&shop, &[CALLBACKS, "\"not-found\""]);
    assert!(rejected > 1000.0, "{rejected}");
    let lines = || {
        shop.sidecar
            .output()
            .matches("outcome=\"not-found\"")
            .count()
    };
    assert!(
        (1..100).contains(&lines()),
        "{} lines of {rejected}",
        lines()
    );
    // The next line says how many were left out, and other lines are not affected.
    std::thread::sleep(Duration::from_secs(1));
    fetch(shop.address(), "/").unwrap();
    eventually("left_out", SOON, || {
        shop.sidecar.output().contains("left_out=")
    });
    shop.goes_well();
    assert!(shop.sidecar.output().contains("outcome=\"accepted\""));
}
