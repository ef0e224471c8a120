//! The app's listener as HTTP clients find it: any `Content-Type`, `Expect`, reuse, HTTP/1.0, a unix socket.

use crate::client::{Connection, post_bytes, post_with};
use crate::harness::{KEY, MERID, ORDERID, Setup, Sidecar, query_json, skip};
use crate::platform::Platform;
use crate::wire;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

fn honest() -> (Platform, Sidecar) {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    (platform, sidecar)
}

#[test]
fn the_body_is_json_whatever_its_content_type_says() {
    let (_platform, sidecar) = honest();
    for line in [
        "Content-Type: application/json; charset=utf-8",
        "Content-Type: text/plain",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: ;;;",
        "X-No-Content-Type: 1",
    ] {
        let answer = post_with(
            sidecar.app(),
            "/api/query",
            &[line],
            query_json(MERID, ORDERID),
        );
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
    }
}

#[test]
fn expect_is_answered_at_once() {
    let (_platform, sidecar) = honest();
    let body = query_json(MERID, ORDERID);
    for _ in 0..2 {
        let mut connection = Connection::open(sidecar.app()).unwrap();
        let began = Instant::now();
        connection
            .send(format!(
                "POST /api/query HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ))
            .unwrap();
        assert_eq!(connection.receive_status().unwrap(), 100);
        assert!(began.elapsed() < Duration::from_millis(500));
        assert_eq!(connection.exchange(&body).unwrap().status, 200);
    }
}

#[test]
fn a_connection_carries_many_calls_good_and_bad() {
    let (platform, sidecar) = honest();
    let mut connection = Connection::open(sidecar.app()).unwrap();
    for round in 0..20 {
        let orderid = format!("ROUND{round:05}");
        let good = post_bytes("/api/query", &[], query_json(MERID, &orderid));
        let answer = connection.exchange(good).unwrap();
        assert_eq!(answer.json()["orderid"], orderid);
        let bad = post_bytes("/api/query", &[], "{");
        connection
            .exchange(bad)
            .unwrap()
            .problem(400, "invalid-json", "no");
        let lost = post_bytes("/nowhere", &[], "{}");
        connection
            .exchange(lost)
            .unwrap()
            .problem(404, "not-found", "no");
    }
    assert_eq!(platform.count(), 20);
}

#[test]
fn calls_sent_before_the_last_answer_are_answered_in_their_order_or_not_taken() {
    let (platform, sidecar) = honest();
    let mut connection = Connection::open(sidecar.app()).unwrap();
    let together: Vec<u8> = (0..5)
        .flat_map(|n| post_bytes("/api/query", &[], query_json(MERID, &format!("PIPE{n:06}"))))
        .collect();
    connection.send(together).unwrap();
    let mut answered = 0;
    let mut is_last = false;
    while answered < 5 && !is_last {
        let answer = connection.receive().unwrap();
        assert_eq!(answer.json()["orderid"], format!("PIPE{answered:06}"));
        // A server may go after any answer, but it has to say so: then the rest was not taken.
        is_last = answer.header("connection") == Some("close");
        answered += 1;
    }
    assert_eq!(platform.count(), answered);
}

#[test]
fn a_request_in_small_pieces_is_still_one_request() {
    let (platform, sidecar) = honest();
    let mut connection = Connection::open(sidecar.app()).unwrap();
    for piece in post_bytes("/api/query", &[], query_json(MERID, ORDERID)).chunks(7) {
        connection.send(piece).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(connection.receive().unwrap().status, 200);
    assert_eq!(platform.count(), 1);
}

#[test]
fn a_chunked_body_is_put_together() {
    let (platform, sidecar) = honest();
    let body = query_json(MERID, ORDERID);
    let (head, tail) = body.split_at(9);
    let mut connection = Connection::open(sidecar.app()).unwrap();
    for _ in 0..2 {
        let answer = connection
            .exchange(format!(
                "POST /api/query HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {:x};ext=1\r\n{head}\r\n{:X}\r\n{tail}\r\n0\r\nTrailer: x\r\n\r\n",
                head.len(),
                tail.len()
            ))
            .unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(platform.last().plain(), body);
    }
}

#[test]
fn an_http_1_0_client_is_served() {
    let (_platform, sidecar) = honest();
    let body = query_json(MERID, ORDERID);
    let mut connection = Connection::open(sidecar.app()).unwrap();
    let answer = connection
        .exchange(format!(
            "POST /api/query HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .unwrap();
    assert_eq!(
        (answer.status, answer.json()["orderid"].as_str()),
        (200, Some(ORDERID))
    );
    assert!(connection.is_ended());
}

#[test]
fn close_is_honoured() {
    let (_platform, sidecar) = honest();
    let mut connection = Connection::open(sidecar.app()).unwrap();
    let bytes = post_bytes(
        "/api/query",
        &["Connection: close"],
        query_json(MERID, ORDERID),
    );
    assert_eq!(connection.exchange(bytes).unwrap().status, 200);
    assert!(connection.is_ended());
}

#[test]
fn an_absolute_target_and_a_query_string_name_the_same_path() {
    let (platform, sidecar) = honest();
    for target in ["/api/query?trace=1", "http://localhost/api/query"] {
        let answer = sidecar.post(target, query_json(MERID, ORDERID));
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert!(platform.last().target.starts_with("/api/query"));
    }
}

#[test]
fn a_unix_socket_serves_like_a_port() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let url = platform.url();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let sidecar = Setup::new(|conf| {
        conf.platform = url;
        conf.listen = vec![format!("unix:{}", path.display())];
    })
    .start();
    let query = query_json(MERID, ORDERID);
    let plain = post_bytes("/api/query", &[], &query);
    let chunked = in_chunks("/api/query", &[], &query);
    for mut connection in [
        Connection::open_unix(&path).unwrap(),
        Connection::open(sidecar.app()).unwrap(),
    ] {
        for request in [&plain, &plain, &chunked, &plain, &chunked, &chunked, &plain] {
            assert_eq!(connection.exchange(request).unwrap().status, 200);
        }
        connection
            .send([chunked.as_slice(), &plain, &plain].concat())
            .unwrap();
        for _ in 0..3 {
            assert_eq!(connection.receive().unwrap().status, 200);
        }
    }
}

/// The same request with its body in chunks: nothing that is read at a glance.
fn in_chunks(path: &str, further: &[&str], body: &str) -> Vec<u8> {
    let head = post_bytes(path, further, "");
    let head = String::from_utf8(head).unwrap();
    let head = head.replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let (first, second) = body.split_at(body.len() / 2);
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    format!("{head}{}{}0\r\n\r\n", chunk(first), chunk(second)).into_bytes()
}

#[test]
fn what_a_request_says_of_itself_goes_on_however_it_is_framed() {
    let (platform, sidecar) = honest();
    let further = [
        "Content-Type: text/plain; charset=gbk",
        "User-Agent: shop/1.0",
        "Cookie: a=b",
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Request-Id: mine",
    ];
    let signed = wire::request(query_json(MERID, ORDERID), KEY);
    let mut connection = Connection::open(sidecar.app()).unwrap();
    for request in [
        post_bytes("/api/query", &further, &signed),
        in_chunks("/api/query", &further, &signed),
    ] {
        let answer = connection.exchange(request).unwrap();
        assert_eq!(
            (answer.status, answer.header("x-request-id")),
            (200, Some("mine"))
        );
        let seen = platform.last();
        for field in &further[..4] {
            let (name, value) = field.split_once(": ").unwrap();
            assert_eq!(seen.header(&name.to_lowercase()), Some(value));
        }
    }
}

#[test]
fn who_may_enter_the_folder_of_a_unix_socket_may_sign() {
    let name = "who_may_enter_the_folder_of_a_unix_socket_may_sign";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    // The mask of the systemd unit.
    let _sidecar = Setup::new(|conf| conf.listen = vec![format!("unix:{}", path.display())])
        .start_under_mask("0077");
    let by_another_user = || {
        let output = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "curl",
                "--silent",
            ])
            .args([
                "--write-out",
                "%{http_code}",
                "--data",
                "{",
                "--output",
                "/dev/null",
                "--unix-socket",
            ])
            .arg(&path)
            .arg("http://app/api/query")
            .output();
        output.map(|output| String::from_utf8(output.stdout).unwrap())
    };
    let enter = |mode| fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
    enter(0o700);
    match by_another_user() {
        Ok(status) if status == "000" => {}
        other => {
            return skip(
                name,
                &format!("curl cannot be run as another user: {other:?}"),
            );
        }
    }
    enter(0o755);
    assert_eq!(by_another_user().unwrap(), "400");
}

#[test]
fn a_unix_socket_left_behind_by_a_killed_run_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let mut sidecar = Sidecar::start(|conf| conf.listen = vec![format!("unix:{}", path.display())]);
    sidecar.restart();
    let mut connection = Connection::open_unix(&path).unwrap();
    let answer = connection
        .exchange(post_bytes("/api/query", &[], "{"))
        .unwrap();
    answer.problem(400, "invalid-json", "no");
}
