//! What stands between the sidecar and the platform and responds in its place: load balancers, firewalls, captchas.

use crate::harness::{KEY, MERID, ORDERID, Sidecar, fresh_orderid, query_json, submit_json};
use crate::platform::{Action, PAGE, Platform, http};
use crate::shop::{Book, Payment, SOON, Shop, taken};
use crate::wire;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A platform whose submits get this, whatever it is; queries are honest.
fn behind(reply: &Arc<Mutex<Vec<u8>>>) -> Shop {
    let book = Book::default();
    let (pages, said) = (book.clone(), Arc::clone(reply));
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Reply(said.lock().unwrap().clone()),
        _ => pages.reply(seen),
    });
    let app = Platform::start(|_| taken());
    Shop::between(book, platform, app, |_| {})
}

#[test]
fn a_gateway_s_error_is_passed_on_counted_and_followed_up() {
    let reply = Arc::new(Mutex::new(Vec::new()));
    let shop = behind(&reply);
    let here = format!("Location: https://{}/api/icashier", shop.platform.address);
    let kinds = [
        (502, "unknown", "Server: nginx"),
        (503, "unknown", "Retry-After: 5"),
        (504, "unknown", "Server: nginx"),
        (520, "unknown", "Server: cloudflare"),
        (521, "unknown", "Server: cloudflare"),
        (524, "unknown", "Server: cloudflare"),
        (400, "yes", "Server: nginx"),
        (403, "yes", "Server: waf"),
        (404, "yes", "Server: nginx"),
        (429, "yes", "Retry-After: 1"),
        (500, "yes", "Server: nginx"),
        (301, "yes", here.as_str()),
        (308, "yes", "Location: /api/icashier"),
    ];
    for (at, (status, sent, field)) in kinds.into_iter().enumerate() {
        let page = format!("<html>{status} from a gateway</html>");
        *reply.lock().unwrap() = http(status, &["Content-Type: text/html", field], &page);
        let payment = Payment::of(&fresh_orderid());
        shop.book.enter(payment.clone());
        let began = Instant::now();
        let answer = shop.sidecar.submit(submit_json(&payment.orderid));
        assert_eq!((answer.status, answer.text()), (status, page));
        assert_eq!(answer.header("countersign-sent"), Some(sent), "{status}");
        assert_eq!(answer.header("countersign-verified"), Some("false"));
        let counted = ["countersign_calls_total", "submit", "platform-error"];
        assert_eq!(shop.sidecar.metrics().sum(&counted), (at + 1) as f64);
        // The order had arrived and was paid: the app hears of it within seconds.
        let delivery = shop.hears(&payment.orderid, 1).remove(0);
        assert_eq!(delivery.source, "query", "{status}");
        assert!(began.elapsed() < SOON, "{status}: {:?}", began.elapsed());
    }
    let submits = shop.platform.seen();
    let submits = submits.iter().filter(|it| it.target == "/api/icashier");
    assert_eq!(submits.count(), kinds.len(), "each is sent once");
}

#[test]
fn a_page_or_redirect_of_the_platform_is_no_error() {
    let reply = Arc::new(Mutex::new(Vec::new()));
    let shop = behind(&reply);
    for (status, field) in [
        (200, "X-A: b"),
        (204, "X-A: b"),
        (302, "Location: /api/icashier"),
        (303, "Location: /api/icashier"),
        (307, "Location: https://pay.example.com/x"),
        (301, "Location: https://pay.example.com/x"),
        (308, "Location: /pay"),
    ] {
        let page = if status == 204 { "" } else { PAGE };
        *reply.lock().unwrap() = http(status, &["Content-Type: text/html", field], page);
        let answer = shop.sidecar.submit(submit_json(&fresh_orderid()));
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("countersign-sent"), Some("yes"), "{status}");
    }
    let counted = |outcome: &str| {
        let words = ["countersign_calls_total", "submit", outcome];
        shop.sidecar.metrics().sum(&words)
    };
    assert_eq!(counted("platform-error"), 0.0);
    assert_eq!(counted("\"ok\""), 7.0);
}

#[test]
fn a_gateway_s_json_is_passed_on_and_a_result_in_it_is_not() {
    let reply = Arc::new(Mutex::new(Vec::new()));
    let shop = behind(&reply);
    let submit = |status, body: &str| {
        *reply.lock().unwrap() = http(status, &["Content-Type: application/json"], body);
        shop.sidecar.submit(submit_json(&fresh_orderid()))
    };
    let answer = submit(504, r#"{"message":"The upstream server is timing out"}"#);
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("countersign-sent"), Some("unknown"));
    for body in [
        r#"{"respcode":"00","resultcode":"0000"}"#,
        r#"{"\u0072esultcode":"0000"}"#,
        r#"[{"resultcode":"0000"}]"#,
    ] {
        let answer = submit(504, body);
        assert_eq!(answer.status, 502, "{body}: {}", answer.text());
        assert_eq!(answer.json()["code"], "platform-error", "{body}");
    }
}

#[test]
fn a_shadow_submit_s_gateway_is_followed_up_too() {
    let reply = Arc::new(Mutex::new(http(503, &[], "busy")));
    let shop = behind(&reply);
    let payment = Payment::of(&fresh_orderid());
    shop.book.enter(payment.clone());
    let form = wire::request(submit_json(&payment.orderid), KEY);
    let answer = shop.sidecar.submit(form);
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    assert_eq!(answer.header("countersign-shadow"), Some("match"));
    assert_eq!(answer.header("countersign-sent"), Some("unknown"));
    assert_eq!(shop.hears(&payment.orderid, 1)[0].source, "query");
}

#[test]
fn a_query_s_rejection_says_what_came_instead() {
    let reply = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&reply);
    let platform = Platform::start(move |_| Action::Reply(said.lock().unwrap().clone()));
    let sidecar = Sidecar::before(&platform);
    let page = "<!DOCTYPE html><html><form>Are you human?</form></html>";
    let kinds: [(Vec<u8>, &str, &[&str]); 9] = [
        (
            http(200, &["Content-Type: text/html; charset=utf-8"], page),
            "malformed-answer",
            &["an HTML page", "text/html; charset=utf-8", "55 bytes"],
        ),
        (
            http(200, &[], ""),
            "malformed-answer",
            &["empty", "0 bytes"],
        ),
        (
            http(
                200,
                &["Content-Encoding: br", "Content-Type: text/html"],
                "\x0b\x02",
            ),
            "malformed-answer",
            &["br", "text/html"],
        ),
        (
            http(200, &["Content-Type: application/json"], r#"{"ok":true}"#),
            "malformed-answer",
            &["a JSON object", "application/json"],
        ),
        (
            http(
                200,
                &["Content-Type: text/xml"],
                "<?xml version='1.0'?><a/>",
            ),
            "malformed-answer",
            &["an XML document"],
        ),
        (
            http(
                301,
                &["Location: https://pay.example.com/api/query?token=SECRET"],
                "",
            ),
            "platform-error",
            &["301", "https://pay.example.com/api/query"],
        ),
        (
            http(302, &["Location: /login"], ""),
            "platform-error",
            &["302", "/login"],
        ),
        (http(302, &[], ""), "platform-error", &["302"]),
        (http(503, &[], "busy"), "platform-error", &["503"]),
    ];
    for (bytes, code, words) in kinds {
        *reply.lock().unwrap() = bytes;
        let answer = sidecar.query(query_json(MERID, ORDERID));
        let problem = answer.problem(502, code, "yes");
        let detail = problem["detail"].as_str().unwrap();
        for word in words {
            assert!(detail.contains(word), "{word:?} is not in {detail:?}");
        }
        assert!(!answer.text().contains("SECRET"), "{}", answer.text());
        assert!(!answer.text().contains("human"), "a body is quoted");
    }
}

#[test]
fn a_query_by_queryid_is_compared_by_it_alone() {
    let reply = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&reply);
    let platform = Platform::start(move |_| {
        let form = wire::answer(said.lock().unwrap().as_str(), KEY);
        Action::Reply(crate::platform::enveloped(form))
    });
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.extra_paths = vec!["/api/refund"];
    });
    let payment = Payment::of(ORDERID);
    *reply.lock().unwrap() = payment.answer();
    let asked = |queryid: &str, orderid: &str| {
        format!(r#"{{"merid":"{MERID}","queryid":"{queryid}","orderid":"{orderid}"}}"#)
    };
    for orderid in ["OTHERORDER99", ORDERID, ""] {
        let answer = sidecar.query(asked(&payment.queryid, orderid));
        assert_eq!(answer.status, 200, "{orderid}: {}", answer.text());
        assert_eq!(answer.text(), payment.answer());
    }
    // The neighbours: another payment, an order without a queryid, and interfaces whose rules are not known.
    let foreign = "foreign-answer";
    sidecar
        .query(asked("QOTHER", ORDERID))
        .problem(502, foreign, "yes");
    sidecar
        .query(asked("", "OTHERORDER99"))
        .problem(502, foreign, "yes");
    sidecar
        .post("/api/refund", asked(&payment.queryid, "OTHERORDER99"))
        .problem(502, foreign, "yes");
}

#[test]
fn an_empty_fronturl_is_none() {
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = Sidecar::before(&platform);
    let submit = |orderid: &str, fields: &str| {
        format!(
            "{{\"action\":\"AliPay\",\"txnamt\":1280,\"merid\":\"{MERID}\",\"orderid\":\"{orderid}\",\
             \"backurl\":\"https://shop.example.com/back\"{fields}}}"
        )
    };
    for fields in [
        "",
        ",\"fronturl\":\"\"",
        ",\"fronturl\":null",
        ",\"accname\":\"\",\"accno\":null",
    ] {
        for path in ["/api/icashier", "/apis/icashier"] {
            let json = submit(&fresh_orderid(), fields);
            let answer = sidecar.post(path, &json);
            assert_eq!(answer.status, 200, "{fields}: {}", answer.text());
            if path == "/api/icashier" {
                assert_eq!(platform.last().plain(), json, "the app's bytes are signed");
            }
        }
    }
    for (fields, field) in [
        (",\"fronturl\":\" \"", "fronturl"),
        (",\"fronturl\":0", "fronturl"),
        (",\"fronturl\":\"/pay\"", "fronturl"),
    ] {
        let answer = sidecar.submit(submit(&fresh_orderid(), fields));
        assert_eq!(answer.problem(422, "invalid-field", "no")["field"], field);
    }
    let without = submit(&fresh_orderid(), "").replace("https://shop.example.com/back", "");
    let answer = sidecar.submit(without);
    assert_eq!(
        answer.problem(422, "invalid-field", "no")["field"],
        "backurl"
    );
}
