//! The rules for fields (§3.1.3, §3.4.3 of the document), each refused by name before anything is signed or sent.

use crate::harness::{KEY, MERID, ORDERID, Sidecar, fresh_orderid, submit_json};
use crate::platform::Platform;
use serde_json::{Value, json};

/// A good submit with one member changed; `None` leaves it out.
fn submit_with(field: &str, value: Option<Value>) -> String {
    let mut json: Value = serde_json::from_str(&submit_json(&fresh_orderid())).unwrap();
    let members = json.as_object_mut().unwrap();
    match value {
        Some(value) => drop(members.insert(field.to_owned(), value)),
        None => drop(members.remove(field)),
    }
    json.to_string()
}

#[test]
fn every_field_rule_refuses_by_name_and_nothing_is_sent() {
    let bad: &[(&str, Option<Value>)] = &[
        ("action", None),
        ("action", Some(json!(""))),
        ("action", Some(json!("Cash"))),
        ("action", Some(json!("alipay"))),
        ("action", Some(json!(1))),
        ("action", Some(json!(null))),
        ("txnamt", None),
        ("txnamt", Some(json!("1280"))),
        ("txnamt", Some(json!(0))),
        ("txnamt", Some(json!(-1))),
        ("txnamt", Some(json!(12.5))),
        ("txnamt", Some(json!(12.0))),
        ("txnamt", Some(json!(true))),
        ("txnamt", Some(json!([1]))),
        ("merid", Some(json!(1))),
        ("orderid", None),
        ("orderid", Some(json!(""))),
        ("orderid", Some(json!("ABC1234"))),
        ("orderid", Some(json!("A".repeat(33)))),
        ("orderid", Some(json!("ORD-2017-0001"))),
        ("orderid", Some(json!("ORD 20170001"))),
        ("orderid", Some(json!("订单订单订单订单"))),
        ("orderid", Some(json!("ＡＢＣＤ１２３４"))),
        ("orderid", Some(json!(123_456_789))),
        ("backurl", None),
        ("backurl", Some(json!(""))),
        ("backurl", Some(json!("/pay/back"))),
        ("backurl", Some(json!("shop.example.com/back"))),
        ("backurl", Some(json!("ftp://shop.example.com/back"))),
        ("backurl", Some(json!("javascript:alert(1)"))),
        ("backurl", Some(json!("http://"))),
        ("backurl", Some(json!(7))),
        ("fronturl", Some(json!("../front"))),
        ("fronturl", Some(json!("file:///etc/passwd"))),
        ("fronturl", Some(json!(7))),
    ];
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    for (field, value) in bad {
        for path in ["/api/icashier", "/apis/icashier"] {
            let body = submit_with(field, value.clone());
            let answer = sidecar.post(path, &body);
            assert_eq!(answer.status, 422, "{path} {body}: {}", answer.text());
            let problem = answer.problem(422, "invalid-field", "no");
            assert_eq!(problem["field"], *field, "{body}: {problem}");
        }
    }
    assert_eq!(platform.count(), 0);
}

#[test]
fn a_query_names_an_order_one_way_or_the_other() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    for body in [
        json!({"merid": MERID}),
        json!({"merid": MERID, "memo": "neither"}),
        json!({"merid": MERID, "orderid": 7}),
        json!({"merid": MERID, "queryid": 7}),
    ] {
        let answer = sidecar.query(body.to_string());
        let problem = answer.problem(422, "invalid-field", "no");
        let field = problem["field"].as_str().unwrap_or_default();
        assert!(
            field.contains("orderid") || field.contains("queryid"),
            "{body}: {problem}"
        );
    }
    assert_eq!(platform.count(), 0);
    for body in [
        json!({"merid": MERID, "orderid": ORDERID}),
        json!({"merid": MERID, "queryid": "Q20170301123456789"}),
    ] {
        assert_eq!(sidecar.query(body.to_string()).status, 200);
    }
}

#[test]
fn what_the_document_allows_is_let_through() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let good: &[(&str, Value)] = &[
        ("action", json!("Bank")),
        ("action", json!("WeiXin")),
        ("action", json!("AliPay")),
        ("action", json!("Arbi")),
        ("txnamt", json!(1)),
        ("txnamt", json!(99_999_999)),
        ("orderid", json!("A1b2C3d4")),
        ("orderid", json!("z".repeat(32))),
        ("backurl", json!("http://10.0.0.1:8080/b?x=1&y=%20#f")),
        ("backurl", json!("https://[::1]/b")),
        ("fronturl", json!("https://shop.example.com/f")),
        ("accname", json!("张三丰")),
        ("unknown", json!({"deep": [1, null]})),
    ];
    for (field, value) in good {
        let body = submit_with(field, Some(value.clone()));
        let answer = sidecar.submit(&body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(platform.last().plain(), body);
    }
}

#[test]
fn a_refusal_says_whose_order_it_was() {
    let sidecar = Sidecar::start(|_| {});
    let body = json!({
        "action": "Cash", "txnamt": 1, "merid": MERID, "orderid": ORDERID,
        "backurl": "https://shop.example.com/b",
    });
    let problem = sidecar
        .submit(body.to_string())
        .problem(422, "invalid-field", "no");
    assert_eq!(
        (&problem["merid"], &problem["orderid"]),
        (&json!(MERID), &json!(ORDERID))
    );
}
