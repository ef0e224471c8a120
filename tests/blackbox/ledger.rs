//! The ledger in trouble: a call is never held up by it for long, and a store that cannot be trusted stops the start.

use crate::client;
use crate::harness::{KEY, MERID, ORDERID, Setup, Sidecar, fresh_orderid, query_json, submit_json};
use crate::platform::Platform;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant};

/// A query and a submit, each answered well and soon.
#[track_caller]
fn calls_go_on(sidecar: &Sidecar) {
    let calls = [
        ("/api/query", query_json(MERID, ORDERID)),
        ("/api/icashier", submit_json(&fresh_orderid())),
        ("/apis/icashier", submit_json(&fresh_orderid())),
    ];
    for (path, body) in calls {
        let began = Instant::now();
        let answer = client::post(sidecar.app(), path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{path}: {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_locked_store_stops_no_call() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    calls_go_on(&sidecar);
    let other = rusqlite::Connection::open(sidecar.setup.store()).unwrap();
    // Where the sidecar holds the file for itself, nobody else can lock it, and that is as good.
    let is_locked = other.execute_batch("BEGIN EXCLUSIVE").is_ok();
    calls_go_on(&sidecar);
    if is_locked {
        other.execute_batch("ROLLBACK").unwrap();
    }
    calls_go_on(&sidecar);
}

#[test]
fn a_store_that_turns_to_garbage_stops_no_call() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    calls_go_on(&sidecar);
    for file in fs::read_dir(sidecar.setup.folder.path()).unwrap() {
        let path = file.unwrap().path();
        let name = path.to_string_lossy().into_owned();
        // Not the shared index: that is mapped into memory, and cutting a mapped file is another fault than this one.
        if name.contains("countersign.db") && !name.ends_with("-shm") {
            let length = fs::metadata(&path).unwrap().len() as usize;
            let mut file = File::options().write(true).open(&path).unwrap();
            file.write_all(&vec![0xa5; length]).unwrap();
        }
    }
    calls_go_on(&sidecar);
    calls_go_on(&sidecar);
}

#[test]
fn a_store_that_is_taken_away_stops_no_call() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    calls_go_on(&sidecar);
    for file in fs::read_dir(sidecar.setup.folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.to_string_lossy().contains("countersign.db") {
            fs::remove_file(path).unwrap();
        }
    }
    calls_go_on(&sidecar);
}

#[track_caller]
fn refuses_to_start(setup: &Setup, word: &str) {
    let began = Instant::now();
    let (code, said) = setup.refused(Duration::from_secs(3));
    // Locked or absent may pass, damaged or foreign does not.
    assert!(matches!(code, Some(75 | 78)), "{code:?}: {said}");
    assert!(said.contains(word), "{said}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_corrupt_store_stops_the_start_and_is_left_as_it_is() {
    let setup = Setup::new(|_| {});
    let garbage = vec![0x5a; 20_000];
    fs::write(setup.store(), &garbage).unwrap();
    refuses_to_start(&setup, "countersign.db");
    assert_eq!(fs::read(setup.store()).unwrap(), garbage);
}

#[test]
fn a_store_newer_than_the_binary_stops_the_start() {
    let newer = Setup::new(|_| {});
    let store = rusqlite::Connection::open(newer.store()).unwrap();
    store
        .pragma_update(None, "user_version", 1_000_000)
        .unwrap();
    drop(store);
    refuses_to_start(&newer, "countersign.db");
}

#[test]
fn a_store_in_a_folder_that_is_not_there_stops_the_start() {
    let setup = Setup::new(|_| {});
    let conf = fs::read_to_string(setup.conf_file()).unwrap();
    fs::write(
        setup.conf_file(),
        conf.replace("countersign.db", "none/countersign.db"),
    )
    .unwrap();
    refuses_to_start(&setup, "none/countersign.db");
}

#[test]
fn a_store_in_use_by_another_instance_stops_the_start() {
    let first = Sidecar::start(|_| {});
    let second = Setup::new(|_| {});
    let conf = fs::read_to_string(second.conf_file()).unwrap();
    let (own, taken) = (second.store(), first.setup.store());
    let conf = conf.replace(&own.display().to_string(), &taken.display().to_string());
    fs::write(second.conf_file(), conf).unwrap();
    refuses_to_start(&second, "countersign.db");
    assert_eq!(first.admin("/readyz").status, 200);
}
