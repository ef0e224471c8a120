//! Two stories about one payment: neither is told to the app until a person has looked.

use crate::harness::fresh_orderid;
use crate::shop::{Payment, Shop, acknowledged, id_of, refused};
use std::sync::atomic::Ordering;

#[test]
fn another_amount_than_the_one_we_signed_is_kept_for_a_person() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order()).with_amount(1);
    for _ in 0..3 {
        refused("another amount", &shop.notify(&payment));
    }
    shop.goes_well();
    assert_eq!(shop.app.count(), 1);
    shop.listed(&payment.orderid, "disputed");
    assert_eq!(shop.list().len(), 2, "the repeats are the same event");
    let metrics = shop.sidecar.metrics();
    assert!(metrics.sum(&["countersign_disputes_total"]) >= 1.0);
    let disputed = metrics.sum(&["countersign_events{", "state=\"disputed\""]);
    assert_eq!(disputed, 1.0);
}

#[test]
fn a_person_may_decide_that_a_disputed_event_is_told() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order()).with_amount(1);
    refused("another amount", &shop.notify(&payment));
    let line = shop.listed(&payment.orderid, "disputed");
    let output = shop.inbox(&["replay", id_of(&line)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let delivery = shop.hears(&payment.orderid, 1).remove(0);
    assert_eq!(delivery.event, id_of(&line));
    assert_eq!(delivery.body, payment.json());
}

/// Two notifications with one queryid and one result.
#[track_caller]
fn two_stories(first: &Payment, second: &Payment, shop: &Shop) {
    acknowledged(&shop.notify(first));
    let told = shop.hears(&first.orderid, 1).len();
    assert_eq!(told, 1);
    for _ in 0..2 {
        refused("another story", &shop.notify(second));
    }
    shop.goes_well();
    let second_told = shop
        .deliveries()
        .into_iter()
        .filter(|delivery| delivery.body == second.json())
        .count();
    assert_eq!(second_told, 0);
    assert!(shop.list().iter().any(|line| line.contains("disputed")));
    assert!(shop.sidecar.metrics().sum(&["countersign_disputes_total"]) >= 1.0);
}

#[test]
fn a_second_order_under_one_queryid_is_not_told() {
    let shop = Shop::open();
    let first = Payment::of(&shop.order());
    let second = Payment::of(&shop.order()).with_queryid(&first.queryid);
    two_stories(&first, &second, &shop);
    shop.listed(&second.orderid, "disputed");
    shop.listed(&first.orderid, "delivered");
}

#[test]
fn a_second_amount_under_one_queryid_is_not_told_even_of_an_unknown_order() {
    let shop = Shop::open();
    let first = Payment::of(&fresh_orderid());
    let second = first.clone().with_amount(99);
    two_stories(&first, &second, &shop);
}

#[test]
fn a_first_story_that_was_not_told_yet_is_held_too() {
    let (shop, is_well) = Shop::with_an_ill_app(|_| {});
    let first = Payment::of(&shop.order());
    acknowledged(&shop.notify(&first));
    shop.hears(&first.orderid, 1);
    let second = Payment::of(&shop.order()).with_queryid(&first.queryid);
    refused("another story", &shop.notify(&second));
    shop.listed(&first.orderid, "disputed");
    shop.listed(&second.orderid, "disputed");
    let before = shop.deliveries_of(&first.orderid).len();
    // A payment from afterwards fails as often as the first one would have; in that time nothing is heard of the first.
    let fence = Payment::of(&shop.order());
    acknowledged(&shop.notify(&fence));
    shop.hears(&fence.orderid, 3);
    is_well.store(true, Ordering::SeqCst);
    shop.listed(&fence.orderid, "delivered");
    // One attempt may have been under way.
    assert!(shop.deliveries_of(&first.orderid).len() <= before + 1);
    assert_eq!(shop.deliveries_of(&second.orderid).len(), 0);
    let line = shop.listed(&first.orderid, "disputed");
    let output = shop.inbox(&["replay", id_of(&line)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    shop.listed(&first.orderid, "delivered");
}

#[test]
fn a_dispute_outlives_a_restart() {
    let mut shop = Shop::open();
    let payment = Payment::of(&shop.order()).with_amount(1);
    refused("another amount", &shop.notify(&payment));
    shop.sidecar.restart();
    shop.goes_well();
    assert_eq!(shop.app.count(), 1);
    shop.listed(&payment.orderid, "disputed");
    refused("another amount", &shop.notify(&payment));
}

#[test]
fn a_failure_after_a_payment_waits_for_review_and_another_try_does_not() {
    let shop = Shop::open();
    for state in ["0000", "1002"] {
        let paid = Payment::of(&shop.order()).with_result(state);
        acknowledged(&shop.notify(&paid));
        shop.hears(&paid.orderid, 1);
        let failed = paid.clone().with_result("1003");
        // Settlement may fail after 1002; after 0000 nothing may.
        match state {
            "0000" => refused("a failure after 0000", &shop.notify(&failed)),
            _ => acknowledged(&shop.notify(&failed)),
        }
        let other = failed.with_queryid(&format!("QOTHER{state}"));
        acknowledged(&shop.notify(&other));
    }
    let disputed = shop
        .list()
        .into_iter()
        .filter(|line| line.contains("disputed"));
    let disputed: Vec<_> = disputed.collect();
    assert_eq!(disputed.len(), 1, "{disputed:?}");
    let shown = shop.inbox(&["show", id_of(&disputed[0])]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("failed-after-paid"), "{shown}");
}
