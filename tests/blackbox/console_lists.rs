//! The console's lists: filters, decisions about all of a list, the orders, and plots that outlive a restart.

use crate::client::post_with;
use crate::console::{
    form_token, get, in_order, page, signed_in, story, where_events_are_parked, words,
};
use crate::harness::{KEY, MERID, OTHER_KEY, OTHER_MERID, exit_within, signal};
use crate::shop::{FORM, Payment, SOON, Shop, acknowledged, callback, id_of, refused};
use crate::wire;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// Orders of these merchants with their results, all parked: each order's number, and its event's id.
fn parked_of<const N: usize>(shop: &Shop, merchants: [(&str, &str); N]) -> [(String, String); N] {
    let orders = merchants.map(|(merid, key)| {
        let payment = Payment::of(&shop.order_of(merid)).to(merid);
        acknowledged(&callback(shop.address(), wire::answer(payment.json(), key)));
        payment.orderid
    });
    orders.map(|orderid| {
        let id = id_of(&shop.listed(&orderid, "parked")).to_owned();
        (orderid, id)
    })
}

/// What the confirm page of all would post: its form's token, and the ids.
fn form_of(page: &str) -> String {
    let (_, ids) = page.split_once("name=\"ids\" value=\"").unwrap();
    let ids = ids.split('"').next().unwrap();
    format!("form={}&ids={}", form_token(page), ids.replace(',', "%2C"))
}

fn signed_in_page(admin: SocketAddr, cookie: &str, path: &str) -> String {
    let answer = get(admin, path, &[cookie]);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text()
}

#[test]
fn all_that_a_list_shows_are_replayed_and_what_changed_or_came_meanwhile_is_left_alone() {
    let (shop, is_well) = where_events_are_parked();
    let admin = shop.sidecar.setup.admin;
    let (mine, theirs) = ((MERID, KEY), (OTHER_MERID, OTHER_KEY));
    let [first, second, third, (others, _)] = parked_of(&shop, [mine, mine, mine, theirs]);
    let cookie = signed_in(admin);
    let list = signed_in_page(
        admin,
        &cookie,
        &format!("/events?state=parked&merid={MERID}"),
    );
    in_order(&words(&list), &["3 results", "Replay all", "Discard all"]);
    let path = format!("/events/all/replay?state=parked&merid={MERID}");
    let confirm = signed_in_page(admin, &cookie, &path);
    let said = words(&confirm);
    in_order(
        &said,
        &[
            "Replay 3 results?",
            "Results 3",
            "Merchants 1",
            "¥ 38.40",
            "Replay: 3",
        ],
    );
    for (orderid, _) in [&first, &second, &third] {
        assert!(said.contains(orderid.as_str()), "{orderid}: {said}");
    }
    assert!(!said.contains(&others), "{said}");

    // One is discarded, and one more comes, before the button is pressed.
    let discard = format!("/events/{}/discard", second.1);
    let form = format!("form={}", form_token(&confirm));
    assert_eq!(
        post_with(admin, &discard, &[FORM, &cookie], form).status,
        303
    );
    let [(late, _)] = parked_of(&shop, [mine]);
    is_well.store(true, Ordering::SeqCst);
    let done = post_with(admin, &path, &[FORM, &cookie], form_of(&confirm));
    assert_eq!(done.status, 303, "{}", done.text());
    let said = words(&signed_in_page(
        admin,
        &cookie,
        done.header("location").unwrap(),
    ));
    in_order(
        &said,
        &["Handed to delivery: 2", "their state had changed: 1", &late],
    );
    for (orderid, _) in [&first, &third] {
        shop.listed(orderid, "delivered");
    }
    shop.listed(&second.0, "discarded");
    shop.listed(&late, "parked");
    shop.listed(&others, "parked");
    story(
        &shop.sidecar,
        MERID,
        &first.0,
        &["Replayed by an operator", "signed-in operator"],
    );

    // The same form again finds nothing that is still parked.
    let again = post_with(admin, &path, &[FORM, &cookie], form_of(&confirm));
    let said = words(&signed_in_page(
        admin,
        &cookie,
        again.header("location").unwrap(),
    ));
    in_order(
        &said,
        &["Handed to delivery: 0", "their state had changed: 3"],
    );
}

#[test]
fn a_decision_about_all_needs_the_token_a_form_and_a_state_that_allows_it() {
    let (shop, _) = where_events_are_parked();
    let admin = shop.sidecar.setup.admin;
    let [(orderid, id)] = parked_of(&shop, [(MERID, KEY)]);
    let cookie = signed_in(admin);
    let path = "/events/all/discard?state=parked";
    let confirm = signed_in_page(admin, &cookie, path);
    let form = form_of(&confirm);
    assert_eq!(post_with(admin, path, &[FORM], &form).status, 401);
    let forged = format!("form=0&ids={id}");
    assert_eq!(post_with(admin, path, &[FORM, &cookie], forged).status, 403);
    for (path, status) in [
        ("/events/all/release?state=parked", 404),
        ("/events/all/discard?state=delivered", 404),
        ("/events/all/discard", 404),
        ("/events/all/keep?state=parked", 404),
    ] {
        let answer = post_with(admin, path, &[FORM, &cookie], &form);
        assert_eq!(answer.status, status, "{path}");
    }
    shop.listed(&orderid, "parked");
    // More ids than one decision takes do not fit into the listener's limit.
    let many = format!("{form}{}", format!("%2C{id}").repeat(300));
    assert_eq!(post_with(admin, path, &[FORM, &cookie], many).status, 413);
    assert_eq!(post_with(admin, path, &[FORM, &cookie], form).status, 303);
    shop.listed(&orderid, "discarded");
}

#[test]
fn a_list_is_filtered_by_merchant_day_and_beginning() {
    let shop = Shop::open();
    let mine = shop.goes_well().orderid();
    let theirs = shop.order_of(OTHER_MERID);
    let payment = Payment::of(&theirs).to(OTHER_MERID);
    acknowledged(&callback(
        shop.address(),
        wire::answer(payment.json(), OTHER_KEY),
    ));
    shop.listed(&theirs, "delivered");
    let list = |filter: &str| page(&shop.sidecar, &format!("/events?state=delivered&{filter}"));
    let today: String = rusqlite::Connection::open_in_memory()
        .and_then(|clock| clock.query_row("SELECT date('now')", [], |row| row.get(0)))
        .unwrap();
    let begin = &mine[..mine.len() - 1];
    for (filter, has_mine, has_theirs) in [
        (String::new(), true, true),
        (format!("merid={MERID}"), true, false),
        (format!("merid={OTHER_MERID}&orderid="), false, true),
        (format!("merid={MERID}&orderid={theirs}"), false, false),
        (format!("orderid={begin}"), true, theirs.starts_with(begin)),
        (format!("orderid={mine}"), true, false),
        ("orderid=%25".to_owned(), false, false),
        ("day=1999-12-31".to_owned(), false, false),
        ("day=2023-02-29".to_owned(), true, true),
        (format!("day={today}"), true, true),
    ] {
        let found = list(&filter);
        assert_eq!(
            (found.contains(&mine), found.contains(&theirs)),
            (has_mine, has_theirs),
            "{filter}: {found}"
        );
    }
    assert!(list("merid=nobody").contains("No result here fits the filter"));
    assert!(page(&shop.sidecar, "/events?state=parked").contains("Nothing is parked"));
}

#[test]
fn plots_outlive_a_restart_in_every_range() {
    let mut shop = Shop::open();
    for _ in 0..3 {
        shop.order();
    }
    let path = "/?range=6h";
    assert!(page(&shop.sidecar, path).contains("begin with the first whole minute"));
    signal(&shop.sidecar.child, "TERM");
    let ended = exit_within(&mut shop.sidecar.child, SOON);
    assert!(ended.is_some_and(|status| status.success()));
    {
        let store = rusqlite::Connection::open(shop.sidecar.setup.store()).unwrap();
        let calls = "SELECT sum(calls) FROM minutes";
        let calls: i64 = store.query_row(calls, [], |row| row.get(0)).unwrap();
        assert_eq!(calls, 3);
        // As if that had been three minutes ago, and there were older figures too.
        store
            .execute("UPDATE minutes SET minute = minute - 3", [])
            .unwrap();
        let older =
            "INSERT INTO minutes SELECT min(minute) - 5 * 1440, 40, 1, 0, 0, 0.1, 0.2 FROM minutes";
        store.execute(older, []).unwrap();
    }
    shop.sidecar.restart();
    for (range, points) in [("1h", 1), ("6h", 1), ("24h", 1), ("7d", 2)] {
        let shown = shop.sidecar.admin(&format!("/?range={range}")).text();
        let (_, plot) = shown.split_once("path class=\"calls\" d=\"").unwrap();
        let path = plot.split('"').next().unwrap();
        assert!(path.matches('M').count() >= points, "{range}: {path}");
        assert_eq!(shown.matches("aria-current=\"true\"").count(), 1, "{range}");
        for hidden in ["NaN", "inf"] {
            assert!(!path.contains(hidden), "{range}: {path}");
        }
    }
    let shown = page(&shop.sidecar, "/?range=nonsense");
    in_order(
        &shown,
        &[
            "Calls a minute",
            "Callbacks a minute",
            "Duration of calls",
            "Share rejected",
        ],
    );
}

#[test]
fn orders_are_listed_newest_first_filtered_and_exported() {
    let shop = Shop::open();
    let paid = shop.goes_well().orderid();
    let other = shop.order_of(OTHER_MERID);
    let differs = Payment::of(&shop.order()).with_amount(1);
    refused("another amount", &shop.notify(&differs));
    let open = shop.order();
    let list = |query: &str| page(&shop.sidecar, &format!("/orders{query}"));
    in_order(&list(""), &[&open, &differs.orderid, &other, &paid]);
    in_order(
        &list(""),
        &[
            &open,
            "Open",
            &differs.orderid,
            "Differs",
            "¥ 0.01",
            &paid,
            "Paid 0000",
            "Delivered",
        ],
    );
    let all = [&paid, &other, &differs.orderid, &open];
    for (query, expected) in [
        (format!("?merid={OTHER_MERID}"), vec![&other]),
        ("?state=paid".to_owned(), vec![&paid]),
        ("?state=differs".to_owned(), vec![&differs.orderid]),
        ("?state=open".to_owned(), vec![&other, &open]),
        ("?state=failed".to_owned(), vec![]),
        (format!("?orderid={open}"), vec![&open]),
        ("?orderid=%25".to_owned(), vec![]),
        ("?day=1999-12-31".to_owned(), vec![]),
        ("?state=&merid=&day=&orderid=".to_owned(), all.to_vec()),
    ] {
        let found = list(&query);
        for orderid in all {
            assert_eq!(
                found.contains(orderid.as_str()),
                expected.contains(&orderid),
                "{query}: {found}"
            );
        }
        let csv = shop.sidecar.admin(&format!(
            "/orders{query}{}format=csv",
            if query.is_empty() { '?' } else { '&' }
        ));
        assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8"));
        assert_eq!(
            csv.text().lines().count(),
            expected.len() + 1,
            "{query}: {}",
            csv.text()
        );
    }
    let csv = shop.sidecar.admin("/orders?format=csv");
    assert_eq!(
        csv.header("content-disposition"),
        Some("attachment; filename=\"orders.csv\"")
    );
    let text = csv.text();
    let line = text
        .lines()
        .find(|line| line.contains(&differs.orderid))
        .unwrap();
    let (signed_at, rest) = line.split_once(',').unwrap();
    assert!(signed_at.len() == 20 && signed_at.ends_with('Z'), "{line}");
    assert_eq!(
        rest,
        format!(
            "{MERID},{},AliPay,1280,differs,0000,1,disputed",
            differs.orderid
        )
    );
    let json = shop.sidecar.admin("/orders?format=json&state=paid").json();
    let [order] = json["orders"].as_array().unwrap().as_slice() else {
        panic!("{json}");
    };
    assert_eq!(
        (&order["orderid"], &order["txnamt"]),
        (&paid.as_str().into(), &1280.into())
    );
    assert_eq!(
        (&order["result_state"], &json["next"]),
        (&"delivered".into(), &serde_json::Value::Null)
    );
}

/// The query of the link to older orders, if there is one.
fn older(page: &str) -> Option<String> {
    let (before, _) = page.split_once("\">Older orders")?;
    let (_, query) = before.rsplit_once("href=\"?")?;
    Some(query.replace("&amp;", "&"))
}

#[test]
fn a_list_of_orders_goes_on_over_pages_and_misses_none() {
    let shop = Shop::open();
    let store = rusqlite::Connection::open(shop.sidecar.setup.store()).unwrap();
    // Ten at each time, so that pages end among equals.
    let sql = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 6229)
        INSERT INTO orders (merid, orderid, amount, action, signed_at)
        SELECT '100000000000001', printf('PAGE%08d', i), i, 'Bank', CAST(strftime('%s') AS INTEGER) * 1000 - 3600000 + i / 10 FROM n";
    store.busy_timeout(SOON).unwrap();
    store.execute(sql, []).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let mut path = "/orders".to_owned();
    let mut pages = 0;
    loop {
        let shown = shop.sidecar.admin(&path).text();
        let before = seen.len();
        let rows = shown.split("data-key=\"100000000000001/").skip(1);
        seen.extend(rows.map(|row| row.split('"').next().unwrap().to_owned()));
        assert!(seen.len() - before <= 100);
        pages += 1;
        let Some(next) = older(&shown) else {
            break;
        };
        path = format!("/orders?{next}");
    }
    assert_eq!((seen.len(), pages), (6230, 63));
    // A filter that fits few looks at a part at a time, and says so.
    let shown = shop.sidecar.admin("/orders?orderid=PAGE0000000").text();
    assert!(shown.contains("No order of this stretch fits"), "{shown}");
    let mut looks = 0;
    let mut shown = shown;
    while let Some(next) = older(&shown) {
        looks += 1;
        shown = shop.sidecar.admin(&format!("/orders?{next}")).text();
    }
    let found = shown.matches("data-key=\"100000000000001/PAGE0000000");
    assert_eq!((found.count(), looks), (10, 3));
    // An export has a limit, and the place where it goes on.
    let csv = shop.sidecar.admin("/orders?format=csv");
    assert_eq!(csv.text().lines().count(), 5001);
    let next = csv.header("countersign-next").unwrap();
    let rest = shop
        .sidecar
        .admin(&format!("/orders?format=csv&after={}", wire::percent(next)));
    assert_eq!(
        (rest.text().lines().count(), rest.header("countersign-next")),
        (1231, None)
    );
}
