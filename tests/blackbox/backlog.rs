//! A store with many rows: callbacks go on while old ones are deleted, pages stay quick, a backlog goes as soon as the app is
//! well, and the log of commits stays small. Few rows by default; `COUNTERSIGN_BACKLOG_ROWS=1000000` tries as many.

use crate::client::{Connection, post_bytes};
use crate::harness::{MERID, Setup, Sidecar, eventually};
use crate::shop::{BACK, FORM, Payment, SOON, Shop, acknowledged, list, taken};
use rusqlite::Connection as Database;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest time of a callback, however much is deleted; 50 ms on a quiet machine, where a release build runs.
const BOUND: Duration = Duration::from_secs(1);
/// Bytes of the log of commits at most (promises).
const WAL: u64 = 64 << 20;

fn rows(default: usize) -> usize {
    let given = std::env::var("COUNTERSIGN_BACKLOG_ROWS");
    given.map_or(default, |rows| rows.parse().unwrap())
}

fn wal(setup: &Setup) -> u64 {
    let path = setup.folder.path().join("countersign.db-wal");
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Puts events in this state into the store of a sidecar that does not run, received so many days ago, and an order for
/// each, closed that day.
fn fill(setup: &Setup, count: usize, state: &str, days: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at = now.as_millis() as i64 - days as i64 * 24 * 60 * 60 * 1000 - count as i64;
    let json = r#"{"merid":"100000000000001","orderid":"OLD","queryid":"OLD","resultcode":"0000","txnamt":1280}"#;
    let sql = format!(
        "BEGIN;
        WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
        INSERT INTO events (id, merid, orderid, queryid, resultcode, amount, json, source, matched, state, received_at,
            next_attempt, attempts, last_attempt)
        SELECT lower(hex(randomblob(16))), '{MERID}', '{state}{days}N' || n, '{state}{days}Q' || n, '0000', 1280, '{json}',
            'notification', 0, '{state}', {at} + n, {at} + n, 1, 'taken' FROM n;
        WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
        INSERT INTO orders (merid, orderid, amount, action, signed_at)
        SELECT '{MERID}', '{state}{days}N' || n, 1280, 'AliPay', {at} + n FROM n;
        COMMIT;"
    );
    Database::open(setup.store())
        .unwrap()
        .execute_batch(&sql)
        .unwrap();
}

/// Counts rows beside the sidecar.
fn count(setup: &Setup, of: &str) -> usize {
    let database = Database::open(setup.store()).unwrap();
    let sql = format!("SELECT count(*) FROM {of}");
    let count: i64 = database.query_row(&sql, [], |row| row.get(0)).unwrap();
    count as usize
}

/// Sends callbacks one after the other while `goes_on`; each is acknowledged. The longest took this.
#[track_caller]
fn callbacks_while(
    sidecar: &Sidecar,
    name: &str,
    mut goes_on: impl FnMut(usize) -> bool,
) -> Duration {
    let mut connection = Connection::open(sidecar.setup.callbacks).unwrap();
    let (mut longest, mut sent) = (Duration::ZERO, 0);
    while goes_on(sent) {
        sent += 1;
        let payment = Payment::of(&format!("{name}{sent:08}"));
        let began = Instant::now();
        let answer = connection.exchange(post_bytes(BACK, &[FORM], payment.form()));
        acknowledged(&answer.unwrap());
        longest = longest.max(began.elapsed());
    }
    longest
}

/// A shop whose store is a file; `None` where the tests are about a database.
fn shop_on_a_file() -> Option<Shop> {
    let shop = Shop::with(|_| taken(), |conf| conf.log_level = "warn");
    shop.sidecar.setup.store().exists().then_some(shop)
}

#[test]
fn callbacks_go_on_while_old_rows_are_deleted_and_young_ones_stay() {
    let Some(mut shop) = shop_on_a_file() else {
        return;
    };
    let (old, young) = (rows(3_000), 50);
    shop.sidecar.kill();
    fill(&shop.sidecar.setup, old, "delivered", 60);
    fill(&shop.sidecar.setup, young, "delivered", 10);
    fill(&shop.sidecar.setup, young, "parked", 60);
    shop.sidecar.restart();
    let (began, patience) = (Instant::now(), SOON + Duration::from_millis(old as u64));
    let mut most_wal = 0;
    let mut during = 0;
    let is_deleting = |sent| {
        most_wal = most_wal.max(wal(&shop.sidecar.setup));
        during = sent;
        assert!(
            began.elapsed() < patience,
            "not deleted within {patience:?}"
        );
        let left = "events WHERE orderid LIKE 'delivered60N%'";
        let orders = "orders WHERE orderid LIKE 'delivered60N%'";
        // Counting is a read of all rows: now and then is enough.
        sent % 16 != 0 || count(&shop.sidecar.setup, left) + count(&shop.sidecar.setup, orders) > 0
    };
    let longest = callbacks_while(&shop.sidecar, "DURING", is_deleting);
    assert!(longest < BOUND, "{longest:?}");
    assert!(during >= 16, "callbacks waited for the deletion");
    assert!(most_wal <= WAL, "{most_wal} bytes of WAL");
    for kept in ["delivered10N", "parked60N"] {
        let events = format!("events WHERE orderid LIKE '{kept}%'");
        assert_eq!(count(&shop.sidecar.setup, &events), young, "{kept}");
    }
    println!(
        "{old} rows in {:?}, {during} callbacks, the longest {longest:?}",
        began.elapsed()
    );
}

#[test]
fn many_rows_make_no_page_slow() {
    let Some(mut shop) = shop_on_a_file() else {
        return;
    };
    let pages = [
        "/metrics",
        "/readyz",
        "/",
        "/events?state=pending",
        "/events?state=delivered",
        "/orders?q=delivered1N1",
        "/refusals",
    ];
    let median = |sidecar: &Sidecar, page: &str| {
        let mut times: Vec<_> = (0..7)
            .map(|_| {
                let began = Instant::now();
                let answer = sidecar.admin(page);
                assert!(
                    answer.status == 200 || answer.status == 303,
                    "{page}: {}",
                    answer.status
                );
                began.elapsed()
            })
            .collect();
        times.sort();
        times[3]
    };
    let many = rows(60_000);
    shop.sidecar.kill();
    fill(&shop.sidecar.setup, 2, "delivered", 1);
    shop.sidecar.restart();
    let before = pages.map(|page| median(&shop.sidecar, page));
    shop.sidecar.kill();
    fill(&shop.sidecar.setup, many, "delivered", 2);
    shop.sidecar.restart();
    let began = Instant::now();
    for (page, before) in pages.into_iter().zip(before) {
        let after = median(&shop.sidecar, page);
        // Work that grows with the rows would take a hundred times as long.
        assert!(
            after < 4 * before + Duration::from_millis(40),
            "{page}: {after:?}, {before:?} with few rows"
        );
    }
    assert!(list(&shop.sidecar.setup).len() >= 50);
    println!("{many} rows: {:?} for all", began.elapsed());
}

#[test]
fn the_log_of_commits_shrinks_once_a_long_reader_is_gone() {
    let Some(shop) = shop_on_a_file() else {
        return;
    };
    const LARGE: u64 = 18 << 20;
    let reader = Database::open(shop.sidecar.setup.store()).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader
        .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
        .unwrap();
    let began = Instant::now();
    let longest = callbacks_while(&shop.sidecar, "READER", |_| {
        assert!(
            began.elapsed() < 6 * SOON,
            "the log does not grow: {}",
            wal(&shop.sidecar.setup)
        );
        wal(&shop.sidecar.setup) < LARGE
    });
    assert!(longest < BOUND, "{longest:?} beside a reader");
    reader.execute_batch("COMMIT").unwrap();
    eventually("the log has shrunk", SOON, || {
        wal(&shop.sidecar.setup) < 1 << 20
    });
}

#[test]
fn a_backlog_is_gone_soon_after_the_app_is_well_again() {
    const OUTAGE: usize = 250;
    let (shop, is_well) = Shop::with_an_ill_app(|conf| conf.log_level = "warn");
    callbacks_while(&shop.sidecar, "OUTAGE", |sent| sent < OUTAGE);
    is_well.store(true, std::sync::atomic::Ordering::SeqCst);
    let ended = Instant::now();
    // What comes meanwhile must not keep the backlog from going.
    let mut left = OUTAGE;
    callbacks_while(&shop.sidecar, "AFTER", |sent| {
        if sent % 20 == 0 {
            let pending = ["countersign_events{", "state=\"pending\""];
            left = shop.sidecar.metrics().sum(&pending) as usize;
        }
        assert!(ended.elapsed() < 4 * SOON, "{left} still wait");
        sent < 20 || left > 5
    });
    println!("gone in {:?}", ended.elapsed());
}
