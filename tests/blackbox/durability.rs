//! `0000` is said only for what is on stable storage: under kill -9, failing and slow disks, full ones, and old stores.

use crate::client::{Connection, post_bytes};
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, eventually, exit_within, fresh_orderid, is_installed,
    query_json, signal, skip, submit_json,
};
use crate::platform::Platform;
use crate::shop::{
    BACK, Book, Delivery, FORM, Payment, SOON, Shop, acknowledged, callback, deliveries,
    is_acknowledged, list, taken,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Rounds of killing in a run of the suite; `COUNTERSIGN_KILL_ROUNDS` asks for more.
const KILL_ROUNDS: usize = 20;
const SENDERS: usize = 8;

/// Notifies without a pause until told to stop, and keeps what was acknowledged.
fn send_all(
    address: SocketAddr,
    orders: &AtomicUsize,
    kept: &Mutex<Vec<String>>,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::SeqCst) {
        let Ok(mut connection) = Connection::open(address) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            let orderid = format!("KILLED{:08}", orders.fetch_add(1, Ordering::SeqCst));
            let form = Payment::of(&orderid).form();
            match connection.exchange(post_bytes(BACK, &[FORM], form)) {
                Ok(answer) => {
                    let is_last = answer.header("connection") == Some("close");
                    if is_acknowledged(&answer) {
                        kept.lock().unwrap().push(orderid);
                    }
                    if is_last {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
    }
}

#[test]
fn the_store_s_files_are_its_owner_s_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("payments.db");
    // The mask that most users have.
    let setup = Setup::new(|conf| conf.store = Some(format!("sqlite:{}", store.display())));
    let _sidecar = setup.start_under_mask("0022");
    let kept: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert!(kept.len() >= 4, "{kept:?}");
    for file in kept {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file:?}: {mode:o}");
    }
}

#[test]
fn every_acknowledged_event_outlives_kill_9() {
    let rounds = std::env::var("COUNTERSIGN_KILL_ROUNDS");
    let rounds = rounds.map_or(KILL_ROUNDS, |rounds| rounds.parse().unwrap());
    let mut shop = Shop::open();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let orders = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (kept, orders, stop) = (Arc::clone(&kept), Arc::clone(&orders), Arc::clone(&stop));
            let address = shop.address();
            thread::spawn(move || send_all(address, &orders, &kept, &stop))
        })
        .collect();
    for round in 0..rounds {
        let before = kept.lock().unwrap().len();
        eventually("some are acknowledged", SOON, || {
            kept.lock().unwrap().len() > before + 20
        });
        // Any moment of the next 100 ms.
        thread::sleep(Duration::from_micros(
            RandomState::new().hash_one(round) % 100_000,
        ));
        shop.sidecar.restart();
    }
    stop.store(true, Ordering::SeqCst);
    for sender in senders {
        sender.join().unwrap();
    }
    let kept: BTreeSet<String> = kept.lock().unwrap().drain(..).collect();
    assert!(kept.len() > rounds * 20, "{}", kept.len());
    let mut lost = kept.clone();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut read = 0;
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while !lost.is_empty() && Instant::now() < deadline {
        let seen = shop.app.seen();
        for seen in &seen[read..] {
            let delivery = Delivery::of(seen);
            let orderid = delivery.orderid();
            lost.remove(&orderid);
            events.entry(orderid).or_default().insert(delivery.event);
        }
        read = seen.len();
        thread::sleep(Duration::from_millis(50));
    }
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged events were lost in {rounds} rounds, such as {:?}",
        lost.len(),
        kept.len(),
        lost.first()
    );
    for (orderid, events) in events {
        assert_eq!(events.len(), 1, "{orderid} was told under more than one id");
    }
}

/// The calls that make a commit durable.
const SYNC: &str = "fsync,fdatasync";

/// The running process's system calls in the hands of strace, until it is dropped.
struct Traced(Child);

impl Traced {
    /// With a fault in some calls.
    fn with_fault(test: &str, sidecar: &Sidecar, calls: &str, fault: &str) -> Option<Self> {
        let inject = format!("inject={calls}:{fault}");
        Self::begin(test, sidecar, calls, &["-o", "/dev/null", "-e", &inject])
    }

    /// `None` where strace cannot do it here; says so.
    fn begin(test: &str, sidecar: &Sidecar, calls: &str, further: &[&str]) -> Option<Self> {
        if !is_installed("strace") {
            skip(test, "strace is not installed");
            return None;
        }
        let process = sidecar.child.id();
        let child = Command::new("strace")
            .args(["-f", "-qq", "-p", &process.to_string()])
            .args(["-e", &format!("trace={calls}")])
            .args(further)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut traced = Self(child);
        let deadline = Instant::now() + SOON;
        while !all_traced(process) {
            if traced.0.try_wait().unwrap().is_some() || Instant::now() > deadline {
                skip(test, "strace may not attach here");
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Some(traced)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // Detaches, which a hard end does too; the process goes on without it.
        if self.0.try_wait().unwrap().is_none() {
            signal(&self.0, "INT");
        }
        if exit_within(&mut self.0, SOON).is_none() {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

fn all_traced(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find(|line| line.starts_with("TracerPid:"));
        tracer.is_none_or(|line| !line.ends_with("\t0"))
    })
}

#[test]
fn calls_write_their_notes_in_few_commits_and_no_file_but_the_store() {
    const LOAD: Duration = Duration::from_secs(3);
    let test = "calls_write_their_notes_in_few_commits_and_no_file_but_the_store";
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("calls");
    let output = seen.to_str().unwrap();
    let traced = Traced::begin(test, &sidecar, "fsync,fdatasync,openat", &["-o", output]);
    let Some(traced) = traced else {
        return;
    };
    let until = Instant::now() + LOAD;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while Instant::now() < until {
                    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
                }
            });
        }
    });
    drop(traced);
    let seen = fs::read_to_string(seen).unwrap();
    let commits = seen.lines().filter(|line| line.contains("sync(")).count();
    // Two a second, and a checkpoint's.
    let most = 2 * LOAD.as_secs() as usize + 4;
    assert!((2..=most).contains(&commits), "{commits} commits:\n{seen}");
    let opened: Vec<_> = seen
        .lines()
        // A connection that is opened late opens the store's own files with this flag too.
        .filter(|line| line.contains("O_CREAT"))
        .filter(|line| {
            !["/countersign.db\"", "/countersign.db-wal\""]
                .iter()
                .any(|own| line.contains(own))
        })
        .collect();
    assert!(opened.is_empty(), "{opened:?}");
}

#[test]
fn a_failing_fsync_is_never_acknowledged_and_mends_by_itself() {
    let test = "a_failing_fsync_is_never_acknowledged_and_mends_by_itself";
    never_acknowledged_and_mended(test, SYNC, "error=EIO");
}

#[test]
fn a_failing_write_is_never_acknowledged_and_mends_by_itself() {
    let test = "a_failing_write_is_never_acknowledged_and_mends_by_itself";
    never_acknowledged_and_mended(test, "pwrite64,pwritev", "error=ENOSPC");
}

#[track_caller]
fn never_acknowledged_and_mended(test: &str, calls: &str, error: &str) {
    let mut shop = Shop::open();
    let first = Payment::of(&shop.order());
    acknowledged(&shop.notify(&first));
    shop.listed(&first.orderid, "delivered");
    let Some(fault) = Traced::with_fault(test, &shop.sidecar, calls, error) else {
        return;
    };
    let payments: Vec<_> = (0..20).map(|_| Payment::of(&fresh_orderid())).collect();
    for payment in &payments {
        let began = Instant::now();
        let answer = shop.notify(payment);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(!answer.text().contains("0000"), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    // Calls go on.
    let answer = shop.sidecar.query(query_json(MERID, ORDERID));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = shop.sidecar.submit(submit_json(&fresh_orderid()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    eventually("not ready", SOON, || {
        shop.sidecar.admin("/readyz").status == 503
    });
    let writable = |shop: &Shop| shop.sidecar.metrics().sum(&["countersign_store_ok"]);
    assert_eq!(writable(&shop), 0.0);
    drop(fault);
    for payment in &payments {
        shop.notify_until_acknowledged(payment);
    }
    assert_eq!(shop.sidecar.admin("/readyz").status, 200);
    assert_eq!(writable(&shop), 1.0);
    shop.sidecar.restart();
    for payment in &payments {
        let heard = shop.hears(&payment.orderid, 1);
        assert!(heard.iter().all(|it| it.event == heard[0].event));
    }
    shop.listed(&first.orderid, "delivered");
}

#[test]
fn a_slow_disk_makes_slow_acknowledgements_never_early_ones() {
    let shop = Shop::open();
    let test = "a_slow_disk_makes_slow_acknowledgements_never_early_ones";
    let Some(slow) = Traced::with_fault(test, &shop.sidecar, SYNC, "delay_enter=400000") else {
        return;
    };
    for _ in 0..3 {
        let began = Instant::now();
        acknowledged(&shop.notify(&Payment::of(&fresh_orderid())));
        assert!(
            began.elapsed() >= Duration::from_millis(390),
            "{:?}",
            began.elapsed()
        );
    }
    drop(slow);
    let Some(hanging) = Traced::with_fault(test, &shop.sidecar, SYNC, "delay_enter=6000000") else {
        return;
    };
    let payment = Payment::of(&fresh_orderid());
    let began = Instant::now();
    let answer = shop.notify(&payment);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    drop(hanging);
    shop.notify_until_acknowledged(&payment);
    let heard = shop.hears(&payment.orderid, 1);
    assert!(heard.iter().all(|it| it.event == heard[0].event));
}

/// A small file system of its own, gone when dropped.
struct Small {
    path: PathBuf,
}

impl Small {
    /// `None` where nothing can be mounted; says so.
    fn mount(test: &str, setup: &Setup, options: &str) -> Option<Self> {
        let path = setup.folder.path().join("small");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "countersign-test"])
            .arg(&path)
            .output();
        if mounted.is_ok_and(|it| it.status.success()) {
            let conf = fs::read_to_string(setup.conf_file()).unwrap();
            let conf = conf.replace("countersign.db", "small/countersign.db");
            fs::write(setup.conf_file(), conf).unwrap();
            return Some(Self { path });
        }
        skip(test, "nothing can be mounted here");
        None
    }

    /// Leaves no room but what is already taken.
    fn fill(&self) {
        let mut filler = fs::File::create(self.path.join("filler")).unwrap();
        let block = [0; 4096];
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What is still open goes with its process.
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
    }
}

#[test]
fn a_full_disk_is_never_acknowledged_and_mends_by_itself() {
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| pages.reply(seen));
    let app = Platform::start(|_| taken());
    let setup = Shop::setup(&platform, &app.url(), |_| {});
    let test = "a_full_disk_is_never_acknowledged_and_mends_by_itself";
    let Some(small) = Small::mount(test, &setup, "size=4m") else {
        return;
    };
    let mut sidecar = setup.start();
    // Unmounted before the folder goes.
    let small = small;
    let address = sidecar.setup.callbacks;
    let large = |orderid: &str| {
        let padding = format!("{{\"more\":\"{}\",", "x".repeat(30_000));
        let json = Payment::of(orderid).json().replacen('{', &padding, 1);
        crate::wire::answer(json, crate::harness::KEY)
    };
    acknowledged(&callback(address, large("BEFOREFULL1")));
    small.fill();
    let (mut kept, mut not_kept) = (vec!["BEFOREFULL1".to_owned()], Vec::new());
    // What was taken before may still hold a few; not these all.
    for n in 0..300 {
        let orderid = format!("FULLDISK{n:05}");
        let answer = callback(address, large(&orderid));
        if is_acknowledged(&answer) {
            kept.push(orderid);
        } else {
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(!answer.text().contains("0000"), "{answer:?}");
            not_kept.push(orderid);
        }
        if not_kept.len() >= 10 {
            break;
        }
    }
    assert!(not_kept.len() >= 10, "the disk was never full");
    for (path, body) in [
        ("/api/query", query_json(MERID, ORDERID)),
        ("/api/icashier", submit_json(&fresh_orderid())),
    ] {
        let answer = sidecar.post(path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    small.make_room();
    for orderid in not_kept {
        eventually("the disk has room again", 2 * SOON, || {
            is_acknowledged(&callback(address, large(&orderid)))
        });
        kept.push(orderid);
    }
    eventually("ready again", SOON, || {
        sidecar.admin("/readyz").status == 200
    });
    sidecar.restart();
    eventually("all are told", 3 * SOON, || {
        let told: BTreeSet<_> = deliveries(&app).iter().map(Delivery::orderid).collect();
        kept.iter().all(|orderid| told.contains(orderid))
    });
    sidecar.kill();
}

#[track_caller]
fn refuses_to_start(setup: &Setup) {
    let began = Instant::now();
    let (code, said) = setup.refused(Duration::from_secs(3));
    // Locked or absent may pass, damaged or foreign does not.
    assert!(matches!(code, Some(75 | 78)), "{code:?}: {said}");
    assert!(said.contains("countersign.db"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_store_that_cannot_be_written_stops_the_start() {
    let setup = Setup::new(|_| {});
    let test = "a_store_that_cannot_be_written_stops_the_start";
    let Some(small) = Small::mount(test, &setup, "size=4m") else {
        return;
    };
    let path = small.path.clone();
    let remount = |options: &str| {
        let remounted = Command::new("mount")
            .args(["-o", options])
            .arg(&path)
            .status();
        assert!(remounted.unwrap().success());
    };
    remount("remount,ro");
    refuses_to_start(&setup);
    remount("remount,rw");
    let mut sidecar = setup.start();
    let _unmounted_first = small;
    sidecar.kill();
    remount("remount,ro");
    refuses_to_start(&sidecar.setup);
    remount("remount,rw");
    sidecar.restart();
    sidecar.kill();
}

#[test]
fn a_store_with_damaged_pages_stops_the_start_and_is_left_as_it_is() {
    let mut shop = Shop::open();
    for _ in 0..200 {
        acknowledged(&shop.notify(&Payment::of(&fresh_orderid())));
    }
    signal(&shop.sidecar.child, "TERM");
    assert!(exit_within(&mut shop.sidecar.child, Duration::from_secs(12)).is_some());
    let store = shop.sidecar.setup.store();
    // What the log of writes still holds would mend the pages.
    rusqlite::Connection::open(&store)
        .unwrap()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let mut bytes = fs::read(&store).unwrap();
    assert!(bytes.len() > 40_000, "{} bytes", bytes.len());
    let (from, to) = (bytes.len() / 3, bytes.len() / 3 * 2);
    bytes[from..to].fill(0x5a);
    fs::write(&store, &bytes).unwrap();
    refuses_to_start(&shop.sidecar.setup);
    assert!(fs::read(&store).unwrap() == bytes, "it was written to");
}

#[test]
fn a_store_of_the_first_version_is_taken_over_with_its_orders() {
    let platform = Platform::honest(&[]);
    let app = Platform::start(|_| taken());
    let setup = Shop::setup(&platform, &app.url(), |_| {});
    let signed_at = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let store = rusqlite::Connection::open(setup.store()).unwrap();
    store
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA application_id = 0x4353676e;
             PRAGMA user_version = 1;
             CREATE TABLE orders (
                merid TEXT NOT NULL, orderid TEXT NOT NULL, amount INTEGER NOT NULL, action TEXT NOT NULL,
                signed_at INTEGER NOT NULL, PRIMARY KEY (merid, orderid)
             ) STRICT, WITHOUT ROWID;
             INSERT INTO orders VALUES ('{MERID}', 'FROMVERSION1', 1280, 'AliPay', {signed_at});"
        ))
        .unwrap();
    drop(store);
    let mut sidecar = setup.start();
    let address = sidecar.setup.callbacks;
    let payment = Payment::of("FROMVERSION1");
    let cheap = payment.clone().with_amount(1).with_queryid("QCHEAP00001");
    crate::shop::refused("another amount", &callback(address, cheap.form()));
    acknowledged(&callback(address, payment.form()));
    app.wait_for(1);
    assert_eq!(deliveries(&app)[0].order, "matched");
    eventually("the delivery is written down", SOON, || {
        let lines = list(&sidecar.setup);
        lines.iter().any(|line| line.contains("delivered"))
    });
    // And from then on it is an ordinary store.
    sidecar.restart();
    acknowledged(&callback(address, payment.form()));
    assert_eq!(app.count(), 1);
}
