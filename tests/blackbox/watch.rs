//! Orders whose result never came: the platform is asked, and what it says is told like a notification.

use crate::clock::{self, minutes};
use crate::harness::{KEY, MERID, eventually, fresh_orderid, submit_json};
use crate::platform::{Action, Platform, Seen};
use crate::shop::{Book, Payment, SOON, Shop, acknowledged, is_acknowledged, taken};
use crate::wire;
use std::time::{Duration, Instant};

/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(15);

/// The queries for this order.
fn queries(shop: &Shop, orderid: &str) -> Vec<Seen> {
    let mut seen = shop.platform.seen();
    seen.retain(|seen| seen.target == "/api/query" && seen.member("orderid") == orderid);
    seen
}

#[track_caller]
fn is_asked(shop: &Shop, orderid: &str, times: usize) {
    eventually(
        &format!("{orderid} is asked for {times} times"),
        3 * SOON,
        || queries(shop, orderid).len() >= times,
    );
}

/// Restarts with the clock so far ahead of the real one, once everything that was told is written down as told.
fn go_to(shop: &mut Shop, ahead: Duration) {
    eventually("nothing is pending", SOON, || {
        let pending = ["countersign_events{", "state=\"pending\""];
        shop.sidecar.metrics().sum(&pending) == 0.0
    });
    shop.sidecar.setup.clock_ahead = ahead;
    shop.sidecar.restart();
}

#[test]
fn the_app_is_told_though_every_notification_was_lost() {
    if !clock::can_be_moved("the_app_is_told_though_every_notification_was_lost") {
        return;
    }
    let mut shop = Shop::open();
    let payment = Payment::of(&shop.order());
    shop.book.enter(payment.clone());
    go_to(&mut shop, minutes(21));
    let delivery = shop.hears(&payment.orderid, 1).remove(0);
    assert_eq!(
        (delivery.source.as_str(), delivery.order.as_str()),
        ("query", "matched")
    );
    assert_eq!(delivery.body, payment.answer(), "the answer as it came");
    assert!(!delivery.event.is_empty());
    let asked = queries(&shop, &payment.orderid);
    assert!(asked.iter().all(|seen| seen.is_signed_with(KEY)));
    assert!(
        shop.sidecar
            .metrics()
            .sum(&["countersign_watch_queries_total"])
            >= 1.0
    );
    // The platform's tenth call arrives after all: it is no news.
    acknowledged(&shop.notify(&payment));
    // What has its result is asked for no more.
    let second = Payment::of(&shop.order());
    shop.book.enter(second.clone());
    go_to(&mut shop, minutes(120));
    shop.hears(&second.orderid, 1);
    assert_eq!(shop.deliveries_of(&payment.orderid).len(), 1);
    assert_eq!(queries(&shop, &payment.orderid).len(), asked.len());
}

#[test]
fn an_order_is_not_asked_for_before_twenty_minutes() {
    if !clock::can_be_moved("an_order_is_not_asked_for_before_twenty_minutes") {
        return;
    }
    let mut shop = Shop::open();
    let first = shop.order();
    go_to(&mut shop, minutes(10));
    let second = shop.order();
    go_to(&mut shop, minutes(21));
    is_asked(&shop, &first, 1);
    assert_eq!(queries(&shop, &second).len(), 0);
    go_to(&mut shop, minutes(31));
    is_asked(&shop, &second, 1);
}

#[test]
fn unpaid_is_no_news_and_the_order_is_asked_for_ever_less_often() {
    if !clock::can_be_moved("unpaid_is_no_news_and_the_order_is_asked_for_ever_less_often") {
        return;
    }
    let mut shop = Shop::open();
    let unpaid = shop.order();
    let (mut asked, mut by_then) = (Vec::new(), Vec::new());
    for start in [0, 179, 400] {
        // Later orders: the first query for one of them says that the others had their chance.
        let fences = [0, 2, 4].map(|later| {
            go_to(&mut shop, minutes(start + later));
            let fence = Payment::of(&shop.order());
            shop.book.enter(fence.clone());
            fence.orderid
        });
        for (later, fence) in [21, 23, 25].into_iter().zip(fences) {
            go_to(&mut shop, minutes(start + later));
            shop.hears(&fence, 1);
            // What was asked has been written down by then.
            shop.goes_well();
            asked.push(queries(&shop, &unpaid).len());
        }
        // In a fleet's database a sidecar that was killed keeps what it had in hand for another 15 s.
        let before = by_then.last().copied().unwrap_or_default();
        eventually("it is asked for again", LEASE + SOON, || {
            queries(&shop, &unpaid).len() > before
        });
        by_then.push(queries(&shop, &unpaid).len());
    }
    assert!(asked[0] >= 1, "{asked:?}");
    let late = by_then[2];
    assert!(late <= 12, "not ever less often: {asked:?}");
    assert_eq!(asked[8] - asked[6], 0, "twice within minutes: {asked:?}");
    assert_eq!(shop.deliveries_of(&unpaid).len(), 0, "unpaid is no event");
    // It is paid at last.
    shop.book.enter(Payment::of(&unpaid));
    go_to(&mut shop, minutes(23 * 60));
    assert_eq!(shop.hears(&unpaid, 1)[0].source, "query");
}

#[test]
fn after_a_day_an_order_is_asked_for_no_more() {
    if !clock::can_be_moved("after_a_day_an_order_is_asked_for_no_more") {
        return;
    }
    let mut shop = Shop::open();
    let old = shop.order();
    go_to(&mut shop, minutes(21));
    is_asked(&shop, &old, 1);
    go_to(&mut shop, minutes(25 * 60));
    let fence = shop.order();
    go_to(&mut shop, minutes(26 * 60));
    is_asked(&shop, &fence, 1);
    let young = shop.order();
    shop.goes_well();
    let count = queries(&shop, &old).len();
    shop.book.enter(Payment::of(&old));
    go_to(&mut shop, minutes(27 * 60));
    is_asked(&shop, &young, 1);
    assert_eq!(queries(&shop, &old).len(), count);
}

#[test]
fn what_is_under_way_is_told_and_stays_open_until_it_is_paid() {
    if !clock::can_be_moved("what_is_under_way_is_told_and_stays_open_until_it_is_paid") {
        return;
    }
    let mut shop = Shop::open();
    let stories = [("1002", "0000"), ("1004", "1003"), ("1003", "0000")];
    let payments = stories.map(|(first, _)| Payment::of(&shop.order()).with_result(first));
    for payment in &payments {
        shop.book.enter(payment.clone());
    }
    go_to(&mut shop, minutes(21));
    for payment in &payments {
        let told = shop.hears(&payment.orderid, 1).remove(0);
        assert_eq!(told.member("resultcode"), payment.resultcode);
    }
    for (payment, (_, last)) in payments.iter().zip(stories) {
        shop.book.enter(payment.clone().with_result(last));
    }
    go_to(&mut shop, minutes(180));
    for (payment, (_, last)) in payments.iter().zip(stories) {
        let told = shop.hears(&payment.orderid, 2);
        assert_eq!(told[1].member("resultcode"), last);
        assert_eq!(told[1].source, "query");
        assert_ne!(told[0].event, told[1].event);
    }
    let counts = payments
        .each_ref()
        .map(|it| queries(&shop, &it.orderid).len());
    let fence = shop.order();
    go_to(&mut shop, minutes(600));
    is_asked(&shop, &fence, 1);
    is_asked(&shop, &payments[1].orderid, counts[1] + 1);
    let after = payments
        .each_ref()
        .map(|it| queries(&shop, &it.orderid).len());
    assert_eq!((counts[0], counts[2]), (after[0], after[2]), "paid is paid");
}

#[test]
fn what_was_notified_is_not_asked_for() {
    if !clock::can_be_moved("what_was_notified_is_not_asked_for") {
        return;
    }
    let mut shop = Shop::open();
    let (paid, failed, open) = (shop.order(), shop.order(), shop.order());
    acknowledged(&shop.notify(&Payment::of(&paid)));
    acknowledged(&shop.notify(&Payment::of(&failed).with_result("1003")));
    acknowledged(&shop.notify(&Payment::of(&open).with_result("1002")));
    go_to(&mut shop, minutes(25));
    is_asked(&shop, &open, 1);
    // The customer may have paid at another try.
    is_asked(&shop, &failed, 1);
    assert_eq!(queries(&shop, &paid).len(), 0);
}

#[test]
fn a_submit_without_an_outcome_is_asked_for_within_seconds() {
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| {
        if seen.target == "/api/icashier" {
            Action::Cut(Vec::new())
        } else {
            pages.reply(seen)
        }
    });
    let app = Platform::start(|_| taken());
    let shop = Shop::between(book, platform, app, |_| {});
    let payment = Payment::of(&fresh_orderid());
    shop.book.enter(payment.clone());
    let began = Instant::now();
    let answer = shop.sidecar.submit(submit_json(&payment.orderid));
    answer.problem(502, "platform-cut-off", "unknown");
    let delivery = shop.hears(&payment.orderid, 1).remove(0);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(
        (delivery.source.as_str(), delivery.order.as_str()),
        ("query", "matched")
    );
    let submits = shop.platform.seen();
    let submits = submits.iter().filter(|it| it.target == "/api/icashier");
    assert_eq!(submits.count(), 1, "a submit is sent once");
}

#[test]
fn a_submit_without_an_outcome_is_asked_for_after_a_restart_too() {
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Hang,
        _ => pages.reply(seen),
    });
    let app = Platform::start(|_| taken());
    let mut shop = Shop::between(book, platform, app, |conf| conf.timeout = "1s");
    let payment = Payment::of(&fresh_orderid());
    shop.book.enter(payment.clone());
    let answer = shop.sidecar.submit(submit_json(&payment.orderid));
    answer.problem(504, "platform-timeout", "unknown");
    shop.sidecar.restart();
    shop.hears(&payment.orderid, 1);
}

#[test]
fn a_restart_after_half_an_hour_asks_at_the_configured_pace() {
    if !clock::can_be_moved("a_restart_after_half_an_hour_asks_at_the_configured_pace") {
        return;
    }
    const ORDERS: usize = 60;
    const PER_SECOND: usize = 10;
    let pace = format!("watch_per_second = {PER_SECOND}");
    let mut shop = Shop::with(|_| taken(), |conf| conf.inbox = pace);
    let orders: Vec<_> = (0..ORDERS).map(|_| shop.order()).collect();
    for orderid in &orders {
        shop.book.enter(Payment::of(orderid));
    }
    go_to(&mut shop, minutes(30));
    for orderid in &orders {
        shop.hears(orderid, 1);
    }
    let asked: Vec<_> = shop.platform.seen().iter().map(|seen| seen.at).collect();
    assert_eq!(asked.len(), ORDERS, "each is asked for once");
    for (n, at) in asked.iter().enumerate() {
        let second = asked[n..]
            .iter()
            .take_while(|it| **it - *at < Duration::from_secs(1));
        let count = second.count();
        assert!(count <= 2 * PER_SECOND, "{count} queries in a second");
    }
    let took = asked[ORDERS - 1] - asked[0];
    assert!(
        took >= Duration::from_secs(4),
        "{ORDERS} queries in {took:?}"
    );
}

#[test]
fn a_watch_that_is_off_asks_nothing() {
    if !clock::can_be_moved("a_watch_that_is_off_asks_nothing") {
        return;
    }
    let off = "watch_orders = false".to_owned();
    let mut off = Shop::with(|_| taken(), |conf| conf.inbox = off);
    let mut on = Shop::open();
    off.order();
    let first = on.order();
    go_to(&mut off, minutes(21));
    off.goes_well();
    go_to(&mut on, minutes(21));
    is_asked(&on, &first, 1);
    assert_eq!(off.platform.count(), 0);
}

#[test]
fn an_answer_that_does_not_fit_the_order_is_not_told() {
    if !clock::can_be_moved("an_answer_that_does_not_fit_the_order_is_not_told") {
        return;
    }
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| match seen.member("orderid").as_str() {
        forged if forged.starts_with("FORGED") => {
            let json = Payment::of(forged).answer();
            Action::Reply(crate::platform::enveloped(wire::answer(json, "guess")))
        }
        foreign if foreign.starts_with("FOREIGN") => {
            let json = Payment::of("ANOTHER0001").answer();
            Action::Reply(crate::platform::enveloped(wire::answer(json, KEY)))
        }
        failed if failed.starts_with("RESPCODE") => {
            let json = Payment::of(failed).answer().replace("\"00\"", "\"99\"");
            Action::Reply(crate::platform::enveloped(wire::answer(json, KEY)))
        }
        unsigned if unsigned.starts_with("UNSIGNED") => {
            Action::Reply(crate::platform::unsigned("96", "商户号不存在"))
        }
        _ => pages.reply(seen),
    });
    let app = Platform::start(|_| taken());
    let mut shop = Shop::between(book, platform, app, |_| {});
    let wrong = ["FORGED00001", "FOREIGN0001", "RESPCODE001", "UNSIGNED001"];
    for orderid in wrong {
        shop.sign(&submit_json(orderid));
    }
    let cheap = shop.order();
    shop.book.enter(Payment::of(&cheap).with_amount(1));
    go_to(&mut shop, minutes(21));
    for orderid in wrong {
        is_asked(&shop, orderid, 1);
    }
    shop.listed(&cheap, "disputed");
    shop.goes_well();
    assert_eq!(shop.app.count(), 1);
    assert_eq!(shop.list().len(), 2);
}

#[test]
fn a_platform_that_is_down_is_asked_again_later() {
    if !clock::can_be_moved("a_platform_that_is_down_is_asked_again_later") {
        return;
    }
    let book = Book::default();
    let pages = book.clone();
    let is_well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = std::sync::Arc::clone(&is_well);
    let platform = Platform::start(move |seen| {
        if asked.load(std::sync::atomic::Ordering::SeqCst) {
            pages.reply(seen)
        } else {
            Action::Cut(Vec::new())
        }
    });
    let app = Platform::start(|_| taken());
    let mut shop = Shop::between(book, platform, app, |_| {});
    let payment = Payment::of(&shop.order());
    shop.book.enter(payment.clone());
    go_to(&mut shop, minutes(21));
    is_asked(&shop, &payment.orderid, 1);
    assert!(is_acknowledged(
        &shop.notify(&Payment::of(&fresh_orderid()).to(MERID))
    ));
    is_well.store(true, std::sync::atomic::Ordering::SeqCst);
    go_to(&mut shop, minutes(120));
    assert_eq!(shop.hears(&payment.orderid, 1)[0].source, "query");
}

#[test]
fn a_platform_that_hangs_does_not_slow_the_pace_down() {
    const NAME: &str = "a_platform_that_hangs_does_not_slow_the_pace_down";
    if !clock::can_be_moved(NAME) {
        return;
    }
    const ORDERS: usize = 200;
    const PER_SECOND: usize = 20;
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Cut(Vec::new()),
        _ if seen.member("orderid").starts_with("URGENT") => pages.reply(seen),
        _ => Action::Hang,
    });
    let app = Platform::start(|_| taken());
    let mut shop = Shop::between(book, platform, app, |conf| {
        conf.inbox = format!("watch_per_second = {PER_SECOND}");
        conf.timeout = "15s";
    });
    for _ in 0..ORDERS {
        shop.order();
    }
    go_to(&mut shop, minutes(30));
    // All of them are being waited for at the end: none of the first has timed out.
    shop.platform.wait_for(5 * PER_SECOND);
    let queried: Vec<_> = shop.platform.seen().iter().map(|seen| seen.at).collect();
    let took = queried[5 * PER_SECOND - 1] - queried[0];
    assert!(
        (Duration::from_secs(4)..Duration::from_secs(8)).contains(&took),
        "{} queries in {took:?}",
        5 * PER_SECOND
    );
    // An order whose submit has no outcome comes before those that have waited for longer.
    let urgent = Payment::of("URGENTORDER01");
    shop.book.enter(urgent.clone());
    let answer = shop.sidecar.submit(submit_json(&urgent.orderid));
    answer.problem(502, "platform-cut-off", "unknown");
    shop.hears(&urgent.orderid, 1);
}
