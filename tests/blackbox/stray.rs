//! Responses that nobody asked for on a kept-alive connection: one call fails at most, and nobody gets another's.

use crate::harness::{KEY, MERID, Sidecar, eventually, fresh_orderid, query_json, submit_json};
use crate::platform::{Action, PAGE, Platform, Seen, honest_answer, http};
use crate::shop::{Book, Payment, SOON, Shop, taken};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(60);

/// A platform that answers the second request of each connection with the first one's response, and then with its own.
/// `pause` lies between the two, and before every other response.
fn with_strays(
    pause: Duration,
    answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static,
) -> (Platform, Arc<AtomicUsize>) {
    let strays = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&strays);
    let before: Mutex<Vec<(usize, Vec<u8>)>> = Mutex::default();
    let platform = Platform::start(move |seen| {
        let own = answer(seen);
        let mut before = before.lock().unwrap();
        let earlier = before.iter().rev().find(|(at, _)| *at == seen.connection);
        let earlier = earlier.map(|(_, response)| response.clone());
        before.push((seen.connection, own.clone()));
        match earlier.filter(|_| seen.number == 2) {
            Some(stray) if pause.is_zero() => {
                counted.fetch_add(1, Ordering::SeqCst);
                Action::Reply([stray, own].concat())
            }
            Some(stray) => {
                counted.fetch_add(1, Ordering::SeqCst);
                Action::Parts(vec![(Duration::ZERO, stray), (pause, own)])
            }
            None => Action::Late(own, pause),
        }
    });
    (platform, strays)
}

#[test]
fn a_query_never_gets_the_response_to_another() {
    for pause in [Duration::ZERO, MOMENT] {
        let (platform, strays) = with_strays(pause, |seen| honest_answer(seen, KEY));
        let sidecar = Sidecar::before(&platform);
        let mut failed = 0;
        for _ in 0..12 {
            let orderid = fresh_orderid();
            let answer = sidecar.query(query_json(MERID, &orderid));
            if answer.status == 200 {
                assert_eq!(answer.json()["orderid"], orderid);
            } else {
                answer.problem(502, "foreign-answer", "yes");
                failed += 1;
            }
        }
        let strays = strays.load(Ordering::SeqCst);
        assert!(strays > 0, "no connection was used twice");
        assert!(failed <= strays, "{failed} calls failed of {strays} strays");
    }
}

#[test]
fn a_submit_with_two_responses_shows_no_page_at_all() {
    let page = |seen: &Seen| http(200, &["Content-Type: text/html"], seen.member("orderid"));
    let (platform, strays) = with_strays(Duration::ZERO, page);
    let sidecar = Sidecar::before(&platform);
    let mut failed = 0;
    for _ in 0..40 {
        let orderid = fresh_orderid();
        let answer = sidecar.submit(submit_json(&orderid));
        if answer.status == 200 {
            assert_eq!(answer.text(), orderid);
        } else {
            answer.problem(502, "malformed-answer", "unknown");
            failed += 1;
        }
        // The connection rests for as long as its slowest exchange took.
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(failed > 0, "no connection was used twice");
    assert_eq!(failed, strays.load(Ordering::SeqCst));
}

#[test]
fn a_stray_page_shifts_no_later_submit() {
    let page = |seen: &Seen| http(200, &["Content-Type: text/html"], seen.member("orderid"));
    let (platform, strays) = with_strays(MOMENT, page);
    let sidecar = Sidecar::before(&platform);
    let mut others = 0;
    for _ in 0..20 {
        let orderid = fresh_orderid();
        let answer = sidecar.submit(submit_json(&orderid));
        others += usize::from(answer.text() != orderid);
    }
    let strays = strays.load(Ordering::SeqCst);
    assert!(others <= strays, "{others} wrong pages of {strays} strays");
}

#[test]
fn bytes_on_an_idle_connection_end_it() {
    let platform = Platform::start(|seen| {
        let own = http(200, &["Content-Type: text/html"], seen.member("orderid"));
        let stray = http(200, &["Content-Type: text/html"], PAGE);
        let soon = Duration::from_millis(5);
        Action::Parts(vec![(Duration::ZERO, own), (soon, stray)])
    });
    let sidecar = Sidecar::before(&platform);
    for n in 1..=5 {
        let orderid = fresh_orderid();
        let answer = sidecar.submit(submit_json(&orderid));
        assert_eq!(answer.text(), orderid);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(platform.connections(), n);
    }
}

#[test]
fn a_stray_0000_delivers_no_other_event() {
    // The second request of each connection gets a stray 0000 before its own 500.
    let app = |seen: &Seen| match seen.number {
        1 => taken(),
        _ => Action::Reply([http(200, &[], "0000"), http(500, &[], "no")].concat()),
    };
    let shop = Shop::start(Book::default(), app, |_| {});
    let mut judged = 0;
    for _ in 0..12 {
        let orderid = shop.order();
        shop.notify_until_acknowledged(&Payment::of(&orderid));
        let heard = shop.hears(&orderid, 1);
        let of = |delivery: &crate::shop::Delivery| {
            let seen = shop.app.seen();
            let seen = seen.into_iter().find(|seen| seen.at == delivery.at);
            seen.unwrap().number
        };
        if of(&heard[0]) > 1 {
            judged += 1;
            // Not taken, so it comes again.
            shop.hears(&orderid, 2);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(judged > 0, "no connection carried two deliveries");
}

#[test]
fn a_connection_is_kept_after_what_was_expected_and_closed_after_anything_else() {
    let platform = Platform::start(|seen| {
        let status = if seen.target.ends_with("icashier") {
            200
        } else {
            500
        };
        Action::Reply(http(status, &["Content-Type: text/html"], PAGE))
    });
    let sidecar = Sidecar::before(&platform);
    for _ in 0..4 {
        sidecar.submit(submit_json(&fresh_orderid()));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(platform.connections() < 4, "pages are expected");
    let before = platform.connections();
    for _ in 0..4 {
        sidecar.query(query_json(MERID, &fresh_orderid()));
    }
    // The first query takes the connection of a submit.
    assert!(platform.connections() >= before + 3, "errors are not");
    eventually("the metrics have it", SOON, || {
        sidecar.metrics().sum(&["connections", "reused"]) >= 1.0
    });
}

/// Sends each page, and behind it after `delay` one that nobody wants.
fn strays_after(delay: Duration) -> Platform {
    Platform::start(move |seen| {
        let own = http(200, &["Content-Type: text/html"], seen.member("orderid"));
        let stray = http(200, &["Content-Type: text/html"], PAGE);
        Action::Parts(vec![(Duration::ZERO, own), (delay, stray)])
    })
}

#[test]
fn after_a_stray_each_connection_carries_one_call() {
    for millis in [0, 1, 3, 7, 15, 30] {
        let platform = strays_after(Duration::from_millis(millis));
        let sidecar = Sidecar::before(&platform);
        let (mut others, mut calls) = (0, 0);
        let mut submit = || {
            let orderid = fresh_orderid();
            let answer = sidecar.submit(submit_json(&orderid));
            calls += 1;
            others += usize::from(answer.text() != orderid);
        };
        let strays = || sidecar.metrics().sum(&["stray_responses_total"]);
        for _ in 0..40 {
            if strays() > 0.0 {
                break;
            }
            submit();
        }
        assert!(strays() > 0.0, "{millis} ms: no stray was noticed");
        let before = platform.connections();
        for _ in 0..6 {
            submit();
        }
        assert_eq!(platform.connections(), before + 6, "{millis} ms");
        // One call at most of each connection that had a stray on its way.
        assert!(others <= before, "{millis} ms: {others} of {calls} pages");
        let said = "the server sent a response to no request";
        eventually("the log says so", SOON, || {
            sidecar.output().matches(said).count() == 1
        });
    }
}

#[test]
fn the_response_that_closes_an_idle_connection_is_no_stray() {
    let platform = Platform::start(|seen| {
        let own = http(200, &["Content-Type: text/html"], seen.member("orderid"));
        let closing = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n".to_vec();
        Action::Parts(vec![
            (Duration::ZERO, own),
            (Duration::from_millis(5), closing),
        ])
    });
    let sidecar = Sidecar::before(&platform);
    for _ in 0..4 {
        let orderid = fresh_orderid();
        assert_eq!(sidecar.submit(submit_json(&orderid)).text(), orderid);
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(sidecar.metrics().sum(&["stray_responses_total"]), 0.0);
}

#[test]
fn after_a_stray_reply_each_connection_carries_one_delivery() {
    for millis in [0, 2, 10, 30] {
        let delay = Duration::from_millis(millis);
        // Each connection's first reply is followed by a stray 0000; whatever else comes on it is rejected.
        let app = move |seen: &Seen| match seen.number {
            1 => Action::Parts(vec![
                (Duration::ZERO, http(200, &[], "0000")),
                (delay, http(200, &[], "0000")),
            ]),
            _ => Action::Reply(http(500, &[], "no")),
        };
        let shop = Shop::start(Book::default(), app, |_| {});
        let strays = || shop.sidecar.metrics().sum(&["stray_responses_total"]);
        for _ in 0..30 {
            if strays() > 0.0 {
                break;
            }
            let orderid = shop.order();
            shop.notify_until_acknowledged(&Payment::of(&orderid));
            shop.hears(&orderid, 1);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(strays() > 0.0, "{millis} ms: no stray was noticed");
        for _ in 0..4 {
            let orderid = shop.order();
            shop.notify_until_acknowledged(&Payment::of(&orderid));
            let heard = shop.hears(&orderid, 1);
            let seen = shop.app.seen();
            let seen = seen.iter().find(|seen| seen.at == heard[0].at).unwrap();
            assert_eq!(seen.number, 1, "{millis} ms: the connection was used again");
        }
    }
}
