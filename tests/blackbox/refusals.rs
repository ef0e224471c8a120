//! The table of refusals, row by row: status, code and `sent` (those of wrong answers, faults and fields have their own files).

use crate::client::{self, Connection, post_bytes, post_with};
use crate::harness::{
    KEY, MERID, ORDERID, OTHER_KEY, OTHER_MERID, Sidecar, free_port, fresh_orderid, is_installed,
    merchant, query_json, skip, submit_json, submit_of,
};
use crate::platform::{Action, Platform, http, unsigned};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn an_unknown_path_is_not_found() {
    let sidecar = Sidecar::start(|_| {});
    for path in [
        "/",
        "/api/other",
        "/api/query/",
        "/API/QUERY",
        "/metrics",
        "/apis/query",
    ] {
        sidecar
            .post(path, query_json(MERID, ORDERID))
            .problem(404, "not-found", "no");
    }
    client::fetch(sidecar.app(), "/")
        .unwrap()
        .problem(404, "not-found", "no");
}

#[test]
fn other_methods_are_told_which_one_is_meant() {
    let sidecar = Sidecar::start(|_| {});
    for path in ["/api/query", "/api/icashier", "/apis/icashier"] {
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            let mut connection = Connection::open(sidecar.app()).unwrap();
            let answer = connection
                .exchange(format!(
                    "{method} {path} HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n"
                ))
                .unwrap();
            answer.problem(405, "method-not-allowed", "no");
            assert_eq!(answer.header("allow"), Some("POST"), "{method} {path}");
        }
    }
}

#[test]
fn an_unknown_merchant_is_refused_by_name() {
    let platform = Platform::honest(&[]);
    let sidecar = Sidecar::before(&platform);
    for path in ["/api/query", "/api/icashier", "/apis/icashier"] {
        let body = submit_of("999999999999999", ORDERID, 1);
        let problem = sidecar
            .post(path, body)
            .problem(422, "unknown-merchant", "no");
        assert_eq!(problem["merid"], "999999999999999");
        assert_eq!(problem["orderid"], ORDERID);
    }
    assert_eq!(platform.count(), 0);
}

#[test]
fn an_order_keeps_its_amount_and_action_even_over_a_restart() {
    let platform = Platform::honest(&[(MERID, KEY), (OTHER_MERID, OTHER_KEY)]);
    let url = platform.url();
    let mut sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = merchant(MERID, KEY) + &merchant(OTHER_MERID, OTHER_KEY);
    });
    let orderid = fresh_orderid();
    let first = submit_json(&orderid);
    let other_amount = submit_of(MERID, &orderid, 1281);
    let other_action = first.replace("AliPay", "WeiXin");
    assert_eq!(sidecar.submit(&first).status, 200);
    for run in ["first run", "after a restart"] {
        let sent = platform.count();
        for conflict in [&other_amount, &other_action] {
            for path in ["/api/icashier", "/apis/icashier"] {
                let answer = sidecar.post(path, conflict);
                assert_eq!(answer.status, 409, "{run}: {}", answer.text());
                let problem = answer.problem(409, "order-conflict", "no");
                assert_eq!(problem["orderid"], orderid, "{run}");
                assert_eq!(problem["merid"], MERID, "{run}");
            }
        }
        assert_eq!(platform.count(), sent, "{run}: nothing was sent");
        assert_eq!(
            sidecar.submit(&first).status,
            200,
            "{run}: the same again is allowed"
        );
        let other_merchant = submit_of(OTHER_MERID, &orderid, 1);
        assert_eq!(
            sidecar.submit(other_merchant).status,
            200,
            "{run}: order numbers are a merchant's own"
        );
        assert_eq!(
            sidecar.query(query_json(MERID, &orderid)).status,
            200,
            "{run}: a query is no order"
        );
        sidecar.restart();
    }
}

#[test]
fn a_link_counts_as_signed_too() {
    let sidecar = Sidecar::start(|_| {});
    let orderid = fresh_orderid();
    assert_eq!(
        sidecar.post("/apis/icashier", submit_json(&orderid)).status,
        200
    );
    let other = submit_of(MERID, &orderid, 7);
    sidecar
        .post("/apis/icashier", other)
        .problem(409, "order-conflict", "no");
}

#[test]
fn of_two_amounts_at_once_only_one_is_signed() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let (address, orderid) = (sidecar.app(), fresh_orderid());
    let threads: Vec<_> = (1..=16)
        .map(|amount| {
            let body = submit_of(MERID, &orderid, amount);
            thread::spawn(move || client::post(address, "/api/icashier", body).status)
        })
        .collect();
    let statuses: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
    assert_eq!(
        statuses.iter().filter(|it| **it == 200).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|it| **it == 409).count(),
        15,
        "{statuses:?}"
    );
    assert_eq!(platform.count(), 1);
}

#[test]
fn past_the_bound_in_flight_is_refused_at_once() {
    let platform = Platform::start(|_| Action::Hang);
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.timeout = "2s";
        conf.app = "max_in_flight = 1".to_owned();
    });
    let address = sidecar.app();
    let first =
        thread::spawn(move || client::post(address, "/api/query", query_json(MERID, ORDERID)));
    platform.wait_for(1);
    let began = Instant::now();
    let answer = sidecar.query(query_json(MERID, ORDERID));
    answer.problem(503, "overloaded", "no");
    assert!(began.elapsed() < Duration::from_secs(1));
    let retry_after = answer
        .header("retry-after")
        .and_then(|it| it.parse::<u32>().ok());
    assert!(retry_after.is_some(), "{answer:?}");
    first
        .join()
        .unwrap()
        .problem(504, "platform-timeout", "unknown");
    assert_eq!(platform.count(), 1);
}

#[test]
fn a_refused_connection_and_an_unknown_name_were_certainly_not_sent() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (platform, word) in [(nobody.as_str(), "connect"), ("http://nothing.invalid", "")] {
        let url = platform.to_owned();
        let sidecar = Sidecar::start(|conf| conf.platform = url);
        for path in ["/api/query", "/api/icashier"] {
            let orderid = fresh_orderid();
            let problem = sidecar.post(path, submit_json(&orderid));
            let problem = problem.problem(502, "platform-unreachable", "no");
            let detail = problem["detail"].as_str().unwrap().to_lowercase();
            let says_which = match word {
                "" => ["dns", "name", "resolve", "look"]
                    .iter()
                    .any(|it| detail.contains(it)),
                word => detail.contains(word),
            };
            assert!(says_which, "{platform}: {detail}");
            assert_eq!(problem["orderid"], orderid);
            assert_eq!(problem["merid"], MERID);
        }
    }
}

#[test]
fn a_connection_that_is_never_accepted_was_certainly_not_sent() {
    const NAME: &str = "a_connection_that_is_never_accepted_was_certainly_not_sent";
    // A listener whose backlog is full: the kernel drops further SYNs. Rust's own listener has no backlog to set.
    const SCRIPT: &str = "
import socket, sys
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(0)
held = []
for _ in range(8):
    c = socket.socket(); c.settimeout(0.3)
    try: c.connect(s.getsockname())
    except OSError: print(s.getsockname()[1], flush=True); break
    held.append(c)
else: print('never full', flush=True)
sys.stdin.read()
";
    if !is_installed("python3") {
        return skip(NAME, "python3 is not installed");
    }
    let mut full = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(full.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    match line.trim().parse::<u16>() {
        Err(_) => skip(
            NAME,
            &format!("no backlog could be filled here: {}", line.trim()),
        ),
        Ok(port) => {
            let sidecar = Sidecar::start(|conf| {
                conf.platform = format!("http://127.0.0.1:{port}");
                conf.connect_timeout = "1s";
            });
            let began = Instant::now();
            let answer = sidecar.submit(submit_json(&fresh_orderid()));
            assert!(
                began.elapsed() < Duration::from_millis(2500),
                "{:?}",
                began.elapsed()
            );
            let code = answer.json()["code"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            match code.as_str() {
                "platform-timeout" => answer.problem(504, "platform-timeout", "no"),
                _ => answer.problem(502, "platform-unreachable", "no"),
            };
        }
    }
    drop(full.stdin.take());
    full.wait().unwrap();
}

#[test]
fn an_unsigned_answer_says_what_the_platform_said() {
    let platform = Platform::start(|_| Action::Reply(unsigned("96", "商户号不存在")));
    let sidecar = Sidecar::before(&platform);
    let problem = sidecar
        .query(query_json(MERID, ORDERID))
        .problem(502, "unsigned-answer", "yes");
    assert_eq!(problem["platform"]["respcode"], "96");
    assert_eq!(problem["platform"]["respmsg"], "商户号不存在");
    assert_eq!(
        (&problem["merid"], &problem["orderid"]),
        (&MERID.into(), &ORDERID.into())
    );
}

#[test]
fn another_status_than_200_is_the_platform_s_error() {
    for status in [201, 301, 302, 400, 401, 404, 429, 500, 502, 503] {
        let platform = Platform::start(move |_| Action::Reply(http(status, &[], "no")));
        let sidecar = Sidecar::before(&platform);
        let answer = sidecar.query(query_json(MERID, ORDERID));
        let problem = answer.problem(502, "platform-error", "yes");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&status.to_string()), "{detail}");
    }
}

#[test]
fn a_broken_request_is_answered_with_400() {
    let sidecar = Sidecar::start(|_| {});
    for broken in [
        "what is this\r\n\r\n",
        "POST /api/query HTTP/1.1\r\nHost: app\r\nno colon here\r\n\r\n",
        "POST /api/query HTTP/1.1\r\nHost: app\r\nContent-Length: many\r\n\r\n",
        "POST /api/query HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST /api/query HTTP/1.1\r\nHost: app\r\nContent-Length: -1\r\n\r\n",
        "POST /api/query HTTP/9.9\r\nHost: app\r\n\r\n",
        "POST /api/query HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut connection = Connection::open(sidecar.app()).unwrap();
        let answer = connection.exchange(broken);
        let answer = answer.unwrap_or_else(|error| panic!("{broken:?}: {error}"));
        assert!(
            [400, 501, 505].contains(&answer.status),
            "{broken:?}: {}",
            answer.text()
        );
        assert!(
            connection.is_ended(),
            "{broken:?}: the connection stays open"
        );
    }
}

#[test]
fn a_length_beside_chunks_never_opens_a_second_request() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let smuggled =
        String::from_utf8(post_bytes("/api/query", &[], query_json(MERID, ORDERID))).unwrap();
    let mut connection = Connection::open(sidecar.app()).unwrap();
    let answer = connection.exchange(format!(
        "POST /api/query HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
    ));
    assert_eq!(answer.unwrap().status, 400);
    assert!(connection.is_ended());
    assert_eq!(platform.count(), 0);
}

#[test]
fn a_refusal_never_repeats_the_body() {
    let sidecar = Sidecar::start(|_| {});
    let body = r#"{"merid":"100000000000001","accname":"张三丰","accno":"11010119900307863X","orderid":"x"}"#;
    for path in ["/api/query", "/api/icashier", "/nowhere"] {
        let text = post_with(sidecar.app(), path, &[], body).text();
        assert!(
            !text.contains("张三丰") && !text.contains("11010119900307863X"),
            "{text}"
        );
    }
}
