//! `countersign inbox`: what a person sees of the events and does about them, while the sidecar runs.

use crate::harness::{MERID, eventually, fresh_orderid, run_with_input};
use crate::shop::{
    Payment, SOON, Shop, acknowledged, callback, id_of, inbox, is_acknowledged, list,
};
use std::collections::BTreeSet;
use std::process::Output;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_list_has_a_line_an_event_that_begins_with_its_id() {
    let shop = Shop::open();
    assert_eq!(shop.list().len(), 0);
    let told: Vec<_> = (0..3).map(|_| shop.goes_well()).collect();
    for delivery in &told {
        let line = shop.listed(&delivery.orderid(), "delivered");
        assert_eq!(id_of(&line), delivery.event);
    }
    assert_eq!(shop.list().len(), 3);
}

#[test]
fn the_list_can_be_of_one_state() {
    let shop = Shop::open();
    let told = shop.goes_well();
    let disputed = Payment::of(&shop.order()).with_amount(1);
    shop.notify(&disputed);
    shop.listed(&told.orderid(), "delivered");
    for (state, orderid) in [
        ("delivered", told.orderid()),
        ("disputed", disputed.orderid.clone()),
    ] {
        let output = shop.inbox(&["list", "--state", state]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let lines = stdout(&output);
        assert_eq!(lines.lines().count(), 1, "{lines}");
        assert!(lines.contains(&orderid), "{lines}");
    }
    let output = shop.inbox(&["list", "--state", "parked"]);
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "")
    );
    let output = shop.inbox(&["list", "--state", "nonsense"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn an_event_is_shown_with_its_story() {
    let (shop, _) = Shop::with_an_ill_app(|_| {});
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let event = shop.hears(&payment.orderid, 2).remove(0).event;
    let output = shop.inbox(&["show", &event]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = stdout(&output);
    for part in [&event, &payment.orderid, &payment.queryid, &payment.merid] {
        assert!(shown.contains(part.as_str()), "{part} is missing: {shown}");
    }
    assert!(shown.contains("500"), "what the app answered: {shown}");
}

#[test]
fn a_discarded_event_is_offered_no_more() {
    let (shop, is_well) = Shop::with_an_ill_app(|_| {});
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let event = shop.hears(&payment.orderid, 1).remove(0).event;
    let output = shop.inbox(&["discard", &event]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    shop.listed(&payment.orderid, "discarded");
    let before = shop.deliveries_of(&payment.orderid).len();
    // Another one is tried three times meanwhile.
    let fence = Payment::of(&shop.order());
    acknowledged(&shop.notify(&fence));
    shop.hears(&fence.orderid, 3);
    is_well.store(true, Ordering::SeqCst);
    shop.listed(&fence.orderid, "delivered");
    // One attempt may have been under way.
    assert!(shop.deliveries_of(&payment.orderid).len() <= before + 1);
}

#[test]
fn a_delivered_event_can_be_told_again_under_its_id() {
    let shop = Shop::open();
    let first = shop.goes_well();
    shop.listed(&first.orderid(), "delivered");
    let output = shop.inbox(&["replay", &first.event]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let again = shop.hears(&first.orderid(), 2).remove(1);
    assert_eq!((again.event, again.body), (first.event, first.body));
}

#[test]
fn an_event_replayed_without_a_sidecar_is_told_by_the_next_one() {
    let mut shop = Shop::open();
    let payment = Payment::of(&shop.order()).with_amount(1);
    shop.notify(&payment);
    let line = shop.listed(&payment.orderid, "disputed");
    shop.sidecar.kill();
    let output = shop.inbox(&["replay", id_of(&line)]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    shop.sidecar.restart();
    assert_eq!(shop.hears(&payment.orderid, 1)[0].event, id_of(&line));
}

#[test]
fn what_is_not_there_is_said_to_be_not_there() {
    let shop = Shop::open();
    shop.goes_well();
    for verb in ["show", "replay", "discard"] {
        for id in ["0", "nonsense", "' OR 1=1 --", "99999999999999999999999"] {
            let output = shop.inbox(&[verb, id]);
            assert_eq!(output.status.code(), Some(1), "{verb} {id}: {output:?}");
            assert_eq!(stdout(&output), "", "{verb} {id}");
            assert!(!output.stderr.is_empty(), "{verb} {id}");
        }
        let output = shop.inbox(&[verb]);
        assert_eq!(output.status.code(), Some(2), "{verb}: {output:?}");
    }
    assert_eq!(shop.inbox(&["nonsense"]).status.code(), Some(2));
    let mut command = crate::harness::command();
    command.args(["inbox", "list", "-c", "/nowhere/countersign.toml"]);
    assert_eq!(run_with_input(&mut command, "").status.code(), Some(78));
}

#[test]
fn a_list_without_a_store_makes_none() {
    let setup = crate::harness::Setup::new(|_| {});
    let output = inbox(&setup, &["list"]);
    assert_ne!(output.status.code(), None);
    assert_eq!(stdout(&output), "");
    assert!(!setup.store().exists(), "a look is no change");
}

#[test]
fn what_a_notification_holds_cannot_draw_on_the_screen() {
    let shop = Shop::open();
    let tricks = [
        "\\u001b[2J\\u001b[31mPAID",
        "A\\nB\\tC",
        "A\\u202eB\\u0085C",
        "\\u009b31m",
    ];
    for trick in tricks {
        for member in ["orderid", "queryid", "resultcode"] {
            let orderid = fresh_orderid();
            let json = Payment::of(&orderid).json();
            let from = format!("\"{member}\":\"");
            let json = json.replacen(&from, &format!("{from}{trick}"), 1);
            let form = crate::wire::answer(json, crate::harness::KEY);
            // A result code that is none goes to review, which is not acknowledged; no platform writes such things.
            let is_taken = is_acknowledged(&callback(shop.address(), form));
            assert_eq!(is_taken, member != "resultcode", "{member}: {trick}");
        }
    }
    let lines = shop.list();
    assert_eq!(lines.len(), 12, "each is kept: {lines:?}");
    let shown = lines
        .iter()
        .map(|line| stdout(&shop.inbox(&["show", id_of(line)])));
    for text in lines.iter().cloned().chain(shown) {
        let drawn: Vec<_> = text
            .chars()
            .filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}')
            .collect();
        assert!(drawn.is_empty(), "{drawn:?} in {text:?}");
    }
}

#[test]
fn looking_disturbs_no_sidecar() {
    let shop = Shop::open();
    let setup = &shop.sidecar.setup;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..15 {
                    list(setup);
                }
            });
        }
        for _ in 0..100 {
            acknowledged(&shop.notify(&Payment::of(&fresh_orderid())));
        }
    });
    crate::harness::eventually("all are told", SOON, || {
        let told: BTreeSet<_> = shop.deliveries().into_iter().map(|it| it.event).collect();
        told.len() == 100
    });
    assert_eq!(shop.list().len(), 100);
}

#[test]
fn events_that_were_kept_long_enough_are_forgotten_but_never_undelivered_ones() {
    let (shop, is_well) = Shop::with_an_ill_app(|conf| conf.inbox = "keep = \"30d\"".to_owned());
    is_well.store(true, Ordering::SeqCst);
    let test = "events_that_were_kept_long_enough_are_forgotten_but_never_undelivered_ones";
    if !crate::clock::can_be_moved(test) {
        return;
    }
    let mut shop = shop;
    let old = shop.goes_well().orderid();
    shop.listed(&old, "delivered");
    is_well.store(false, Ordering::SeqCst);
    let open = Payment::of(&shop.order());
    acknowledged(&shop.notify(&open));
    shop.hears(&open.orderid, 1);
    shop.sidecar.setup.clock_ahead = Duration::from_secs(31 * 86_400);
    shop.sidecar.restart();
    crate::harness::eventually("the old one is forgotten", 6 * SOON, || {
        !shop.list().iter().any(|line| line.contains(&old))
    });
    let lines = shop.list();
    assert!(
        lines.iter().any(|line| line.contains(&open.orderid)),
        "{lines:?}"
    );
}

#[test]
fn decisions_on_the_command_line_are_history_and_change_no_receipt() {
    let shop = Shop::open();
    let delivered = shop.goes_well();
    let disputed = Payment::of(&shop.order()).with_amount(1);
    shop.notify(&disputed);
    let disputed = id_of(&shop.listed(&disputed.orderid, "disputed")).to_owned();
    let show = |id: &str| stdout(&shop.inbox(&["show", id]));
    let kept = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("kept"));
        line.map(str::to_owned).unwrap()
    };
    eventually("the first delivery is recorded", SOON, || {
        show(&delivered.event).contains("attempt 1")
    });
    let before = [show(&delivered.event), show(&disputed)];
    assert!(
        before[1].contains("review     other-amount"),
        "{}",
        before[1]
    );
    // A user's name as the shell has it.
    let decide = |verb: &str, id: &str| {
        let mut command = crate::harness::command();
        let command = command.env("USER", "wang").args(["inbox", verb, id, "-c"]);
        let output = command
            .arg(shop.sidecar.setup.conf_file())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    };
    decide("replay", &delivered.event);
    shop.hears(&delivered.orderid(), 2);
    decide("discard", &disputed);
    eventually("the second delivery is recorded", SOON, || {
        show(&delivered.event).contains("attempt 2")
    });
    let after = [show(&delivered.event), show(&disputed)];
    let steps: Vec<_> = after[0]
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| ["attempt", "replayed"].contains(word))
        .collect();
    assert_eq!(steps, ["attempt", "replayed", "attempt"], "{}", after[0]);
    let replayed = "replayed by wang (command line); it was delivered";
    assert!(after[0].contains(replayed), "{}", after[0]);
    let discarded = "discarded by wang (command line); it was disputed";
    assert!(after[1].contains(discarded), "{}", after[1]);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(kept(before), kept(after));
    }
    // In the log, the metrics and the timeline of the sidecar that runs beside, too.
    let decided = |kind: &str| {
        let kind = format!("decision=\"{kind}\"");
        shop.sidecar
            .metrics()
            .sum(&["countersign_decisions_total{", &kind])
    };
    eventually("both are counted", SOON, || {
        [decided("replay"), decided("discard"), decided("release")] == [1.0, 1.0, 0.0]
    });
    let output = shop.sidecar.output();
    let logged = |id: &str| {
        let line = |line: &&str| line.contains("decided on the command line") && line.contains(id);
        let line = output.lines().find(line).unwrap().to_owned();
        assert!(line.contains("wang"), "{line}");
    };
    logged(&delivered.event);
    logged(&disputed);
    let page = format!(
        "/order?merid={MERID}&orderid={}&lang=en",
        delivered.orderid()
    );
    let page = shop.sidecar.admin(&page).text();
    assert!(page.contains("Replayed by an operator") && page.contains("wang"));
}
