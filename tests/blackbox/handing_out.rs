//! What the app gets: at which address, in which form, with which headers; and what is kept of what it replies.

use crate::harness::{KEY, MERID, eventually, merchant, submit_of};
use crate::platform::{Action, Platform, Seen, http};
use crate::shop::{
    Payment, SOON, Shop, acknowledged, deliveries, id_of, merchant_at, refused_by_app, taken,
};
use crate::wire;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TOKEN: &str = "3f786850e387550fdab836ed7e6dc881de23001b";

/// A merchant at this app, with further lines in its entry.
fn entry(app: &str, further: &str) -> String {
    format!("{}\n{further}\n\n", merchant_at(app, MERID, KEY).trim_end())
}

/// A shop whose merchant has further lines in its entry.
fn shop_with(further: &str) -> Shop {
    let app = Platform::start(|_| taken());
    let url = app.url();
    let platform = Platform::honest(&[(MERID, KEY)]);
    Shop::between(Default::default(), platform, app, |conf| {
        conf.merchants = entry(&url, further)
    })
}

#[test]
fn an_order_s_own_address_is_used_where_it_is_the_merchant_s_app() {
    let shop = Shop::open();
    let app = shop.app.url();
    let elsewhere = Platform::start(|_| taken());
    let other = elsewhere.url();
    let user = app.replace("http://", "http://user:secret@");
    for (own, target) in [
        (format!("{app}/pay/back?store=7"), "/pay/back?store=7"),
        (format!("{app}/another/back"), "/another/back"),
        (format!("{other}/pay/back?store=7"), "/pay/back"),
        (format!("{user}/user/back"), "/pay/back"),
        (app.replace("http:", "https:") + "/tls/back", "/pay/back"),
    ] {
        let orderid = crate::harness::fresh_orderid();
        let submit =
            submit_of(MERID, &orderid, 1280).replace("https://shop.example.com/pay/back", &own);
        shop.sign(&submit);
        acknowledged(&shop.notify(&Payment::of(&orderid)));
        let delivery = shop.hears(&orderid, 1).remove(0);
        assert_eq!(delivery.target, target, "{own}");
    }
    assert_eq!(elsewhere.connections(), 0);
    // Lines gather for a moment before they are written.
    eventually("three warnings", SOON, || {
        let output = shop.sidecar.output();
        output
            .matches("the order's own backurl is not used")
            .count()
            == 3
    });
    let output = shop.sidecar.output();
    assert!(!output.contains("secret"), "{output}");
}

#[test]
fn the_address_of_the_latest_try_counts() {
    let shop = Shop::open();
    let app = shop.app.url();
    let orderid = crate::harness::fresh_orderid();
    for path in ["/first/back", "/second/back"] {
        let submit = submit_of(MERID, &orderid, 1280);
        shop.sign(&submit.replace("https://shop.example.com/pay/back", &format!("{app}{path}")));
    }
    acknowledged(&shop.notify(&Payment::of(&orderid)));
    assert_eq!(shop.hears(&orderid, 1)[0].target, "/second/back");
}

#[test]
fn a_delivery_says_who_it_is_from() {
    let shop = shop_with(&format!("back_token = \"{TOKEN}\""));
    shop.goes_well();
    let seen = shop.app.last();
    let agent = seen.header("user-agent").unwrap_or_default();
    assert!(agent.starts_with("countersign/"), "{agent}");
    assert_eq!(seen.header("accept"), Some("*/*"));
    assert_eq!(seen.header("countersign-token"), Some(TOKEN));
    assert_eq!(seen.header("countersign-superseded"), None);
    // Another token is in force with the next reload, and no token means no header.
    for further in [format!("back_token = \"{TOKEN}ff\""), String::new()] {
        let changed = entry(&shop.app.url(), &further);
        fs::write(shop.sidecar.merchants_file(), changed).unwrap();
        assert_eq!(shop.sidecar.reload().status, 200);
        shop.goes_well();
        let token = further.split('"').nth(1);
        assert_eq!(shop.app.last().header("countersign-token"), token);
    }
    assert!(
        !shop.sidecar.output().contains(TOKEN),
        "the token is in the log"
    );
}

#[test]
fn an_app_that_keeps_its_verifying_code_gets_the_envelope() {
    let shop = shop_with("deliver = \"envelope\"");
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    shop.listed(&payment.orderid, "delivered");
    let seen = shop.app.last();
    let content_type = seen.header("content-type").unwrap_or_default();
    assert_eq!(content_type, "application/x-www-form-urlencoded");
    let text = wire::value(&seen.form(), "resp").unwrap();
    assert_eq!(text, wire::base64(payment.json()));
    assert_eq!(
        wire::value(&seen.form(), "sign"),
        Some(wire::sign(&text, KEY))
    );
    assert!(seen.header("countersign-event").is_some());
}

#[test]
fn a_late_lesser_state_is_marked_as_superseded() {
    // The states as they come, and whether each is marked; 1003 after 0000 is for manual review.
    for (states, marks) in [
        (&["0000", "1001"][..], &[false, true][..]),
        (&["1001", "0000"], &[false, false]),
        (&["1002", "1003"], &[false, true]),
        (&["1003", "1002", "1001"], &[false, false, true]),
        (&["0000", "1002"], &[false, true]),
        (&["0000", "1004"], &[false, false]),
        (&["1004", "1001", "0000", "1004"], &[false, false, false]),
    ] {
        let shop = Shop::open();
        let payment = Payment::of(&shop.order());
        let mut distinct = Vec::new();
        for state in states {
            acknowledged(&shop.notify(&payment.clone().with_result(state)));
            if !distinct.contains(state) {
                distinct.push(*state);
            }
            shop.hears(&payment.orderid, distinct.len());
            eventually("it is recorded", SOON, || {
                let delivered = ["countersign_events{", "state=\"delivered\""];
                shop.sidecar.metrics().sum(&delivered) >= distinct.len() as f64
            });
        }
        let backs = shop.app.seen();
        let found: Vec<_> = backs
            .iter()
            .map(|seen| seen.header("countersign-superseded") == Some("true"))
            .collect();
        assert_eq!(found, marks, "{states:?}");
    }
}

#[test]
fn results_of_one_payment_that_are_due_together_keep_their_marks() {
    for _ in 0..3 {
        let (shop, is_well) = Shop::with_an_ill_app(|_| {});
        let payment = Payment::of(&shop.order());
        for state in ["1001", "1002", "0000"] {
            acknowledged(&shop.notify(&payment.clone().with_result(state)));
        }
        is_well.store(true, Ordering::SeqCst);
        shop.sidecar.reload();
        let mut best = 0;
        eventually("all are delivered", 2 * SOON, || {
            let delivered = ["countersign_events{", "state=\"delivered\""];
            shop.sidecar.metrics().sum(&delivered) == 3.0
        });
        let ranks = ["1001", "1002", "0000"];
        // Of each state the attempt that was taken is the last.
        let mut seen = shop.app.seen();
        seen.reverse();
        let mut last = Vec::new();
        for it in &seen {
            let state = crate::shop::Delivery::of(it).member("resultcode");
            if !last.iter().any(|(known, _)| *known == state) {
                last.push((state, it.header("countersign-superseded").is_some()));
            }
        }
        for (state, marked) in last.into_iter().rev() {
            let rank = ranks.iter().position(|it| *it == state).unwrap();
            assert_eq!(marked, rank < best, "{state}");
            best = best.max(rank);
        }
    }
}

#[test]
fn what_the_app_replies_is_explained() {
    let replies: &[(&str, Vec<u8>, &str)] = &[
        (
            "mark",
            http(200, &[], "\u{feff}0000"),
            "0000 after a byte order mark",
        ),
        (
            "json",
            http(200, &[], "\"0000\""),
            "the JSON string \"0000\"",
        ),
        (
            "login",
            http(
                200,
                &["Content-Type: text/html"],
                "<!DOCTYPE html><html><title>Login</title>",
            ),
            "an HTML page: Login",
        ),
        (
            "moved",
            http(302, &["Location: /login?next=%2Fpay"], ""),
            "a redirect to /login;",
        ),
        ("error", http(500, &[], "0000"), "status 500"),
        ("nothing", http(200, &[], ""), "an empty body"),
    ];
    let answers: Vec<_> = replies.iter().map(|it| it.1.clone()).collect();
    // Each has a place in the table, which its queryid names.
    let app = move |seen: &Seen| {
        let queryid = crate::shop::Delivery::of(seen).member("queryid");
        let place: usize = queryid[2..].parse().unwrap();
        match seen.header("countersign-attempt") {
            Some("1") => Action::Reply(answers[place].clone()),
            _ => taken(),
        }
    };
    let shop = Shop::with(app, |_| {});
    for (place, (name, _, words)) in replies.iter().enumerate() {
        let payment = Payment::of(&shop.order()).with_queryid(&format!("QR{place}"));
        acknowledged(&shop.notify(&payment));
        shop.hears(&payment.orderid, 1);
        let said = payment.orderid.clone();
        eventually(name, SOON, || {
            let output = shop.sidecar.output();
            output
                .lines()
                .any(|line| line.contains(&said) && line.replace('\\', "").contains(words))
        });
        let line = shop.listed(&payment.orderid, "");
        let shown = shop.inbox(&["show", crate::shop::id_of(&line)]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(words), "{name}: {shown}");
        shop.listed(&payment.orderid, "delivered");
    }
}

#[test]
fn a_merchant_without_an_app_for_a_moment_parks_nothing() {
    let (shop, is_well) = Shop::with_an_ill_app(|_| {});
    let payments: Vec<_> = (0..4).map(|_| Payment::of(&shop.order())).collect();
    for payment in &payments {
        acknowledged(&shop.notify(payment));
        shop.hears(&payment.orderid, 1);
    }
    let file = shop.sidecar.merchants_file();
    let with_back = merchant_at(&shop.app.url(), MERID, KEY);
    let nobody = merchant("300000000000003", "9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f");
    for (without, reason) in [(merchant(MERID, KEY), "no-back"), (nobody, "no-merchant")] {
        fs::write(file, without).unwrap();
        assert_eq!(shop.sidecar.reload().status, 200);
        for payment in &payments {
            let line = shop.listed(&payment.orderid, "pending");
            let waits = format!("waits      {reason}");
            eventually(&waits, 2 * SOON, || {
                let shown = shop.inbox(&["show", id_of(&line)]);
                String::from_utf8_lossy(&shown.stdout).contains(&waits)
            });
        }
        let before = shop.app.count();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(shop.app.count(), before, "delivered to nobody's address");
        fs::write(file, &with_back).unwrap();
        assert_eq!(shop.sidecar.reload().status, 200);
        eventually("attempts go on", SOON, || shop.app.count() > before);
    }
    is_well.store(true, Ordering::SeqCst);
    for payment in &payments {
        shop.listed(&payment.orderid, "delivered");
    }
}

#[test]
fn a_stray_response_is_no_reply_to_the_next_delivery() {
    let is_second = Arc::new(AtomicBool::new(false));
    let seen_first = Arc::clone(&is_second);
    // The first reply is followed by a second one that nobody asked for; every later delivery is rejected.
    let app = move |_: &Seen| match seen_first.swap(true, Ordering::SeqCst) {
        false => {
            let reply = http(200, &[], "0000");
            Action::Reply([reply.clone(), reply].concat())
        }
        true => refused_by_app(),
    };
    let shop = Shop::with(app, |_| {});
    let first = Payment::of(&shop.order());
    acknowledged(&shop.notify(&first));
    shop.listed(&first.orderid, "delivered");
    let second = Payment::of(&shop.order());
    acknowledged(&shop.notify(&second));
    shop.hears(&second.orderid, 2);
    shop.listed(&second.orderid, "pending");
    assert_eq!(deliveries(&shop.app).len(), 3);
}

#[test]
fn an_app_has_as_long_as_the_setting_says() {
    let app = |seen: &Seen| match seen.header("countersign-attempt") {
        Some("1") => Action::Late(http(200, &[], "0000"), Duration::from_millis(2_500)),
        _ => taken(),
    };
    let shop = Shop::with(app, |conf| {
        conf.inbox = "delivery_timeout = \"1s\"".to_owned()
    });
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let heard = shop.hears(&payment.orderid, 2);
    let gap = heard[1].at - heard[0].at;
    assert!(gap < Duration::from_millis(4_000), "{gap:?}");
    shop.listed(&payment.orderid, "delivered");
}
