//! The body of a call: one JSON object, no member twice, within bounds; anything else is refused before it is signed.

use crate::client::Connection;
use crate::harness::{KEY, MERID, ORDERID, Sidecar, query_json};
use crate::platform::Platform;
use std::time::{Duration, Instant};

#[test]
fn whatever_is_not_one_json_object_is_refused() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let good = query_json(MERID, ORDERID);
    let deep = format!(
        "{{\"orderid\":\"{ORDERID}\",\"x\":{}{}}}",
        "[".repeat(40),
        "]".repeat(40)
    );
    let very_deep = "{\"x\":".repeat(10_000);
    let mut not_utf8 = good.clone().into_bytes();
    not_utf8[2] = 0xff;
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("spaces", b"  \r\n".to_vec()),
        ("text", b"hello".to_vec()),
        ("cut off", good.as_bytes()[..good.len() - 1].to_vec()),
        ("array", format!("[{good}]").into()),
        ("string", b"\"x\"".to_vec()),
        ("number", b"1".to_vec()),
        ("null", b"null".to_vec()),
        ("trailing text", format!("{good} x").into()),
        ("two objects", format!("{good}{good}").into()),
        ("trailing zero byte", format!("{good}\0").into()),
        (
            "trailing comma",
            format!("{},}}", &good[..good.len() - 1]).into(),
        ),
        ("single quotes", good.replace('"', "'").into()),
        ("comment", format!("/* x */{good}").into()),
        (
            "raw line break in a string",
            good.replace(ORDERID, "ORD\n1234567").into(),
        ),
        ("invalid utf-8", not_utf8),
        (
            "utf-16",
            good.encode_utf16().flat_map(u16::to_be_bytes).collect(),
        ),
        (
            "gbk",
            [good.replace('}', ",\"n\":\"").as_bytes(), b"\xd5\xc5\"}"].concat(),
        ),
        (
            "lone surrogate",
            good.replace('}', ",\"n\":\"\\ud800\"}").into(),
        ),
        (
            "surrogates the wrong way round",
            good.replace('}', ",\"n\":\"\\udc00\\ud800\"}").into(),
        ),
        (
            "lone surrogate in a name",
            good.replace('}', ",\"\\ud800\":1}").into(),
        ),
        ("bad escape", good.replace('}', ",\"n\":\"\\x41\"}").into()),
        ("leading zero", good.replace('}', ",\"n\":01}").into()),
        ("NaN", good.replace('}', ",\"n\":NaN}").into()),
        ("deep", deep.into()),
        ("very deep", very_deep.into()),
    ];
    for (name, body) in &bad {
        let answer = sidecar.query(body);
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        answer.problem(400, "invalid-json", "no");
    }
    assert_eq!(platform.count(), 0);
    assert_eq!(sidecar.query(good).status, 200, "still there");
}

#[test]
fn nesting_within_bounds_is_let_through() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let body = format!(
        "{{\"merid\":\"{MERID}\",\"orderid\":\"{ORDERID}\",\"x\":{}{}}}",
        "[".repeat(20),
        "]".repeat(20)
    );
    assert_eq!(sidecar.query(body).status, 200);
}

#[test]
fn no_member_may_stand_twice_however_it_is_written() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let good = query_json(MERID, ORDERID);
    for further in [
        "\"merid\":\"100000000000001\"",
        "\"m\\u0065rid\":\"100000000000001\"",
        "\"\\u006d\\u0065\\u0072\\u0069\\u0064\":\"1\"",
        "\"x\":1,\"x\":1",
        "\"deep\":{\"a\":1,\"a\":2}",
        "\"deep\":[{\"b\":{\"\\u0061\":1,\"a\":2}}]",
        "\"\":1,\"\":2",
        "\"\\ud83d\\udcb0\":1,\"\u{1f4b0}\":2",
    ] {
        let body = good.replace('}', &format!(",{further}}}"));
        let answer = sidecar.query(&body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        answer.problem(400, "duplicate-member", "no");
    }
    assert_eq!(platform.count(), 0);
    let apart = good.replace('}', ",\"Merid\":1,\"a\":{\"merid\":1},\"b\":{\"merid\":1}}");
    assert_eq!(
        sidecar.query(apart).status,
        200,
        "the same name in other objects is none"
    );
}

#[test]
fn a_body_past_the_bound_is_refused_before_it_arrives() {
    let sidecar = Sidecar::start(|_| {});
    for further in ["", "Expect: 100-continue\r\n"] {
        let mut connection = Connection::open(sidecar.app()).unwrap();
        let began = Instant::now();
        let answer = connection
            .exchange(format!(
                "POST /api/query HTTP/1.1\r\nHost: app\r\n{further}Content-Length: 65537\r\n\r\n"
            ))
            .unwrap();
        answer.problem(413, "body-too-large", "no");
        assert!(
            answer.interim.is_empty(),
            "no 100 for a body that is not wanted"
        );
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_chunked_body_past_the_bound_is_refused() {
    let sidecar = Sidecar::start(|_| {});
    let mut connection = Connection::open(sidecar.app()).unwrap();
    connection
        .send("POST /api/query HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..4 {
        connection.send(&chunk).unwrap();
    }
    // One byte past 64 KiB, and no end: the answer must not wait for more.
    connection.send("1\r\nx\r\n").unwrap();
    connection
        .receive()
        .unwrap()
        .problem(413, "body-too-large", "no");
}

#[test]
fn a_body_of_exactly_the_bound_is_let_through() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.app = "max_body = \"1KiB\"".to_owned();
    });
    let body = format!("{:<1024}", query_json(MERID, ORDERID));
    assert_eq!(sidecar.query(&body).status, 200);
    sidecar
        .query(format!("{body} "))
        .problem(413, "body-too-large", "no");
}
