//! A platform that hangs, drips, cuts off or closes at the worst moment: bounded in time, and a submit leaves at most once.

use crate::harness::{
    KEY, MERID, ORDERID, Sidecar, eventually, fresh_orderid, query_json, submit_json,
};
use crate::platform::{Action, Platform, Seen, honest_answer};
use crate::wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The deadline that these sidecars have, and what a test grants on top of it.
const TIMEOUT: &str = "1s";
const AT_MOST: Duration = Duration::from_millis(2500);

fn started(behaviour: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> (Platform, Sidecar) {
    let platform = Platform::start(behaviour);
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.timeout = TIMEOUT;
        conf.connect_timeout = "500ms";
        conf.extra_paths = vec!["/api/refund"];
    });
    (platform, sidecar)
}

/// One call of each kind: path and body.
fn calls() -> [(&'static str, String); 3] {
    [
        ("/api/query", query_json(MERID, ORDERID)),
        ("/api/icashier", submit_json(&fresh_orderid())),
        ("/api/refund", query_json(MERID, ORDERID)),
    ]
}

fn honest(seen: &Seen) -> Vec<u8> {
    honest_answer(seen, KEY)
}

/// The answer without its last bytes.
fn half(seen: &Seen) -> Vec<u8> {
    let mut bytes = honest(seen);
    bytes.truncate(bytes.len() - 9);
    bytes
}

#[test]
fn the_deadline_holds_however_slow_the_platform_is() {
    let hang: fn(&Seen) -> Action = |_| Action::Hang;
    let drip: fn(&Seen) -> Action = |seen| Action::Drip(honest(seen), Duration::from_secs(1));
    let drip_body: fn(&Seen) -> Action = |seen| {
        let mut bytes = half(seen);
        bytes.extend(b"x");
        Action::Drip(bytes, Duration::from_millis(5))
    };
    for (name, behaviour) in [
        ("hangs", hang),
        ("drips", drip),
        ("drips its body", drip_body),
    ] {
        let (platform, sidecar) = started(behaviour);
        for (n, (path, body)) in calls().into_iter().enumerate() {
            let began = Instant::now();
            let answer = sidecar.post(path, body);
            assert_eq!(answer.status, 504, "{name} {path}: {}", answer.text());
            let problem = answer.problem(504, "platform-timeout", "unknown");
            assert!(
                began.elapsed() < AT_MOST,
                "{name} {path}: {:?}",
                began.elapsed()
            );
            assert_eq!(problem["merid"], MERID);
            assert_eq!(platform.count(), n + 1, "{name} {path}: sent again");
        }
    }
}

#[test]
fn an_answer_cut_off_inside_leaves_the_outcome_unknown() {
    let nothing: fn(&Seen) -> Action = |_| Action::Cut(Vec::new());
    let in_header: fn(&Seen) -> Action = |_| Action::Cut(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec());
    let in_body: fn(&Seen) -> Action = |seen| Action::Cut(half(seen));
    let in_chunk: fn(&Seen) -> Action = |_| {
        Action::Cut(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nresp=abc".to_vec(),
        )
    };
    for (name, behaviour) in [
        ("before the header", nothing),
        ("in the header", in_header),
        ("in the body", in_body),
        ("in a chunk", in_chunk),
    ] {
        let (platform, sidecar) = started(behaviour);
        for (n, (path, body)) in calls().into_iter().enumerate() {
            let answer = sidecar.post(path, body);
            assert_eq!(answer.status, 502, "{name} {path}: {}", answer.text());
            answer.problem(502, "platform-cut-off", "unknown");
            assert_eq!(
                platform.count(),
                n + 1,
                "{name} {path}: sent again on a fresh connection"
            );
        }
    }
}

#[test]
fn an_answer_that_is_no_http_is_refused() {
    let (platform, sidecar) = started(|_| Action::Cut(b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec()));
    for (n, (path, body)) in calls().into_iter().enumerate() {
        let answer = sidecar.post(path, body);
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_ne!(answer.json()["sent"], "no");
        assert_eq!(platform.count(), n + 1);
    }
}

/// Makes a call that goes out on a connection which has carried one before, behind a platform that ends such a connection
/// with `end`; hands back the answer and the platform. Whether a connection is back in the pool in time is not for the
/// test to say, so it tries until one was.
#[track_caller]
fn on_a_used_connection(
    end: fn(&Seen) -> Action,
    path: &str,
    body: &str,
) -> (crate::client::Response, Platform) {
    for _ in 0..20 {
        let (platform, sidecar) = started(move |seen| match seen.number {
            1 => Action::Reply(honest(seen)),
            _ => end(seen),
        });
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        let answer = sidecar.post(path, body);
        if platform.seen()[1].number == 2 {
            return (answer, platform);
        }
    }
    panic!("no connection was ever used twice");
}

const NOTHING: fn(&Seen) -> Action = |_| Action::Cut(Vec::new());

#[test]
fn a_submit_on_a_connection_that_dies_is_sent_once() {
    for path in ["/api/icashier", "/api/refund"] {
        let body = submit_json(&fresh_orderid());
        let (answer, platform) = on_a_used_connection(NOTHING, path, &body);
        answer.problem(502, "platform-cut-off", "unknown");
        assert_eq!(
            (platform.count(), platform.last().plain()),
            (2, body),
            "{path}"
        );
    }
}

#[test]
fn a_query_on_a_connection_that_dies_is_sent_again_once_on_a_fresh_one() {
    let body = query_json(MERID, "SECOND0001");
    let (answer, platform) = on_a_used_connection(NOTHING, "/api/query", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen: Vec<_> = platform
        .seen()
        .iter()
        .map(|seen| (seen.connection, seen.number, seen.member("orderid")))
        .collect();
    let second = "SECOND0001".to_owned();
    let first = ORDERID.to_owned();
    assert_eq!(
        seen,
        [(1, 1, first), (1, 2, second.clone()), (2, 1, second)]
    );
}

#[test]
fn a_query_is_not_sent_a_third_time() {
    for _ in 0..20 {
        let (platform, sidecar) = started(|seen| match seen.member("orderid").as_str() {
            ORDERID => Action::Reply(honest(seen)),
            _ => Action::Cut(Vec::new()),
        });
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        let answer = sidecar.query(query_json(MERID, "SECOND0001"));
        answer.problem(502, "platform-cut-off", "unknown");
        if platform.seen()[1].number == 2 {
            return assert_eq!(platform.count(), 3);
        }
    }
    panic!("no connection was ever used twice");
}

#[test]
fn a_query_that_was_half_answered_is_not_sent_again() {
    let end: fn(&Seen) -> Action = |seen| Action::Cut(half(seen));
    let body = query_json(MERID, "SECOND0001");
    let (answer, platform) = on_a_used_connection(end, "/api/query", &body);
    answer.problem(502, "platform-cut-off", "unknown");
    assert_eq!(platform.count(), 2);
}

#[test]
fn connections_closed_while_idle_lose_no_call() {
    // No `Connection: close` announces it: the platform just goes.
    let (platform, sidecar) = started(|seen| Action::Cut(honest(seen)));
    for n in 1..=10 {
        let answer = sidecar.query(query_json(MERID, ORDERID));
        assert_eq!(answer.status, 200, "{n}: {}", answer.text());
    }
    assert_eq!(platform.count(), 10, "none arrived on a dead connection");
    let mut unknown = 0;
    for _ in 0..10 {
        let sent = platform.count();
        let answer = sidecar.submit(submit_json(&fresh_orderid()));
        match answer.status {
            200 => assert_eq!(platform.count(), sent + 1),
            _ => {
                answer.problem(502, "platform-cut-off", "unknown");
                unknown += 1;
            }
        }
    }
    // The end of the connection may reach us after the next submit is on its way; it may not be the rule.
    assert!(unknown <= 2, "{unknown} of 10");
}

#[test]
fn every_lawful_way_to_frame_an_answer_is_understood() {
    let interim: fn(&Seen) -> Action = |seen| {
        let mut bytes =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_vec();
        bytes.extend(honest(seen));
        Action::Reply(bytes)
    };
    let chunked: fn(&Seen) -> Action = |seen| {
        let form = wire::answer(crate::platform::full_answer(seen), KEY);
        let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in form.as_bytes().chunks(50) {
            bytes.extend(format!("{:x};x=y\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\nTrailer: 1\r\n\r\n");
        Action::Reply(bytes)
    };
    let up_to_the_end: fn(&Seen) -> Action = |seen| {
        let form = wire::answer(crate::platform::full_answer(seen), KEY);
        Action::Cut(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{form}").into())
    };
    let http_1_0: fn(&Seen) -> Action = |seen| {
        let form = wire::answer(crate::platform::full_answer(seen), KEY);
        Action::Cut(format!("HTTP/1.0 200 OK\r\n\r\n{form}").into())
    };
    let closing: fn(&Seen) -> Action = |seen| {
        let form = wire::answer(crate::platform::full_answer(seen), KEY);
        Action::Cut(crate::platform::http(200, &["Connection: close"], form))
    };
    let in_drops: fn(&Seen) -> Action =
        |seen| Action::Drip(honest(seen), Duration::from_micros(200));
    for (name, behaviour) in [
        ("1xx first", interim),
        ("chunked", chunked),
        ("up to the end", up_to_the_end),
        ("HTTP/1.0", http_1_0),
        ("closing", closing),
        ("byte by byte", in_drops),
    ] {
        let (platform, sidecar) = started(behaviour);
        for n in 1..=3 {
            let orderid = fresh_orderid();
            let answer = sidecar.query(query_json(MERID, &orderid));
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            assert_eq!(answer.json()["orderid"], orderid, "{name}");
            assert_eq!(platform.count(), n, "{name}");
        }
    }
}

#[test]
fn a_late_answer_is_never_given_to_the_next_call() {
    let (_platform, sidecar) = started(|seen| match seen.member("orderid").as_str() {
        "LATE000001" => Action::Late(honest(seen), Duration::from_millis(1500)),
        _ => Action::Reply(honest(seen)),
    });
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
    sidecar
        .query(query_json(MERID, "LATE000001"))
        .problem(504, "platform-timeout", "unknown");
    let until = Instant::now() + Duration::from_millis(800);
    while Instant::now() < until {
        let answer = sidecar.query(query_json(MERID, ORDERID));
        assert_eq!(answer.json()["orderid"], ORDERID);
    }
}

#[test]
fn a_platform_that_comes_back_is_used_again() {
    let port = crate::harness::free_port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let sidecar = Sidecar::start(|conf| conf.platform = format!("http://{address}"));
    sidecar
        .query(query_json(MERID, ORDERID))
        .problem(502, "platform-unreachable", "no");
    let _platform = Platform::start_at(address, |seen| Action::Reply(honest(seen)));
    eventually("calls succeed again", Duration::from_secs(3), || {
        sidecar.query(query_json(MERID, ORDERID)).status == 200
    });
}

#[test]
fn a_query_that_may_have_arrived_before_nobody_listened_any_more_is_unknown() {
    for _ in 0..20 {
        let second = Arc::new(AtomicUsize::new(0));
        let read = Arc::clone(&second);
        let (platform, sidecar) = started(move |seen| match seen.number {
            1 => Action::Reply(honest(seen)),
            number => {
                read.fetch_add(number, Ordering::SeqCst);
                Action::Cut(Vec::new())
            }
        });
        assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
        let address = platform.address;
        // Its listener ends; the connection that it has stays.
        drop(platform);
        eventually("nobody listens", Duration::from_secs(5), || {
            std::net::TcpStream::connect(address).is_err()
        });
        let answer = sidecar.query(query_json(MERID, "SECOND0001"));
        if second.load(Ordering::SeqCst) == 2 {
            let problem = answer.problem(502, "platform-unreachable", "unknown");
            assert_eq!(problem["orderid"], "SECOND0001");
            return;
        }
        answer.problem(502, "platform-unreachable", "no");
    }
    panic!("no connection was ever used twice");
}

#[test]
fn a_switch_to_another_protocol_is_no_answer_and_ends_its_connection() {
    const SWITCH: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let garbage: fn(&Seen) -> Vec<u8> = |_| b"\0\0\x12\x04\0\0\0\0\0 resp=eA&sign=0".repeat(3);
    // Signed well, and yet in a protocol that nobody asked for.
    let an_answer: fn(&Seen) -> Vec<u8> = honest;
    for (name, behind) in [("garbage", garbage), ("an answer", an_answer)] {
        let (platform, sidecar) =
            started(move |seen| Action::Reply([SWITCH, &behind(seen)].concat()));
        for round in 0..3 {
            for (n, (path, body)) in calls().into_iter().enumerate() {
                let answer = sidecar.post(path, body);
                assert_eq!(answer.status, 502, "{name} {path}: {}", answer.text());
                answer.problem(502, "malformed-answer", "yes");
                let last = platform.last();
                let calls = round * 3 + n + 1;
                assert_eq!(
                    (platform.count(), last.connection, last.number),
                    (calls, calls, 1),
                    "{name} {path}: its connection was used again"
                );
            }
        }
    }
}
