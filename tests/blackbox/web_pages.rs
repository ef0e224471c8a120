//! A web page of any site can post to a loopback address: the app listener takes no request of a browser.

use crate::client::{Response, post_with};
use crate::harness::{
    KEY, MERID, ORDERID, Sidecar, fresh_orderid, query_json, submit_json, submit_of,
};
use crate::platform::Platform;
use crate::wire;

const SHOP: &str = "https://shop.example.com";

fn with_allowed(platform: &Platform, origins: &str) -> Sidecar {
    let (url, app) = (platform.url(), format!("allow_origins = {origins}"));
    Sidecar::start(|conf| {
        conf.platform = url;
        conf.extra_paths = vec!["/api/refund"];
        conf.app = app;
    })
}

fn post(sidecar: &Sidecar, path: &str, fields: &[&str], body: &str) -> Response {
    post_with(sidecar.app(), path, fields, body)
}

#[test]
fn a_page_reaches_no_interface_and_leaves_no_trace_in_the_ledger() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = with_allowed(&platform, "[]");
    let orderid = fresh_orderid();
    let submit = submit_json(&orderid);
    let shadow = wire::request(&submit, KEY);
    let query = query_json(MERID, ORDERID);
    let calls = [
        ("/api/query", &query),
        ("/api/icashier", &submit),
        ("/apis/icashier", &submit),
        ("/api/refund", &query),
        ("/api/icashier", &shadow),
        ("/no/such/path", &query),
    ];
    let pages: [&[&str]; 9] = [
        &["Origin: https://evil.example"],
        &["Origin: null"],
        &["Origin:"],
        &["origin: http://127.0.0.1:8080"],
        &["Sec-Fetch-Site: cross-site"],
        &["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors"],
        &["sec-fetch-site: same-site"],
        &["Origin: https://evil.example", "Sec-Fetch-Site: none"],
        // Not plain HTTP, so that Pingora's session reads it.
        &["Origin: null", "Expect: 100-continue"],
    ];
    for (path, body) in calls {
        for fields in pages {
            let reply = post(&sidecar, path, fields, body);
            let problem = reply.problem(403, "browser-request", "no");
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains("Origin") || detail.contains("Sec-Fetch-Site"),
                "{detail}"
            );
        }
    }
    assert_eq!(platform.count(), 0, "something was sent");
    // Nothing of it is in the ledger: the same order with another amount does not conflict.
    let other = sidecar.submit(submit_of(MERID, &orderid, 7));
    assert_eq!(other.status, 200, "{}", other.text());
    let rejected = ["countersign_calls_total", "outcome=\"browser-request\""];
    let expected = calls.len() * pages.len();
    assert_eq!(sidecar.metrics().sum(&rejected), expected as f64);
}

#[test]
fn an_app_that_forwards_its_customer_s_origin_names_it() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = with_allowed(
        &platform,
        &format!("[\"{SHOP}\", \"http://127.0.0.1:3000\"]"),
    );
    let query = query_json(MERID, ORDERID);
    for fields in [
        &[][..],
        &["Origin: https://shop.example.com"],
        &["Origin: http://127.0.0.1:3000"],
        &["Sec-Fetch-Site: none"],
        &["Origin: https://shop.example.com", "Sec-Fetch-Site: none"],
        // What an HTTP library adds of its own, Node's fetch for one.
        &["Sec-Fetch-Mode: cors", "Accept-Language: *"],
        &["Referer: https://evil.example/", "Cookie: a=1"],
    ] {
        let reply = post(&sidecar, "/api/query", fields, &query);
        assert_eq!(reply.status, 200, "{fields:?}: {}", reply.text());
    }
    for fields in [
        &["Origin: https://shop.example.com:443"][..],
        &["Origin: https://shop.example.com."],
        &["Origin: http://shop.example.com"],
        &["Origin: HTTPS://SHOP.EXAMPLE.COM"],
        &["Origin: https://shop.example.com https://evil.example"],
        &[
            "Origin: https://evil.example",
            "Origin: https://shop.example.com",
        ],
        &["Origin: http://127.0.0.1:30000"],
        &[
            "Origin: https://shop.example.com",
            "Sec-Fetch-Site: cross-site",
        ],
    ] {
        let reply = post(&sidecar, "/api/query", fields, &query);
        reply.problem(403, "browser-request", "no");
    }
}

#[test]
fn only_an_origin_as_browsers_write_it_can_be_allowed() {
    for wrong in [
        "null",
        "*",
        "shop.example.com",
        "https://shop.example.com/",
        "https://shop.example.com:443",
        "https://Shop.example.com",
        "https://shop.example.com/pay",
        "file://",
    ] {
        let setup = crate::harness::Setup::new(|conf| {
            conf.app = format!("allow_origins = [\"{wrong}\"]");
        });
        let (code, said) = setup.refused(std::time::Duration::from_secs(5));
        assert_eq!(code, Some(78), "{wrong}: {said}");
        assert!(said.contains("app.allow_origins[1]"), "{wrong}: {said}");
    }
}
