//! The work of a fleet on one PostgreSQL: many deliveries cost few commits, and no sidecar's clock decides anything.

use crate::clock;
use crate::cluster::Cluster;
use crate::harness::{MERID, Setup, eventually, fresh_orderid, skip};
use crate::platform::{Action, Platform, Seen};
use crate::shop::{Payment, SOON, Shop, acknowledged, callback, deliveries, taken};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const TWO_HOURS: Duration = Duration::from_secs(2 * 60 * 60);
/// Time in which another sidecar takes over (promises).
const TAKE_OVER: Duration = Duration::from_secs(30);

fn setup(url: &str, platform: &Platform, app: &Platform) -> Setup {
    Shop::setup(platform, &app.url(), |conf| {
        conf.store = Some(url.to_owned());
        conf.log_level = "warn";
    })
}

#[test]
fn many_deliveries_are_claimed_and_recorded_together_and_no_settings_are_read_for_each() {
    const EVENTS: usize = 600;
    let test =
        "many_deliveries_are_claimed_and_recorded_together_and_no_settings_are_read_for_each";
    let Some(cluster) = Cluster::own(test) else {
        return;
    };
    let database = cluster.database();
    let platform = Platform::start(|_: &Seen| Action::Hang);
    let app = Platform::start(|_| taken());
    let mut sidecar = setup(&cluster.url(&database), &platform, &app).start();
    sidecar.kill();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    cluster.sql(
        &database,
        &format!(
            "INSERT INTO countersign.events (id, merid, orderid, queryid, resultcode, amount, json, source, matched, state,
                received_at, next_attempt, attempts, last_attempt)
            SELECT md5(n::text), '{MERID}', 'GROUP' || n, 'Q' || n, '0000', 1280, '{{\"orderid\":\"GROUP' || n || '\"}}',
                'notification', false, 'pending', {now}, {now}, 0, '' FROM generate_series(1, {EVENTS}) AS n"
        ),
    );
    cluster.set("log_statement", "all");
    let before = cluster.log().len();
    sidecar.restart();
    // Beside the sidecar: its own pages would read the settings for each look.
    let recorded = "SELECT count(*) FROM countersign.events WHERE state = 'delivered'";
    eventually("all are recorded", 3 * SOON, || {
        cluster.sql(&database, recorded) == EVENTS.to_string()
    });
    assert_eq!(app.count(), EVENTS);
    let log = cluster.log().split_off(before);
    let count = |part: &str| log.matches(part).count();
    let (claims, records) = (
        count("UPDATE events SET holder = $1, held_until"),
        count("UPDATE events SET attempts = free.number"),
    );
    // The width of an app that is not known yet grows by one with each delivery, so the first ones come in small groups.
    for (what, statements) in [("claims", claims), ("records", records)] {
        assert!(
            (1..EVENTS / 2).contains(&statements),
            "{statements} {what} for {EVENTS} events"
        );
    }
    let settings = count("current_setting('fsync')");
    assert!(
        settings < EVENTS / 10,
        "settings were read {settings} times for {EVENTS} events"
    );
    println!("{claims} claims, {records} records, {settings} reads of settings");
}

/// The one that has an event in hand is killed in the middle of the attempt; the other delivers it.
#[track_caller]
fn is_taken_over(cluster: &Cluster, ahead: [Duration; 2]) {
    let url = cluster.url(&cluster.database());
    let is_well = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_well);
    let app = Platform::start(move |_: &Seen| match asked.load(Ordering::SeqCst) {
        true => taken(),
        false => Action::Hang,
    });
    let platform = Platform::start(|_: &Seen| Action::Hang);
    let start = |ahead| {
        let mut setup = setup(&url, &platform, &app);
        setup.clock_ahead = ahead;
        setup.start()
    };
    let deliveries_of = |orderid: &str| {
        let found = deliveries(&app);
        found.iter().filter(|it| it.orderid() == orderid).count()
    };
    let mut first = start(ahead[0]);
    let payment = Payment::of(&fresh_orderid());
    acknowledged(&callback(first.setup.callbacks, payment.form()));
    eventually("the first has it in hand", SOON, || {
        deliveries_of(&payment.orderid) == 1
    });
    let second = start(ahead[1]);
    is_well.store(true, Ordering::SeqCst);
    // Nothing is planned by a clock that is ahead: what comes now is delivered now, and what the other has is left alone.
    for sidecar in [&second, &first] {
        let next = Payment::of(&fresh_orderid());
        acknowledged(&callback(sidecar.setup.callbacks, next.form()));
        eventually("another one is delivered", SOON, || {
            deliveries_of(&next.orderid) == 1
        });
    }
    assert_eq!(deliveries_of(&payment.orderid), 1);
    let killed = Instant::now();
    first.kill();
    eventually("the second takes over", TAKE_OVER, || {
        deliveries_of(&payment.orderid) == 2
    });
    println!("{ahead:?}: taken over after {:?}", killed.elapsed());
}

#[test]
fn a_dead_sidecar_is_relieved_by_the_database_s_clock_whoever_s_own_is_wrong() {
    let test = "a_dead_sidecar_is_relieved_by_the_database_s_clock_whoever_s_own_is_wrong";
    if !clock::is_installed() {
        skip(test, "libfaketime is not installed");
        return;
    }
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    std::thread::scope(|scope| {
        for ahead in [[TWO_HOURS, Duration::ZERO], [Duration::ZERO, TWO_HOURS]] {
            scope.spawn(move || is_taken_over(cluster, ahead));
        }
    });
}
