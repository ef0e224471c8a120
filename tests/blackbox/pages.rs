//! Pages: what a relayed page keeps, and the headers that every reply of ours has.

use crate::client::{Connection, Response, fetch};
use crate::harness::{Sidecar, fresh_orderid, submit_json};
use crate::platform::{Action, Platform, http};
use crate::shop::{FRONT, Payment, Shop};
use std::collections::BTreeSet;

const PAGE: &str = "<!doctype html><p>page</p>";

/// Fields that a page may depend on, as its sender wrote them.
const KEPT: [(&str, &str); 14] = [
    ("Refresh", "0; url=https://pay.example.com/next"),
    (
        "Content-Security-Policy",
        "default-src 'self'; frame-ancestors 'none'",
    ),
    ("Content-Security-Policy-Report-Only", "script-src 'self'"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "origin"),
    ("Permissions-Policy", "payment=(self)"),
    ("Cross-Origin-Opener-Policy", "same-origin-allow-popups"),
    ("Content-Encoding", "identity"),
    ("Vary", "Accept-Language, Cookie"),
    ("Cache-Control", "private, max-age=5"),
    ("Content-Language", "zh"),
    ("Link", "</pay.css>; rel=preload"),
    ("X-Powered-By", "a shop"),
];

/// Fields that belong to the connection, to the sender's origin, or to us.
const DROPPED: [&str; 7] = [
    "Keep-Alive: timeout=5",
    "Proxy-Authenticate: Basic",
    "Strict-Transport-Security: max-age=1",
    "Clear-Site-Data: \"*\"",
    "Countersign-Verified: true",
    "Countersign-Sent: no",
    "X-Request-Id: theirs",
];

fn page() -> Vec<u8> {
    let kept: Vec<_> = KEPT
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let lines = kept.iter().map(String::as_str).chain(DROPPED);
    http(
        200,
        &lines.chain(["Content-Type: text/html"]).collect::<Vec<_>>(),
        PAGE,
    )
}

#[track_caller]
fn is_whole(answer: &Response) {
    assert_eq!((answer.status, answer.text().as_str()), (200, PAGE));
    for (name, value) in KEPT {
        assert_eq!(answer.headers_named(name), [value], "{name}: {answer:?}");
    }
    for line in DROPPED {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(
            !answer.headers_named(name).contains(&value),
            "{line}: {answer:?}"
        );
    }
}

#[test]
fn a_relayed_page_keeps_what_it_needs_and_nothing_of_the_connection() {
    let platform = Platform::start(|_| Action::Reply(page()));
    let answer = Sidecar::before(&platform).submit(submit_json(&fresh_orderid()));
    is_whole(&answer);
    assert_eq!(answer.header("countersign-verified"), Some("false"));

    let shop = Shop::with(|_| Action::Reply(page()), |_| {});
    let target = format!("{FRONT}?{}", Payment::of(&shop.order()).form());
    is_whole(&fetch(shop.address(), &target).unwrap());
}

#[test]
fn a_field_that_the_sender_s_connection_names_is_not_relayed() {
    let lines = ["Connection: close, X-Hop", "X-Hop: 1", "X-Page: 1"];
    let platform = Platform::start(move |_| Action::Reply(http(200, &lines, PAGE)));
    let answer = Sidecar::before(&platform).submit(submit_json(&fresh_orderid()));
    assert_eq!(answer.header("x-page"), Some("1"));
    assert_eq!(answer.header("x-hop"), None);
}

#[test]
fn every_page_and_text_of_ours_has_the_same_security_headers() {
    let shop = Shop::open();
    let front = |query: &str| fetch(shop.address(), &format!("{FRONT}?{query}")).unwrap();
    let mut link = Connection::open(shop.sidecar.app()).unwrap();
    let body = submit_json(&fresh_orderid());
    let link = link.exchange(format!(
        "POST /apis/icashier HTTP/1.1\r\nHost: app\r\nAccept: text/html\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    for (what, answer) in [
        ("the console", shop.sidecar.admin("/")),
        ("probes", shop.sidecar.admin("/readyz")),
        ("metrics", shop.sidecar.admin("/metrics")),
        ("a rejected callback", fetch(shop.address(), "/").unwrap()),
        ("a rejected customer", front("")),
        ("a signed form", link.unwrap()),
    ] {
        let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("cache-control"), "no-store", "{what}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
        assert_eq!(header("x-frame-options"), "DENY", "{what}");
        assert!(!header("referrer-policy").is_empty(), "{what}");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{what}: {policy}");
        assert!(
            policy.contains("frame-ancestors 'none'"),
            "{what}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{what}: {policy}");
    }
}

#[test]
fn request_ids_of_the_public_port_tell_nothing() {
    let shop = Shop::open();
    let mut ids = Vec::new();
    for _ in 0..40 {
        let answer = fetch(shop.address(), "/cashier/notify/back").unwrap();
        ids.push(answer.header("x-request-id").unwrap().to_owned());
    }
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 40);
    // Each digit takes many values at each place: no start time, no counter.
    let length = ids[0].len();
    assert!(
        length >= 32 && ids.iter().all(|id| id.len() == length),
        "{ids:?}"
    );
    for place in 0..length {
        let digits: BTreeSet<_> = ids.iter().map(|id| id.as_bytes()[place]).collect();
        assert!(digits.len() > 5, "place {place}: {ids:?}");
    }
}

/// A shop whose app answers its front page in this way.
fn shop_with_front(
    reply: impl Fn(&crate::platform::Seen) -> Vec<u8> + Send + Sync + 'static,
) -> Shop {
    Shop::with(
        move |seen| match seen.target.contains("/front") {
            true => Action::Reply(reply(seen)),
            false => crate::shop::taken(),
        },
        |_| {},
    )
}

fn browse(shop: &Shop, query: &str, lines: &[&str]) -> Response {
    let mut connection = Connection::open(shop.address()).unwrap();
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("GET {FRONT}?{query} HTTP/1.1\r\nHost: pay.example.com\r\n{lines}\r\n");
    connection.exchange(request).unwrap()
}

#[test]
fn a_customer_who_has_paid_reads_so_where_the_shop_is_down() {
    let shop = shop_with_front(|_| http(502, &[], "bad gateway"));
    for (code, says_paid) in [
        ("0000", true),
        ("1002", true),
        ("1001", false),
        ("1003", false),
    ] {
        let orderid = shop.order();
        let query = Payment::of(&orderid).with_result(code).form();
        for (language, first) in [
            ("zh; q=0.9, en; q=0.2", "已收到您的付款"),
            ("en-GB, zh; q=0.2", "Your payment was received"),
        ] {
            let answer = browse(&shop, &query, &[&format!("Accept-Language: {language}")]);
            assert_eq!(answer.status, 503, "{code}: {answer:?}");
            assert_eq!(answer.header("retry-after"), Some("10"));
            let text = answer.text();
            let says = |words: &str| text.contains(words);
            assert_eq!(says(&orderid) && says("¥ 12.80"), says_paid, "{text}");
            assert_eq!(
                says("请勿再次付款") && says("Do not pay again"),
                says_paid,
                "{text}"
            );
            assert_eq!(
                says("href=\"\"") && says("Go to the shop"),
                says_paid,
                "{text}"
            );
            let headings = text
                .split("<h1>")
                .skip(1)
                .map(|rest| rest.split('<').next().unwrap());
            let headings: Vec<_> = headings.collect();
            assert_eq!(headings.first(), says_paid.then_some(&first), "{text}");
            assert!(!says("resp="), "{text}");
        }
    }
}

#[test]
fn an_app_s_front_page_learns_the_public_address() {
    let shop = shop_with_front(|seen| {
        let host = seen.header("host").unwrap_or_default();
        http(302, &[&format!("Location: http://{host}/orders/1?a=b")], "")
    });
    let answer = browse(&shop, &Payment::of(&shop.order()).form(), &[]);
    let public = shop.address().to_string();
    assert_eq!(
        answer.header("location"),
        Some(format!("http://{public}/orders/1?a=b").as_str())
    );
    let seen = shop.app.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-host"), Some(public.as_str()));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
}

#[test]
fn only_plain_parameters_pass_beside_the_envelope() {
    let shop = shop_with_front(|_| http(200, &[], PAGE));
    let json = Payment::of(&shop.order()).json();
    let json = json.replacen("\"resultcode\":\"0000\", ", "", 1);
    let form = crate::wire::answer(json, crate::harness::KEY);
    let odd = "+resultcode=0000&%20resultcode=0000&resultcode%00x=0000&resultcode[]=0000&resultcode%5B0%5D=0000\
               &resultcode.=0000&result%00code=0000&ResultCode=0000&%EF%BC%B2esultcode=0000&=0000&a.b=1&a b=1";
    let odd = odd.replace("a b", "a+b");
    let answer = browse(
        &shop,
        &format!("{form}&{odd}&store=7&from_shop-2=x%26y&utm=%E4%B8%AD"),
        &[],
    );
    assert_eq!(answer.status, 200);
    let target = shop.app.last().target;
    assert!(
        !target.contains("=0000") && !target.contains("a.b") && !target.contains("a+b"),
        "{target}"
    );
    for kept in ["store=7", "from_shop-2=x%26y", "utm=%E4%B8%AD"] {
        assert!(target.contains(kept), "{kept} in {target}");
    }
}

#[test]
fn front_redirect_sends_the_browser_with_the_plain_fields() {
    let shop = shop_with_front(|_| http(200, &[], PAGE));
    let merchants = format!(
        "[[merchant]]\nmerid = \"{}\"\nkey = \"{}\"\nback = \"{}/pay/back\"\nfront_redirect = \"https://shop.example.com/pay/done?shop=7\"\n",
        crate::harness::MERID,
        crate::harness::KEY,
        shop.app.url()
    );
    std::fs::write(shop.sidecar.merchants_file(), merchants).unwrap();
    assert_eq!(shop.sidecar.reload().status, 200);
    let payment = Payment::of("REDIRECT01");
    let answer = browse(
        &shop,
        &format!("{}&cart=3&resultcode[]=1", payment.form()),
        &[],
    );
    assert_eq!(answer.status, 303, "{answer:?}");
    let place = answer.header("location").unwrap();
    let (page, query) = place.split_once('?').unwrap();
    assert_eq!(page, "https://shop.example.com/pay/done");
    for pair in [
        "shop=7",
        "cart=3",
        "orderid=REDIRECT01",
        "resultcode=0000",
        "txnamt=1280",
    ] {
        assert!(query.split('&').any(|it| it == pair), "{pair} in {query}");
    }
    assert!(
        !query.contains("resp=") && !query.contains("sign=") && !query.contains("%5B"),
        "{query}"
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(shop.app.count(), 0);
    let forged = browse(&shop, "resultcode=0000&orderid=REDIRECT01", &[]);
    assert_eq!((forged.status, forged.header("location")), (400, None));
}
