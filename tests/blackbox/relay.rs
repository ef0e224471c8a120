//! A submit shows what the platform shows: pages and redirects as they came, envelopes verified and unwrapped.

use crate::harness::{KEY, MERID, OTHER_KEY, Sidecar, fresh_orderid, submit_json};
use crate::platform::{Action, Platform, enveloped, http};
use crate::wire;

fn submitted(reply: Vec<u8>) -> (crate::client::Response, Platform, String) {
    let platform = Platform::start(move |_| Action::Reply(reply.clone()));
    let orderid = fresh_orderid();
    let answer = Sidecar::before(&platform).submit(submit_json(&orderid));
    (answer, platform, orderid)
}

#[test]
fn a_redirect_is_passed_on_and_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let location = "https://cashier.example.com/pay?t=%E4%B8%AD&x=1#top";
        let (answer, platform, _) =
            submitted(http(status, &[&format!("Location: {location}")], ""));
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("location"), Some(location));
        assert_eq!(answer.header("countersign-verified"), Some("false"));
        assert_eq!(platform.count(), 1);
    }
}

#[test]
fn a_redirect_back_to_the_platform_is_not_followed_either() {
    let (answer, platform, _) = submitted(http(302, &["Location: /api/query"], "moved"));
    assert_eq!((answer.status, answer.text().as_str()), (302, "moved"));
    assert_eq!(answer.header("location"), Some("/api/query"));
    assert_eq!(platform.count(), 1);
}

#[test]
fn a_page_is_passed_on_byte_for_byte_with_its_cookies() {
    // A page in a charset of its own: any byte may follow the tag.
    let bytes = (0..=255).cycle().take(100_000);
    let page: Vec<u8> = b"<html>".iter().copied().chain(bytes).collect();
    let headers = [
        "Content-Type: text/html; charset=gbk",
        "Set-Cookie: a=1; Path=/; HttpOnly",
        "Set-Cookie: b=2; Expires=Wed, 01 Mar 2017 12:00:00 GMT",
    ];
    let (answer, _, _) = submitted(http(200, &headers, &page));
    assert_eq!(answer.status, 200);
    assert!(answer.body == page, "{} bytes", answer.body.len());
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=gbk")
    );
    assert_eq!(
        answer.headers_named("set-cookie"),
        [
            "a=1; Path=/; HttpOnly",
            "b=2; Expires=Wed, 01 Mar 2017 12:00:00 GMT"
        ]
    );
    assert_eq!(answer.header("countersign-verified"), Some("false"));
    assert!(answer.header("x-request-id").is_some());
}

#[test]
fn the_platform_s_own_errors_are_passed_on() {
    for status in [400, 404, 500, 503] {
        let (answer, _, _) = submitted(http(status, &["Content-Type: text/plain"], "no such page"));
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (status, "no such page")
        );
        assert_eq!(answer.header("countersign-verified"), Some("false"));
    }
}

#[test]
fn an_empty_page_is_passed_on() {
    for status in [200, 204] {
        let (answer, _, _) = submitted(http(status, &[], ""));
        assert_eq!((answer.status, answer.text().as_str()), (status, ""));
    }
}

/// A submit that is answered with an envelope: `wrap` gets the JSON about its order.
fn submitted_and_enveloped(
    wrap: impl Fn(String) -> Vec<u8> + Send + Sync + 'static,
) -> crate::client::Response {
    let platform = Platform::start(move |seen| Action::Reply(wrap(about(&seen.member("orderid")))));
    Sidecar::before(&platform).submit(submit_json(&fresh_orderid()))
}

fn about(orderid: &str) -> String {
    format!(
        "{{ \"respcode\":\"00\",\"respmsg\":\"成功\",\"queryid\":\"Q1\",\"txnamt\":1280,\
         \"merid\":\"{MERID}\",\"orderid\":\"{orderid}\" }}"
    )
}

fn object(json: &str, key: &str) -> Vec<u8> {
    let text = wire::base64(json);
    let sign = wire::sign(&text, key);
    let object = serde_json::json!({"resp": text, "sign": sign}).to_string();
    http(200, &["Content-Type: application/json"], object)
}

#[test]
fn an_envelope_is_verified_and_unwrapped() {
    for answer in [
        submitted_and_enveloped(|json| enveloped(wire::answer(json, KEY))),
        submitted_and_enveloped(|json| object(&json, KEY)),
    ] {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("countersign-verified"), Some("true"));
        let orderid = answer.json()["orderid"].as_str().unwrap().to_owned();
        assert_eq!(answer.text(), about(&orderid));
    }
}

#[test]
fn a_wrong_envelope_is_no_page() {
    submitted_and_enveloped(|json| enveloped(wire::answer(json, OTHER_KEY))).problem(
        502,
        "bad-signature",
        "yes",
    );
    submitted_and_enveloped(|json| object(&json, OTHER_KEY)).problem(502, "bad-signature", "yes");
    submitted_and_enveloped(|_| enveloped(wire::answer(about("SOMEOTHER1"), KEY))).problem(
        502,
        "foreign-answer",
        "yes",
    );
    submitted_and_enveloped(|json| {
        let form = wire::answer(json, KEY);
        enveloped(format!("{form}&{form}"))
    })
    .problem(502, "malformed-answer", "yes");
    let unsigned = submitted_and_enveloped(|_| crate::platform::unsigned("96", "商户号不存在"))
        .problem(502, "unsigned-answer", "yes");
    assert_eq!(unsigned["platform"]["respcode"], "96");
}

#[test]
fn only_what_is_signed_comes_through_with_an_envelope() {
    let beside = [
        "Content-Type: application/x-www-form-urlencoded",
        "Location: https://elsewhere.example.com/",
        "Set-Cookie: session=stolen",
        "Refresh: 0; url=https://elsewhere.example.com/",
    ];
    for status in [200, 302] {
        let answer =
            submitted_and_enveloped(move |json| http(status, &beside, wire::answer(json, KEY)));
        for name in ["location", "set-cookie", "refresh"] {
            assert_eq!(answer.header(name), None, "{status}: {answer:?}");
        }
        match status {
            200 => {
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.header("countersign-verified"), Some("true"));
            }
            _ => {
                answer.problem(502, "platform-error", "yes");
                assert_eq!(answer.header("countersign-verified"), Some("false"));
            }
        }
    }
}

#[test]
fn plain_json_without_a_sign_is_no_page() {
    for kind in ["application/json", "text/html", "text/plain"] {
        for body in [
            about("ORD2017030100000001"),
            format!("\r\n {}", about("ORD2017030100000001")),
            r#"{"respcode":"00","resultcode":"0000"}"#.to_owned(),
            "{}".to_owned(),
            "[{\"respcode\":\"00\"}]".to_owned(),
        ] {
            let content_type = format!("Content-Type: {kind}");
            let (answer, _, _) = submitted(http(200, &[&content_type], &body));
            assert_eq!(answer.status, 502, "{kind} {body}: {}", answer.text());
            answer.problem(502, "malformed-answer", "yes");
        }
    }
}
