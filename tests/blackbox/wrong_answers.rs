//! Everything wrong that an answer can be: each kind refused under its own code, none ever handed to the app.

use crate::harness::{
    KEY, MERID, ORDERID, OTHER_KEY, OTHER_MERID, Sidecar, merchant, query_json, submit_json,
};
use crate::platform::{Action, Platform, enveloped, http};
use crate::wire;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const BAD_SIGNATURE: &str = "bad-signature";
const FOREIGN: &str = "foreign-answer";
const MALFORMED: &str = "malformed-answer";
const PLATFORM_ERROR: &str = "platform-error";
const UNSIGNED: &str = "unsigned-answer";

/// One kind: its name, what the platform says, the code that the app gets.
type Kind = (&'static str, Vec<u8>, &'static str);

/// A right answer to the query that the test makes.
fn right() -> Value {
    json!({
        "respcode": "00", "respmsg": "成功", "resultcode": "0000", "resultmsg": "交易成功",
        "queryid": "Q20170301123456789", "txnamt": 1280, "merid": MERID, "orderid": ORDERID,
        "paytime": "2017-03-01 12:00:05",
    })
}

/// The right answer with one member changed or, with `None`, left out; signed well.
fn with(member: &str, value: Option<Value>) -> Vec<u8> {
    let mut json = right();
    let members = json.as_object_mut().unwrap();
    match value {
        Some(value) => drop(members.insert(member.to_owned(), value)),
        None => drop(members.remove(member)),
    }
    signed(json.to_string())
}

/// Any bytes in an envelope, signed well.
fn signed(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    enveloped(wire::answer(bytes, KEY))
}

/// The right answer's JSON with this text put before its last brace, signed well.
fn with_further(text: &str) -> Vec<u8> {
    let json = right().to_string();
    signed(format!("{},{text}}}", &json[..json.len() - 1]))
}

fn object(body: String) -> Vec<u8> {
    http(200, &["Content-Type: application/json"], body)
}

fn wrong_signs() -> Vec<Kind> {
    let json = right().to_string();
    let text = wire::base64(&json);
    let sign = wire::sign(&text, KEY);
    let under = |sign: &str| enveloped(wire::answer_around(&text, sign));
    let (resp, key) = (wire::percent(&text), KEY.as_bytes());
    let mut flipped = sign.clone().into_bytes();
    flipped[31] = if flipped[31] == b'0' { b'1' } else { b'0' };
    vec![
        ("no sign", enveloped(format!("resp={resp}")), UNSIGNED),
        ("null for a sign", under("null"), UNSIGNED),
        ("a blank sign", under(" "), UNSIGNED),
        ("empty sign", under(""), UNSIGNED),
        ("short sign", under(&sign[..31]), BAD_SIGNATURE),
        ("33 hex digits", under(&format!("{sign}0")), BAD_SIGNATURE),
        ("no hex", under(&"g".repeat(32)), BAD_SIGNATURE),
        ("not ASCII", under(&"é".repeat(16)), BAD_SIGNATURE),
        (
            "a space before",
            under(&format!(" {}", &sign[..31])),
            BAD_SIGNATURE,
        ),
        (
            "one digit off",
            under(&String::from_utf8(flipped).unwrap()),
            BAD_SIGNATURE,
        ),
        ("all zeros", under(&"0".repeat(32)), BAD_SIGNATURE),
        (
            "wrong key",
            under(&wire::sign(&text, "another key")),
            BAD_SIGNATURE,
        ),
        (
            "another merchant's key",
            under(&wire::sign(&text, OTHER_KEY)),
            BAD_SIGNATURE,
        ),
        ("no key", under(&wire::sign(&text, "")), BAD_SIGNATURE),
        (
            "key first",
            under(&wire::md5_hex(&[key, text.as_bytes()])),
            BAD_SIGNATURE,
        ),
        (
            "over the JSON",
            under(&wire::sign(&json, KEY)),
            BAD_SIGNATURE,
        ),
        (
            "over the urlencoded text",
            under(&wire::sign(&resp, KEY)),
            BAD_SIGNATURE,
        ),
        (
            "tampered text",
            {
                let tampered = wire::base64(json.replace("1280", "1281"));
                enveloped(wire::answer_around(&tampered, &sign))
            },
            BAD_SIGNATURE,
        ),
    ]
}

fn wrong_envelopes() -> Vec<Kind> {
    let text = wire::base64(right().to_string());
    let sign = wire::sign(&text, KEY);
    let resp = wire::percent(&text);
    vec![
        ("no resp", enveloped(format!("sign={sign}")), MALFORMED),
        ("empty resp", enveloped(wire::answer("", KEY)), MALFORMED),
        (
            "sign doubled",
            enveloped(format!("resp={resp}&sign={sign}&sign={sign}")),
            MALFORMED,
        ),
        (
            "resp doubled",
            enveloped(format!("resp={resp}&resp={resp}&sign={sign}")),
            MALFORMED,
        ),
        (
            "resp doubled, one name encoded",
            enveloped(format!("resp={resp}&%72esp=eA&sign={sign}")),
            MALFORMED,
        ),
        (
            "sign doubled, one empty",
            enveloped(format!("sign=&resp={resp}&sign={sign}")),
            MALFORMED,
        ),
        (
            "req in place of resp",
            enveloped(format!("req={resp}&sign={sign}")),
            MALFORMED,
        ),
        (
            "upper-case names",
            enveloped(format!("RESP={resp}&SIGN={sign}")),
            MALFORMED,
        ),
        (
            "an HTML page",
            http(200, &["Content-Type: text/html"], "<html>busy</html>"),
            MALFORMED,
        ),
        ("nothing", http(200, &[], ""), MALFORMED),
        ("bare JSON", object(right().to_string()), MALFORMED),
        (
            "a JSON envelope with resp doubled",
            object(format!(
                "{{\"resp\":\"{text}\",\"resp\":\"{text}\",\"sign\":\"{sign}\"}}"
            )),
            MALFORMED,
        ),
        (
            "a JSON envelope with an escaped double",
            object(format!(
                "{{\"resp\":\"{text}\",\"r\\u0065sp\":\"eA==\",\"sign\":\"{sign}\"}}"
            )),
            MALFORMED,
        ),
        (
            "a JSON envelope with garbage after it",
            object(format!("{{\"resp\":\"{text}\",\"sign\":\"{sign}\"}} x")),
            MALFORMED,
        ),
        (
            "a JSON envelope with an object for resp",
            object(format!("{{\"resp\":{},\"sign\":\"{sign}\"}}", right())),
            MALFORMED,
        ),
        (
            "a JSON envelope without a sign",
            object(format!("{{\"resp\":\"{text}\"}}")),
            UNSIGNED,
        ),
        (
            "a JSON envelope with an empty sign",
            object(format!("{{\"resp\":\"{text}\",\"sign\":\"\"}}")),
            UNSIGNED,
        ),
        (
            "a JSON envelope under the wrong key",
            object(format!(
                "{{\"resp\":\"{text}\",\"sign\":\"{}\"}}",
                wire::sign(&text, OTHER_KEY)
            )),
            BAD_SIGNATURE,
        ),
        (
            "a JSON array of it",
            object(format!("[{{\"resp\":\"{text}\",\"sign\":\"{sign}\"}}]")),
            MALFORMED,
        ),
    ]
}

fn wrong_texts() -> Vec<Kind> {
    let json = right().to_string();
    let over = |text: &str| enveloped(wire::answer_around(text, &wire::sign(text, KEY)));
    let mut url_alphabet = wire::base64(json.replace("成功", "~~~???>>>ÿþýû"));
    assert!(url_alphabet.contains(['+', '/']));
    url_alphabet = url_alphabet.replace('+', "-").replace('/', "_");
    let text = wire::base64(&json);
    let deep = format!("\"x\":{}{}", "[".repeat(2_000), "]".repeat(2_000));
    vec![
        ("base64url", over(&url_alphabet), MALFORMED),
        ("garbage for base64", over("@@@@not*base64@@@@"), MALFORMED),
        (
            "base64 cut off",
            over(&text[..text.len() / 4 * 4 - 3]),
            MALFORMED,
        ),
        (
            "padding inside",
            over(&format!("{}=={}", &text[..2], &text[4..])),
            MALFORMED,
        ),
        (
            "a byte after the base64",
            over(&format!("{text}!")),
            MALFORMED,
        ),
        (
            "not UTF-8",
            signed([json.as_bytes(), b"\xff"].concat()),
            MALFORMED,
        ),
        (
            "GBK",
            signed(b"{\"respcode\":\"01\",\"respmsg\":\"\xbd\xbb\xd2\xd7\"}"),
            MALFORMED,
        ),
        ("not JSON", signed("not json at all"), MALFORMED),
        ("a JSON array", signed(format!("[{json}]")), MALFORMED),
        ("a JSON text", signed("\"00\""), MALFORMED),
        ("null", signed("null"), MALFORMED),
        ("an empty object", signed("{}"), MALFORMED),
        (
            "a doubled member",
            with_further(&format!("\"orderid\":\"{ORDERID}\"")),
            MALFORMED,
        ),
        (
            "a doubled member, escaped",
            with_further("\"txn\\u0061mt\":1"),
            MALFORMED,
        ),
        (
            "a doubled member further down",
            with_further("\"x\":{\"a\":1,\"a\":2}"),
            MALFORMED,
        ),
        ("deep nesting", with_further(&deep), MALFORMED),
        (
            "garbage after the JSON",
            signed(format!("{json}x")),
            MALFORMED,
        ),
        ("two objects", signed(format!("{json}{json}")), MALFORMED),
        (
            "a zero byte after the JSON",
            signed(format!("{json}\0")),
            MALFORMED,
        ),
        (
            "a lone surrogate",
            with_further("\"x\":\"\\ud83d\""),
            MALFORMED,
        ),
        ("cut-off JSON", signed(&json[..json.len() - 1]), MALFORMED),
    ]
}

fn wrong_stories() -> Vec<Kind> {
    vec![
        (
            "another orderid",
            with("orderid", Some(json!("ORD2017030100000002"))),
            FOREIGN,
        ),
        (
            "another orderid by case",
            with("orderid", Some(json!(ORDERID.to_lowercase()))),
            FOREIGN,
        ),
        (
            "another merid",
            with("merid", Some(json!(OTHER_MERID))),
            FOREIGN,
        ),
        (
            "another orderid in a refusal",
            signed(r#"{"respcode":"01","respmsg":"no","orderid":"ORD2017030100000002"}"#),
            FOREIGN,
        ),
        (
            "txnamt as text with a sign",
            with("txnamt", Some(json!("+1280"))),
            MALFORMED,
        ),
        (
            "txnamt as a fraction",
            with("txnamt", Some(json!(12.8))),
            MALFORMED,
        ),
        (
            "txnamt with an exponent",
            signed(right().to_string().replace("1280", "1.28e3")),
            MALFORMED,
        ),
        (
            "txnamt as null",
            with("txnamt", Some(Value::Null)),
            MALFORMED,
        ),
        ("no txnamt", with("txnamt", None), MALFORMED),
        ("no queryid", with("queryid", None), MALFORMED),
        (
            "queryid as a fraction",
            with("queryid", Some(json!(7.5))),
            MALFORMED,
        ),
        ("no merid", with("merid", None), MALFORMED),
        (
            "another merid as a number",
            with("merid", Some(json!(100_000_000_000_002_u64))),
            FOREIGN,
        ),
        ("no orderid", with("orderid", None), MALFORMED),
        (
            "orderid as a list",
            with("orderid", Some(json!([ORDERID]))),
            MALFORMED,
        ),
        (
            "only a respcode that says all is well",
            signed(r#"{"respcode":"00","respmsg":"ok"}"#),
            MALFORMED,
        ),
        (
            "an empty respcode and nothing else",
            signed(r#"{"respcode":"","respmsg":"?"}"#),
            MALFORMED,
        ),
        (
            "an empty respcode in an answer that is whole",
            with("respcode", Some(json!(""))),
            MALFORMED,
        ),
        (
            "a failure that tells a result and no payment",
            signed(r#"{"respcode":"01","respmsg":"no","resultcode":"0000","resultmsg":"paid"}"#),
            MALFORMED,
        ),
        (
            "a failure that tells a result without its amount",
            {
                let mut json = right();
                json["respcode"] = json!("01");
                drop(json.as_object_mut().unwrap().remove("txnamt"));
                signed(json.to_string())
            },
            MALFORMED,
        ),
        (
            "a result without a respcode and without a queryid",
            {
                let mut json = right();
                let members = json.as_object_mut().unwrap();
                drop((members.remove("respcode"), members.remove("queryid")));
                signed(json.to_string())
            },
            MALFORMED,
        ),
        (
            "a request of ours that is complete",
            signed(
                right()
                    .to_string()
                    .replacen('{', "{\"action\":\"AliPay\",", 1),
            ),
            MALFORMED,
        ),
        (
            "a respcode that is no scalar",
            signed(r#"{"respcode":[1],"respmsg":"no"}"#),
            MALFORMED,
        ),
    ]
}

fn wrong_http() -> Vec<Kind> {
    let good = wire::answer(right().to_string(), KEY);
    let huge = format!("{good}&padding={}", "x".repeat(4 << 20));
    vec![
        ("more than 4 MiB", http(200, &[], huge), MALFORMED),
        (
            "gzip of gzip",
            http(
                200,
                &["Content-Encoding: gzip, gzip"],
                gzip(&gzip(good.as_bytes())),
            ),
            MALFORMED,
        ),
        (
            "gzip with something after it",
            http(
                200,
                &["Content-Encoding: gzip"],
                [gzip(good.as_bytes()), b"x".to_vec()].concat(),
            ),
            MALFORMED,
        ),
        (
            "another coding",
            http(200, &["Content-Encoding: br"], &good),
            MALFORMED,
        ),
        (
            "a coding that is not there",
            http(200, &["Content-Encoding: gzip"], &good),
            MALFORMED,
        ),
        ("status 500", http(500, &[], &good), PLATFORM_ERROR),
        (
            "status 302",
            http(302, &["Location: /elsewhere"], &good),
            PLATFORM_ERROR,
        ),
        ("status 404", http(404, &[], &good), PLATFORM_ERROR),
        ("status 203", http(203, &[], &good), PLATFORM_ERROR),
        (
            "status 204",
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            PLATFORM_ERROR,
        ),
    ]
}

/// A gzip file with its contents stored as they are.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let length = u16::try_from(bytes.len()).unwrap();
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(bytes);
    out.extend((!crc).to_le_bytes());
    out.extend(u32::from(length).to_le_bytes());
    out
}

#[test]
fn no_kind_of_wrong_answer_ever_reaches_the_app() {
    let kinds = [
        wrong_signs(),
        wrong_envelopes(),
        wrong_texts(),
        wrong_stories(),
        wrong_http(),
    ]
    .concat();
    assert!(kinds.len() >= 30, "{}", kinds.len());

    let reply = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&reply);
    let platform = Platform::start(move |_| Action::Reply(said.lock().unwrap().clone()));
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = merchant(MERID, KEY) + &merchant(OTHER_MERID, OTHER_KEY);
    });
    // All of them before failing, so that one look shows what is wrong.
    let mut wrong = Vec::new();
    for (tried, (name, bytes, code)) in kinds.into_iter().enumerate() {
        *reply.lock().unwrap() = bytes;
        let answer = sidecar.query(query_json(MERID, ORDERID));
        let got = answer.json()["code"]
            .as_str()
            .unwrap_or("an answer")
            .to_owned();
        if (answer.status, got.as_str()) != (502, code) {
            wrong.push(format!("{name}: {} {got}, not {code}", answer.status));
            continue;
        }
        answer.problem(502, code, "yes");
        assert_ne!(
            answer.header("countersign-verified"),
            Some("true"),
            "{name}"
        );
        assert!(!answer.text().contains(KEY), "{name}");
        assert_eq!(platform.count(), tried + 1, "{name} was asked for again");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    *reply.lock().unwrap() = signed(right().to_string());
    assert_eq!(
        sidecar.query(query_json(MERID, ORDERID)).status,
        200,
        "the right one"
    );
}

#[test]
fn another_queryid_than_the_one_asked_for_is_foreign() {
    let platform = Platform::start(|_| Action::Reply(signed(right().to_string())));
    let sidecar = Sidecar::before(&platform);
    let asked = json!({"merid": MERID, "queryid": "Q20170301123456780"});
    sidecar
        .query(asked.to_string())
        .problem(502, FOREIGN, "yes");
    let asked = json!({"merid": MERID, "queryid": "Q20170301123456789"});
    assert_eq!(sidecar.query(asked.to_string()).status, 200);
}

#[test]
fn our_own_request_played_back_is_no_answer() {
    let platform = Platform::start(|seen| {
        Action::Reply(enveloped(wire::answer_around(&seen.text(), &seen.sign())))
    });
    let sidecar = Sidecar::before(&platform);
    for asked in [
        query_json(MERID, ORDERID),
        json!({"merid": MERID, "orderid": ORDERID, "queryid": "Q1"}).to_string(),
        json!({"merid": MERID, "orderid": ORDERID, "txnamt": 1}).to_string(),
    ] {
        sidecar.query(asked).problem(502, MALFORMED, "yes");
    }
}

#[test]
fn a_number_that_names_another_order_or_merchant_is_no_answer_either() {
    let reply = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&reply);
    let platform = Platform::start(move |_| Action::Reply(said.lock().unwrap().clone()));
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.extra_paths = vec!["/api/refund"];
    });
    let asked = query_json(MERID, "20170301001");
    for (name, value) in [
        ("orderid", "20170301002"),
        ("orderid", "2.0170301001e10"),
        ("orderid", "false"),
        ("orderid", "[\"20170301001\"]"),
        ("merid", "100000000000002"),
        ("merid", "1e14"),
        ("merid", "{}"),
    ] {
        let member = format!("\"{name}\":{value}");
        let whole = {
            let mut json = right();
            json["orderid"] = json!("20170301001");
            json.as_object_mut().unwrap().remove(name);
            json.to_string().replacen('{', &format!("{{{member},"), 1)
        };
        let failure = format!("{{\"respcode\":\"01\",\"respmsg\":\"no\",{member}}}");
        for (path, json) in [
            ("/api/query", &whole),
            ("/api/query", &failure),
            ("/api/refund", &whole),
            ("/api/refund", &failure),
        ] {
            *reply.lock().unwrap() = signed(json);
            let answer = sidecar.post(path, &asked);
            assert_ne!(answer.status, 200, "{path}: {json}");
            let code = answer.json()["code"].clone();
            assert!(
                code == FOREIGN || code == MALFORMED,
                "{path}: {code} for {json}"
            );
            answer.problem(502, code.as_str().unwrap(), "yes");
        }
    }
}

#[test]
fn what_only_a_request_says_is_no_answer_on_a_further_interface() {
    // A submit of ours, as the platform heard it once, comes back as `resp`.
    let submit = submit_json("ORD2017030100000009");
    let bare = json!({"merid": MERID, "orderid": ORDERID, "backurl": "https://shop.example.com/"});
    for json in [
        submit.replace("ORD2017030100000009", ORDERID),
        submit,
        bare.to_string(),
        json!({"merid": MERID, "orderid": ORDERID, "action": "Bank"}).to_string(),
    ] {
        let platform = Platform::start(move |_| Action::Reply(signed(&json)));
        let url = platform.url();
        let sidecar = Sidecar::start(|conf| {
            conf.platform = url;
            conf.extra_paths = vec!["/api/refund"];
        });
        for path in ["/api/refund", "/api/query"] {
            sidecar
                .post(path, query_json(MERID, ORDERID))
                .problem(502, MALFORMED, "yes");
        }
    }
}
