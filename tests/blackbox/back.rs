//! Notifications at `back` that are as they should be: acknowledged, kept, and told to the app as they are.

use crate::client::{Connection, fetch, post_with};
use crate::harness::{KEY, MERID, OTHER_MERID, fresh_orderid, submit_of};
use crate::shop::{
    BACK, FORM, Payment, Shop, acknowledged, callback, callback_from, is_acknowledged, merchant_at,
    refused,
};
use crate::vectors;
use crate::wire;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Barrier};
use std::thread;

#[test]
fn a_notification_is_acknowledged_and_reaches_the_app_as_it_is() {
    let shop = Shop::open();
    let mut events = BTreeSet::new();
    for path in [BACK, "/notify/back"] {
        for way in ["form", "json", "link"] {
            let payment = Payment::of(&shop.order());
            let form = payment.form();
            let answer = match way {
                "form" => post_with(shop.address(), path, &[FORM], &form),
                "json" => {
                    let value = |name| wire::value(&form, name).unwrap();
                    let body = json!({"resp": value("resp"), "sign": value("sign")}).to_string();
                    let content_type = "Content-Type: application/json";
                    post_with(shop.address(), path, &[content_type], body)
                }
                _ => fetch(shop.address(), &format!("{path}?{form}")).unwrap(),
            };
            acknowledged(&answer);
            let delivery = shop.hears(&payment.orderid, 1).remove(0);
            assert_eq!(delivery.body, payment.json(), "{way} at {path}");
            assert_eq!(delivery.target, "/pay/back");
            let told = [delivery.attempt, delivery.source, delivery.order];
            assert_eq!(told, ["1", "notification", "matched"]);
            assert!(!delivery.event.is_empty() && events.insert(delivery.event));
        }
    }
    assert_eq!(shop.deliveries().len(), 6);
}

#[test]
fn every_answer_vector_gets_its_verdict_at_back() {
    let mut tried = 0;
    for case in &vectors::load().answers {
        let shop = Shop::open();
        let orderid = case.member("orderid", "ORD2017030100000001");
        let amount = if orderid == "ABCDEFGH" { 1 } else { 1280 };
        shop.sign(&submit_of(MERID, &orderid, amount));
        let by_post = callback(shop.address(), &case.form);
        let by_get = fetch(shop.address(), &format!("{BACK}?{}", case.form)).unwrap();
        let heard = if case.verdict == "verified" {
            assert!(is_acknowledged(&by_post), "{}: {by_post:?}", case.name);
            assert!(is_acknowledged(&by_get), "{}: {by_get:?}", case.name);
            let delivery = shop.hears(&orderid, 1).remove(0);
            assert_eq!(delivery.body, case.json, "{}", case.name);
            assert_eq!(delivery.order, "matched", "{}", case.name);
            1
        } else {
            refused(&case.name, &by_post);
            refused(&case.name, &by_get);
            0
        };
        shop.goes_well();
        assert_eq!(shop.deliveries().len(), heard + 1, "{}", case.name);
        tried += 1;
    }
    assert!(tried >= 14, "{tried}");
}

#[test]
fn two_hundred_copies_at_once_are_all_acknowledged_and_delivered_once() {
    const COPIES: usize = 200;
    let shop = Shop::open();
    let payment = Payment::of(&shop.order());
    let (form, address) = (payment.form(), shop.address());
    let together = Arc::new(Barrier::new(COPIES));
    let threads: Vec<_> = (0..COPIES)
        .map(|copy| {
            let (form, together) = (form.clone(), Arc::clone(&together));
            thread::spawn(move || {
                together.wait();
                // Several senders, since each may hold only so many connections.
                callback_from(
                    Ipv4Addr::new(127, 0, 1, (copy % 5) as u8 + 1),
                    address,
                    form,
                )
            })
        })
        .collect();
    for thread in threads {
        acknowledged(&thread.join().unwrap());
    }
    shop.hears(&payment.orderid, 1);
    acknowledged(&shop.notify(&payment));
    shop.goes_well();
    assert_eq!(shop.deliveries_of(&payment.orderid).len(), 1);
    assert_eq!(shop.list().len(), 2);
    let metrics = shop.sidecar.metrics();
    let count =
        |outcome: &str| metrics.sum(&["countersign_callbacks_total", "kind=\"back\"", outcome]);
    assert_eq!(count("outcome=\"accepted\""), 2.0);
    assert_eq!(count("outcome=\"repeated\""), COPIES as f64);
}

#[test]
fn copies_that_arrive_while_the_app_is_told_are_no_second_delivery() {
    const PAYMENTS: usize = 60;
    const SENDERS: usize = 8;
    let shop = Shop::open();
    let address = shop.address();
    let forms: Vec<_> = (0..PAYMENTS)
        .map(|_| Payment::of(&shop.order()).form())
        .collect();
    let forms = Arc::new(forms);
    let together = Arc::new(Barrier::new(SENDERS));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (forms, together) = (Arc::clone(&forms), Arc::clone(&together));
            thread::spawn(move || {
                for form in forms.iter() {
                    together.wait();
                    for _ in 0..4 {
                        acknowledged(&callback(address, form));
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    shop.goes_well();
    let deliveries = shop.deliveries();
    let mut events = BTreeSet::new();
    let again: Vec<_> = deliveries
        .iter()
        .filter(|delivery| !events.insert(&delivery.event))
        .collect();
    assert_eq!(events.len(), PAYMENTS + 1);
    assert!(
        again.is_empty(),
        "{} of them twice: {:?}",
        again.len(),
        again[0]
    );
}

#[test]
fn a_repeat_in_other_words_is_the_same_event() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    shop.hears(&payment.orderid, 1);
    // The same story, written otherwise.
    let reworded = payment.json().replace("结果", "成功").replace(", ", ",");
    acknowledged(&callback(shop.address(), wire::answer(reworded, KEY)));
    shop.goes_well();
    assert_eq!(shop.deliveries_of(&payment.orderid).len(), 1);
}

#[test]
fn each_result_of_a_payment_is_an_event_of_its_own() {
    let shop = Shop::open();
    let orderid = shop.order();
    for (n, resultcode) in ["1001", "1002", "1004", "1003", "0000"].iter().enumerate() {
        let payment = Payment::of(&orderid).with_result(resultcode);
        acknowledged(&shop.notify(&payment));
        let heard = shop.hears(&orderid, n + 1);
        assert_eq!(heard[n].body, payment.json());
    }
    let events: BTreeSet<_> = shop.deliveries().into_iter().map(|it| it.event).collect();
    assert_eq!(events.len(), 5);
}

#[test]
fn what_the_document_lets_be_empty_may_be_empty() {
    let shop = Shop::open();
    for change in [
        ("\"2017-03-01 12:00:05\"", "null"),
        ("\"2017-03-01 12:00:05\"", "\"\""),
        (",\"paytime\":\"2017-03-01 12:00:05\"", ""),
        (", \"resultmsg\" : \"\\u7ed3\\u679c结果\"", ""),
        ("\"\\u7ed3\\u679c结果\"", "null"),
        ("\"resultcode\":\"0000\", ", ""),
        ("\"0000\"", "null"),
        ("{", "{\"more\":[1,{\"a\":null}],"),
        ("{", " \r\n{\t"),
        ("\"orderid\"", "\"order\\u0069d\""),
    ] {
        let orderid = shop.order();
        let json = Payment::of(&orderid).json();
        let changed = json.replacen(change.0, change.1, 1);
        assert_ne!(json, changed);
        let answer = callback(shop.address(), wire::answer(&changed, KEY));
        assert!(is_acknowledged(&answer), "{changed}: {answer:?}");
        assert_eq!(shop.hears(&orderid, 1)[0].body, changed);
    }
}

#[test]
fn an_order_that_we_never_signed_is_told_with_a_mark() {
    let shop = Shop::open();
    let payment = Payment::of(&fresh_orderid()).with_amount(7);
    acknowledged(&shop.notify(&payment));
    let delivery = shop.hears(&payment.orderid, 1).remove(0);
    assert_eq!(delivery.order, "unknown");
    assert_eq!(delivery.body, payment.json());
}

#[test]
fn a_key_that_was_replaced_is_still_accepted() {
    const OLD: &str = "4b6c1f7e2d8a9035b6c1f7e2d8a90351";
    let old = wire::answer(Payment::of("OLDKEY0001").json(), OLD);
    let shop = Shop::open();
    refused("not yet an old key", &callback(shop.address(), &old));
    let app = shop.app.url();
    let entry = merchant_at(&app, MERID, KEY);
    let entry = entry.replace("back =", &format!("old_keys = [\"{OLD}\"]\nback ="));
    std::fs::write(shop.sidecar.merchants_file(), entry).unwrap();
    let answer = shop.sidecar.reload();
    assert_eq!(answer.status, 200, "{}", answer.text());
    acknowledged(&callback(shop.address(), &old));
    shop.hears("OLDKEY0001", 1);
}

#[test]
fn results_of_an_order_are_sent_here_whatever_the_app_wrote() {
    let shop = Shop::open();
    let back = format!("http://{}{BACK}", shop.address());
    for submit in [
        submit_of(MERID, &fresh_orderid(), 1),
        submit_of(OTHER_MERID, &fresh_orderid(), 1),
        submit_of(MERID, &fresh_orderid(), 1)
            .replace(",\"backurl\":\"https://shop.example.com/pay/back\"", "")
            .replace("\"backurl\":\"https://shop.example.com/pay/back\",", ""),
    ] {
        assert_eq!(shop.sidecar.submit(&submit).status, 200, "{submit}");
        let asked = shop.platform.last();
        assert_eq!(asked.member("backurl"), back, "{submit}");
        assert_eq!(
            asked.member("fronturl"),
            back.replace("notify/back", "notify/front"),
            "{submit}"
        );
    }
}

#[test]
fn an_order_that_was_submitted_in_any_way_is_matched() {
    let shop = Shop::open();
    let submit = |path: &str| {
        let orderid = fresh_orderid();
        let answer = shop.sidecar.post(path, submit_of(MERID, &orderid, 1280));
        assert_eq!(answer.status, 200, "{}", answer.text());
        orderid
    };
    let mut orders = vec![submit("/api/icashier"), submit("/apis/icashier")];
    let shadowed = fresh_orderid();
    let form = wire::request(submit_of(MERID, &shadowed, 1280), KEY);
    let answer = shop.sidecar.post("/api/icashier", form);
    assert_eq!(answer.header("countersign-shadow"), Some("match"));
    orders.push(shadowed);
    for orderid in orders {
        acknowledged(&shop.notify(&Payment::of(&orderid)));
        assert_eq!(shop.hears(&orderid, 1)[0].order, "matched", "{orderid}");
    }
}

#[test]
fn a_connection_carries_many_notifications() {
    let shop = Shop::open();
    let mut connection = Connection::open(shop.address()).unwrap();
    let mut connections = 1;
    for _ in 0..20 {
        let payment = Payment::of(&shop.order());
        let bytes = crate::client::post_bytes(BACK, &[FORM], payment.form());
        let answer = connection.exchange(bytes).unwrap();
        acknowledged(&answer);
        // It may close after any of them, but has to say so.
        if answer.header("connection") == Some("close") {
            connection = Connection::open(shop.address()).unwrap();
            connections += 1;
        }
        shop.hears(&payment.orderid, 1);
    }
    assert!(connections <= 20);
}

#[test]
fn expect_is_answered_at_once() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order());
    let form = payment.form();
    let mut connection = Connection::open(shop.address()).unwrap();
    connection
        .send(format!(
            "POST {BACK} HTTP/1.1\r\nHost: shop\r\n{FORM}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            form.len()
        ))
        .unwrap();
    assert_eq!(connection.receive_status().unwrap(), 100);
    acknowledged(&connection.exchange(&form).unwrap());
}

#[test]
fn a_slow_app_holds_up_no_acknowledgement() {
    let shop = Shop::with(|_| crate::platform::Action::Hang, |_| {});
    for _ in 0..5 {
        let began = std::time::Instant::now();
        acknowledged(&shop.notify(&Payment::of(&shop.order())));
        assert!(began.elapsed() < std::time::Duration::from_secs(2));
    }
}
