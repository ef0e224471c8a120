//! Tries: an order may be submitted again, and each submit is a try of its own with its own end.

use crate::client::Connection;
use crate::harness::{
    KEY, MERID, Setup, Sidecar, free_port, fresh_orderid, skip, submit_json, submit_of,
};
use crate::platform::{Action, Platform, http};
use crate::shop::{Book, Payment, SOON, Shop, acknowledged, taken};
use crate::wire;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A sidecar before a platform that is not there yet, and the address where it will be.
fn before_nothing(change: impl FnOnce(&mut crate::harness::Conf)) -> (Sidecar, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let sidecar = Sidecar::start(|conf| {
        conf.platform = format!("http://{address}");
        change(conf);
    });
    (sidecar, address)
}

/// Its connections end with each page, so that none outlives it.
fn pages(address: SocketAddr) -> Platform {
    Platform::start_at(address, |_| Action::Cut(http(200, &[], "a page")))
}

#[track_caller]
fn conflicts(sidecar: &Sidecar, orderid: &str) {
    let other = sidecar.submit(submit_of(MERID, orderid, 7));
    other.problem(409, "order-conflict", "no");
}

#[test]
fn an_order_that_was_never_sent_can_be_changed() {
    let (sidecar, address) = before_nothing(|_| {});
    let orderid = fresh_orderid();
    for _ in 0..2 {
        let failed = sidecar.submit(submit_json(&orderid));
        failed.problem(502, "platform-unreachable", "no");
    }
    let platform = pages(address);
    let changed = sidecar.submit(submit_of(MERID, &orderid, 7));
    assert_eq!(changed.status, 200, "{}", changed.text());
    // From now on it stays: it was sent.
    sidecar
        .submit(submit_json(&orderid))
        .problem(409, "order-conflict", "no");
    assert_eq!(platform.count(), 1);
}

#[test]
fn every_reason_for_not_sending_frees_the_order() {
    let dead = format!("http://127.0.0.1:{}", free_port());
    let speaks_no_tls = Platform::start(|_| Action::Cut(Vec::new()));
    let tls = speaks_no_tls.url().replace("http:", "https:");
    for platform in [dead, "http://no-such-host.invalid".to_owned(), tls] {
        let sidecar = Sidecar::start(|conf| conf.platform.clone_from(&platform));
        let orderid = fresh_orderid();
        for amount in [1280, 7, 1280] {
            let failed = sidecar.submit(submit_of(MERID, &orderid, amount));
            let code = failed.json()["code"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            assert!(
                code.starts_with("platform-"),
                "{platform}: {}",
                failed.text()
            );
            assert_eq!(failed.json()["sent"], "no", "{platform}");
        }
    }
}

#[test]
fn an_order_whose_other_try_may_have_arrived_stays_as_it_is() {
    // Linked: the customer's browser has it.
    let (sidecar, address) = before_nothing(|_| {});
    let linked = fresh_orderid();
    assert_eq!(
        sidecar.post("/apis/icashier", submit_json(&linked)).status,
        200
    );
    let failed = sidecar.submit(submit_json(&linked));
    failed.problem(502, "platform-unreachable", "no");
    conflicts(&sidecar, &linked);
    // A link after a submit that failed creates the row anew, and a failed submit after it frees nothing.
    let linked_later = fresh_orderid();
    let failed = sidecar.submit(submit_json(&linked_later));
    failed.problem(502, "platform-unreachable", "no");
    assert_eq!(
        sidecar
            .post("/apis/icashier", submit_json(&linked_later))
            .status,
        200
    );
    let failed = sidecar.submit(submit_json(&linked_later));
    failed.problem(502, "platform-unreachable", "no");
    conflicts(&sidecar, &linked_later);
    // Sent, and the platform is gone afterwards; a conflict in between frees nothing either.
    let platform = pages(address);
    let sent = fresh_orderid();
    assert_eq!(sidecar.submit(submit_json(&sent)).status, 200);
    drop(platform);
    let gone = Duration::from_secs(5);
    crate::harness::eventually("the platform is gone", gone, || {
        let failed = sidecar.submit(submit_json(&sent));
        failed.json()["code"] == "platform-unreachable"
    });
    conflicts(&sidecar, &sent);
    conflicts(&sidecar, &sent);
}

#[test]
fn an_order_whose_other_try_is_in_flight_stays_as_it_is() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let hangs = Platform::start_at(address, |_| Action::Hang);
    let sidecar = Sidecar::before(&hangs);
    let orderid = fresh_orderid();
    let (app, submit) = (sidecar.app(), submit_json(&orderid));
    let waiting = std::thread::spawn(move || crate::client::post(app, "/api/icashier", submit));
    hangs.wait_for(1);
    // Its connection stays open; nobody accepts another one.
    drop(hangs);
    let failed = sidecar.submit(submit_json(&orderid));
    assert_eq!(failed.json()["sent"], "no", "{}", failed.text());
    conflicts(&sidecar, &orderid);
    waiting
        .join()
        .unwrap()
        .problem(504, "platform-timeout", "unknown");
    conflicts(&sidecar, &orderid);
}

/// A shop whose submits are cut off while they go out; queries are honest.
fn cutting_submits() -> Shop {
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Cut(Vec::new()),
        _ => pages.reply(seen),
    });
    Shop::between(book, platform, Platform::start(|_| taken()), |_| {})
}

#[test]
fn a_second_try_of_a_failed_order_is_queried_within_seconds() {
    let shop = cutting_submits();
    let first = Payment::of(&shop.order()).with_result("1003");
    acknowledged(&shop.notify(&first));
    shop.hears(&first.orderid, 1);
    let second = Payment::of(&first.orderid).with_queryid("QSECONDTRY");
    shop.book.enter(first.clone());
    shop.book.enter(second.clone());
    let began = Instant::now();
    let answer = shop.sidecar.submit(submit_json(&first.orderid));
    answer.problem(502, "platform-cut-off", "unknown");
    let heard = shop.hears(&first.orderid, 2);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(heard[1].member("queryid"), second.queryid);
    assert_eq!(heard[1].member("resultcode"), "0000");
    assert_eq!(
        (heard[1].source.as_str(), heard[1].order.as_str()),
        ("query", "matched")
    );
}

/// The process died before the outcome of the try could be kept.
#[test]
fn a_try_that_a_kill_cut_off_is_queried_within_seconds_of_the_restart() {
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Hang,
        _ => pages.reply(seen),
    });
    let mut shop = Shop::between(book, platform, Platform::start(|_| taken()), |_| {});
    if !shop.sidecar.setup.store().exists() {
        return skip(
            "a_try_that_a_kill_cut_off_is_queried_within_seconds_of_the_restart",
            "in a fleet another sidecar may have the try in flight",
        );
    }
    let paid = Payment::of(&fresh_orderid());
    shop.book.enter(paid.clone());
    let (app, submit) = (shop.sidecar.app(), submit_json(&paid.orderid));
    let waiting = std::thread::spawn(move || {
        let mut connection = Connection::open(app).unwrap();
        let bytes = crate::client::post_bytes("/api/icashier", &[], submit);
        connection.exchange(bytes).is_err()
    });
    shop.platform.wait_for(1);
    shop.sidecar.kill();
    assert!(
        waiting.join().unwrap(),
        "no response comes from a dead process"
    );
    let began = Instant::now();
    shop.sidecar.restart();
    let heard = shop.hears(&paid.orderid, 1);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(heard[0].member("resultcode"), "0000");
    assert_eq!(
        (heard[0].source.as_str(), heard[0].order.as_str()),
        ("query", "matched")
    );
}

#[test]
fn a_try_whose_number_is_known_is_queried_by_it() {
    let shop = cutting_submits();
    let unpaid = Payment::of(&fresh_orderid()).with_result("1001");
    shop.book.enter(unpaid.clone());
    let submit = || shop.sidecar.submit(submit_json(&unpaid.orderid));
    submit().problem(502, "platform-cut-off", "unknown");
    let queries = || {
        let mut seen = shop.platform.seen();
        seen.retain(|seen| seen.target == "/api/query");
        seen
    };
    crate::harness::eventually("the order is queried", 2 * SOON, || !queries().is_empty());
    assert_eq!(queries()[0].member("orderid"), unpaid.orderid);
    // The first try's number is known now; the second one's is not.
    shop.goes_well();
    submit().problem(502, "platform-cut-off", "unknown");
    crate::harness::eventually("both tries are queried", 2 * SOON, || queries().len() >= 3);
    let asked: Vec<_> = queries()[1..3]
        .iter()
        .map(|seen| (seen.member("orderid"), seen.member("queryid")))
        .collect();
    assert!(
        asked.contains(&(unpaid.orderid.clone(), String::new())),
        "{asked:?}"
    );
    assert!(
        asked.contains(&(String::new(), unpaid.queryid.clone())),
        "{asked:?}"
    );
}

/// The tries of an order as the file has them: kind, state, the app's own address.
fn tries(setup: &Setup, orderid: &str) -> Vec<(String, String, Option<String>)> {
    let store = rusqlite::Connection::open(setup.store()).unwrap();
    let mut sql = store
        .prepare("SELECT kind, sent, backurl FROM tries WHERE orderid = ?1 ORDER BY number")
        .unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    sql.query_map([orderid], row)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn a_try_keeps_the_app_s_own_address_and_its_end() {
    if std::env::var_os("COUNTERSIGN_TEST_STORE").is_some() {
        return;
    }
    let shop = Shop::open();
    let orderid = fresh_orderid();
    let with = |backurl: &str| {
        let mut submit: Value = serde_json::from_str(&submit_json(&orderid)).unwrap();
        submit["backurl"] = json!(backurl);
        submit.to_string()
    };
    let own = "https://shop.example.com/pay/back?store=7";
    assert_eq!(shop.sidecar.submit(with(own)).status, 200);
    // The platform is given the sidecar's address instead.
    let signed = shop.platform.last_of(&orderid).unwrap().member("backurl");
    assert!(signed.ends_with("/cashier/notify/back"), "{signed}");
    shop.sign(&with("https://shop.example.com/other"));
    let mut without: Value = serde_json::from_str(&submit_json(&orderid)).unwrap();
    without.as_object_mut().unwrap().remove("backurl");
    assert_eq!(shop.sidecar.submit(without.to_string()).status, 200);
    let shadow = wire::request(with("https://shadow.example.com/"), KEY);
    assert_eq!(shop.sidecar.submit(shadow).status, 200);
    let expected = [
        ("submit", "yes", Some(own)),
        ("link", "linked", Some("https://shop.example.com/other")),
        ("submit", "yes", None),
        ("shadow", "yes", None),
    ];
    let expected = expected.map(|(kind, sent, backurl)| {
        let owned = backurl.map(str::to_owned);
        (kind.to_owned(), sent.to_owned(), owned)
    });
    // The end of a submit that went well is written down in the background.
    crate::harness::eventually("each try has its end", SOON, || {
        tries(&shop.sidecar.setup, &orderid) == expected
    });
}

#[test]
fn a_failed_submit_s_try_says_so() {
    if std::env::var_os("COUNTERSIGN_TEST_STORE").is_some() {
        return;
    }
    let shop = cutting_submits();
    let orderid = shop.order();
    let failed = shop.sidecar.submit(submit_json(&orderid));
    failed.problem(502, "platform-cut-off", "unknown");
    let states = || tries(&shop.sidecar.setup, &orderid);
    let states: Vec<_> = states().into_iter().map(|(_, sent, _)| sent).collect();
    assert_eq!(
        states,
        ["linked", "unknown"],
        "written down before the reply"
    );
}
