//! An app that still signs by itself: its form is passed on as it is, and told whether we would have signed the same.

use crate::client::{Response, post_with};
use crate::harness::{
    KEY, MERID, ORDERID, OTHER_KEY, Sidecar, fresh_orderid, query_form, query_json, submit_json,
    submit_of,
};
use crate::platform::{Action, Platform, http};
use crate::wire;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

fn post_form(sidecar: &Sidecar, path: &str, form: &str) -> Response {
    post_with(sidecar.app(), path, &[FORM], form)
}

/// Whatever is asked, the platform says this; nothing of it may change on its way.
fn said() -> Vec<u8> {
    let body = "resp=not+even&base64&sign=\u{e9}\r\n";
    http(
        200,
        &["Content-Type: text/x-odd; q=1", "Set-Cookie: a=1"],
        body,
    )
}

fn before_an_odd_platform() -> (Platform, Sidecar) {
    let platform = Platform::start(|_| Action::Reply(said()));
    let sidecar = Sidecar::before(&platform);
    (platform, sidecar)
}

#[track_caller]
fn passed_on(platform: &Platform, answer: &Response, path: &str, form: &str) {
    let seen = platform.last();
    assert_eq!((seen.target.as_str(), seen.form().as_str()), (path, form));
    assert!(said().ends_with(&answer.body), "{}", answer.text());
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/x-odd; q=1"));
}

#[test]
fn a_form_with_our_sign_matches_and_goes_through_unchanged() {
    let (platform, sidecar) = before_an_odd_platform();
    let query = query_form(MERID, ORDERID, KEY);
    // The same envelope, written otherwise: order, upper case, a parameter of its own.
    let text = wire::base64(query_json(MERID, ORDERID));
    let sign = wire::sign(&text, KEY);
    let otherwise = format!("sign={sign}&req={}&v=1", wire::percent(&text));
    for form in [&query, &otherwise] {
        let answer = post_form(&sidecar, "/api/query", form);
        passed_on(&platform, &answer, "/api/query", form);
        assert_eq!(answer.header("countersign-shadow"), Some("match"), "{form}");
    }
    let submit = wire::request(submit_json(&fresh_orderid()), KEY);
    let answer = post_form(&sidecar, "/api/icashier", &submit);
    passed_on(&platform, &answer, "/api/icashier", &submit);
    assert_eq!(answer.header("countersign-shadow"), Some("match"));
    assert_eq!(platform.count(), 3);
}

#[test]
fn a_form_that_we_would_not_have_signed_goes_through_all_the_same() {
    let (platform, sidecar) = before_an_odd_platform();
    let text = wire::percent(&wire::base64(query_json(MERID, ORDERID)));
    let forms = [
        query_form(MERID, ORDERID, OTHER_KEY),
        query_form("999999999999999", ORDERID, KEY),
        format!("req={text}&sign="),
        format!("req={text}&sign=0123"),
        "req=!!!not-base64!!!&sign=00000000000000000000000000000000".to_owned(),
        wire::request("not json", KEY).replace("sign=", "sign=x"),
        "req=&sign=".to_owned(),
    ];
    for (sent, form) in forms.iter().enumerate() {
        for path in ["/api/query", "/api/icashier"] {
            let answer = post_form(&sidecar, path, form);
            passed_on(&platform, &answer, path, form);
            assert_eq!(
                answer.header("countersign-shadow"),
                Some("mismatch"),
                "{form}"
            );
        }
        assert_eq!(platform.count(), 2 * (sent + 1));
    }
}

#[test]
fn redirects_and_errors_are_passed_on_too() {
    for status in [302, 404, 500] {
        let reply = http(status, &["Location: https://pay.example.com/x"], "body");
        let platform = Platform::start(move |_| Action::Reply(reply.clone()));
        let sidecar = Sidecar::before(&platform);
        let form = wire::request(submit_json(&fresh_orderid()), KEY);
        let answer = post_form(&sidecar, "/api/icashier", &form);
        assert_eq!((answer.status, answer.text().as_str()), (status, "body"));
        assert_eq!(answer.header("location"), Some("https://pay.example.com/x"));
        assert_eq!(answer.header("countersign-shadow"), Some("match"));
    }
}

#[test]
fn the_ledger_learns_what_the_app_signed_by_itself() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let orderid = fresh_orderid();
    let form = wire::request(submit_json(&orderid), KEY);
    let answer = post_form(&sidecar, "/api/icashier", &form);
    assert_eq!(
        (answer.status, answer.header("countersign-shadow")),
        (200, Some("match"))
    );
    sidecar
        .submit(submit_of(MERID, &orderid, 7))
        .problem(409, "order-conflict", "no");
    assert_eq!(sidecar.submit(submit_json(&orderid)).status, 200);
}

#[test]
fn a_form_with_a_wrong_sign_teaches_the_ledger_nothing() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let orderid = fresh_orderid();
    let form = wire::request(submit_json(&orderid), OTHER_KEY);
    let answer = post_form(&sidecar, "/api/icashier", &form);
    assert_eq!(answer.header("countersign-shadow"), Some("mismatch"));
    assert_eq!(sidecar.submit(submit_of(MERID, &orderid, 7)).status, 200);
}

#[test]
fn faults_are_told_as_for_any_call() {
    let platform = Platform::start(|_| Action::Cut(Vec::new()));
    let sidecar = Sidecar::before(&platform);
    let form = wire::request(submit_json(&fresh_orderid()), KEY);
    post_form(&sidecar, "/api/icashier", &form).problem(502, "platform-cut-off", "unknown");
    assert_eq!(platform.count(), 1);
}
