//! Requests that are no HTTP, or never come whole: refused in the app's own terms, certainly unsent, and the connection ends.

use crate::client::{Connection, Response, post_bytes};
use crate::harness::{KEY, MERID, ORDERID, Sidecar, eventually, query_json};
use crate::platform::Platform;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

const HEAD: &str = "POST /api/query HTTP/1.1\r\nHost: app\r\n";

#[test]
fn broken_http_is_a_bad_request_and_ends_its_connection() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let body = query_json(MERID, ORDERID);
    let whole = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "{HEAD}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}",
        body.len()
    );
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("no request line", "hello\r\n\r\n".into()),
        ("HTTP/0.9", "POST /api/query\r\n\r\n".into()),
        (
            "HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".into(),
        ),
        (
            "TLS",
            [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                &[7; 300][..],
            ]
            .concat(),
        ),
        (
            "an unknown version",
            format!("POST /api/query HTTP/3.7\r\nHost: app\r\n{whole}").into(),
        ),
        (
            "a field without a colon",
            format!("{HEAD}nothing\r\n{whole}").into(),
        ),
        (
            "a zero byte in a field",
            format!("{HEAD}X: a\0b\r\n{whole}").into(),
        ),
        (
            "a space before the colon",
            format!("{HEAD}X : a\r\n{whole}").into(),
        ),
        (
            "a folded line",
            format!("{HEAD}X: a\r\n b\r\n{whole}").into(),
        ),
        (
            "two lengths",
            format!("{HEAD}Content-Length: 1\r\n{whole}").into(),
        ),
        (
            "a length that is no number",
            format!("{HEAD}Content-Length: ten\r\n\r\n{body}").into(),
        ),
        (
            "a negative length",
            format!("{HEAD}Content-Length: -1\r\n\r\n{body}").into(),
        ),
        (
            "an unknown coding",
            format!("{HEAD}Transfer-Encoding: gzip\r\n\r\n{body}").into(),
        ),
        (
            "a chunk without a size",
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n").into(),
        ),
        (
            "a chunk longer than its size",
            format!("{chunked}xx\r\n0\r\n\r\n").into(),
        ),
        (
            "a chunk of more than memory",
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}").into(),
        ),
        (
            "300 fields",
            format!("{HEAD}{}{whole}", "X: y\r\n".repeat(300)).into(),
        ),
    ];
    for (name, bytes) in broken {
        let mut connection = Connection::open(sidecar.app()).unwrap();
        let answer = connection
            .exchange(bytes)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        answer.problem(400, "bad-request", "no");
        assert_eq!(
            answer.header("countersign-verified"),
            Some("false"),
            "{name}"
        );
        assert!(connection.is_ended(), "{name}: the connection stays");
    }
    assert_eq!(platform.count(), 0);
    assert_eq!(sidecar.query(&body).status, 200, "still there");
    assert!(sidecar.metrics().sum(&["calls_total", "bad-request"]) >= 17.0);
}

/// Sends this and waits for the answer: what it is, how long it took, whether the connection ended.
fn after(mut connection: Connection, bytes: String) -> (io::Result<Response>, Duration, bool) {
    let began = Instant::now();
    let answer = connection.exchange(bytes);
    let took = began.elapsed();
    (answer, took, connection.is_ended())
}

/// Beginnings of calls whose rest never comes.
fn unfinished(body: &str) -> [(&'static str, String); 4] {
    let (half, length) = (&body[..20], body.len());
    let chunked = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n");
    [
        ("no byte", format!("{HEAD}Content-Length: {length}\r\n\r\n")),
        (
            "half of it",
            format!("{HEAD}Content-Length: {length}\r\n\r\n{half}"),
        ),
        ("a chunk and no end", format!("{chunked}{body}\r\n")),
        ("half a chunk", format!("{chunked}{half}")),
    ]
}

#[track_caller]
fn timed_out(name: &str, answer: io::Result<Response>, took: Duration, is_ended: bool) {
    let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(answer.status, 408, "{name}: {}", answer.text());
    answer.problem(408, "request-timeout", "no");
    let seconds = took.as_secs_f64();
    assert!((14.5..20.0).contains(&seconds), "{name}: {seconds} s");
    assert!(is_ended, "{name}: the connection stays");
}

#[test]
fn a_body_that_does_not_come_within_15_s_is_timed_out() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let address = sidecar.app();
    let body = query_json(MERID, ORDERID);
    let mut threads: Vec<_> = unfinished(&body)
        .map(|(name, bytes)| {
            let mut connection = Connection::open(address).unwrap();
            let first = connection.exchange(post_bytes("/api/query", &[], &body));
            assert_eq!(first.unwrap().status, 200);
            (name, thread::spawn(move || after(connection, bytes)))
        })
        .into();
    // The bound is on the whole: a byte now and then buys nothing.
    for (name, pause) in [("dripping", 500), ("dripping fast", 50)] {
        let dripped = format!("{body:1000}");
        let drip = move || {
            let began = Instant::now();
            let mut connection = Connection::open(address).unwrap();
            let head = format!("{HEAD}Content-Length: {}\r\n\r\n", dripped.len());
            connection.send(head).unwrap();
            for byte in dripped.bytes() {
                thread::sleep(Duration::from_millis(pause));
                // Refused in the middle of it, which is the point.
                if connection.send([byte]).is_err() || began.elapsed() > Duration::from_secs(15) {
                    break;
                }
            }
            let answer = connection.receive();
            (answer, began.elapsed(), connection.is_ended())
        };
        threads.push((name, thread::spawn(drip)));
    }
    for (name, thread) in threads {
        let (answer, took, is_ended) = thread.join().unwrap();
        timed_out(name, answer, took, is_ended);
    }
    assert_eq!(platform.count(), 4, "the first ones");
}

#[test]
fn a_new_connection_s_first_body_has_15_s_too() {
    let sidecar = Sidecar::start(|_| {});
    let address = sidecar.app();
    let threads = unfinished(&query_json(MERID, ORDERID)).map(|(name, bytes)| {
        let connection = Connection::open(address).unwrap();
        (name, thread::spawn(move || after(connection, bytes)))
    });
    for (name, thread) in threads {
        let (answer, took, is_ended) = thread.join().unwrap();
        timed_out(name, answer, took, is_ended);
    }
}

#[test]
fn a_body_that_ends_early_leaves_nothing_behind() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let before = sidecar.metrics().sum(&["calls_total", "request-timeout"]);
    for _ in 0..5 {
        let mut connection = Connection::open(sidecar.app()).unwrap();
        let head = format!("{HEAD}Content-Length: 100\r\n\r\n{{");
        connection.send(head).unwrap();
    }
    // Nobody is there to be told; that they were calls is counted all the same.
    eventually("five are counted", Duration::from_secs(5), || {
        sidecar.metrics().sum(&["calls_total", "request-timeout"]) >= before + 5.0
    });
    assert_eq!(platform.count(), 0);
}
