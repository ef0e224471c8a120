//! Dialects: what other implementations of the document send. The same meaning gives the same result on every path and
//! is counted; a change of meaning gives none.

use crate::harness::{KEY, MERID, ORDERID, Sidecar, eventually, fresh_orderid, query_json};
use crate::platform::{Action, Platform, enveloped, unsigned};
use crate::shop::{SOON, Shop, acknowledged, callback, refused};
use crate::wire;
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
