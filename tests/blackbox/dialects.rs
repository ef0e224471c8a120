//! Dialects: what other implementations of the document send. The same meaning gives the same result on every path and
//! is counted; a change of meaning gives none.

use crate::client::post_with;
use crate::harness::{KEY, MERID, ORDERID, Sidecar, eventually, fresh_orderid, query_json};
use crate::platform::{Action, Platform, enveloped, http, unsigned};
use crate::shop::{SOON, Shop, acknowledged, callback, refused};
use crate::wire;
use crate::wrong_answers::gzip;
use serde_json::json;
use std::sync::{Arc, Mutex};

const QUERYID: &str = "9007199254740993";

/// A result (§3.3.3) with the raw JSON of one member replaced; `None` leaves the member out.
fn result_with(orderid: &str, queryid: &str, member: &str, raw: Option<&str>) -> String {
    let quoted = |text: &str| format!("\"{text}\"");
    let members = [
        ("resultcode", quoted("1002")),
        ("resultmsg", quoted("处理中")),
        ("queryid", quoted(queryid)),
        ("txnamt", "1280".to_owned()),
        ("merid", quoted(MERID)),
        ("orderid", quoted(orderid)),
        ("paytime", quoted("2017-03-01 12:00:05")),
    ];
    let members = members.into_iter().filter_map(|(name, value)| {
        let value = match (name == member, raw) {
            (true, raw) => raw?.to_owned(),
            (false, _) => value,
        };
        Some(format!("\"{name}\":{value}"))
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// Members written otherwise with the same meaning, and the kind that it is counted under; none where the document
/// allows it.
const SAME: &[(&str, Option<&str>, &str)] = &[
    ("paytime", Some("1488340805000"), "other-scalar"),
    ("paytime", Some("-1.5e3"), "other-scalar"),
    ("paytime", Some("false"), "other-scalar"),
    ("paytime", Some("null"), ""),
    ("paytime", Some("\"\""), ""),
    ("paytime", None, ""),
    ("resultmsg", Some("0"), "other-scalar"),
    ("resultmsg", Some("null"), ""),
    ("resultmsg", None, ""),
    ("txnamt", Some("\"1280\""), "quoted-amount"),
    ("txnamt", Some("1280.0"), "amount-with-zeros"),
    ("txnamt", Some("\"1280.00\""), "amount-with-zeros"),
    ("merid", Some(MERID), "integer-for-string"),
    ("queryid", Some(QUERYID), "integer-for-string"),
    ("resultcode", Some("1002"), "integer-for-string"),
];

/// Members whose change makes the payload unreadable.
const UNREADABLE: &[(&str, Option<&str>)] = &[
    ("txnamt", Some("1280.5")),
    ("txnamt", Some("1.28e3")),
    ("txnamt", Some("\"+1280\"")),
    ("txnamt", Some("\"01280\"")),
    ("txnamt", Some("\"1280 \"")),
    ("txnamt", Some("[1280]")),
    ("queryid", Some("1.0")),
    ("queryid", Some("-1")),
    ("queryid", Some("\"\"")),
    ("queryid", None),
    ("orderid", Some("true")),
    ("resultcode", Some("0")),
    ("resultcode", Some("1002.0")),
    ("resultmsg", Some("{}")),
    ("paytime", Some("[]")),
];

fn oddities(sidecar: &Sidecar, kind: &str) -> f64 {
    let kind = format!("kind=\"{kind}\"");
    sidecar
        .metrics()
        .sum(&["countersign_oddities_total{", &kind])
}

#[test]
fn a_notification_that_means_the_same_is_acknowledged_delivered_as_it_is_and_counted() {
    let shop = Shop::open();
    assert_eq!(SAME.len(), 15);
    for (at, (member, raw, kind)) in SAME.iter().enumerate() {
        let (queryid, orderid) = (format!("{QUERYID}{at}"), fresh_orderid());
        let raw = raw.map(|raw| raw.replace(QUERYID, &queryid));
        let json = result_with(&orderid, &queryid, member, raw.as_deref());
        let before = oddities(&shop.sidecar, kind);
        let answer = callback(shop.address(), wire::answer(&json, KEY));
        acknowledged(&answer);
        let grows = oddities(&shop.sidecar, kind) > before;
        assert_eq!(grows, !kind.is_empty(), "{json}: {kind:?}");
        eventually(&json, SOON, || {
            shop.deliveries().iter().any(|taken| taken.body == json)
        });
    }
}

#[test]
fn quoted_and_unquoted_are_one_event() {
    let shop = Shop::open();
    let orderid = fresh_orderid();
    let as_number = |member| match member {
        "queryid" => QUERYID,
        "merid" => MERID,
        "resultcode" => "1002",
        _ => "\"1280.0\"",
    };
    let plain = result_with(&orderid, QUERYID, "", None);
    acknowledged(&callback(shop.address(), wire::answer(&plain, KEY)));
    for member in ["queryid", "merid", "resultcode", "txnamt"] {
        let json = result_with(&orderid, QUERYID, member, Some(as_number(member)));
        acknowledged(&callback(shop.address(), wire::answer(&json, KEY)));
    }
    shop.goes_well();
    let told = shop.deliveries();
    assert_eq!(told.iter().filter(|it| it.body == plain).count(), 1);
    assert_eq!(told.len(), 2, "one result, and the one that goes well");
}

#[test]
fn a_notification_whose_meaning_changed_is_never_acknowledged_nor_delivered() {
    let shop = Shop::open();
    for (member, raw) in UNREADABLE {
        let json = result_with(&fresh_orderid(), QUERYID, member, *raw);
        refused(&json, &callback(shop.address(), wire::answer(&json, KEY)));
    }
    shop.goes_well();
    assert_eq!(shop.deliveries().len(), 1);
}

/// A sidecar whose platform says to each query what `said` has last.
fn platform_that_says() -> (Platform, Sidecar, Arc<Mutex<Vec<u8>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let saying = Arc::clone(&said);
    let platform = Platform::start(move |_| Action::Reply(saying.lock().unwrap().clone()));
    let sidecar = Sidecar::before(&platform);
    (platform, sidecar, said)
}

#[test]
fn a_querys_response_is_read_as_a_notification_is() {
    let (_platform, sidecar, said) = platform_that_says();
    let success = |json: String| json.replacen('{', "{\"respcode\":\"00\",\"respmsg\":\"ok\",", 1);
    for (member, raw, kind) in SAME {
        let json = success(result_with(ORDERID, QUERYID, member, *raw));
        *said.lock().unwrap() = enveloped(wire::answer(&json, KEY));
        let before = oddities(&sidecar, kind);
        let answer = sidecar.query(query_json(MERID, ORDERID));
        assert_eq!((answer.status, answer.text()), (200, json));
        let grows = oddities(&sidecar, kind) > before;
        assert_eq!(grows, !kind.is_empty(), "{member} {raw:?}");
    }
    for (member, raw) in UNREADABLE {
        let json = success(result_with(ORDERID, QUERYID, member, *raw));
        *said.lock().unwrap() = enveloped(wire::answer(&json, KEY));
        let answer = sidecar.query(query_json(MERID, ORDERID));
        let problem = answer.problem(502, "malformed-answer", "yes");
        assert_eq!(problem["field"], *member, "{json}");
    }
}

#[test]
fn a_failed_query_reaches_the_app_whatever_stands_in_the_rest() {
    let (_platform, sidecar, said) = platform_that_says();
    for rest in [
        "",
        r#","resultcode":null,"resultmsg":null,"queryid":null,"txnamt":null,"merid":null,"orderid":null,"paytime":null"#,
        r#","resultcode":"","resultmsg":"","queryid":"","txnamt":0,"merid":"","orderid":"","paytime":"""#,
        r#","resultcode":0,"queryid":0,"txnamt":"","merid":0,"orderid":0"#,
    ] {
        for respcode in ["25", "\"25\"", "\"XX\"", "0"] {
            let json = format!("{{\"respcode\":{respcode},\"respmsg\":\"订单不存在\"{rest}}}");
            *said.lock().unwrap() = enveloped(wire::answer(&json, KEY));
            let answer = sidecar.query(query_json(MERID, ORDERID));
            assert_eq!((answer.status, answer.text()), (200, json));
        }
    }
}

#[test]
fn an_orderid_beside_the_queryid_is_not_held_against_the_response() {
    let (_platform, sidecar, said) = platform_that_says();
    let json = result_with(ORDERID, QUERYID, "", None);
    *said.lock().unwrap() = enveloped(wire::answer(&json, KEY));
    let asked = |queryid: &str, orderid: &str| {
        let asked = json!({"merid": MERID, "queryid": queryid, "orderid": orderid});
        sidecar.query(asked.to_string())
    };
    assert_eq!(asked(QUERYID, "OTHERORDER99").text(), json);
    asked("9007199254740992", ORDERID).problem(502, "foreign-answer", "yes");
    asked("", "OTHERORDER99").problem(502, "foreign-answer", "yes");
}

#[test]
fn an_unsigned_response_is_told_with_the_platforms_words() {
    let (_platform, sidecar, said) = platform_that_says();
    let text = wire::base64(r#"{"respcode":"96","respmsg":"商户号不存在"}"#);
    let resp = wire::percent(&text);
    let object = |sign: &str| format!("{{\"resp\":\"{text}\"{sign}}}");
    for body in [
        format!("resp={resp}"),
        format!("resp={resp}&sign"),
        format!("resp={resp}&sign=null"),
        format!("resp={resp}&sign=%20"),
        object(""),
        object(",\"sign\":null"),
        object(",\"sign\":\"\""),
        object(",\"sign\":\" \""),
        object(",\"sign\":\"null\""),
    ] {
        *said.lock().unwrap() = enveloped(&body);
        let answer = sidecar.query(query_json(MERID, ORDERID));
        let problem = answer.problem(502, "unsigned-answer", "yes");
        assert_eq!(problem["platform"]["respcode"], "96", "{body}");
        assert_eq!(problem["platform"]["respmsg"], "商户号不存在", "{body}");
    }
    *said.lock().unwrap() = unsigned("96", "x");
    sidecar
        .query(query_json(MERID, ORDERID))
        .problem(502, "unsigned-answer", "yes");
}

#[test]
fn what_stands_around_an_envelope_is_no_matter() {
    let (_platform, sidecar, said) = platform_that_says();
    let shop = Shop::open();
    let text = |json: &str| (wire::base64(json), wire::sign(&wire::base64(json), KEY));
    for (before, after, kind) in [
        ("\u{feff}", "", "byte-order-mark"),
        (" \r\n\t", "\n", "whitespace"),
        ("\0", "\0\0", "nul"),
        ("\u{feff}\0 ", " \0", "nul"),
    ] {
        for form in [true, false] {
            let around = |json: &str| {
                let (text, sign) = text(json);
                match form {
                    true => format!("{before}{}{after}", wire::answer_around(&text, &sign)),
                    false => format!("{before}{{\"resp\":\"{text}\",\"sign\":\"{sign}\"}}{after}"),
                }
            };
            let json = result_with(ORDERID, QUERYID, "", None);
            *said.lock().unwrap() = enveloped(around(&json));
            let counted = oddities(&sidecar, kind);
            let answer = sidecar.query(query_json(MERID, ORDERID));
            assert_eq!((answer.status, answer.text()), (200, json), "{kind}");
            assert!(oddities(&sidecar, kind) > counted, "{kind}");
            let json = result_with(&fresh_orderid(), &fresh_orderid(), "", None);
            acknowledged(&callback(shop.address(), around(&json)));
        }
    }
}

#[test]
fn a_submit_with_an_empty_fronturl_is_signed() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    for fronturl in ["\"\"", "null"] {
        let submit = format!(
            "{{\"action\":\"AliPay\",\"txnamt\":1280,\"merid\":\"{MERID}\",\"orderid\":\"{}\",\
             \"backurl\":\"https://shop.example.com/b\",\"fronturl\":{fronturl}}}",
            fresh_orderid()
        );
        let answer = sidecar.submit(&submit);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(platform.last().plain(), submit);
    }
}

#[test]
fn a_response_is_read_through_its_content_encoding() {
    let (_platform, sidecar, said) = platform_that_says();
    let json = result_with(ORDERID, QUERYID, "", None);
    let form = wire::answer(&json, KEY);
    for (coding, body, kind) in [
        ("gzip", gzip(form.as_bytes()), "gzip"),
        ("x-gzip", gzip(form.as_bytes()), "gzip"),
        ("identity", form.clone().into_bytes(), "content-encoding"),
        ("UTF-8", form.clone().into_bytes(), "content-encoding"),
        ("GBK", form.clone().into_bytes(), "content-encoding"),
    ] {
        let field = format!("Content-Encoding: {coding}");
        *said.lock().unwrap() = http(200, &[&field], body);
        let before = oddities(&sidecar, kind);
        let answer = sidecar.query(query_json(MERID, ORDERID));
        assert_eq!(
            (answer.status, answer.text()),
            (200, json.clone()),
            "{coding}"
        );
        assert!(oddities(&sidecar, kind) > before, "{coding}");
    }
}

#[test]
fn a_malformed_response_is_described_and_never_quoted() {
    let (_platform, sidecar, said) = platform_that_says();
    let page = b"<html><title>Are you a robot?</title>".as_slice();
    let cases: [(&[&str], Vec<u8>, &[&str]); 6] = [
        (
            &["Content-Type: text/html; charset=utf-8"],
            page.to_vec(),
            &["text/html; charset=utf-8", "37 bytes", "an HTML page"],
        ),
        (
            &["Content-Type: text/html", "Content-Encoding: gzip"],
            gzip(page),
            &["text/html", "gzip"],
        ),
        (&[], gzip(page), &["no content type", "gzip"]),
        (
            &["Content-Type: text/plain"],
            Vec::new(),
            &["text/plain", "empty"],
        ),
        (&[], b"\xff\xfer\0e\0".to_vec(), &["6 bytes"]),
        (
            &["Content-Type: application/json"],
            b"{}".to_vec(),
            &["a JSON object"],
        ),
    ];
    for (fields, body, named) in cases {
        *said.lock().unwrap() = http(200, fields, body);
        let answer = sidecar.query(query_json(MERID, ORDERID));
        let problem = answer.problem(502, "malformed-answer", "yes");
        let detail = problem["detail"].as_str().unwrap();
        for part in named {
            assert!(detail.contains(part), "{part} is not in {detail:?}");
        }
        assert!(!detail.contains("robot"), "{detail}");
    }
    *said.lock().unwrap() = http(
        301,
        &["Location: https://pay.example.com/api/query?x=secret"],
        "",
    );
    let answer = sidecar.query(query_json(MERID, ORDERID));
    let detail = answer.problem(502, "platform-error", "yes")["detail"].to_string();
    assert!(
        detail.contains("got 301, a redirect to https://pay.example.com/api/query"),
        "{detail}"
    );
    assert!(!detail.contains("secret"), "{detail}");
}

/// Bodies that an app's library may read as a result.
fn disguises() -> Vec<(&'static str, Vec<&'static str>, Vec<u8>)> {
    let json = "{\"respcode\":\"00\",\"resultcode\":\"0000\"}";
    let string = serde_json::to_string(json).unwrap();
    let wide = |mark: &[u8], little: bool| {
        let units = json.encode_utf16();
        let bytes = units.flat_map(|unit| {
            if little {
                unit.to_le_bytes()
            } else {
                unit.to_be_bytes()
            }
        });
        mark.iter().copied().chain(bytes).collect::<Vec<u8>>()
    };
    vec![
        (
            "a byte order mark",
            vec!["Content-Type: application/json"],
            format!("\u{feff}{json}").into(),
        ),
        (
            "two byte order marks",
            vec![],
            format!("\u{feff}\u{feff}{json}").into(),
        ),
        (
            "white space",
            vec!["Content-Type: text/html"],
            format!(" \r\n\t{json}").into(),
        ),
        (
            "other white space",
            vec![],
            format!("\u{a0}\u{3000}{json}").into(),
        ),
        ("NULs", vec![], format!("\0\0{json}").into()),
        ("UTF-16 with a mark", vec![], wide(b"\xff\xfe", true)),
        ("UTF-16 without one", vec![], wide(b"", true)),
        (
            "UTF-16 of the other kind",
            vec!["Content-Type: text/html"],
            wide(b"\xfe\xff", false),
        ),
        ("a JSON string", vec![], string.clone().into()),
        (
            "JSONP",
            vec!["Content-Type: text/javascript"],
            format!("callback({json});").into(),
        ),
        (
            "JSONP behind a comment",
            vec![],
            format!("/**/ cb && cb({json})").into(),
        ),
        ("JSONP of a string", vec![], format!("cb({string})").into()),
        (
            "a prefix against scripts",
            vec![],
            format!(")]}}',\n{json}").into(),
        ),
        ("an array", vec![], format!("[{json}]").into()),
        (
            "a form",
            vec!["Content-Type: text/html"],
            "respcode=00&resultcode=0000".into(),
        ),
        (
            "a form with other names",
            vec!["Content-Type: text/html"],
            "code=00&state=paid".into(),
        ),
        (
            "an envelope without a sign",
            vec![],
            format!("resp={}", wire::base64(json)).into(),
        ),
        (
            "gzip",
            vec!["Content-Encoding: gzip"],
            gzip(json.as_bytes()),
        ),
        (
            "gzip of a form",
            vec!["Content-Encoding: gzip", "Content-Type: text/html"],
            gzip(b"respcode=00&resultcode=0000"),
        ),
        (
            "gzip that does not say so",
            vec!["Content-Type: text/html"],
            gzip(json.as_bytes()),
        ),
        (
            "a coding that nobody here knows",
            vec!["Content-Encoding: br", "Content-Type: text/html"],
            b"\x0b\x02\x80{}\x03".to_vec(),
        ),
        (
            "two layers",
            vec!["Content-Encoding: gzip, gzip"],
            gzip(&gzip(json.as_bytes())),
        ),
    ]
}

#[test]
fn a_submits_response_that_could_be_taken_for_a_result_is_never_relayed() {
    let (_platform, sidecar, said) = platform_that_says();
    let order = || {
        json!({"action": "AliPay", "txnamt": 1280, "merid": MERID, "orderid": fresh_orderid(),
            "backurl": "https://shop.example.com/b"})
        .to_string()
    };
    for (name, fields, body) in disguises() {
        for status in [200, 201] {
            *said.lock().unwrap() = http(status, &fields, &body);
            let answer = sidecar.submit(order());
            assert!(
                [502].contains(&answer.status),
                "{name}: {} {:?}",
                answer.status,
                answer.text()
            );
            assert!(!answer.text().contains("\"0000\""), "{name}");
            assert_ne!(
                answer.header("countersign-verified"),
                Some("true"),
                "{name}"
            );
        }
    }
    let page = "<html><script>var x = {\"resultcode\":\"0000\"}</script>";
    for (fields, body) in [
        (vec![], page.as_bytes().to_vec()),
        (
            vec!["Content-Type: application/json"],
            page.as_bytes().to_vec(),
        ),
        (vec!["Content-Encoding: utf-8"], page.as_bytes().to_vec()),
        (vec!["Content-Encoding: gzip"], gzip(page.as_bytes())),
        (vec![], format!("\u{feff}\n{page}").into_bytes()),
        (vec![], "Service busy".into()),
        (
            vec!["Content-Type: image/png"],
            b"\x89PNG\r\n\x1a\n{\"a\":1}".to_vec(),
        ),
    ] {
        *said.lock().unwrap() = http(200, &fields, &body);
        let answer = sidecar.submit(order());
        assert_eq!((answer.status, &answer.body), (200, &body), "{fields:?}");
        assert_eq!(answer.header("countersign-verified"), Some("false"));
    }
}

#[test]
fn an_app_that_signs_may_send_multipart_or_put_the_envelope_into_the_url() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let form = wire::request(query_json(MERID, ORDERID), KEY);
    let part = |name: &str| {
        let value = wire::value(&form, name).unwrap();
        format!("--x-1\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let body = part("req") + &part("sign") + "--x-1--\r\n";
    let kind = "Content-Type: multipart/form-data; boundary=x-1";
    let answer = post_with(sidecar.app(), "/api/query", &[kind], &body);
    assert_eq!(answer.header("countersign-shadow"), Some("match"));
    let seen = platform.last();
    assert_eq!(
        (seen.form(), seen.header("content-type")),
        (body, Some("multipart/form-data; boundary=x-1"))
    );

    let target = format!("/api/query?{form}");
    let answer = post_with(sidecar.app(), &target, &[], "");
    assert_eq!(
        answer.header("countersign-shadow"),
        Some("match"),
        "{}",
        answer.text()
    );
    assert_eq!(
        (platform.last().target, platform.last().body),
        (target, Vec::new())
    );
}
