//! The two cautious policies: asking the platform before the app hears "paid", and acknowledging only what the app took.

use crate::harness::Conf;
use crate::platform::{Action, Platform, Seen};
use crate::shop::{
    Book, Payment, SOON, Shop, acknowledged, id_of, is_acknowledged, refused_by_app, taken,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn paid(conf: &mut Conf) {
    conf.inbox = "confirm = \"paid\"".to_owned();
    conf.timeout = "1s";
    conf.connect_timeout = "1s";
}

fn queries(shop: &Shop) -> usize {
    let seen = shop.platform.seen();
    seen.iter().filter(|it| it.target == "/api/query").count()
}

#[test]
fn what_the_platform_confirms_is_told() {
    let shop = Shop::with(|_| taken(), paid);
    let payment = Payment::of(&shop.order());
    shop.book.enter(payment.clone());
    acknowledged(&shop.notify(&payment));
    let delivery = shop.hears(&payment.orderid, 1).remove(0);
    assert_eq!(
        delivery.body,
        payment.json(),
        "the notification, not the answer"
    );
    assert_eq!(delivery.source, "notification");
    assert_eq!(queries(&shop), 1);
    assert!(
        shop.platform.last().at <= delivery.at,
        "told before it was asked"
    );
    let asked = shop.platform.last();
    let about = [asked.member("orderid"), asked.member("queryid")];
    assert!(about.contains(&payment.orderid) || about.contains(&payment.queryid));
}

/// A notification that says "paid", and what the platform has in its book for the same payment.
fn notified(shop: &Shop, book: impl FnOnce(Payment) -> Payment) -> Payment {
    let payment = Payment::of(&shop.order());
    shop.book.enter(book(payment.clone()));
    acknowledged(&shop.notify(&payment));
    payment
}

#[test]
fn what_the_platform_contradicts_waits_for_review_with_the_reason() {
    let shop = Shop::with(|_| taken(), paid);
    let elsewhere = crate::harness::fresh_orderid();
    let cases = [
        (notified(&shop, |it| it.with_result("1003")), "1003"),
        (notified(&shop, |it| it.with_amount(1)), "txnamt 1,"),
        (
            notified(&shop, |it| it.with_amount(1).with_result("1001")),
            "txnamt 1,",
        ),
        (
            notified(&shop, |it| {
                Payment::of(&elsewhere).with_queryid(&it.queryid)
            }),
            "another order",
        ),
    ];
    for (payment, why) in &cases {
        let id = id_of(&shop.listed(&payment.orderid, "disputed")).to_owned();
        let shown = shop.inbox(&["show", &id]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(why), "{why:?} is not in {shown}");
    }
    let good = notified(&shop, |it| it);
    shop.hears(&good.orderid, 1);
    assert_eq!(shop.app.count(), 1);
    let disputes = ["countersign_disputes_total"];
    assert!(shop.sidecar.metrics().sum(&disputes) >= cases.len() as f64);
}

#[test]
fn what_the_platform_does_not_know_yet_is_asked_for_until_it_does() {
    let shop = Shop::with(|_| taken(), paid);
    let waiting: Vec<_> = ["1001", "1002", "1004", "", "9999"]
        .into_iter()
        .map(|code| notified(&shop, |it| it.with_result(code)))
        .collect();
    // Each is asked about again, and none is delivered or disputed meanwhile.
    crate::harness::eventually("each is asked about three times", 3 * SOON, || {
        queries(&shop) >= 3 * waiting.len()
    });
    assert_eq!(shop.app.count(), 0);
    for payment in &waiting {
        shop.listed(&payment.orderid, "pending");
        shop.book.enter(payment.clone());
    }
    let began = Instant::now();
    for payment in &waiting {
        shop.hears(&payment.orderid, 1);
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(
        shop.sidecar.metrics().sum(&["countersign_disputes_total"]),
        0.0
    );
}

#[test]
fn a_platform_that_lags_is_caught_up_with_within_seconds() {
    // `COUNTERSIGN_TEST_LAGS=200:60` tries so many payments over so many seconds.
    let asked = std::env::var("COUNTERSIGN_TEST_LAGS").unwrap_or_default();
    let (count, longest) = asked.split_once(':').unwrap_or(("40", "12"));
    let (count, longest): (u32, u32) = (count.parse().unwrap(), longest.parse().unwrap());
    let shop = Shop::with(|_| taken(), paid);
    let payments: Vec<_> = (0..count)
        .map(|_| notified(&shop, |it| it.with_result("1001")))
        .collect();
    let began = Instant::now();
    let mut paid_at = Vec::new();
    for (at, payment) in (0..).zip(&payments) {
        let due = Duration::from_secs(longest.into()) * at / count;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        shop.book.enter(payment.clone());
        paid_at.push(Instant::now());
    }
    for (payment, paid_at) in payments.iter().zip(paid_at) {
        let heard = shop.hears(&payment.orderid, 1).remove(0).at;
        let late = heard.saturating_duration_since(paid_at);
        assert!(late < SOON, "{}: {late:?} late", payment.orderid);
    }
    assert_eq!(shop.app.count(), payments.len());
    assert_eq!(
        shop.sidecar.metrics().sum(&["countersign_disputes_total"]),
        0.0
    );
}

#[test]
fn the_event_s_own_try_is_asked_about_and_not_its_order() {
    let shop = Shop::with(|_| taken(), paid);
    let first = Payment::of(&shop.order());
    let second = first.clone().with_queryid("QB").with_result("1001");
    // The customer tried twice. Asked by orderid, the platform would tell of the second, unpaid try.
    shop.book.enter(first.clone());
    shop.book.enter(second);
    acknowledged(&shop.notify(&first));
    shop.hears(&first.orderid, 1);
    assert_eq!(shop.platform.last().member("queryid"), first.queryid);
}

#[test]
fn another_try_in_the_platform_s_response_says_nothing() {
    let book = Book::default();
    let pages = book.clone();
    let asked = AtomicUsize::new(0);
    let platform = Platform::start(move |seen| match asked.fetch_add(1, Ordering::SeqCst) {
        // A platform that takes another try of the order for the one that was asked about.
        0 | 1 => {
            let other = Payment::of("ANOTHERTRY01").with_result("1003");
            let form = crate::wire::answer(other.answer(), crate::harness::KEY);
            Action::Reply(crate::platform::enveloped(form))
        }
        _ => pages.reply(seen),
    });
    let app = Platform::start(|_| taken());
    let shop = Shop::between(book, platform, app, paid);
    let payment = notified(&shop, |it| it);
    shop.hears(&payment.orderid, 1);
    assert!(queries(&shop) >= 3, "{}", queries(&shop));
}

#[test]
fn no_answer_is_no_answer_and_asked_for_again() {
    let book = Book::default();
    let pages = book.clone();
    let asked = AtomicUsize::new(0);
    // Each of these is a way of not answering; none of them says anything about the payment.
    let platform = Platform::start(move |seen| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Action::Cut(Vec::new()),
        1 => Action::Reply(crate::platform::unsigned("96", "no")),
        2 => Action::Reply(crate::platform::http(500, &[], "no")),
        _ => pages.reply(seen),
    });
    let app = Platform::start(|_| taken());
    let shop = Shop::between(book, platform, app, paid);
    let payment = Payment::of(&shop.order());
    shop.book.enter(payment.clone());
    acknowledged(&shop.notify(&payment));
    let delivery = shop.hears(&payment.orderid, 1).remove(0);
    assert!(queries(&shop) >= 4, "{}", queries(&shop));
    let last = shop.platform.last();
    assert!(last.at <= delivery.at);
    shop.listed(&payment.orderid, "delivered");
}

#[test]
fn only_paid_is_asked_about() {
    let shop = Shop::with(|_| taken(), paid);
    for resultcode in ["1001", "1002", "1003", "1004"] {
        let payment = Payment::of(&shop.order()).with_result(resultcode);
        acknowledged(&shop.notify(&payment));
        shop.hears(&payment.orderid, 1);
    }
    assert_eq!(queries(&shop), 0);
}

fn delivered(conf: &mut Conf) {
    conf.inbox = "acknowledge = \"delivered\"".to_owned();
}

#[test]
fn acknowledged_means_that_the_app_has_taken_it() {
    let has_taken = Arc::new(AtomicBool::new(false));
    let took = Arc::clone(&has_taken);
    let app = move |_: &Seen| {
        std::thread::sleep(Duration::from_millis(300));
        took.store(true, Ordering::SeqCst);
        taken()
    };
    let shop = Shop::with(app, delivered);
    let payment = Payment::of(&shop.order());
    let answer = shop.notify(&payment);
    assert!(has_taken.load(Ordering::SeqCst));
    acknowledged(&answer);
    let began = Instant::now();
    acknowledged(&shop.notify(&payment));
    assert!(
        began.elapsed() < Duration::from_millis(250),
        "a repeat is answered at once"
    );
    shop.goes_well();
    assert_eq!(shop.deliveries_of(&payment.orderid).len(), 1);
}

#[test]
fn what_is_parked_is_not_acknowledged_before_the_app_takes_a_replay() {
    let (shop, is_well) = Shop::with_an_ill_app(|conf| {
        delivered(conf);
        conf.inbox += "\nretry_for = \"1s\"";
    });
    let payment = Payment::of(&shop.order());
    assert_eq!(shop.notify(&payment).status, 503);
    let id = id_of(&shop.listed(&payment.orderid, "parked")).to_owned();
    let began = Instant::now();
    assert_eq!(shop.notify(&payment).status, 503, "nobody has taken it");
    assert!(began.elapsed() < Duration::from_secs(1), "at once");
    is_well.store(true, Ordering::SeqCst);
    assert!(shop.inbox(&["replay", &id]).status.success());
    shop.listed(&payment.orderid, "delivered");
    acknowledged(&shop.notify(&payment));
}

#[test]
fn what_the_app_has_not_taken_yet_is_not_acknowledged() {
    let is_well = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_well);
    let app = move |_: &Seen| match asked.load(Ordering::SeqCst) {
        true => taken(),
        false => refused_by_app(),
    };
    let shop = Shop::with(app, delivered);
    let payment = Payment::of(&shop.order());
    let began = Instant::now();
    let answer = shop.notify(&payment);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(!answer.text().contains("0000"));
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    is_well.store(true, Ordering::SeqCst);
    // The inbox goes on by itself, and the platform's repeat finds it delivered.
    shop.listed(&payment.orderid, "delivered");
    let heard = shop.deliveries_of(&payment.orderid).len();
    assert!(heard >= 2);
    acknowledged(&shop.notify(&payment));
    shop.goes_well();
    assert_eq!(shop.deliveries_of(&payment.orderid).len(), heard);
}

#[test]
fn an_app_that_hangs_is_waited_for_three_seconds() {
    let shop = Shop::with(
        |seen| match seen.header("countersign-attempt") {
            Some("1") => Action::Late(crate::platform::http(200, &[], "0000"), SOON / 2),
            _ => taken(),
        },
        delivered,
    );
    let payment = Payment::of(&shop.order());
    let began = Instant::now();
    let answer = shop.notify(&payment);
    let took = began.elapsed();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        took > Duration::from_millis(2_500) && took < Duration::from_secs(4),
        "{took:?}"
    );
    crate::harness::eventually("a repeat is acknowledged", 3 * SOON, || {
        is_acknowledged(&shop.notify(&payment))
    });
    let heard = shop.deliveries_of(&payment.orderid);
    assert!(heard.iter().all(|it| it.event == heard[0].event));
}

#[test]
fn a_drain_answers_the_notification_under_way() {
    let app = |_: &Seen| Action::Late(crate::platform::http(200, &[], "0000"), SOON / 10);
    let mut shop = Shop::with(app, delivered);
    let payment = Payment::of(&shop.order());
    let (address, form) = (shop.address(), payment.form());
    let waiting = std::thread::spawn(move || crate::shop::callback(address, form));
    shop.hears(&payment.orderid, 1);
    crate::harness::signal(&shop.sidecar.child, "TERM");
    let answer = waiting.join().unwrap();
    assert!(
        is_acknowledged(&answer) || answer.status == 503,
        "{answer:?}"
    );
    let ended = crate::harness::exit_within(&mut shop.sidecar.child, 2 * SOON);
    assert_eq!(ended.and_then(|it| it.code()), Some(0));
}
