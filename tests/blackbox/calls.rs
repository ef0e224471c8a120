//! A call that goes well: what the sidecar adds, what it leaves alone, what it says beside the answer.

use crate::client::{self, post_with};
use crate::harness::{
    KEY, MERID, ORDERID, OTHER_KEY, OTHER_MERID, Sidecar, fresh_orderid, merchant, query_json,
    submit_json,
};
use crate::platform::{Action, PAGE, Platform, enveloped};
use crate::wire;

#[test]
fn a_query_s_answer_comes_back_byte_for_byte() {
    // Odd spacing, escapes, member order, unknown members, an exact number: nothing of it may be printed again.
    let json = format!(
        "{{\n \"orderid\" : \"{ORDERID}\",\t\"merid\":\"\\u0031{}\",\"queryid\":\"Q1\",\"txnamt\":1280,\
         \"fee\":1.10e1,\"note\":\"\\/ \u{1f4b0}\",\"respcode\":\"00\"}} \r\n",
        &MERID[1..]
    );
    let said = json.clone();
    let platform = Platform::start(move |_| Action::Reply(enveloped(wire::answer(&said, KEY))));
    let answer = Sidecar::before(&platform).query(query_json(MERID, ORDERID));
    assert_eq!((answer.status, answer.text()), (200, json));
    assert_eq!(answer.header("countersign-verified"), Some("true"));
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("application/json")
    );
}

#[test]
fn a_signed_refusal_is_an_answer_like_any_other() {
    let json = r#"{"respcode":"01","respmsg":"订单不存在"}"#;
    let platform = Platform::start(move |_| Action::Reply(enveloped(wire::answer(json, KEY))));
    let answer = Sidecar::before(&platform).query(query_json(MERID, ORDERID));
    assert_eq!((answer.status, answer.text().as_str()), (200, json));
    assert_eq!(answer.header("countersign-verified"), Some("true"));
}

#[test]
fn the_app_s_bytes_are_what_is_signed() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let body = format!(
        "\t{{\"orderid\" :\"{ORDERID}\", \"x\":[1.0,1e2,{{}}], \"merid\"\r\n:\"{MERID}\",\"名\":\"\\u5f20\\/\"}}\n\n"
    );
    assert_eq!(sidecar.query(&body).status, 200);
    assert_eq!(platform.last().plain(), body);
}

#[test]
fn the_only_merchant_is_filled_in_and_nothing_else_changes() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let rest = format!("\"orderid\" : \"{ORDERID}\",  \"memo\":\"\\u4e2d\", \"n\":1.0");
    let answer = sidecar.query(format!("{{ {rest} }}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = platform.last();
    assert_eq!(seen.member("merid"), MERID);
    assert!(seen.plain().contains(&rest), "{}", seen.plain());
    assert_eq!(seen.json().as_object().unwrap().len(), 4);

    let submit = submit_json(&fresh_orderid()).replace(&format!("\"merid\":\"{MERID}\","), "");
    assert!(!submit.contains("merid"));
    assert_eq!(sidecar.submit(&submit).status, 200);
    assert_eq!(platform.last().member("merid"), MERID);
}

#[test]
fn among_two_merchants_none_is_filled_in() {
    let platform = Platform::honest(&[(MERID, KEY), (OTHER_MERID, OTHER_KEY)]);
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = merchant(MERID, KEY) + &merchant(OTHER_MERID, OTHER_KEY);
    });
    let answer = sidecar.query(format!("{{\"orderid\":\"{ORDERID}\"}}"));
    assert_eq!(answer.problem(422, "invalid-field", "no")["field"], "merid");
    assert_eq!(platform.count(), 0);
    for (merid, key) in [(MERID, KEY), (OTHER_MERID, OTHER_KEY)] {
        assert_eq!(sidecar.query(query_json(merid, ORDERID)).status, 200);
        assert!(platform.last().is_signed_with(key));
    }
}

#[test]
fn an_answer_under_an_old_key_is_taken_and_requests_use_the_new_one() {
    let platform =
        Platform::start(|seen| Action::Reply(crate::platform::honest_answer(seen, OTHER_KEY)));
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = merchant(MERID, KEY) + &format!("old_keys = [\"{OTHER_KEY}\"]\n");
    });
    let answer = sidecar.query(query_json(MERID, ORDERID));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(platform.last().is_signed_with(KEY));
}

#[test]
fn a_key_may_stand_in_a_file_of_its_own() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let url = platform.url();
    let setup = crate::harness::Setup::new(|conf| {
        conf.platform = url;
        conf.merchants = format!("[[merchant]]\nmerid = \"{MERID}\"\nkey_file = \"one.key\"\n");
    });
    std::fs::write(setup.folder.path().join("one.key"), format!("{KEY}\n")).unwrap();
    let sidecar = setup.start();
    assert_eq!(sidecar.query(query_json(MERID, ORDERID)).status, 200);
}

#[test]
fn the_app_s_request_id_is_kept_and_a_missing_one_is_made() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let own = "X-Request-Id: app-4711";
    let body = query_json(MERID, ORDERID);
    let answer = post_with(sidecar.app(), "/api/query", &[own], &body);
    assert_eq!(
        (answer.status, answer.header("x-request-id")),
        (200, Some("app-4711"))
    );
    let refused = post_with(sidecar.app(), "/api/query", &[own], "{");
    let problem = refused.problem(400, "invalid-json", "no");
    assert_eq!(problem["request_id"], "app-4711");

    let first = sidecar.query(&body);
    let second = sidecar.query(&body);
    let id =
        |answer: &client::Response| answer.header("x-request-id").unwrap_or_default().to_owned();
    assert!(!id(&first).is_empty() && id(&first) != id(&second));
}

#[test]
fn a_link_is_made_without_sending_anything() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let body = submit_json(&fresh_orderid());
    let answer = sidecar.post("/apis/icashier", &body);
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("application/json")
    );
    let link = answer.json();
    let text = wire::base64(&body);
    assert_eq!(link["form"]["fields"]["req"], text);
    assert_eq!(link["form"]["fields"]["sign"], wire::sign(&text, KEY));
    let (address, query) = link["url"].as_str().unwrap().split_once('?').unwrap();
    assert_eq!(address, format!("{}/apis/icashier", platform.url()));
    assert_eq!(query, wire::request(&body, KEY));
    assert_eq!(platform.count(), 0);
}

#[test]
fn a_browser_gets_a_page_that_posts_the_form_by_itself() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let body = submit_json(&fresh_orderid());
    let accept = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    let answer = post_with(sidecar.app(), "/apis/icashier", &[accept], &body);
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let page = answer.text();
    let text = wire::base64(&body);
    let found = |part: &str| assert!(page.contains(part), "{part} is not in {page}");
    found(&format!("{}/api/icashier", platform.url()));
    found("name=\"req\"");
    found("name=\"sign\"");
    // Base64 holds nothing that HTML would escape.
    found(&text);
    found(&wire::sign(&text, KEY));
    let lower = page.to_lowercase();
    assert!(lower.contains("<noscript") || lower.contains("<button") || lower.contains("submit\""));
    assert!(lower.contains("method=\"post\""), "{page}");
    assert_eq!(platform.count(), 0);
}

#[test]
fn the_page_escapes_what_stands_in_the_configuration() {
    let sidecar = Sidecar::start(|conf| {
        conf.platform = "http://127.0.0.1:9/a&quot;b".to_owned();
    });
    let accept = "Accept: text/html";
    let body = submit_json(&fresh_orderid());
    let page = post_with(sidecar.app(), "/apis/icashier", &[accept], body).text();
    assert!(page.contains("/a&amp;quot;b"), "{page}");
}

#[test]
fn further_interfaces_are_signed_and_verified_without_field_checks() {
    // Neither an order number nor an amount as the document has them for its own interfaces.
    let body =
        format!("{{\"merid\":\"{MERID}\",\"refundid\":7,\"orderid\":\"x-1\",\"txnamt\":\"5\"}}");
    let json = format!("{{\"respcode\":\"00\",\"merid\":\"{MERID}\",\"refunded\":true}}");
    let said = json.clone();
    let platform = Platform::start(move |_| Action::Reply(enveloped(wire::answer(&said, KEY))));
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.extra_paths = vec!["/api/refund"];
    });
    let answer = sidecar.post("/api/refund", &body);
    assert_eq!((answer.status, answer.text()), (200, json));
    assert_eq!(answer.header("countersign-verified"), Some("true"));
    let seen = platform.last();
    assert_eq!((seen.target.as_str(), seen.plain()), ("/api/refund", body));
    assert!(seen.is_signed_with(KEY));

    // The JSON itself is still checked, and so is the merchant.
    sidecar
        .post("/api/refund", "[]")
        .problem(400, "invalid-json", "no");
    let stranger = r#"{"merid":"999999999999999"}"#;
    sidecar
        .post("/api/refund", stranger)
        .problem(422, "unknown-merchant", "no");
    sidecar
        .post("/api/other", answer.text())
        .problem(404, "not-found", "no");
    assert_eq!(platform.count(), 1);
}

#[test]
fn a_submit_shows_the_platform_s_page() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let answer = sidecar.submit(submit_json(&fresh_orderid()));
    assert_eq!((answer.status, answer.text().as_str()), (200, PAGE));
    assert_eq!(answer.header("countersign-verified"), Some("false"));
}
