//! Starting where it cannot, and ending: what is under way is finished, and nobody waits for ever.

use crate::client::{self, Connection, post_bytes};
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, eventually, exit_within, query_json, signal,
};
use crate::platform::{Action, Platform, honest_answer};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

fn is_draining(sidecar: &Sidecar) -> bool {
    client::fetch(sidecar.setup.admin, "/readyz").map_or(true, |answer| answer.status != 200)
        || std::net::TcpStream::connect(sidecar.app()).is_err()
}

#[test]
fn a_call_under_way_is_finished_before_the_end() {
    let platform =
        Platform::start(|seen| Action::Late(honest_answer(seen, KEY), Duration::from_millis(1500)));
    let mut sidecar = Sidecar::before(&platform);
    let address = sidecar.app();
    let idle = Connection::open(address).unwrap();
    let call =
        thread::spawn(move || client::post(address, "/api/query", query_json(MERID, ORDERID)));
    platform.wait_for(1);
    signal(&sidecar.child, "TERM");
    assert_eq!(call.join().unwrap().status, 200);
    let status = exit_within(&mut sidecar.child, Duration::from_secs(10));
    assert_eq!(
        status.and_then(|it| it.code()),
        Some(0),
        "{}",
        sidecar.output()
    );
    drop(idle);
}

#[test]
fn with_nothing_under_way_the_end_is_quick() {
    for name in ["TERM", "INT"] {
        let platform = Platform::honest(&[(MERID, KEY)]);
        let mut sidecar = Sidecar::before(&platform);
        let mut used = Connection::open(sidecar.app()).unwrap();
        let bytes = post_bytes("/api/query", &[], query_json(MERID, ORDERID));
        assert_eq!(used.exchange(bytes).unwrap().status, 200);
        let began = Instant::now();
        signal(&sidecar.child, name);
        let status = exit_within(&mut sidecar.child, Duration::from_secs(10));
        assert_eq!(
            status.and_then(|it| it.code()),
            Some(0),
            "{name}: {}",
            sidecar.output()
        );
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{name}: {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let platform = Platform::start(|_| Action::Hang);
    let url = platform.url();
    let mut sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.timeout = "60s";
    });
    let mut call = Connection::open(sidecar.app()).unwrap();
    call.send(post_bytes("/api/query", &[], query_json(MERID, ORDERID)))
        .unwrap();
    platform.wait_for(1);
    signal(&sidecar.child, "TERM");
    eventually("draining", Duration::from_secs(3), || is_draining(&sidecar));
    assert!(
        sidecar.child.try_wait().unwrap().is_none(),
        "a call is under way"
    );
    let began = Instant::now();
    signal(&sidecar.child, "TERM");
    let status = exit_within(&mut sidecar.child, Duration::from_secs(5));
    assert!(status.is_some(), "still running");
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_call_that_outlasts_the_drain_does_not_hold_the_end_up() {
    let platform = Platform::start(|_| Action::Hang);
    let url = platform.url();
    let mut sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.timeout = "60s";
    });
    let mut call = Connection::open(sidecar.app()).unwrap();
    call.send(post_bytes("/api/query", &[], query_json(MERID, ORDERID)))
        .unwrap();
    platform.wait_for(1);
    signal(&sidecar.child, "TERM");
    let status = exit_within(&mut sidecar.child, Duration::from_secs(12));
    assert!(status.is_some(), "still running");
}

#[test]
fn a_taken_port_is_named_and_ends_with_78() {
    for which in ["app", "admin"] {
        let setup = Setup::new(|_| {});
        let address = if which == "app" {
            setup.app
        } else {
            setup.admin
        };
        let _taken = TcpListener::bind(address).unwrap();
        let (code, said) = setup.refused(Duration::from_secs(5));
        assert_eq!(code, Some(78), "{which}: {said}");
        assert!(said.contains(&address.to_string()), "{which}: {said}");
    }
}

#[test]
fn the_start_says_what_is_in_force() {
    let sidecar = Sidecar::start(|_| {});
    let output = sidecar.output();
    for part in [
        sidecar.app().to_string(),
        sidecar.setup.admin.to_string(),
        "merchants=1".to_owned(),
        sidecar.setup.store().display().to_string(),
    ] {
        assert!(output.contains(&part), "{part} is not in {output}");
    }
    assert!(!output.contains(KEY));
}

#[test]
fn ready_means_that_the_app_s_listener_is_open() {
    for _ in 0..15 {
        let sidecar = Sidecar::start(|_| {});
        let connection = Connection::open(sidecar.app());
        assert!(connection.is_ok(), "{:?}", connection.err());
    }
}
