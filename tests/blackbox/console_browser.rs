//! The console in a real browser: plots, review, decisions about a whole list, the timeline, and its refresh.

use crate::console::{TOKEN, where_events_are_parked};
use crate::harness::{MERID, fresh_orderid, skip, submit_json};
use crate::shop::{Payment, SOON, Shop, acknowledged, refused};
use crate::webdriver::{Browser, Screen, missing};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// A browser of an operator who has signed in.
fn operator(shop: &Shop, language: &str, screen: Screen) -> (Browser, String) {
    let home = format!("http://{}", shop.sidecar.setup.admin);
    let browser = Browser::start(language, screen);
    browser.lives_in("Asia/Shanghai");
    browser.open(&home);
    browser.write("input[name=token]", TOKEN);
    browser.click("main form button.first");
    browser.reads(&["Countersign"]);
    (browser, home)
}

/// Two submitted orders and their results, which the app did not accept.
fn two_parked(shop: &Shop) -> [Payment; 2] {
    let payments = [(); 2].map(|()| {
        let orderid = fresh_orderid();
        assert_eq!(shop.sidecar.submit(submit_json(&orderid)).status, 200);
        let payment = Payment::of(&orderid);
        acknowledged(&shop.notify(&payment));
        payment
    });
    for payment in &payments {
        shop.listed(&payment.orderid, "parked");
    }
    payments
}

/// Figures of seven days, as a busy shop would have them, with one hour in which nothing ran.
fn busy_week(shop: &Shop) {
    let store = rusqlite::Connection::open(shop.sidecar.setup.store()).unwrap();
    let sql = "WITH RECURSIVE ago(m) AS (SELECT 1 UNION ALL SELECT m + 1 FROM ago WHERE m < 10070),
        load(m, n) AS (SELECT m, 40 + abs(m % 1440 - 720) / 20 + m * 7919 % 11 FROM ago)
        INSERT OR REPLACE INTO minutes SELECT CAST(strftime('%s') AS INTEGER) / 60 - m, n,
            CASE WHEN m BETWEEN 40 AND 55 THEN 9 WHEN m % 97 = 0 THEN 2 ELSE 0 END,
            n * 2 / 3, m % 173 = 0, 0.004 + m * 7919 % 13 * 0.0001, 0.011 + m * 6151 % 29 * 0.0007
        FROM load WHERE m NOT BETWEEN 150 AND 210";
    store.busy_timeout(SOON).unwrap();
    store.execute(sql, []).unwrap();
}

#[test]
fn plots_have_axes_ranges_and_a_colour_for_each_meaning() {
    if let Some(reason) = missing() {
        return skip(
            "plots_have_axes_ranges_and_a_colour_for_each_meaning",
            &reason,
        );
    }
    let (shop, _) = where_events_are_parked();
    busy_week(&shop);
    let (browser, home) = operator(&shop, "en", Screen::Desk);
    browser.reads(&["Calls a minute", "Share rejected", "6 h"]);
    let colours = "return Object.fromEntries(['calls', 'callbacks', 'rejected', 'median', 'slowest'].map(name =>
        [name, [...new Set([...document.querySelectorAll(`path.${name}`)].map(it => getComputedStyle(it).stroke))]]))";
    let colours = browser.script(colours).unwrap();
    let colours: Vec<_> = colours.as_object().unwrap().values().cloned().collect();
    for (number, colour) in colours.iter().enumerate() {
        assert_eq!(colour.as_array().map(Vec::len), Some(1), "{colours:?}");
        assert!(!colours[..number].contains(colour), "{colours:?}");
    }
    for (range, mark) in [("1 h", ":"), ("6 h", ":00"), ("24 h", ":00"), ("7 d", "-")] {
        browser.click(&format!(
            "nav.ranges a[href='/?range={}']",
            range.replace(' ', "")
        ));
        let here = format!("{home}/?range={}", range.replace(' ', ""));
        browser.reads(&["Duration of calls"]);
        assert_eq!(browser.address(), here);
        let axes = "return [...document.querySelectorAll('figure')].map(it => [
            [...it.querySelectorAll('.scale span')].map(x => x.textContent),
            [...it.querySelectorAll('.marks text')].map(x => x.textContent), it.querySelectorAll('path').length])";
        let axes = browser.script(axes).unwrap();
        assert_eq!(axes.as_array().map(Vec::len), Some(4), "{axes}");
        for plot in axes.as_array().unwrap() {
            assert_eq!(
                (plot[0].as_array().map(Vec::len), &plot[2]),
                (Some(3), &json!(3)),
                "{plot}"
            );
            let marks = plot[1].as_array().unwrap();
            let has_mark = |it: &serde_json::Value| it.as_str().unwrap().contains(mark);
            assert!(
                marks.len() >= 4 && marks.iter().all(has_mark),
                "{range}: {plot}"
            );
        }
        browser.fits_its_width();
    }
}

#[test]
fn an_operator_reviews_and_replays_all_that_is_parked() {
    if let Some(reason) = missing() {
        return skip(
            "an_operator_reviews_and_replays_all_that_is_parked",
            &reason,
        );
    }
    let (shop, is_well) = where_events_are_parked();
    let payments = two_parked(&shop);
    let disputed = Payment::of(&shop.order()).with_amount(1000);
    refused("another amount", &shop.notify(&disputed));
    let (browser, home) = operator(&shop, "en", Screen::Desk);
    let looks_right = || {
        browser.fits_its_width();
        browser.wraps_no_number();
    };
    browser.open(&format!("{home}/events?state=disputed"));
    browser.reads(&["¥ 12.80", "¥ 10.00", "− ¥ 2.80", "other-amount"]);
    looks_right();
    browser.click("main a[href$='/release']");
    browser.reads(&[
        "Release this event?",
        "Signed",
        "¥ 12.80",
        "Claimed",
        "¥ 10.00",
        "Difference",
        "− ¥ 2.80",
    ]);
    looks_right();

    browser.open(&format!("{home}/events?state=parked"));
    browser.reads(&[
        "2 results",
        "Replay all",
        &payments[0].orderid,
        &payments[1].orderid,
    ]);
    looks_right();
    is_well.store(true, Ordering::SeqCst);
    browser.click("main .bulk a[href^='/events/all/replay']");
    browser.reads(&[
        "Replay 2 results?",
        "¥ 25.60",
        &payments[0].orderid,
        &payments[1].orderid,
    ]);
    looks_right();
    browser.click("main form button.first");
    browser.reads(&["Handed to delivery: 2"]);
    for payment in &payments {
        shop.listed(&payment.orderid, "delivered");
    }
    find_among_the_orders(&browser, &home, &payments[0].orderid);
    read_the_timeline(&browser, &home, &payments[0].orderid);
}

/// By the filter's fields, to the order's own page.
#[track_caller]
fn find_among_the_orders(browser: &Browser, home: &str, orderid: &str) {
    browser.open(home);
    browser.click("nav a[href='/orders']");
    browser.reads(&[
        "3 orders",
        "Newest first",
        "Paid",
        "Differs",
        "¥ 10.00",
        "CSV",
        "JSON",
    ]);
    browser.fits_its_width();
    browser.wraps_no_number();
    browser.write("form.filter input[name=orderid]", orderid);
    browser
        .script("document.querySelector('form.filter select').value = 'paid'")
        .unwrap();
    browser.click("form.filter button");
    browser.reads(&["1 order", orderid, "Clear"]);
    assert!(browser.address().contains("state=paid") && browser.address().contains(orderid));
    browser.click("main tbody a.number");
    browser.reads(&["What happened", orderid]);
}

/// Milliseconds, pauses, both times, the app's responses, the decision, and numbers to copy.
#[track_caller]
fn read_the_timeline(browser: &Browser, home: &str, orderid: &str) {
    browser.open(&format!("{home}/order?merid={MERID}&orderid={orderid}"));
    browser.reads(&[
        "Replayed by an operator",
        "state before: Parked",
        "UTC+8",
        "The app accepted it",
    ]);
    let times = "return [...document.querySelectorAll('.story li')].map(it => it.querySelector('.head p').innerText)";
    let times = browser.script(times).unwrap();
    let times: Vec<_> = times
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    assert!(times.len() >= 6, "{times:?}");
    for (number, time) in times.iter().enumerate() {
        // `+12 ms 2026-11-25 19:25:48.187 UTC · 03:25:48 UTC+8`
        let (utc, _) = time.split_once(" UTC").unwrap();
        let (_, millis) = utc.rsplit_once('.').unwrap();
        assert!(
            millis.len() == 3 && millis.bytes().all(|b| b.is_ascii_digit()),
            "{time}"
        );
        assert!(time.contains("UTC+8"), "{time}");
        assert_eq!(time.starts_with('+'), number > 0, "{time}");
    }
    browser.fits_its_width();
    browser.click("main button.copy");
    browser
        .script("return document.querySelector('main button.copy.done').dataset.copy")
        .unwrap();
    let copied = browser
        .script("return document.querySelector('main button.copy').dataset.copy")
        .unwrap();
    assert_eq!(copied, MERID);
}

#[test]
fn a_page_follows_what_happens_and_keeps_its_place() {
    if let Some(reason) = missing() {
        return skip("a_page_follows_what_happens_and_keeps_its_place", &reason);
    }
    let (shop, _) = where_events_are_parked();
    for _ in 0..12 {
        let payment = Payment::of(&shop.order()).with_amount(1);
        refused("another amount", &shop.notify(&payment));
    }
    let (browser, home) = operator(&shop, "en", Screen::Phone);
    browser.open(&format!("{home}/events?state=disputed"));
    browser.reads(&["12 results"]);
    // The middle of a long list, where a new row would move everything.
    let place = "return [...document.querySelectorAll('tbody tr')][5].getBoundingClientRect().top";
    browser.script("document.querySelectorAll('tbody tr')[5].scrollIntoView(); window.mark = document.querySelectorAll('tbody tr')[5].dataset.key").unwrap();
    let before = browser.script(place).unwrap().as_f64().unwrap();
    let payment = Payment::of(&shop.order()).with_amount(2);
    refused("another amount", &shop.notify(&payment));
    browser.reads(&["13 results", &payment.orderid]);
    let after = browser.script(
        "return document.querySelector(`[data-key='${window.mark}']`).getBoundingClientRect().top",
    );
    let after = after.unwrap().as_f64().unwrap();
    assert!(
        (after - before).abs() < 2.0,
        "{before} {after}: the row has moved, or the page was loaded again"
    );
    browser.click("#live-switch");
    browser.reads(&["Paused", "Resume"]);
}

/// Pages of the console with their names as pictures.
fn pages(parked: &str, paid: &str, event: &str) -> Vec<(&'static str, String)> {
    vec![
        ("overview", "/".to_owned()),
        ("orders", "/orders".to_owned()),
        ("order", format!("/order?merid={MERID}&orderid={parked}")),
        ("story", format!("/order?merid={MERID}&orderid={paid}")),
        ("parked", "/events?state=parked".to_owned()),
        ("bulk", "/events/all/replay?state=parked".to_owned()),
        ("review", "/events?state=disputed".to_owned()),
        ("release", format!("/events/{event}/release")),
        ("empty", "/events?state=discarded".to_owned()),
        ("rejections", "/refusals".to_owned()),
        ("merchants", "/merchants".to_owned()),
    ]
}

/// A shop in which a bit of everything has happened.
fn eventful() -> (Shop, [String; 3]) {
    let (shop, is_well) = where_events_are_parked();
    busy_week(&shop);
    let parked = two_parked(&shop);
    let disputed = Payment::of(&shop.order()).with_amount(128_000);
    refused("another amount", &shop.notify(&disputed));
    let event = crate::shop::id_of(&shop.listed(&disputed.orderid, "disputed")).to_owned();
    is_well.store(true, Ordering::SeqCst);
    let [paid, _] = ["0000", "1003"].map(|code| {
        let orderid = fresh_orderid();
        assert_eq!(shop.sidecar.submit(submit_json(&orderid)).status, 200);
        acknowledged(&shop.notify(&Payment::of(&orderid).with_result(code)));
        shop.listed(&orderid, "delivered");
        orderid
    });
    shop.order();
    let parked = parked[0].orderid.clone();
    (shop, [parked, paid, event])
}

#[test]
fn every_page_of_the_console_fits_in_both_languages() {
    if let Some(reason) = missing() {
        return skip("every_page_of_the_console_fits_in_both_languages", &reason);
    }
    let (shop, [parked, paid, event]) = eventful();
    for (screen, name) in [(Screen::Desk, "desk"), (Screen::Phone, "phone")] {
        let (browser, home) = operator(&shop, "en", screen);
        for (language, tone) in [("en", "light"), ("zh", "dark")] {
            if tone == "dark" {
                browser.likes_it_dark();
            }
            for (page, path) in pages(&parked, &paid, &event) {
                let joint = if path.contains('?') { '&' } else { '?' };
                browser.open(&format!("{home}{path}{joint}lang={language}"));
                browser.reads(&[if language == "en" {
                    "times are UTC"
                } else {
                    "时间为 UTC"
                }]);
                browser.fits_its_width();
                if name == "desk" {
                    browser.wraps_no_number();
                }
                browser.picture(&format!("console-{page}-{name}-{tone}-{language}.webp"));
            }
        }
    }
}

#[test]
fn nothing_changes_under_a_mouse_button_that_is_pressed() {
    if let Some(reason) = missing() {
        return skip(
            "nothing_changes_under_a_mouse_button_that_is_pressed",
            &reason,
        );
    }
    let demo = crate::demo::Demo::start();
    let browser = Browser::start("en", Screen::Desk);
    browser.open(&demo.platform);
    let first = demo.newest_order();
    browser.reads(&[first["orderid"].as_str().unwrap()]);
    let summary = format!("#{} summary", first["queryid"].as_str().unwrap());
    browser.mouse(&summary, "pointerDown");
    let address = demo
        .shop
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let bought = crate::client::post(address.parse().unwrap(), "/buy", "");
    let link = bought.header("location").unwrap().to_owned();
    let platform = demo.platform.trim_end_matches('/');
    let target = link.strip_prefix(platform).unwrap();
    let at = platform.trim_start_matches("http://").parse().unwrap();
    assert_eq!(crate::client::fetch(at, target).unwrap().status, 302);
    let second = demo.newest_order()["orderid"].as_str().unwrap().to_owned();
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        assert!(!browser.text().contains(&second));
        thread::sleep(Duration::from_millis(100));
    }
    browser.mouse(&summary, "pointerUp");
    browser.reads(&[&second]);
    let is_open = format!(
        "return document.getElementById('{}').open",
        first["queryid"].as_str().unwrap()
    );
    assert_eq!(
        browser.script(&is_open).unwrap(),
        true,
        "the click counted, and survives the refresh"
    );
}
