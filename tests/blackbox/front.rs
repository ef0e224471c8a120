//! The customer's way back: what is verified goes to the app's page with plain fields, and books nothing.

use crate::client::{Connection, Response, fetch};
use crate::harness::{KEY, MERID, OTHER_KEY, Sidecar, free_port};
use crate::platform::{Action, Seen, http};
use crate::shop::{FRONT, Payment, Shop, merchant_at, taken};
use crate::wire::{self, answer_around, base64, percent};
use serde_json::Value;

const PAGE: &str = "<!doctype html><p>谢谢 for your order.";

/// An app with a page of thanks.
fn thanks(seen: &Seen) -> Action {
    if seen.target.contains("/front") {
        Action::Reply(http(
            200,
            &[
                "Content-Type: text/html; charset=utf-8",
                "Set-Cookie: seen=1; Path=/",
                "Set-Cookie: cart=; Max-Age=0",
                "Cache-Control: no-store",
            ],
            PAGE,
        ))
    } else {
        taken()
    }
}

fn shop() -> Shop {
    Shop::with(thanks, |_| {})
}

/// The browser follows the link back.
fn browse(shop: &Shop, query: &str) -> Response {
    let mut connection = Connection::open(shop.address()).unwrap();
    connection
        .exchange(format!(
            "GET {FRONT}?{query} HTTP/1.1\r\nHost: shop.example.com\r\nCookie: session=s3cr3t; lang=zh\r\n\
             Accept-Language: zh-CN\r\nUser-Agent: Browser/1.0\r\nConnection: close\r\n\r\n"
        ))
        .unwrap()
}

fn parameters(seen: &Seen) -> Vec<(String, String)> {
    let (_, query) = seen.target.split_once('?').unwrap_or_default();
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")).0)
        .map(|name| (name.to_owned(), wire::value(query, name).unwrap()))
        .collect()
}

/// Something went wrong in no other way than it should: nothing was booked.
#[track_caller]
fn nothing_is_booked(shop: &Shop) {
    assert_eq!(shop.list().len(), 0);
    shop.goes_well();
    assert_eq!(shop.deliveries().len(), 1);
}

#[test]
fn a_verified_customer_sees_the_app_s_page() {
    let shop = shop();
    let payment = Payment::of(&shop.order());
    let answer = browse(&shop, &payment.form());
    assert_eq!((answer.status, answer.text().as_str()), (200, PAGE));
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.headers_named("set-cookie"),
        ["seen=1; Path=/", "cart=; Max-Age=0"]
    );
    let seen = shop.app.last();
    assert_eq!(seen.method, "GET");
    assert!(seen.target.starts_with("/pay/front?"), "{}", seen.target);
    assert_eq!(seen.header("cookie"), Some("session=s3cr3t; lang=zh"));
    assert_eq!(seen.header("accept-language"), Some("zh-CN"));
    assert_eq!(seen.header("user-agent"), Some("Browser/1.0"));
    let expected: Value = serde_json::from_str(&payment.json()).unwrap();
    let parameters = parameters(&seen);
    for (name, value) in expected.as_object().unwrap() {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        let told: Vec<_> = parameters.iter().filter(|(it, _)| it == name).collect();
        assert_eq!(told, [&(name.clone(), value)], "{}", seen.target);
    }
    assert!(!seen.target.contains("resp=") && !seen.target.contains("sign="));
    nothing_is_booked(&shop);
}

#[test]
fn a_front_notification_without_a_time_of_payment_is_complete() {
    let shop = shop();
    let json = Payment::of(&shop.order()).json();
    let short = json.replace(",\"paytime\":\"2017-03-01 12:00:05\"", "");
    assert_ne!(json, short);
    assert_eq!(browse(&shop, &wire::answer(short, KEY)).status, 200);
}

#[test]
fn a_page_that_is_not_verified_never_reaches_the_app() {
    let shop = shop();
    let payment = Payment::of(&shop.order());
    let text = base64(payment.json());
    let resp = percent(&text);
    let good = wire::sign(&text, KEY);
    let own = wire::answer(
        crate::harness::submit_of(MERID, &payment.orderid, 1280),
        KEY,
    );
    for query in [
        String::new(),
        format!("resp={resp}"),
        format!("sign={good}"),
        answer_around(&text, ""),
        answer_around(&text, &"0".repeat(32)),
        answer_around(&text, &wire::sign(&text, OTHER_KEY)),
        format!("resp={resp}&sign={good}&sign={good}"),
        format!("resp={resp}&resp={resp}&sign={good}"),
        format!("resp=%zz&sign={good}"),
        wire::answer("0000", KEY),
        own,
        "resultcode=0000&txnamt=1280".to_owned(),
    ] {
        let answer = browse(&shop, &query);
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(!answer.text().contains(&payment.orderid), "{query}");
        assert_eq!(shop.app.count(), 0, "{query}");
    }
    let refused = shop.sidecar.metrics();
    let refused = refused.sum(&["countersign_callbacks_total", "kind=\"front\""]);
    assert_eq!(refused, 12.0);
    nothing_is_booked(&shop);
}

#[test]
fn what_a_refusal_s_page_says_is_no_script() {
    let shop = shop();
    let script = "<script>alert(1)</script>";
    let answer = browse(&shop, &format!("resp={script}&sign={}", percent(script)));
    assert_eq!(answer.status, 400);
    assert!(!answer.text().contains("<script>alert"), "{answer:?}");
}

#[test]
fn a_customer_cannot_add_fields_of_his_own() {
    let shop = shop();
    let payment = Payment::of(&shop.order()).with_result("1001");
    let form = payment.form();
    for query in [
        format!("{form}&resultcode=0000"),
        format!("resultcode=0000&{form}"),
        format!("{form}&RESULTCODE=0000&txnamt=1&paid=1"),
    ] {
        let answer = browse(&shop, &query);
        if answer.status == 200 {
            let seen = shop.app.last();
            let codes: Vec<_> = parameters(&seen)
                .into_iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("resultcode"))
                .collect();
            let signed = [("resultcode".to_owned(), "1001".to_owned())];
            assert_eq!(codes, signed, "{query}: {}", seen.target);
            assert_eq!(
                parameters(&seen)
                    .iter()
                    .filter(|it| it.0 == "txnamt")
                    .count(),
                1
            );
        } else {
            assert_eq!(answer.status, 400, "{query}: {answer:?}");
        }
    }
}

#[test]
fn a_field_that_the_platform_left_out_is_not_the_customer_s_to_fill_in() {
    let shop = shop();
    let json = Payment::of(&shop.order()).json();
    for (member, forged) in [
        ("\"resultcode\":\"0000\", ", "resultcode=0000"),
        (",\"paytime\":\"2017-03-01 12:00:05\"", "paytime=2017-03-01"),
    ] {
        let short = json.replace(member, "");
        assert_ne!(json, short);
        let answer = browse(&shop, &format!("{}&{forged}", wire::answer(short, KEY)));
        if answer.status == 200 {
            let target = shop.app.last().target;
            assert!(!target.contains(forged), "{target}");
        } else {
            assert_eq!(answer.status, 400, "{answer:?}");
        }
    }
}

#[test]
fn values_that_look_like_parameters_stay_values() {
    let shop = shop();
    let queryid = "Q1&resultcode=0000#?%26=+ \\\"/";
    let payment = Payment::of(&shop.order())
        .with_result("1001")
        .with_queryid(queryid);
    assert_eq!(browse(&shop, &payment.form()).status, 200);
    let target = shop.app.last().target;
    let (_, query) = target.split_once('?').unwrap();
    let told = wire::value(query, "queryid").unwrap();
    assert_eq!(told, "Q1&resultcode=0000#?%26=+ \"/", "{target}");
    assert_eq!(
        wire::value(query, "resultcode").unwrap(),
        "1001",
        "{target}"
    );
}

#[test]
fn the_app_s_redirect_is_the_browser_s_to_follow() {
    let trap = crate::platform::Platform::start(|_| taken());
    let location = format!("{}/orders/1", trap.url());
    let line = format!("Location: {location}");
    let shop = Shop::with(
        move |_| Action::Reply(http(302, &[&line, "Set-Cookie: a=b"], "")),
        |_| {},
    );
    let answer = browse(&shop, &Payment::of(&shop.order()).form());
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), Some(location.as_str()));
    assert_eq!(answer.header("set-cookie"), Some("a=b"));
    assert_eq!(trap.count(), 0);
}

#[test]
fn a_page_whose_url_has_a_query_keeps_it() {
    let shop = Shop::with(thanks, |_| {});
    let url = shop.app.url();
    let merchants = merchant_at(&url, MERID, KEY).replace("/pay/front", "/pay/front?shop=7");
    std::fs::write(shop.sidecar.merchants_file(), merchants).unwrap();
    assert_eq!(shop.sidecar.reload().status, 200);
    let payment = Payment::of("FRONTQUERY1");
    assert_eq!(browse(&shop, &payment.form()).status, 200);
    let parameters = parameters(&shop.app.last());
    for (name, value) in [("shop", "7"), ("orderid", "FRONTQUERY1")] {
        assert!(parameters.contains(&(name.to_owned(), value.to_owned())));
    }
}

#[test]
fn a_large_page_comes_through_whole() {
    let page = "page ".repeat(200_000);
    let sent = page.clone();
    let shop = Shop::with(move |_| Action::Reply(http(200, &[], &sent)), |_| {});
    let answer = browse(&shop, &Payment::of(&shop.order()).form());
    assert_eq!(answer.status, 200);
    assert!(answer.text() == page, "{} bytes", answer.body.len());
}

#[test]
fn an_app_that_is_down_gives_the_customer_an_error_soon() {
    let url = format!("http://127.0.0.1:{}", free_port());
    let sidecar = Sidecar::start(|conf| {
        conf.merchants = merchant_at(&url, MERID, KEY);
        conf.callbacks = Some(String::new());
    });
    let began = std::time::Instant::now();
    let target = format!("{FRONT}?{}", Payment::of("APPISDOWN1").form());
    let answer = fetch(sidecar.setup.callbacks, &target).unwrap();
    assert!((500..600).contains(&answer.status), "{answer:?}");
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn a_front_notification_is_read_only_from_a_link() {
    let shop = shop();
    let form = Payment::of(&shop.order()).form();
    let answer = crate::client::post_with(shop.address(), FRONT, &[crate::shop::FORM], form);
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_eq!(shop.app.count(), 0);
}
