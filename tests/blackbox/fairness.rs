//! Apps that fail delay no healthy one, however many they are, and cost a bounded amount of memory.

use crate::client::{Connection, post_bytes};
use crate::harness::{KEY, MERID, Sidecar, eventually, free_port};
use crate::platform::{Action, Platform, Seen, http};
use crate::shop::{
    BACK, Book, FORM, Payment, SOON, Shop, acknowledged, deliveries, merchant_at, taken,
};
use crate::wire;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// These tests are about time; beside each other they would measure each other.
static ALONE: Mutex<()> = Mutex::new(());
/// A healthy app has its result within a second; a busy machine gets some more.
const PROMPT: Duration = Duration::from_millis(1_500);

fn merid(n: usize) -> String {
    format!("4{n:014}")
}

fn key(n: usize) -> String {
    format!("{:032x}", n * 1_000_003 + 1)
}

/// Signed results of a crowd of merchants, `each` of them, with this many letters of padding.
fn put_for_crowd(sidecar: &Sidecar, crowd: usize, each: usize, padding: usize) {
    let address = sidecar.setup.callbacks;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            thread::spawn(move || {
                let mut connection = Connection::open(address).unwrap();
                for n in (sender..crowd).step_by(8) {
                    for event in 0..each {
                        let payment = Payment::of(&format!("CROWD{n:05}N{event:03}")).to(&merid(n));
                        let json = payment.json();
                        let json = json.replace("结果", &"x".repeat(padding.max(1)));
                        let form = wire::answer(json, &key(n));
                        acknowledged(
                            &connection
                                .exchange(post_bytes(BACK, &[FORM], form))
                                .unwrap(),
                        );
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
}

/// A shop whose merchant is quick, among a crowd of merchants with this app.
fn shop_among(crowd: usize, app: &str) -> Shop {
    Shop::with(
        |_| taken(),
        |conf| {
            conf.log_level = "warn";
            for n in 0..crowd {
                conf.merchants += &merchant_at(app, &merid(n), &key(n));
            }
        },
    )
}

/// The quick app has its results at once.
#[track_caller]
fn is_prompt(shop: &Shop, times: usize) {
    for _ in 0..times {
        let orderid = shop.order();
        let began = Instant::now();
        acknowledged(&shop.notify(&Payment::of(&orderid)));
        let delivery = shop.hears(&orderid, 1).remove(0);
        let waited = delivery.at - began;
        assert!(waited < PROMPT, "{waited:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn hundreds_of_hanging_apps_delay_no_quick_one() {
    let _alone = ALONE.lock();
    const CROWD: usize = 600;
    let hanging = Platform::start(|_: &Seen| Action::Hang);
    let mut shop = shop_among(CROWD, &hanging.url());
    put_for_crowd(&shop.sidecar, CROWD, 3, 0);
    is_prompt(&shop, 20);
    let at_once = hanging.connections();
    assert!(
        at_once <= 2 * CROWD,
        "{at_once} attempts for {CROWD} dead apps"
    );
    // It is remembered which apps fail; what is new is not taken for theirs.
    shop.sidecar.restart();
    is_prompt(&shop, 20);
}

#[test]
fn thousands_of_refusing_apps_delay_no_quick_one_and_no_operator() {
    let _alone = ALONE.lock();
    const CROWD: usize = 4_000;
    let mut shop = shop_among(CROWD, &format!("http://127.0.0.1:{}", free_port()));
    put_for_crowd(&shop.sidecar, CROWD, 3, 0);
    for _ in 0..2 {
        is_prompt(&shop, 10);
        let began = Instant::now();
        shop.sidecar.metrics();
        assert!(
            began.elapsed() < PROMPT,
            "{:?} for the metrics",
            began.elapsed()
        );
        shop.sidecar.restart();
    }
}

#[test]
fn a_start_knows_which_apps_failed() {
    let works = Arc::new(AtomicBool::new(false));
    let now = works.clone();
    let app = move |_: &Seen| match now.load(SeqCst) {
        true => taken(),
        false => Action::Reply(http(500, &[], "no")),
    };
    let mut shop = Shop::start(Book::default(), app, |_| {});
    let store = shop.sidecar.setup.store();
    let failing = || -> i64 {
        let store = rusqlite::Connection::open(&store).unwrap();
        let count = "SELECT count(*) FROM failing";
        store.query_row(count, [], |row| row.get(0)).unwrap()
    };
    acknowledged(&shop.notify(&Payment::of(&shop.order())));
    eventually("the failure is kept", SOON, || failing() == 1);
    works.store(true, SeqCst);
    shop.sidecar.restart();
    // The app has failed for what this process knows, so that a result which it takes is news.
    let orderid = shop.order();
    acknowledged(&shop.notify(&Payment::of(&orderid)));
    shop.hears(&orderid, 1);
    eventually("the failure is over", SOON, || failing() == 0);
}

#[test]
fn results_that_wait_for_hanging_apps_are_not_held_in_memory() {
    let _alone = ALONE.lock();
    const CROWD: usize = 200;
    let hanging = Platform::start(|_: &Seen| Action::Hang);
    let mut shop = shop_among(CROWD, &hanging.url());
    put_for_crowd(&shop.sidecar, CROWD, 8, 40_000);
    shop.sidecar.restart();
    hanging.wait_for(2 * CROWD);
    thread::sleep(Duration::from_secs(1));
    let peak = shop.sidecar.peak_memory_kib();
    // One attempt each, 40 kB of request, and what reading and sending it takes for a moment.
    assert!(peak < 64 << 10, "{peak} KiB at most");
}

#[test]
fn apps_that_begin_to_hang_give_way_to_the_others() {
    let _alone = ALONE.lock();
    const CROWD: usize = 40;
    let hangs = Arc::new(AtomicBool::new(false));
    let now = hangs.clone();
    let app = Platform::start(move |_: &Seen| match now.load(SeqCst) {
        true => Action::Hang,
        false => taken(),
    });
    let shop = shop_among(CROWD, &app.url());
    put_for_crowd(&shop.sidecar, CROWD, 5, 0);
    app.wait_for(CROWD * 5);
    hangs.store(true, SeqCst);
    put_for_crowd_again(&shop.sidecar, CROWD, 40);
    is_prompt(&shop, 10);
}

/// The same crowd has further results.
fn put_for_crowd_again(sidecar: &Sidecar, crowd: usize, each: usize) {
    let mut connection = Connection::open(sidecar.setup.callbacks).unwrap();
    for event in 0..each {
        for n in 0..crowd {
            let payment = Payment::of(&format!("AGAIN{n:05}N{event:03}")).to(&merid(n));
            let form = wire::answer(payment.json(), &key(n));
            acknowledged(
                &connection
                    .exchange(post_bytes(BACK, &[FORM], form))
                    .unwrap(),
            );
        }
    }
}

#[test]
fn a_backlog_of_a_quick_app_goes_at_the_speed_of_intake() {
    let _alone = ALONE.lock();
    const EVENTS: usize = 6_000;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Shop::setup(&platform, &format!("http://{address}"), |conf| {
        conf.log_level = "warn";
        conf.merchants += &merchant_at(&format!("http://{address}"), &merid(0), &key(0));
    })
    .start();
    let began = Instant::now();
    put_for_crowd(&sidecar, 1, EVENTS, 0);
    let intake = began.elapsed();
    let app = Platform::start_at(address, |_| taken());
    let began = Instant::now();
    eventually("all are delivered", intake * 3 + 4 * SOON, || {
        app.count() >= EVENTS
    });
    let drain = began.elapsed();
    let distinct: std::collections::BTreeSet<_> =
        deliveries(&app).into_iter().map(|it| it.event).collect();
    assert_eq!((app.count(), distinct.len()), (EVENTS, EVENTS));
    println!("intake {intake:?}, drain {drain:?}");
}
