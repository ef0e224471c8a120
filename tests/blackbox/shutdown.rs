//! Starting where it cannot, and ending: what is under way is finished, and nobody waits for ever.

use crate::client::{self, Connection, post_bytes};
use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, eventually, exit_within, fresh_orderid, query_json,
    signal, submit_json,
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
fn who_waits_to_be_accepted_when_the_end_begins_is_answered() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let mut sidecar = Sidecar::before(&platform);
    // The kernel connects them; the process does not get to know.
    signal(&sidecar.child, "STOP");
    let mut waiting: Vec<_> = (0..50)
        .map(|_| Connection::open(sidecar.app()).unwrap())
        .collect();
    for connection in &mut waiting {
        let bytes = post_bytes("/api/query", &[], query_json(MERID, ORDERID));
        connection.send(bytes).unwrap();
    }
    signal(&sidecar.child, "TERM");
    signal(&sidecar.child, "CONT");
    for connection in &mut waiting {
        assert_eq!(connection.receive().unwrap().status, 200);
    }
    let status = exit_within(&mut sidecar.child, Duration::from_secs(10));
    assert_eq!(status.and_then(|it| it.code()), Some(0));
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
fn a_taken_port_is_named_with_its_holder_and_ends_with_75() {
    for which in ["app", "admin"] {
        let setup = Setup::new(|_| {});
        let address = if which == "app" {
            setup.app
        } else {
            setup.admin
        };
        let _taken = TcpListener::bind(address).unwrap();
        let (code, said) = setup.refused(Duration::from_secs(5));
        assert_eq!(code, Some(75), "{which}: {said}");
        let holder = format!("process {}", std::process::id());
        let setting = format!("change {which}.listen");
        for part in [&address.to_string(), &holder, &setting] {
            assert_eq!(said.matches(part.as_str()).count(), 1, "{part}: {said}");
        }
        let mut check = crate::harness::command();
        check.args(["check", "-c"]).arg(setup.conf_file());
        let output = check.output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(said.matches(&holder).count(), 1, "{said}");
        assert!(check.arg("--files").output().unwrap().status.success());
    }
}

#[test]
fn the_start_says_what_is_in_force() {
    let sidecar = Sidecar::start(|_| {});
    let output = || sidecar.output();
    for part in [
        sidecar.app().to_string(),
        sidecar.setup.admin.to_string(),
        "merchants=1".to_owned(),
        sidecar.setup.store().display().to_string(),
    ] {
        eventually(&part, Duration::from_secs(2), || output().contains(&part));
    }
    assert!(!output().contains(KEY));
}

#[test]
fn ready_means_that_the_app_s_listener_is_open() {
    for _ in 0..15 {
        let sidecar = Sidecar::start(|_| {});
        let connection = Connection::open(sidecar.app());
        assert!(connection.is_ok(), "{:?}", connection.err());
    }
}

/// A platform that never answers and a sidecar that would wait for it longer than the drain lasts.
fn waiting_long() -> (Platform, Sidecar) {
    let platform = Platform::start(|seen| match seen.target.as_str() {
        "/api/query" => Action::Reply(honest_answer(seen, KEY)),
        _ => Action::Hang,
    });
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.timeout = "60s";
    });
    (platform, sidecar)
}

#[test]
fn a_submit_that_outlasts_the_drain_is_answered_as_unknown_before_the_end() {
    let (platform, mut sidecar) = waiting_long();
    let orderid = fresh_orderid();
    let mut call = Connection::open(sidecar.app()).unwrap();
    call.send(post_bytes(
        "/api/icashier",
        &["X-Request-Id: the-last-one"],
        submit_json(&orderid),
    ))
    .unwrap();
    platform.wait_for(1);
    let began = Instant::now();
    signal(&sidecar.child, "TERM");
    let answer = call.receive().expect("the end of the connection, unsaid");
    let problem = answer.problem(504, "platform-timeout", "unknown");
    assert_eq!(problem["request_id"], "the-last-one");
    assert!(began.elapsed() < Duration::from_secs(11));
    assert!(call.is_ended());
    let status = exit_within(&mut sidecar.child, Duration::from_secs(3));
    assert_eq!(
        status.and_then(|it| it.code()),
        Some(0),
        "{}",
        sidecar.output()
    );
    assert_eq!(platform.count(), 1);
}

/// A connection that has carried a call and is kept.
fn used(sidecar: &Sidecar) -> Connection {
    let mut connection = Connection::open(sidecar.app()).unwrap();
    let bytes = post_bytes("/api/query", &[], query_json(MERID, ORDERID));
    assert_eq!(connection.exchange(bytes).unwrap().status, 200);
    connection
}

/// A submit whose second half never comes.
fn half_a_submit(sidecar: &Sidecar) -> Connection {
    let mut connection = used(sidecar);
    let body = submit_json(&fresh_orderid());
    let head = "POST /api/icashier HTTP/1.1\r\nHost: app\r\nContent-Length:";
    let half = format!("{head} {}\r\n\r\n{}", body.len(), &body[..20]);
    connection.send(half).unwrap();
    // Nothing tells when it was read; what comes later would only make the test easier to pass.
    thread::sleep(Duration::from_millis(100));
    connection
}

#[test]
fn what_comes_at_the_very_end_is_refused_as_draining() {
    let (platform, mut sidecar) = waiting_long();
    let connections: Vec<_> = (0..8).map(|_| used(&sidecar)).collect();
    // It keeps the process to the last moment.
    let _half = half_a_submit(&sidecar);
    let before = platform.count();
    let began = Instant::now();
    signal(&sidecar.child, "TERM");
    let callers: Vec<_> = (0..)
        .zip(connections)
        .map(|(n, mut connection)| {
            let at = began + Duration::from_millis(9_550 + 50 * n);
            thread::spawn(move || {
                thread::sleep(at.saturating_duration_since(Instant::now()));
                let body = submit_json(&format!("ATTHEEND{n:04}"));
                connection.exchange(post_bytes("/api/icashier", &[], body))
            })
        })
        .collect();
    let mut refused = 0;
    for caller in callers {
        // Without an answer it was not taken either: the process had ended.
        if let Ok(answer) = caller.join().unwrap() {
            answer.problem(503, "draining", "no");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            assert_eq!(answer.header("connection"), Some("close"));
            refused += 1;
        }
    }
    assert!(refused > 0, "{}", sidecar.output());
    let status = exit_within(&mut sidecar.child, Duration::from_secs(3));
    assert_eq!(status.and_then(|it| it.code()), Some(0));
    assert_eq!(platform.count(), before, "refused, and yet sent");
}

#[test]
fn an_order_that_the_end_cut_short_is_named_and_asked_about_after_the_restart() {
    let (platform, mut sidecar) = waiting_long();
    let orderid = fresh_orderid();
    let mut call = Connection::open(sidecar.app()).unwrap();
    call.send(post_bytes("/api/icashier", &[], submit_json(&orderid)))
        .unwrap();
    platform.wait_for(1);
    signal(&sidecar.child, "TERM");
    let problem = call
        .receive()
        .unwrap()
        .problem(504, "platform-timeout", "unknown");
    exit_within(&mut sidecar.child, Duration::from_secs(3));
    sidecar.restart();
    let asked = || {
        let seen = platform.last_of(&orderid);
        seen.is_some_and(|seen| seen.target == "/api/query")
    };
    // As after any submit whose outcome is unknown.
    eventually("it is asked about", Duration::from_secs(10), asked);
    assert_eq!(
        (&problem["merid"], &problem["orderid"]),
        (&MERID.into(), &orderid.as_str().into())
    );
    let output = sidecar.output();
    let line = output
        .lines()
        .find(|line| line.contains("platform-timeout"));
    assert!(line.is_some_and(|line| line.contains(&orderid)), "{output}");
}

#[test]
fn half_a_body_at_the_end_is_refused_as_draining() {
    let (_platform, mut sidecar) = waiting_long();
    let mut half = half_a_submit(&sidecar);
    signal(&sidecar.child, "TERM");
    let answer = half.receive().expect("the end of the connection, unsaid");
    answer.problem(503, "draining", "no");
    let status = exit_within(&mut sidecar.child, Duration::from_secs(12));
    assert_eq!(status.and_then(|it| it.code()), Some(0));
}

#[test]
fn a_call_on_a_kept_connection_after_sigterm_is_answered_or_was_never_sent() {
    const CALLERS: u64 = 12;
    for round in 0..3_u64 {
        let platform = Platform::honest(&[(MERID, KEY)]);
        let mut sidecar = Sidecar::before(&platform);
        let connections: Vec<_> = (0..CALLERS).map(|_| used(&sidecar)).collect();
        let seed = u64::from(std::process::id()) * 31 + round;
        let began = Instant::now();
        signal(&sidecar.child, "TERM");
        let callers: Vec<_> = (0..)
            .zip(connections)
            .map(|(n, mut connection)| {
                let pause = Duration::from_micros(scattered(seed * CALLERS + n) % 2_000_000);
                let at = began + pause;
                let orderid = fresh_orderid();
                thread::spawn(move || {
                    thread::sleep(at.saturating_duration_since(Instant::now()));
                    let bytes = post_bytes("/api/icashier", &[], submit_json(&orderid));
                    (orderid, pause, connection.exchange(bytes))
                })
            })
            .collect();
        let calls: Vec<_> = callers.into_iter().map(|it| it.join().unwrap()).collect();
        let status = exit_within(&mut sidecar.child, Duration::from_secs(11));
        assert_eq!(status.and_then(|it| it.code()), Some(0));
        for (orderid, pause, answer) in calls {
            let was_sent = platform.last_of(&orderid).is_some();
            match answer {
                Ok(answer) if answer.status == 200 => assert!(was_sent),
                // Met by the end inside the call: told so.
                Ok(answer) if answer.status == 504 => {
                    answer.problem(504, "platform-timeout", "unknown");
                }
                Ok(answer) => {
                    answer.problem(503, "draining", "no");
                    assert!(!was_sent, "seed {seed}, {pause:?}: refused, and yet sent");
                }
                Err(error) => {
                    assert!(!was_sent, "seed {seed}, {pause:?}: sent, and then {error}");
                }
            }
        }
    }
}

/// Any number into one of no pattern (splitmix64).
fn scattered(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
