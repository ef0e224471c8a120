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

#[test]
fn what_the_platform_denies_is_kept_for_a_person() {
    let shop = Shop::with(|_| taken(), paid);
    let payments: Vec<_> = (0..4).map(|_| Payment::of(&shop.order())).collect();
    let [unpaid, failed, cheap, under_way] = &payments[..] else {
        unreachable!()
    };
    shop.book.enter(unpaid.clone().with_result("1001"));
    shop.book.enter(failed.clone().with_result("1003"));
    shop.book.enter(cheap.clone().with_amount(1));
    shop.book.enter(under_way.clone().with_result("1004"));
    for payment in &payments {
        acknowledged(&shop.notify(payment));
    }
    for payment in &payments {
        shop.listed(&payment.orderid, "disputed");
    }
    let good = Payment::of(&shop.order());
    shop.book.enter(good.clone());
    acknowledged(&shop.notify(&good));
    shop.hears(&good.orderid, 1);
    assert_eq!(shop.app.count(), 1);
    assert!(shop.sidecar.metrics().sum(&["countersign_disputes_total"]) >= 4.0);
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
