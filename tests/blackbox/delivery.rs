//! From the inbox to the app: again and again on the schedule until it is taken, and no app delays another.

use crate::clock::{self, minutes};
use crate::harness::{KEY, MERID, OTHER_KEY, OTHER_MERID, eventually, free_port, merchant};
use crate::platform::{Action, Platform, Seen, http};
use crate::shop::{
    Delivery, Payment, SOON, Shop, acknowledged, deliveries, id_of, list, merchant_at,
    refused_by_app, taken,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn attempt(seen: &Seen) -> usize {
    let attempt = seen.header("countersign-attempt");
    attempt.and_then(|it| it.parse().ok()).unwrap_or_default()
}

/// The attempts of each event, in their order.
fn by_event(deliveries: Vec<Delivery>) -> BTreeMap<String, Vec<Delivery>> {
    let mut by_event: BTreeMap<String, Vec<Delivery>> = BTreeMap::new();
    for delivery in deliveries {
        let attempts = by_event.entry(delivery.event.clone()).or_default();
        attempts.push(delivery);
    }
    by_event
}

#[test]
fn attempts_keep_to_the_schedule_until_the_app_takes_it() {
    const EVENTS: usize = 12;
    let app = |seen: &Seen| match attempt(seen) {
        4 => taken(),
        _ => refused_by_app(),
    };
    let shop = Shop::with(app, |_| {});
    for _ in 0..EVENTS {
        acknowledged(&shop.notify(&Payment::of(&shop.order())));
    }
    let all = 4 * EVENTS;
    eventually("four attempts each", 2 * SOON, || shop.app.count() >= all);
    let attempts = ["countersign_delivery_attempts_total"];
    eventually("all are counted", SOON, || {
        shop.sidecar.metrics().sum(&attempts) == all as f64
    });
    let mut gaps = BTreeSet::new();
    let events = by_event(shop.deliveries());
    assert_eq!(events.len(), EVENTS);
    for attempts in events.values() {
        let numbers: Vec<_> = attempts.iter().map(|it| it.attempt.as_str()).collect();
        assert_eq!(numbers, ["1", "2", "3", "4"]);
        for (pair, due) in attempts.windows(2).zip([1_000, 2_000, 5_000]) {
            assert_eq!(pair[0].body, pair[1].body);
            let gap = pair[1].at - pair[0].at;
            let (least, most) = (due * 8 / 10, due * 12 / 10 + 500);
            let range = Duration::from_millis(least)..Duration::from_millis(most);
            assert!(range.contains(&gap), "{gap:?} where {due} ms were due");
            gaps.insert(gap.as_millis() / 50);
        }
    }
    assert!(gaps.len() > 6, "no jitter: {gaps:?}");
}

#[test]
fn whatever_the_app_answers_but_the_four_noughts_means_not_yet() {
    let trap = Platform::start(|_| taken());
    let location = format!("Location: {}/back", trap.url());
    let answers: Vec<(&str, Action)> = vec![
        ("500", Action::Reply(http(500, &[], "0000"))),
        ("404", Action::Reply(http(404, &[], "0000"))),
        ("401", Action::Reply(http(401, &[], "0000"))),
        ("301", Action::Reply(http(301, &[&location], "0000"))),
        ("302", Action::Reply(http(302, &[&location], "0000"))),
        ("303", Action::Reply(http(303, &[&location], "0000"))),
        ("307", Action::Reply(http(307, &[&location], "0000"))),
        ("308", Action::Reply(http(308, &[&location], "0000"))),
        ("nothing", Action::Reply(http(200, &[], ""))),
        ("204", Action::Reply(b"HTTP/1.1 204 None\r\n\r\n".to_vec())),
        ("ok", Action::Reply(http(200, &[], "ok"))),
        ("three noughts", Action::Reply(http(200, &[], "000"))),
        ("five noughts", Action::Reply(http(200, &[], "00000"))),
        ("a page", Action::Reply(http(200, &[], "<p>0000</p>"))),
        ("quotes", Action::Reply(http(200, &[], "\"0000\""))),
        ("spaces within", Action::Reply(http(200, &[], "00 00"))),
        ("10 MB", Action::Cut(http(200, &[], "0".repeat(10 << 20)))),
        (
            "10 MB of spaces after them",
            Action::Cut(http(200, &[], format!("0000{}", " ".repeat(10 << 20)))),
        ),
        (
            "an answer without an end",
            Action::Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n0000".to_vec()),
        ),
        ("a reset", Action::Cut(Vec::new())),
        ("half a header", Action::Cut(b"HTTP/1.1 200".to_vec())),
        ("no HTTP", Action::Cut(b"0000\r\n\r\n".to_vec())),
        (
            "a header without an end",
            Action::Cut(format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(1 << 20)).into_bytes()),
        ),
        (
            "100 alone",
            Action::Cut(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
        ),
    ];
    let names: Vec<_> = answers.iter().map(|it| it.0).collect();
    let replies: Vec<_> = answers.iter().map(|it| it.1.clone()).collect();
    // Each order has a place in the table, told by its queryid.
    let app = move |seen: &Seen| {
        let delivery = Delivery::of(seen);
        let place: usize = delivery.member("queryid")[2..].parse().unwrap();
        match attempt(seen) {
            1 => replies[place].clone(),
            _ => taken(),
        }
    };
    let shop = Shop::with(app, |_| {});
    let mut orders = Vec::new();
    for place in 0..names.len() {
        let payment = Payment::of(&shop.order()).with_queryid(&format!("QA{place}"));
        acknowledged(&shop.notify(&payment));
        orders.push(payment.orderid);
    }
    for (name, orderid) in names.iter().zip(&orders) {
        let heard = shop.hears(orderid, 2);
        assert_eq!(heard[0].event, heard[1].event, "{name}");
        assert_eq!(heard[1].attempt, "2", "{name}");
        shop.listed(orderid, "delivered");
    }
    assert_eq!(shop.app.count(), 2 * names.len());
    assert_eq!(trap.count(), 0, "a redirect was followed");
    let peak = shop.sidecar.peak_memory_kib();
    assert!(peak < 100_000, "{peak} KiB at most");
}

#[test]
fn four_noughts_are_taken_with_white_space_and_any_2xx() {
    let answers = [
        http(200, &[], "0000"),
        http(200, &[], "0000\n"),
        http(200, &[], " \t0000\r\n\r\n"),
        http(201, &["Content-Type: text/html"], "0000"),
        http(202, &[], "0000"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n00\r\n3\r\n00\n\r\n0\r\n\r\n"
            .to_vec(),
        b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n0000".to_vec(),
    ];
    let count = answers.len();
    let next = AtomicUsize::new(0);
    let app = move |_: &Seen| {
        let n = next.fetch_add(1, Ordering::SeqCst);
        answers
            .get(n)
            .map_or_else(taken, |it| Action::Reply(it.clone()))
    };
    let shop = Shop::with(app, |_| {});
    for n in 0..count {
        let orderid = shop.order();
        acknowledged(&shop.notify(&Payment::of(&orderid)));
        shop.hears(&orderid, 1);
        shop.listed(&orderid, "delivered");
        assert_eq!(shop.app.count(), n + 1);
    }
    // One that closes after its answer, without a length: the oldest way.
    let old = Platform::start(|_| Action::Cut(b"HTTP/1.0 200 OK\r\n\r\n0000".to_vec()));
    fs::write(
        shop.sidecar.merchants_file(),
        merchant_at(&old.url(), MERID, KEY),
    )
    .unwrap();
    assert_eq!(shop.sidecar.reload().status, 200);
    let orderid = shop.order();
    acknowledged(&shop.notify(&Payment::of(&orderid)));
    shop.listed(&orderid, "delivered");
    assert_eq!(old.count(), 1);
}

#[test]
fn one_attempt_at_a_time_per_event() {
    let under_way = Arc::new(AtomicUsize::new(0));
    let overlaps = Arc::new(AtomicUsize::new(0));
    let (now, over) = (Arc::clone(&under_way), Arc::clone(&overlaps));
    let app = move |seen: &Seen| {
        if now.fetch_add(1, Ordering::SeqCst) > 0 {
            over.fetch_add(1, Ordering::SeqCst);
        }
        // Longer than the first gap of the schedule.
        thread::sleep(Duration::from_millis(1_500));
        now.fetch_sub(1, Ordering::SeqCst);
        if attempt(seen) < 3 {
            refused_by_app()
        } else {
            taken()
        }
    };
    let shop = Shop::with(app, |_| {});
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    for times in 1..=3 {
        shop.hears(&payment.orderid, times);
        acknowledged(&shop.notify(&payment));
    }
    shop.listed(&payment.orderid, "delivered");
    assert_eq!(shop.app.count(), 3);
    assert_eq!(overlaps.load(Ordering::SeqCst), 0);
}

#[test]
fn a_merchant_whose_app_hangs_delays_no_other() {
    const HANGING: usize = 300;
    let hanging = Platform::start(|_| Action::Hang);
    let url = hanging.url();
    let shop = Shop::with(
        |_| taken(),
        |conf| {
            let entry = merchant(OTHER_MERID, OTHER_KEY);
            let end = conf.merchants.find(&entry).unwrap();
            conf.merchants.truncate(end);
            conf.merchants += &merchant_at(&url, OTHER_MERID, OTHER_KEY);
        },
    );
    for n in 0..HANGING {
        let payment = Payment::of(&format!("HANGING{n:05}")).to(OTHER_MERID);
        acknowledged(&shop.notify(&payment));
    }
    hanging.wait_for(1);
    for _ in 0..20 {
        let began = Instant::now();
        shop.goes_well();
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }
    let at_once = hanging.connections();
    assert!(at_once < HANGING, "{at_once} attempts at once for one app");
}

#[test]
fn a_dozen_apps_that_hang_delay_no_other() {
    const HANGING: usize = 12;
    const EVENTS: usize = 20;
    let merid = |n: usize| format!("3000000000000{n:02}");
    let key = |n: usize| format!("{:032x}", n * 1_000_003 + 1);
    let hanging = Platform::start(|_| Action::Hang);
    let url = hanging.url();
    let shop = Shop::with(
        |_| taken(),
        |conf| {
            for n in 0..HANGING {
                conf.merchants += &merchant_at(&url, &merid(n), &key(n));
            }
        },
    );
    for event in 0..EVENTS {
        for n in 0..HANGING {
            let payment = Payment::of(&format!("DOZEN{n:03}N{event:03}")).to(&merid(n));
            let form = crate::wire::answer(payment.json(), &key(n));
            acknowledged(&crate::shop::callback(shop.address(), form));
        }
    }
    hanging.wait_for(HANGING);
    for _ in 0..10 {
        let began = Instant::now();
        shop.goes_well();
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn each_merchant_s_results_go_to_its_own_app_alone() {
    let other = Platform::start(|_| taken());
    let url = other.url();
    let shop = Shop::with(
        |_| taken(),
        |conf| {
            let entry = merchant(OTHER_MERID, OTHER_KEY);
            let end = conf.merchants.find(&entry).unwrap();
            conf.merchants.truncate(end);
            conf.merchants += &merchant_at(&url, OTHER_MERID, OTHER_KEY);
        },
    );
    // Both use the same order number, for different amounts.
    let orderid = shop.order();
    shop.sign(&crate::harness::submit_of(OTHER_MERID, &orderid, 77));
    let ours = Payment::of(&orderid);
    let theirs = Payment::of(&orderid).to(OTHER_MERID).with_amount(77);
    for payment in [&ours, &theirs] {
        acknowledged(&shop.notify(payment));
    }
    other.wait_for(1);
    shop.hears(&orderid, 1);
    for (app, payment) in [(&shop.app, &ours), (&other, &theirs)] {
        let told = deliveries(app);
        assert_eq!(told.len(), 1);
        assert_eq!(
            (told[0].body.as_str(), told[0].order.as_str()),
            (payment.json().as_str(), "matched")
        );
    }
    let crossed = theirs.with_amount(1280).with_queryid("QCROSSED001");
    crate::shop::refused("the other merchant's amount", &shop.notify(&crossed));
}

#[test]
fn two_thousand_events_of_an_outage_are_delivered_within_a_minute() {
    const EVENTS: usize = 2_000;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Shop::setup(&platform, &format!("http://{address}"), |_| {}).start();
    let callbacks = sidecar.setup.callbacks;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            thread::spawn(move || {
                for n in (sender..EVENTS).step_by(8) {
                    let payment = Payment::of(&format!("BACKLOG{n:06}"));
                    acknowledged(&crate::shop::callback(callbacks, payment.form()));
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    let app = Platform::start_at(address, |_| taken());
    let distinct = || -> BTreeSet<_> { deliveries(&app).into_iter().map(|it| it.event).collect() };
    eventually("all are delivered", Duration::from_secs(60), || {
        app.count() >= EVENTS && distinct().len() >= EVENTS
    });
    eventually("all of that is written down", SOON, || {
        let metrics = sidecar.metrics();
        metrics.sum(&["countersign_events{", "state=\"delivered\""]) == EVENTS as f64
    });
    assert_eq!(app.count(), EVENTS, "some were delivered twice");
}

#[test]
fn an_app_that_hangs_is_given_up_and_tried_again() {
    let app = |seen: &Seen| match attempt(seen) {
        1 => Action::Hang,
        2 => Action::Drip(http(200, &[], "0000"), Duration::from_secs(5)),
        _ => taken(),
    };
    let shop = Shop::with(app, |_| {});
    let orderid = shop.order();
    acknowledged(&shop.notify(&Payment::of(&orderid)));
    let began = Instant::now();
    eventually(
        "the app is tried a third time",
        Duration::from_secs(90),
        || shop.deliveries_of(&orderid).len() >= 3,
    );
    shop.listed(&orderid, "delivered");
    assert!(began.elapsed() < Duration::from_secs(90));
}

#[test]
fn nothing_is_lost_while_the_app_is_down() {
    const EVENTS: usize = 100;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let platform = Platform::honest(&[(MERID, KEY)]);
    let url = format!("http://{address}");
    let sidecar = Shop::setup(&platform, &url, |_| {}).start();
    let payment = |n: usize| Payment::of(&format!("OUTAGE{n:06}"));
    for n in 0..EVENTS {
        let answer = crate::shop::callback(sidecar.setup.callbacks, payment(n).form());
        acknowledged(&answer);
    }
    let failed = ["countersign_delivery_attempts_total"];
    eventually("each was tried twice", SOON, || {
        sidecar.metrics().sum(&failed) >= 2.0 * EVENTS as f64
    });
    let metrics = sidecar.metrics();
    assert!(metrics.sum(&["countersign_oldest_undelivered_seconds"]) >= 0.5);
    let app = Platform::start_at(address, |_| taken());
    eventually("all are delivered", 2 * SOON, || app.count() >= EVENTS);
    eventually("none is left", SOON, || {
        sidecar
            .metrics()
            .sum(&["countersign_oldest_undelivered_seconds"])
            == 0.0
    });
    let told = by_event(deliveries(&app));
    assert_eq!(told.len(), EVENTS);
    for attempts in told.values() {
        assert_eq!(attempts.len(), 1);
        let n: usize = attempts[0].orderid()[6..].parse().unwrap();
        assert_eq!(attempts[0].body, payment(n).json());
    }
    let metrics = sidecar.metrics();
    let delivered = metrics.sum(&["countersign_events{", "state=\"delivered\""]);
    assert_eq!(delivered, EVENTS as f64);
}

#[test]
fn a_day_of_outage_and_a_restart_lose_nothing() {
    if !clock::can_be_moved("a_day_of_outage_and_a_restart_lose_nothing") {
        return;
    }
    const EVENTS: usize = 50;
    let is_well = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_well);
    let app = move |_: &Seen| match asked.load(Ordering::SeqCst) {
        true => taken(),
        false => Action::Cut(Vec::new()),
    };
    let mut shop = Shop::with(app, |_| {});
    for n in 0..EVENTS {
        acknowledged(&shop.notify(&Payment::of(&format!("DAYOUT{n:06}"))));
    }
    eventually("each was tried", SOON, || shop.app.count() >= EVENTS);
    for hours in [6, 12, 24] {
        shop.sidecar.setup.clock_ahead = minutes(60 * hours);
        let before = shop.app.count();
        shop.sidecar.restart();
        eventually("each is tried again", 2 * SOON, || {
            shop.app.count() >= before + EVENTS
        });
    }
    is_well.store(true, Ordering::SeqCst);
    shop.sidecar.setup.clock_ahead = minutes(60 * 48);
    shop.sidecar.restart();
    for n in 0..EVENTS {
        shop.listed(&format!("DAYOUT{n:06}"), "delivered");
    }
    let told = by_event(shop.deliveries());
    assert_eq!(told.len(), EVENTS, "the same ids all the time");
}

#[test]
fn an_event_that_is_refused_for_ever_is_parked_and_can_be_replayed() {
    let is_well = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_well);
    let app = move |_: &Seen| match asked.load(Ordering::SeqCst) {
        true => taken(),
        false => refused_by_app(),
    };
    let shop = Shop::with(app, |conf| conf.inbox = "retry_for = \"2s\"".to_owned());
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let line = shop.listed(&payment.orderid, "parked");
    let metrics = shop.sidecar.metrics();
    let parked = metrics.sum(&["countersign_events{", "state=\"parked\""]);
    assert_eq!(parked, 1.0);
    let before = shop.deliveries();
    assert!((2..=3).contains(&before.len()), "{before:?}");
    // The platform's repeat is no news.
    acknowledged(&shop.notify(&payment));
    is_well.store(true, Ordering::SeqCst);
    shop.goes_well();
    assert_eq!(shop.deliveries_of(&payment.orderid).len(), before.len());
    let output = shop.inbox(&["replay", id_of(&line)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let after = shop.hears(&payment.orderid, before.len() + 1);
    assert_eq!(after[before.len()].event, id_of(&line));
    shop.listed(&payment.orderid, "delivered");
}

#[test]
fn a_result_for_a_merchant_without_an_app_is_kept() {
    let shop = Shop::with(|_| taken(), |conf| conf.merchants = merchant(MERID, KEY));
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    shop.listed(&payment.orderid, "pending");
    let merchants = merchant_at(&shop.app.url(), MERID, KEY);
    fs::write(shop.sidecar.merchants_file(), merchants).unwrap();
    assert_eq!(shop.sidecar.reload().status, 200);
    assert_eq!(shop.hears(&payment.orderid, 1)[0].body, payment.json());
}

#[test]
fn an_app_that_moves_is_followed() {
    let shop = Shop::with(|_| refused_by_app(), |_| {});
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let first = shop.hears(&payment.orderid, 1).remove(0);
    let moved = Platform::start(|_| taken());
    let entry = merchant_at(&moved.url(), MERID, KEY).replace("/pay/back", "/new/back?shop=7");
    fs::write(shop.sidecar.merchants_file(), entry).unwrap();
    assert_eq!(shop.sidecar.reload().status, 200);
    moved.wait_for(1);
    let told = deliveries(&moved).remove(0);
    assert_eq!(told.target, "/new/back?shop=7");
    assert_eq!((told.event, told.body), (first.event, first.body));
}

#[test]
fn a_drain_leaves_what_is_undelivered_to_the_next_run() {
    let is_well = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_well);
    let app = move |_: &Seen| match asked.load(Ordering::SeqCst) {
        true => taken(),
        false => Action::Hang,
    };
    let mut shop = Shop::with(app, |_| {});
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let first = shop.hears(&payment.orderid, 1).remove(0);
    crate::harness::signal(&shop.sidecar.child, "TERM");
    let ended = crate::harness::exit_within(&mut shop.sidecar.child, Duration::from_secs(12));
    assert_eq!(ended.and_then(|it| it.code()), Some(0));
    let listed = list(&shop.sidecar.setup);
    assert_eq!(
        listed.len(),
        1,
        "the list needs no running sidecar: {listed:?}"
    );
    is_well.store(true, Ordering::SeqCst);
    shop.sidecar.restart();
    let heard = shop.hears(&payment.orderid, 2);
    assert_eq!(heard[1].event, first.event);
    shop.listed(&payment.orderid, "delivered");
}

#[test]
fn death_between_the_app_s_ack_and_its_record_means_the_same_event_again() {
    let app = |seen: &Seen| match attempt(seen) {
        // Says it has taken it, but so late that nobody hears.
        1 => Action::Late(http(200, &[], "0000"), Duration::from_millis(700)),
        _ => taken(),
    };
    let mut shop = Shop::with(app, |_| {});
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let first = shop.hears(&payment.orderid, 1).remove(0);
    shop.sidecar.restart();
    let again = shop.hears(&payment.orderid, 2).remove(1);
    assert_eq!((again.event, again.body), (first.event, first.body));
}

#[test]
fn a_clock_that_went_back_delays_no_delivery() {
    if !clock::can_be_moved("a_clock_that_went_back_delays_no_delivery") {
        return;
    }
    let platform = Platform::honest(&[(MERID, KEY)]);
    let app = Platform::start(|seen| match attempt(seen) {
        1 => refused_by_app(),
        _ => taken(),
    });
    let mut setup = Shop::setup(&platform, &app.url(), |_| {});
    setup.clock_ahead = minutes(600);
    let mut sidecar = setup.start();
    let payment = Payment::of("CLOCKBACK01");
    let answer = crate::shop::callback(sidecar.setup.callbacks, payment.form());
    acknowledged(&answer);
    app.wait_for(1);
    sidecar.setup.clock_ahead = Duration::ZERO;
    sidecar.restart();
    eventually("it is tried again", 2 * SOON, || app.count() >= 2);
    let told = deliveries(&app);
    assert_eq!(told[0].event, told[1].event);
}
