//! The demo in a customer's browser: buy in the shop, choose on the payment page, come back, and see what was said.

use crate::client;
use crate::demo::Demo;
use crate::harness::skip;
use crate::webdriver::{Browser, Screen, missing};
use serde_json::Value;
use std::net::SocketAddr;

/// The words on the pages in the customer's language.
struct Words {
    language: &'static str,
    checkout: &'static str,
    any_method: &'static str,
    paid: &'static str,
    failed: &'static str,
    not_paid: &'static str,
    overview: &'static str,
    sent_back: &'static str,
    notification: &'static str,
}

const CHINESE: Words = Words {
    language: "zh-CN",
    checkout: "收银台",
    any_method: "请选择支付方式",
    paid: "已支付",
    failed: "支付失败",
    not_paid: "未支付",
    overview: "支付平台沙箱",
    sent_back: "客户跳转 fronturl",
    notification: "后台通知",
};

const ENGLISH: Words = Words {
    language: "en",
    checkout: "Checkout",
    any_method: "Choose a method",
    paid: "Paid",
    failed: "Payment failed",
    not_paid: "Not paid",
    overview: "Payment platform sandbox",
    sent_back: "customer sent to fronturl",
    notification: "notification",
};

/// From the shop's window to its page after the payment; the order's number. Pictures are named after `name`.
#[track_caller]
fn buy(
    demo: &Demo,
    browser: &Browser,
    words: &Words,
    (result, shown): (&str, &str),
    name: &str,
) -> String {
    browser.open(&demo.shop);
    browser.reads(&["¥ 12.80"]);
    browser.fits_its_width();
    browser.picture(&format!("shop-{name}"));

    browser.click("form[action='/buy'] button");
    browser.reads(&[words.checkout, words.any_method, "¥ 12.80"]);
    let payment_page = format!("{}pay?q=Q", demo.platform);
    assert!(browser.address().starts_with(&payment_page));
    browser.fits_its_width();
    browser.picture(&format!("pay-{name}"));
    let orderid = demo.newest_order()["orderid"].as_str().unwrap().to_owned();
    browser.reads(&[&orderid]);

    browser.click(&format!("button[value='{result}']"));
    browser.reads(&[&orderid, shown]);
    browser.fits_its_width();
    browser.picture(&format!("back-{name}"));

    browser.click("main a[href]");
    browser.reads(&[&orderid]);
    assert_eq!(browser.address(), demo.shop, "the way back to the shop");
    browser.fits_its_width();
    browser.picture(&format!("orders-{name}"));
    orderid
}

/// Opens the order on the sandbox's page; what it says about it.
#[track_caller]
fn look_up(demo: &Demo, browser: &Browser, words: &Words, orderid: &str, name: &str) -> String {
    browser.open(&demo.platform);
    browser.reads(&[words.overview, orderid]);
    browser.fits_its_width();
    let queryid = demo.newest_order()["queryid"].as_str().unwrap().to_owned();
    browser.click(&format!("#{queryid} summary"));
    browser.reads(&["GET /apis/icashier", words.sent_back]);
    browser.fits_its_width();
    browser.picture(&format!("overview-{name}"));
    let text = browser.script(&format!(
        "return document.getElementById('{queryid}').innerText"
    ));
    text.unwrap().as_str().unwrap().to_owned()
}

/// The calls of the platform to the merchant, as the sandbox's own record has them.
fn notifications(order: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let messages = order["messages"].as_array().unwrap();
    let calls = messages
        .iter()
        .filter(|message| message["kind"] == "notification");
    calls
        .map(|message| (text(&message["plain"]), text(&message["answer"])))
        .collect()
}

/// Buys with this result, and finds the platform's notification of it, which was taken.
#[track_caller]
fn is_told(words: &Words, screen: Screen, (result, shown): (&str, &str), name: &str) {
    let demo = Demo::start();
    let browser = Browser::start(words.language, screen);
    let orderid = buy(&demo, &browser, words, (result, shown), name);
    let story = look_up(&demo, &browser, words, &orderid, name);
    let heading = story.lines().next().unwrap_or_default();
    assert!(
        heading.contains(&orderid) && heading.contains(shown),
        "{heading}"
    );
    assert!(
        story.contains(words.notification) && story.contains("→ 0000"),
        "{story}"
    );
    let calls = notifications(&demo.newest_order());
    let [(plain, answer)] = calls.as_slice() else {
        panic!("not one call: {calls:?}");
    };
    let plain: Value = serde_json::from_str(plain).unwrap();
    assert_eq!(
        (plain["resultcode"].as_str(), answer.as_str()),
        (Some(result), "0000")
    );
    assert_eq!(
        (&plain["txnamt"], plain["orderid"] == orderid),
        (&1280.into(), true)
    );
}

#[test]
fn a_customer_pays_and_the_shop_says_so() {
    if let Some(reason) = missing() {
        return skip("a_customer_pays_and_the_shop_says_so", &reason);
    }
    is_told(&CHINESE, Screen::Desk, ("0000", CHINESE.paid), "paid");
}

#[test]
fn a_customer_who_reads_english_pays_in_english() {
    if let Some(reason) = missing() {
        return skip("a_customer_who_reads_english_pays_in_english", &reason);
    }
    is_told(&ENGLISH, Screen::Desk, ("0000", ENGLISH.paid), "english");
}

#[test]
fn a_customer_pays_on_a_phone() {
    if let Some(reason) = missing() {
        return skip("a_customer_pays_on_a_phone", &reason);
    }
    is_told(&CHINESE, Screen::Phone, ("0000", CHINESE.paid), "phone");
}

#[test]
fn a_payment_that_fails_is_told_as_failed() {
    if let Some(reason) = missing() {
        return skip("a_payment_that_fails_is_told_as_failed", &reason);
    }
    is_told(&ENGLISH, Screen::Phone, ("1003", ENGLISH.failed), "failed");
}

#[test]
fn a_customer_who_cancels_comes_back_and_nobody_is_told() {
    if let Some(reason) = missing() {
        return skip(
            "a_customer_who_cancels_comes_back_and_nobody_is_told",
            &reason,
        );
    }
    let demo = Demo::start();
    for words in [&CHINESE, &ENGLISH] {
        let browser = Browser::start(words.language, Screen::Desk);
        let name = format!("cancelled-{}", words.language);
        let orderid = buy(&demo, &browser, words, ("cancel", words.not_paid), &name);
        let story = look_up(&demo, &browser, words, &orderid, &name);
        assert!(story.contains(words.not_paid), "{story}");
        assert_eq!(notifications(&demo.newest_order()), []);
    }
}

#[test]
fn the_sandbox_s_page_takes_a_fault_and_follows_what_comes_of_it() {
    if let Some(reason) = missing() {
        let name = "the_sandbox_s_page_takes_a_fault_and_follows_what_comes_of_it";
        return skip(name, &reason);
    }
    let demo = Demo::start();
    let address = |url: &str| {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        address.parse::<SocketAddr>().unwrap()
    };
    let (shop, platform) = (address(&demo.shop), address(&demo.platform));
    let browser = Browser::start(ENGLISH.language, Screen::Desk);
    browser.open(&demo.platform);
    browser.click("#faults > summary");
    browser.reads(&["Must be rejected or reviewed", "an invalid signature"]);
    browser.click("input[value='wrong-sign']");
    browser.click("form[action='/sandbox/faults'] button");
    browser.reads(&[ENGLISH.overview, "Active", "wrong-sign"]);

    // Somebody else buys and pays while the page is looked at.
    let bought = client::post(shop, "/buy", "");
    let link = bought.header("location").unwrap();
    let link = link.strip_prefix(demo.platform.trim_end_matches('/'));
    assert_eq!(client::fetch(platform, link.unwrap()).unwrap().status, 302);
    let order = demo.newest_order();
    let text = |name: &str| order[name].as_str().unwrap().to_owned();
    browser.reads(&[&text("orderid")]);
    browser.click(&format!("#{} summary", text("queryid")));
    let page = format!("/pay?q={}", text("queryid"));
    client::post_with(platform, &page, &[], "result=0000");
    browser.reads(&[ENGLISH.notification, "→ 400 refused"]);
    browser.fits_its_width();
    browser.picture("overview-fault");
}
