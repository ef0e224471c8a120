//! Many merchants at once, and many edits under load: each call gets its own answer, none fails.

use crate::client::{Connection, post_bytes};
use crate::harness::{Sidecar, eventually, merchant, query_json};
use crate::platform::{Action, Platform, Seen, honest_answer, honestly, unsigned};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

fn merid(n: usize) -> String {
    format!("2000000{n:08}")
}

fn key(n: usize, edit: usize) -> String {
    format!("{:032x}", n * 1_000_003 + edit * 7 + 1)
}

#[test]
fn six_hundred_calls_at_once_for_two_hundred_merchants_each_get_their_own_answer() {
    const MERCHANTS: usize = 200;
    const CALLS: usize = 600;
    let known: Vec<_> = (0..MERCHANTS).map(|n| (merid(n), key(n, 0))).collect();
    let borrowed: Vec<_> = known
        .iter()
        .map(|(m, k)| (m.as_str(), k.as_str()))
        .collect();
    let honest = honestly(&borrowed);
    // Long enough that they overlap, each a little different so that they come back in another order.
    let platform = Platform::start(move |seen| match honest(seen) {
        Action::Reply(bytes) => Action::Late(
            bytes,
            Duration::from_millis(seen.body.len() as u64 * 7 % 60),
        ),
        other => other,
    });
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.timeout = "20s";
        // The stand-in's own backlog is short: a connection may have to knock twice.
        conf.connect_timeout = "15s";
        conf.merchants = known.iter().map(|(m, k)| merchant(m, k)).collect();
    });
    let address = sidecar.app();
    let together = Arc::new(Barrier::new(CALLS));
    let threads: Vec<_> = (0..CALLS)
        .map(|call| {
            let together = Arc::clone(&together);
            thread::spawn(move || {
                let (merid, orderid) = (merid(call % MERCHANTS), format!("CROWD{call:06}"));
                let padding = "x".repeat(call % 50);
                let body = format!(
                    "{{\"merid\":\"{merid}\",\"orderid\":\"{orderid}\",\"p\":\"{padding}\"}}"
                );
                together.wait();
                let mut connection = Connection::open(address).unwrap();
                let bytes = post_bytes("/api/query", &[], body);
                let answer = connection.exchange(bytes).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                let json = answer.json();
                assert_eq!(
                    (&json["merid"], &json["orderid"]),
                    (&merid.into(), &orderid.into())
                );
            })
        })
        .collect();
    let failed = threads
        .into_iter()
        .map(thread::JoinHandle::join)
        .filter(Result::is_err)
        .count();
    assert_eq!(failed, 0);
    assert_eq!(platform.count(), CALLS);
}

const MERCHANTS: usize = 20;
const EDITS: usize = 200;
/// So many calls are answered between one edit and the next, at least.
const CALLS_AN_EDIT: usize = 5;

/// A platform that takes any key a merchant ever had, up to the edit under way, and answers under the same.
fn patient(edit: Arc<AtomicUsize>) -> impl Fn(&Seen) -> Action + Send + Sync {
    move |seen| {
        let merid = seen.member("merid");
        let n: usize = merid[7..].parse().unwrap();
        let newest = edit.load(Ordering::SeqCst);
        let fitting = (0..=newest)
            .rev()
            .map(|edit| key(n, edit))
            .find(|key| seen.is_signed_with(key));
        Action::Reply(match fitting {
            Some(key) => honest_answer(seen, &key),
            None => unsigned("97", "no such key"),
        })
    }
}

fn write_edit(path: &Path, edit: usize) {
    let mut text = String::new();
    for n in 0..MERCHANTS {
        text += &merchant(&merid(n), &key(n, edit));
    }
    writeln!(text, "[end]\nmerchants = {MERCHANTS}").unwrap();
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

#[test]
fn two_hundred_edits_under_load_fail_no_call() {
    let edit = Arc::new(AtomicUsize::new(0));
    let platform = Platform::start(patient(Arc::clone(&edit)));
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = (0..MERCHANTS)
            .map(|n| merchant(&merid(n), &key(n, 0)))
            .collect();
    });
    let (address, stop) = (sidecar.app(), Arc::new(AtomicBool::new(false)));
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                let mut connection = Connection::open(address).unwrap();
                let mut calls = 0;
                while !stop.load(Ordering::SeqCst) {
                    let n = (caller * 5 + calls) % MERCHANTS;
                    let body = query_json(&merid(n), "UNDERLOAD1");
                    let answer = connection
                        .exchange(post_bytes("/api/query", &[], body))
                        .unwrap();
                    assert_eq!(answer.status, 200, "call {calls}: {}", answer.text());
                    calls += 1;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    let before = sidecar.metrics().sum(&["reload"]);
    for n in 1..=EDITS {
        edit.store(n, Ordering::SeqCst);
        write_edit(sidecar.merchants_file(), n);
        let enough = answered.load(Ordering::SeqCst) + CALLS_AN_EDIT;
        // Half of them at once, the others as the watcher finds them.
        if n % 2 == 0 {
            let answer = sidecar.reload();
            assert_eq!(answer.status, 200, "edit {n}: {}", answer.text());
        }
        eventually("calls go on", Duration::from_secs(5), || {
            answered.load(Ordering::SeqCst) >= enough || callers.iter().any(|it| it.is_finished())
        });
    }
    eventually("the last edit is in force", Duration::from_secs(2), || {
        sidecar.query(query_json(&merid(3), "LASTEDIT01"));
        platform
            .last_of("LASTEDIT01")
            .is_some_and(|seen| seen.is_signed_with(&key(3, EDITS)))
    });
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.join().unwrap();
    }
    assert!(answered.load(Ordering::SeqCst) >= EDITS * CALLS_AN_EDIT);
    assert!(sidecar.metrics().sum(&["reload"]) >= before + 100.0);
}
