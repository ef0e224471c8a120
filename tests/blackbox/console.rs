//! The console: what a person on call finds, may do, and may not.

use crate::client::{Connection, Response, fetch, post_with};
use crate::harness::{
    KEY, MERID, Setup, Sidecar, command, eventually, fresh_orderid, is_installed, merchant,
    query_json, skip, submit_json, submit_of,
};
use crate::platform::{Action, Platform, enveloped};
use crate::shop::{
    BACK, Book, FORM, FRONT, Payment, SOON, Shop, acknowledged, callback, id_of, refused, taken,
};
use crate::webdriver::{Browser, Screen, missing};
use crate::wire;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const TOKEN: &str = "T0kenOfTheTests-5f1c8a7e";

/// Its app is ill until told otherwise, and events are given up after a second.
pub(crate) fn where_events_are_parked() -> (Shop, Arc<AtomicBool>) {
    Shop::with_an_ill_app(|conf| {
        conf.inbox = "retry_for = \"1s\"".to_owned();
        conf.admin = format!("token = \"{TOKEN}\"");
    })
}

/// The cookie line of a browser that gave the token.
pub(crate) fn signed_in(admin: SocketAddr) -> String {
    let form = form_token(&get(admin, "/login", &[]).text());
    let form = format!("form={form}&token={TOKEN}");
    let answer = post_with(admin, "/login", &[FORM], form);
    let set = answer.header("set-cookie").unwrap();
    format!("Cookie: {}", set.split(';').next().unwrap())
}

/// A GET with these further header lines.
pub(crate) fn get(address: SocketAddr, path: &str, further: &[&str]) -> Response {
    request("GET", address, path, further)
}

fn request(method: &str, address: SocketAddr, path: &str, further: &[&str]) -> Response {
    let mut connection = Connection::open(address).unwrap();
    let answer = connection.exchange(head(method, address, path, further));
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

fn head(method: &str, address: SocketAddr, path: &str, further: &[&str]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !further.iter().any(|line| line.starts_with("Host:")) {
        head += &format!("Host: {address}\r\n");
    }
    for line in further {
        head += &format!("{line}\r\n");
    }
    head + "\r\n"
}

/// What a reader sees: the text of a page without its tags.
pub(crate) fn words(page: &str) -> String {
    let body = page.split_once("<body>").map_or(page, |(_, body)| body);
    let body = body.split("<script>").next().unwrap_or_default();
    let mut text = String::new();
    let mut inside = true;
    for c in body.chars() {
        match c {
            '<' => inside = false,
            '>' => {
                inside = true;
                text.push(' ');
            }
            c if inside => text.push(c),
            _ => {}
        }
    }
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ")
}

pub(crate) fn page(sidecar: &Sidecar, path: &str) -> String {
    let answer = sidecar.admin(path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    words(&answer.text())
}

pub(crate) fn story_of(merid: &str, orderid: &str) -> String {
    format!("/order?merid={merid}&orderid={orderid}")
}

/// The story once it says all of this.
#[track_caller]
pub(crate) fn story(sidecar: &Sidecar, merid: &str, orderid: &str, parts: &[&str]) -> String {
    let mut found = String::new();
    let what = format!("{parts:?} in the story of {orderid}");
    eventually(&what, SOON, || {
        found = words(&sidecar.admin(&story_of(merid, orderid)).text());
        parts.iter().all(|part| found.contains(part))
    });
    found
}

/// The parts stand in this order.
#[track_caller]
pub(crate) fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part:?} is missing or too early in: {text}"));
        rest = &rest[at + part.len()..];
    }
}

/// The hidden field of a page's form.
pub(crate) fn form_token(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"form\" value=\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// A parked event: its order, and its id.
fn parked(shop: &Shop) -> (String, String) {
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let line = shop.listed(&payment.orderid, "parked");
    (payment.orderid, id_of(&line).to_owned())
}

#[test]
fn an_order_s_story_is_told_in_its_order() {
    let shop = Shop::open();
    let orderid = fresh_orderid();
    let submit = submit_json(&orderid);
    let answer = post_with(
        shop.sidecar.app(),
        "/api/icashier",
        &["x-request-id: the-app-s-own-1"],
        &submit,
    );
    assert_eq!(answer.status, 200);
    let payment = Payment::of(&orderid);
    acknowledged(&shop.notify(&payment));
    acknowledged(&shop.notify(&payment));
    shop.hears(&orderid, 1);
    let told = story(
        &shop.sidecar,
        MERID,
        &orderid,
        &[
            "the-app-s-own-1",
            "Callback repeated",
            "The app accepted it",
        ],
    );
    in_order(
        &told,
        &[
            "Signed",
            "¥ 12.80",
            "Sent to the platform (submit)",
            "Platform responded",
            "ok",
            "sent: yes",
            "request the-app-s-own-1",
            "Callback accepted (back)",
            "Result kept",
            "Paid 0000",
            "Delivery attempt 1",
            "The app accepted it",
        ],
    );
    assert!(told.contains("Callback repeated (back)"), "{told}");
}

#[test]
fn an_order_is_found_by_each_of_its_numbers() {
    let shop = Shop::open();
    let told = shop.goes_well();
    let orderid = told.orderid();
    let answer = shop.sidecar.query(query_json(MERID, &orderid));
    let request_id = answer.header("x-request-id").unwrap();
    let queryid = Payment::of(&orderid).queryid;
    for number in [&orderid, &queryid, request_id] {
        let mut place = None;
        eventually("it is found", SOON, || {
            let answer = shop.sidecar.admin(&format!("/orders?q=%20{number}"));
            place = answer.header("location").map(str::to_owned);
            answer.status == 303
        });
        assert_eq!(place, Some(story_of(MERID, &orderid)), "{number}");
    }
    for nothing in ["NOTHERE0001", "%27%20OR%201=1%20--", "%3Cscript%3E"] {
        let answer = shop.sidecar.admin(&format!("/orders?q={nothing}"));
        assert_eq!(answer.status, 404, "{nothing}");
        assert_eq!(
            answer.text().matches("<script").count(),
            1,
            "our own, {nothing}"
        );
    }
    assert_eq!(
        shop.sidecar.admin(&story_of(MERID, "NOTHERE0001")).status,
        404
    );
}

#[test]
fn one_number_of_two_merchants_orders_is_a_list() {
    let shop = Shop::open();
    let orderid = fresh_orderid();
    for merid in [MERID, crate::harness::OTHER_MERID] {
        shop.sign(&submit_of(merid, &orderid, 1));
    }
    let found = page(&shop.sidecar, &format!("/orders?q={orderid}"));
    in_order(&found, &[MERID, crate::harness::OTHER_MERID]);
}

#[test]
fn a_story_outlives_the_process() {
    let mut shop = Shop::open();
    let orderid = shop.order();
    shop.sidecar.submit(submit_of(MERID, &orderid, 1));
    story(&shop.sidecar, MERID, &orderid, &["order-conflict"]);
    shop.sidecar.restart();
    story(
        &shop.sidecar,
        MERID,
        &orderid,
        &["Handed to the app signed", "order-conflict", "sent: no"],
    );
}

#[test]
fn an_orderly_end_loses_no_note() {
    let mut shop = Shop::open();
    let orderid = shop.order();
    crate::harness::signal(&shop.sidecar.child, "TERM");
    let ended = crate::harness::exit_within(&mut shop.sidecar.child, SOON);
    assert!(ended.is_some_and(|status| status.success()));
    shop.sidecar.restart();
    let told = page(&shop.sidecar, &story_of(MERID, &orderid));
    assert!(told.contains("Handed to the app signed"), "{told}");
}

#[test]
fn an_unknown_outcome_and_the_watch_s_question_are_told() {
    let book = Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| match seen.target.as_str() {
        "/api/icashier" => Action::Cut(Vec::new()),
        _ => pages.reply(seen),
    });
    let shop = Shop::between(book, platform, Platform::start(|_| taken()), |_| {});
    let orderid = fresh_orderid();
    shop.book.enter(Payment::of(&orderid));
    let answer = shop.sidecar.submit(submit_json(&orderid));
    answer.problem(502, "platform-cut-off", "unknown");
    let told = story(
        &shop.sidecar,
        MERID,
        &orderid,
        &["found", "The app accepted it"],
    );
    in_order(
        &told,
        &[
            "Sent to the platform (submit)",
            "Rejected",
            "platform-cut-off",
            "sent: unknown",
        ],
    );
    in_order(
        &told,
        &["Sent to", "Reconciliation queried the platform", "found"],
    );
    in_order(
        &told,
        &["Sent to", "Result kept", "Paid 0000", "Delivery attempt 1"],
    );
}

#[test]
fn a_review_shows_signed_claimed_and_difference_before_the_decision() {
    let shop = Shop::open();
    let less = Payment::of(&shop.order()).with_amount(1000);
    let more = Payment::of(&shop.order()).with_amount(128_000);
    for payment in [&less, &more] {
        refused("another amount", &shop.notify(payment));
    }
    let list = page(&shop.sidecar, "/events?state=disputed");
    in_order(&list, &["Signed", "Claimed", "Difference"]);
    in_order(&list, &["¥ 12.80", "¥ 1280.00", "+ ¥ 1267.20"]);
    in_order(&list, &["¥ 12.80", "¥ 10.00", "− ¥ 2.80"]);
    let line = shop.listed(&less.orderid, "disputed");
    for decision in ["release", "discard"] {
        let place = format!("/events/{}/{decision}", id_of(&line));
        let confirm = page(&shop.sidecar, &place);
        in_order(
            &confirm,
            &["Signed ¥ 12.80", "Claimed ¥ 10.00", "Difference − ¥ 2.80"],
        );
    }
}

#[test]
fn refused_callbacks_are_told_with_their_reason_and_strangers_as_such() {
    let shop = Shop::open();
    let payment = Payment::of(&shop.order());
    refused(
        "a guess",
        &callback(shop.address(), wire::answer(payment.json(), "guess")),
    );
    refused(
        "another amount",
        &shop.notify(&payment.clone().with_amount(1)),
    );
    let told = story(
        &shop.sidecar,
        MERID,
        &payment.orderid,
        &["Callback rejected (back)", "bad-signature", "disputed"],
    );
    assert_eq!(told.matches("Unverified").count(), 1, "{told}");
    in_order(&told, &["bad-signature", "Unverified"]);
    assert!(told.contains("Disputed"), "{told}");
    let list = page(&shop.sidecar, "/refusals");
    in_order(
        &list,
        &[
            "By reason",
            "Of the latest 2 rejections",
            "The latest",
            "disputed",
            "bad-signature",
        ],
    );
    assert_eq!(list.matches("unverified").count(), 1, "{list}");
}

#[test]
fn of_strangers_nothing_is_kept_but_plain_numbers() {
    let shop = Shop::open();
    let odd = [
        "<b>x</b>",
        "张三",
        "a b",
        "\\u001b[2J",
        "'--",
        &"9".repeat(65),
    ];
    for orderid in odd {
        let form = wire::answer(Payment::of(orderid).json(), "guess");
        assert_ne!(callback(shop.address(), form).body, b"0000");
    }
    let mut list = String::new();
    eventually("they are listed", SOON, || {
        list = words(&shop.sidecar.admin("/refusals").text());
        list.contains(&format!("Of the latest {} rejections", odd.len()))
    });
    for orderid in odd {
        assert!(!list.contains(orderid), "{orderid}: {list}");
    }
}

#[test]
fn a_flood_of_strangers_or_of_a_customer_hides_no_order_s_story() {
    let shop = Shop::open();
    let mut connection = Connection::open(shop.address()).unwrap();
    let guessed = wire::answer(Payment::of("STRANGER01").json(), "guess");
    // What the link to the payment page has in it, right sign and all.
    let own_request = wire::answer(submit_json("CUSTOMER01"), KEY);
    for form in [guessed, own_request] {
        let bytes = crate::client::post_bytes(BACK, &[FORM], &form);
        let flood = |connection: &mut Connection| {
            for _ in 0..200 {
                assert_eq!(connection.exchange(&bytes).unwrap().status, 400);
            }
        };
        let dropped = || shop.sidecar.metrics().sum(&["notes_dropped_total"]);
        let before = dropped();
        eventually("more than there is room for", 3 * SOON, || {
            flood(&mut connection);
            dropped() > before
        });
        flood(&mut connection);
        let orderid = shop.goes_well().orderid();
        story(&shop.sidecar, MERID, &orderid, &["Callback accepted"]);
    }
}

#[test]
fn a_replay_is_confirmed_on_a_page_of_its_own() {
    let (shop, is_well) = where_events_are_parked();
    let (orderid, id) = parked(&shop);
    let admin = shop.sidecar.setup.admin;
    let list = shop.sidecar.admin("/events?state=parked").text();
    assert!(
        list.contains(&format!("href=\"/events/{id}/replay\"")),
        "{list}"
    );
    assert!(words(&list).contains(&orderid));
    is_well.store(true, Ordering::SeqCst);
    let before = shop.deliveries_of(&orderid).len();
    let path = format!("/events/{id}/replay");
    let asked = shop.sidecar.admin(&path).text();
    shop.listed(&orderid, "parked");
    let form = format!("form={}", form_token(&asked));
    let cookie = signed_in(admin);
    let answer = post_with(admin, &path, &[FORM, &cookie], &form);
    assert_eq!(answer.status, 303, "{}", answer.text());
    shop.listed(&orderid, "delivered");
    assert_eq!(shop.deliveries_of(&orderid).len(), before + 1);
    let place = answer.header("location").unwrap();
    assert!(page(&shop.sidecar, place).contains("The app gets it again"));
    story(
        &shop.sidecar,
        MERID,
        &orderid,
        &["The app accepted it", "Delivered"],
    );
    for (path, status) in [("/events/0/replay", 404), ("/events/0/keep", 404)] {
        assert_eq!(
            post_with(admin, path, &[FORM, &cookie], &form).status,
            status,
            "{path}"
        );
    }
}

#[test]
fn without_a_token_the_console_shows_decisions_and_takes_none() {
    let (shop, _) = Shop::with_an_ill_app(|conf| conf.inbox = "retry_for = \"1s\"".to_owned());
    let (orderid, id) = parked(&shop);
    let admin = shop.sidecar.setup.admin;
    let form = form_token(&shop.sidecar.admin("/merchants").text());
    for decision in ["replay", "discard"] {
        let path = format!("/events/{id}/{decision}");
        let shown = shop.sidecar.admin(&path).text();
        let command = format!("countersign inbox {decision} {id}");
        assert!(words(&shown).contains(&command), "{shown}");
        assert!(words(&shown).contains("admin.token"), "{shown}");
        assert!(!shown.contains("<form method=\"post\""), "{shown}");
        let answer = post_with(admin, &path, &[FORM], format!("form={form}"));
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("admin.token"), "{}", answer.text());
    }
    assert!(shop.listed(&orderid, "parked").contains(&id));
    let reload = post_with(admin, "/merchants", &[FORM], format!("form={form}"));
    assert_eq!(reload.status, 303, "a reload needs no token on loopback");
}

#[test]
fn a_decision_is_a_step_of_the_timeline_and_changes_no_receipt() {
    let (shop, is_well) = where_events_are_parked();
    let (orderid, id) = parked(&shop);
    let admin = shop.sidecar.setup.admin;
    is_well.store(true, Ordering::SeqCst);
    let path = format!("/events/{id}/replay");
    let form = format!("form={}", form_token(&shop.sidecar.admin(&path).text()));
    let cookie = signed_in(admin);
    assert_eq!(post_with(admin, &path, &[FORM, &cookie], &form).status, 303);
    shop.listed(&orderid, "delivered");
    let told = story(
        &shop.sidecar,
        MERID,
        &orderid,
        &[
            "Replayed by an operator",
            "signed-in operator",
            "The app accepted it",
        ],
    );
    in_order(
        &told,
        &[
            "Result kept",
            "Delivery attempt 1",
            "Replayed by an operator",
            "state before: Parked",
            "The app accepted it",
        ],
    );
}

#[test]
fn a_waiting_result_can_be_delivered_now() {
    let (shop, is_well) = Shop::with_an_ill_app(|conf| {
        conf.admin = format!("token = \"{TOKEN}\"");
    });
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let id = id_of(&shop.listed(&payment.orderid, "pending")).to_owned();
    eventually("some attempts have failed", 3 * SOON, || {
        shop.deliveries_of(&payment.orderid).len() >= 4
    });
    is_well.store(true, Ordering::SeqCst);
    let admin = shop.sidecar.setup.admin;
    let list = page(&shop.sidecar, "/events?state=pending");
    in_order(&list, &[&payment.orderid, "Deliver now", "Discard"]);
    let path = format!("/events/{id}/replay");
    let confirm = shop.sidecar.admin(&path).text();
    assert!(words(&confirm).contains("Deliver this event now?"));
    let form = format!("form={}", form_token(&confirm));
    let cookie = signed_in(admin);
    assert_eq!(post_with(admin, &path, &[FORM, &cookie], &form).status, 303);
    shop.listed(&payment.orderid, "delivered");
    let told = story(
        &shop.sidecar,
        MERID,
        &payment.orderid,
        &["Delivered at once by an operator", "The app accepted it"],
    );
    in_order(
        &told,
        &[
            "Delivery attempt 4",
            "Delivered at once by an operator",
            "signed-in operator · console, 127.0.0.1",
            "state before: Undelivered",
            "The app accepted it",
        ],
    );
}

#[test]
fn a_discarded_event_is_out_of_the_lists() {
    let (shop, _) = where_events_are_parked();
    let (orderid, id) = parked(&shop);
    let path = format!("/events/{id}/discard");
    let form = format!("form={}", form_token(&shop.sidecar.admin(&path).text()));
    let cookie = signed_in(shop.sidecar.setup.admin);
    let answer = post_with(shop.sidecar.setup.admin, &path, &[FORM, &cookie], form);
    assert_eq!(answer.status, 303);
    shop.listed(&orderid, "discarded");
    assert!(!page(&shop.sidecar, "/events?state=parked").contains(&orderid));
    assert!(page(&shop.sidecar, &story_of(MERID, &orderid)).contains("Discarded"));
}

#[test]
fn an_action_from_another_site_is_refused() {
    let (shop, _) = where_events_are_parked();
    let (orderid, id) = parked(&shop);
    let admin = shop.sidecar.setup.admin;
    let path = format!("/events/{id}/replay");
    let form = format!("form={}", form_token(&shop.sidecar.admin(&path).text()));
    let host = format!("Host: {admin}");
    let cookie = signed_in(admin);
    let own = format!("Origin: http://{admin}");
    let post = |path: &str, further: &[&str], form: &str| {
        let mut head = format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n", form.len());
        for line in [&[host.as_str(), &cookie, FORM], further].concat() {
            head += &format!("{line}\r\n");
        }
        let mut connection = Connection::open(admin).unwrap();
        connection
            .exchange(format!("{head}\r\n{form}"))
            .unwrap()
            .status
    };
    for further in [
        &["Origin: http://evil.example"][..],
        &["Origin: null"],
        &["Origin: http://127.0.0.1:1"],
        &["Sec-Fetch-Site: cross-site"],
        &["Sec-Fetch-Site: same-site", &own],
        &["Sec-Fetch-Site: none"],
    ] {
        for path in [&path, "/merchants", "/-/reload"] {
            assert_eq!(post(path, further, &form), 403, "{path} {further:?}");
        }
    }
    for wrong in ["", "form=", "form=0123456789abcdef0123456789abcdef", "x=y"] {
        assert_eq!(post(&path, &[&own], wrong), 403, "{wrong}");
    }
    assert!(shop.listed(&orderid, "parked").contains(&id));
    assert_eq!(post("/-/reload", &[], ""), 200, "a script needs no form");
    assert_eq!(
        post(&path, &[&own, "Sec-Fetch-Site: same-origin"], &form),
        303
    );
}

#[test]
fn whoever_calls_the_console_by_a_foreign_name_gets_nothing() {
    let sidecar = Sidecar::start(|conf| conf.admin = "names = [\"ops.example.com\"]".to_owned());
    let admin = sidecar.setup.admin;
    for host in [
        "evil.example",
        "localhost.evil.example:9900",
        "10.0.0.1",
        "evil.example:80@127.0.0.1",
    ] {
        let line = format!("Host: {host}");
        for path in ["/", "/orders?q=x", "/merchants", "/metrics", "/version"] {
            let answer = get(admin, path, &[&line]);
            assert!(
                [400, 421].contains(&answer.status),
                "{host} {path}: {answer:?}"
            );
            assert!(!answer.text().contains("Overview"));
        }
        let answer = request("POST", admin, "/-/reload", &[&line, "Content-Length: 0"]);
        assert!([400, 421].contains(&answer.status), "{host}: {answer:?}");
    }
    for host in [
        "localhost",
        "127.0.0.1:1",
        "[::1]:9900",
        "OPS.example.com:443",
    ] {
        assert_eq!(
            get(admin, "/", &[&format!("Host: {host}")]).status,
            200,
            "{host}"
        );
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(admin, path, &["Host: a-probe"]).status, 200, "{path}");
    }
}

#[test]
fn a_listener_that_others_reach_needs_a_token() {
    let setup = Setup::new(|_| {});
    let listen = format!("admin.listen=0.0.0.0:{}", setup.admin.port());
    let check = |further: &[&str]| {
        let mut check = command();
        check
            .arg("check")
            .arg("-c")
            .arg(setup.conf_file())
            .args(["--set", &listen]);
        let output = check.args(further).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = check(&[]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("admin.token"), "{said}");
    let file = setup.folder.path().join("token");
    let token_file = format!("admin.token_file={}", file.display());
    for (token, expected) in [("T0kenTooShort", 78), (TOKEN, 0)] {
        fs::write(&file, token).unwrap();
        let (code, said) = check(&["--set", &token_file]);
        assert_eq!(code, Some(expected), "{said}");
        assert!(!said.contains(token), "{said}");
    }
}

#[test]
fn with_a_token_only_who_shows_it_gets_in() {
    let setup = Setup::new(|conf| conf.admin = "token_file = \"admin.token\"".to_owned());
    fs::write(
        setup.folder.path().join("admin.token"),
        format!("{TOKEN}\n"),
    )
    .unwrap();
    let sidecar = setup.start();
    let admin = sidecar.setup.admin;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    for path in ["/", "/merchants", "/metrics", "/version", "/nowhere"] {
        for further in [
            &[][..],
            &["Authorization: Bearer wrong"],
            &["Cookie: countersign-console=x"],
        ] {
            let answer = get(admin, path, further);
            assert_eq!(answer.status, 401, "{path}");
            assert!(
                answer
                    .header("www-authenticate")
                    .unwrap()
                    .starts_with("Bearer")
            );
        }
        let answer = get(admin, path, &[&bearer]);
        assert_eq!(
            answer.status,
            if path == "/nowhere" { 404 } else { 200 },
            "{path}"
        );
        let answer = get(admin, path, &["Accept: text/html"]);
        assert_eq!(
            (answer.status, answer.header("location")),
            (303, Some("/login"))
        );
    }
    assert_eq!(get(admin, "/", &[&bearer, "Host: any.name"]).status, 200);
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(admin, path, &[]).status, 200, "{path}");
    }
    assert_eq!(sidecar.reload().status, 401);
    let answer = post_with(admin, "/-/reload", &[&bearer], "");
    assert_eq!(answer.status, 200);

    let form = form_token(&get(admin, "/login", &[]).text());
    let wrong = post_with(admin, "/login", &[FORM], format!("form={form}&token=wrong"));
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let right = post_with(
        admin,
        "/login",
        &[FORM],
        format!("form={form}&token={TOKEN}"),
    );
    assert_eq!((right.status, right.header("location")), (303, Some("/")));
    let set = right.header("set-cookie").unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(set.contains(part), "{set}");
    }
    let cookie = format!("Cookie: {}", set.split(';').next().unwrap());
    assert_eq!(get(admin, "/", &[&cookie]).status, 200);
    assert_eq!(
        get(admin, "/", &[&cookie, "Host: evil.example"]).status,
        421
    );
    let out = post_with(admin, "/logout", &[FORM, &cookie], format!("form={form}"));
    assert_eq!(out.status, 303);
    assert_eq!(
        get(admin, "/", &[&cookie]).status,
        401,
        "the session has ended"
    );
    assert!(!sidecar.output().contains(TOKEN));
}

#[test]
fn every_page_has_clean_headers_and_needs_no_other_host() {
    let shop = Shop::open();
    let orderid = shop.goes_well().orderid();
    refused("a guess", &callback(shop.address(), "resp=eyI&sign=00"));
    let admin = shop.sidecar.setup.admin;
    let event = id_of(&shop.listed(&orderid, "delivered")).to_owned();
    let story = story_of(MERID, &orderid);
    let replay = format!("/events/{event}/replay");
    for (path, status) in [
        ("/", 200),
        ("/?live", 200),
        ("/?lang=zh", 200),
        (story.as_str(), 200),
        ("/orders?q=nothing", 404),
        ("/events?state=pending", 200),
        ("/events?state=delivered", 200),
        ("/events/all/replay?state=delivered", 200),
        ("/orders", 200),
        (replay.as_str(), 200),
        ("/refusals", 200),
        ("/merchants", 200),
        ("/login", 200),
        ("/nowhere", 404),
    ] {
        let whole = get(admin, path, &["Accept: text/html"]);
        assert_eq!(whole.status, status, "{path}");
        let header = |name: &str| {
            let values = whole.headers_named(name);
            assert_eq!(values.len(), 1, "{path} {name}: {values:?}");
            values[0].to_owned()
        };
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "same-origin");
        assert_eq!(header("content-length"), whole.body.len().to_string());
        assert!(header("vary").contains("Accept-Language"));
        assert!(header("date").ends_with(" GMT"));
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "form-action 'self'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        only_its_own_script(&whole.text(), &policy, path);
        let mut connection = Connection::open(admin).unwrap();
        let asked = head("HEAD", admin, path, &["Accept: text/html"]);
        connection.send(asked).unwrap();
        let (found, fields) = connection.receive_head().unwrap();
        assert!(
            found == status && connection.is_ended(),
            "{path}: a head alone"
        );
        let names = |fields: &[(String, String)]| -> Vec<_> {
            fields.iter().map(|(name, _)| name.to_lowercase()).collect()
        };
        assert_eq!(names(&fields), names(&whole.headers), "{path}");
        let text = whole.text();
        for bad in [
            "src=",
            "url(",
            "@import",
            "href=\"http",
            "href=\"//",
            "action=\"http",
            " on",
            "style=\"",
        ] {
            let tags = text.split_once("<body>").unwrap().1;
            let found = if bad == " on" {
                tags.contains(" onclick") || tags.contains(" onload")
            } else {
                tags.contains(bad)
            };
            assert!(!found, "{path} holds {bad}");
        }
        for good in [
            "<!DOCTYPE html>",
            "<html lang=\"",
            "<main",
            "name=\"viewport\"",
            "<h1>",
        ] {
            assert!(text.contains(good), "{path}: {good}");
        }
    }
    for path in ["/", "/refusals", "/livez", "/metrics"] {
        for method in ["POST", "PUT", "DELETE"] {
            let answer = request(method, admin, path, &["Content-Length: 0"]);
            assert_eq!(
                (answer.status, answer.header("allow")),
                (405, Some("GET, HEAD")),
                "{method} {path}"
            );
        }
    }
}

/// A page without a script allows none. One with a script names it by its digest, and may call its own origin alone.
#[track_caller]
fn only_its_own_script(page: &str, policy: &str, path: &str) {
    let scripts: Vec<_> = page.split("<script").skip(1).collect();
    let Some(script) = scripts.first() else {
        assert!(!policy.contains("script-src"), "{path}: {policy}");
        return;
    };
    assert_eq!(scripts.len(), 1, "{path}");
    let script = script.strip_prefix('>').unwrap();
    let (script, _) = script.split_once("</script>").unwrap();
    let allowed: Vec<_> = policy.split("; ").collect();
    let digest = wire::base64(wire::sha256(script));
    let source = format!("script-src 'sha256-{digest}'");
    assert!(allowed.contains(&source.as_str()), "{path}: {policy}");
    assert!(allowed.contains(&"connect-src 'self'"), "{path}: {policy}");
}

#[test]
fn without_a_script_a_link_loads_the_page_again_and_ends_it() {
    let sidecar = Sidecar::start(|_| {});
    let refresh = "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>";
    for path in [
        "/?range=1h",
        "/orders?state=paid",
        "/events?state=parked",
        "/refusals",
    ] {
        let still = sidecar.admin(path).text();
        assert!(!still.contains("http-equiv"), "{path}");
        let (_, link) = still
            .split_once("<noscript><p class=\"live\"><a href=\"")
            .unwrap();
        let link = link.split('"').next().unwrap().replace("&amp;", "&");
        let page = path.split('?').next().unwrap();
        let live = sidecar.admin(&format!("{page}{link}")).text();
        assert!(live.contains(refresh), "{path} {link}: {live}");
        // What was chosen stays chosen.
        let chosen = path.split_once('?').map_or("", |(_, query)| query);
        assert!(
            link.contains(chosen) && live.contains("Stop"),
            "{path} {link}"
        );
    }
}

#[test]
fn no_link_leads_where_the_address_says() {
    let sidecar = Sidecar::start(|_| {});
    let page = get(
        sidecar.setup.admin,
        "//evil.example/orders",
        &["Accept: text/html"],
    );
    assert_eq!(page.status, 404);
    let page = page.text();
    let links: Vec<_> = page.split("href=\"").skip(1).collect();
    assert!(links.iter().any(|link| link.contains("lang=")), "{page}");
    assert!(
        links.iter().all(|link| !link.starts_with("//")),
        "{links:?}"
    );
}

#[test]
fn the_console_speaks_the_reader_s_language() {
    let sidecar = Sidecar::start(|_| {});
    let admin = sidecar.setup.admin;
    let tongue = |path: &str, further: &[&str]| {
        let answer = get(admin, path, further);
        let is_chinese = answer.text().contains("概览");
        assert_ne!(is_chinese, answer.text().contains("Overview"));
        let tag = if is_chinese { "zh" } else { "en" };
        assert_eq!(answer.header("content-language"), Some(tag));
        assert!(answer.text().contains(&format!("<html lang=\"{tag}\">")));
        tag
    };
    let chinese = "Accept-Language: zh-CN,zh;q=0.9,en;q=0.8";
    assert_eq!(tongue("/", &[]), "en");
    assert_eq!(tongue("/", &["Accept-Language: fr"]), "en");
    assert_eq!(tongue("/", &[chinese]), "zh");
    assert_eq!(tongue("/", &["Accept-Language: zh;q=0.1, en;q=0.2"]), "en");
    assert_eq!(tongue("/?lang=en", &[chinese]), "en");
    let chosen = get(admin, "/?lang=zh", &[]);
    let cookie = chosen
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(tongue("/", &[&format!("Cookie: a=b; {cookie}")]), "zh");
    let lost = get(admin, "/nowhere", &[chinese, "Accept: text/html"]);
    assert_eq!(lost.status, 404);
    for part in ["没有此页面", "回到概览"] {
        assert!(lost.text().contains(part), "{part}: {}", lost.text());
    }
    let plain = get(admin, "/nowhere", &[chinese]).text();
    assert!(
        plain.is_ascii() && plain.starts_with("expected /,"),
        "{plain}"
    );
}

#[test]
fn merchants_are_shown_by_fingerprint_with_the_last_use_of_old_keys() {
    const OLD: &str = "an-old-key-0d1f5b7c9a";
    let platform = Platform::start(|seen| {
        let answer = Payment::of(&seen.member("orderid")).answer();
        Action::Reply(enveloped(wire::answer(answer, OLD)))
    });
    let url = platform.url();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.merchants = merchant(MERID, crate::harness::KEY)
            + &format!(
                "old_keys = [\"{OLD}\", \"another-old-key-77aa\"]\nback = \"http://127.0.0.1:9/pay?secret=S3CRET\"\n"
            );
    });
    let output = command()
        .arg("check")
        .arg("-c")
        .arg(sidecar.setup.conf_file())
        .output()
        .unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let line = line
        .lines()
        .find(|line| line.contains("key "))
        .unwrap()
        .to_owned();
    let (_, keys) = line.split_once("key ").unwrap();
    let (key, rest) = keys.split_once(", old ").unwrap();
    let old: Vec<_> = rest.split(',').next().unwrap().split(' ').collect();
    let before = page(&sidecar, "/merchants");
    in_order(
        &before,
        &[
            MERID,
            key,
            old[0],
            "not seen in use",
            old[1],
            "not seen in use",
        ],
    );
    assert!(!before.contains("S3CRET") && before.contains("http://127.0.0.1:9/pay"));
    assert_eq!(sidecar.query(query_json(MERID, "ORDER00001")).status, 200);
    let mut after = String::new();
    eventually("the old key was seen", SOON, || {
        after = page(&sidecar, "/merchants");
        after.contains("last seen")
    });
    in_order(&after, &[old[0], "last seen", old[1], "not seen in use"]);
    story(
        &sidecar,
        MERID,
        "ORDER00001",
        &["signed with the old key", old[0]],
    );
}

#[test]
fn a_reload_that_was_refused_is_shown_with_its_problems() {
    let sidecar = Sidecar::start(|_| {});
    let good = fs::read_to_string(sidecar.merchants_file()).unwrap();
    assert!(!page(&sidecar, "/").contains("was rejected"));
    fs::write(sidecar.merchants_file(), format!("{good}\noops = 1\n")).unwrap();
    let form = format!("form={}", form_token(&sidecar.admin("/merchants").text()));
    let reload = || post_with(sidecar.setup.admin, "/merchants", &[FORM], &form);
    assert_eq!(reload().status, 303);
    for path in ["/", "/merchants"] {
        let shown = page(&sidecar, path);
        in_order(
            &shown,
            &[
                "The merchants file was rejected",
                "merchants.toml:",
                "unknown key",
            ],
        );
    }
    fs::write(sidecar.merchants_file(), good).unwrap();
    assert_eq!(reload().status, 303);
    assert!(!page(&sidecar, "/").contains("was rejected"));
}

#[test]
fn a_person_on_call_finds_an_order_and_replays_it() {
    if let Some(reason) = missing() {
        return skip("a_person_on_call_finds_an_order_and_replays_it", &reason);
    }
    assert!(is_installed("chromium"));
    let (shop, is_well) = where_events_are_parked();
    let orderid = fresh_orderid();
    shop.sidecar.submit(submit_json(&orderid));
    let payment = Payment::of(&orderid);
    refused(
        "a guess",
        &callback(shop.address(), wire::answer(payment.json(), "guess")),
    );
    acknowledged(&shop.notify(&payment));
    shop.listed(&orderid, "parked");
    let disputed = Payment::of(&shop.order()).with_amount(1);
    refused("another amount", &shop.notify(&disputed));
    assert!(fetch(shop.address(), &format!("{FRONT}?{}", payment.form())).is_ok());
    is_well.store(true, Ordering::SeqCst);
    let paid = fresh_orderid();
    shop.sidecar.submit(submit_json(&paid));
    acknowledged(&shop.notify(&Payment::of(&paid)));
    shop.listed(&paid, "delivered");
    let good = fs::read_to_string(shop.sidecar.merchants_file()).unwrap();
    fs::write(shop.sidecar.merchants_file(), format!("{good}\noops = 1\n")).unwrap();
    shop.sidecar.reload();

    let home = format!("http://{}/", shop.sidecar.setup.admin);
    let browser = Browser::start("en", Screen::Desk);
    let look = |name: &str| {
        browser.fits_its_width();
        browser.picture(&format!("console-{name}"));
    };
    browser.open(&home);
    browser.write("input[name=token]", TOKEN);
    browser.click("main form button.first");
    browser.reads(&[
        "Overview",
        "Parked",
        "The merchants file was rejected",
        "unknown key",
    ]);
    look("front-problem");
    fs::write(shop.sidecar.merchants_file(), good).unwrap();
    browser.click("nav a[href='/merchants']");
    browser.reads(&["Merchants", "The last reload", MERID]);
    browser.click("main form[action='/merchants'] button");
    browser.reads(&["Unchanged"]);
    look("merchants");
    browser.open(&format!("{home}{}", &story_of(MERID, &paid)[1..]));
    browser.reads(&["What happened", "Callback accepted", "The app accepted it"]);
    look("story");
    browser.write("input[name=q]", &orderid);
    browser.click("form[role=search] button");
    browser.reads(&[
        &orderid,
        "What happened",
        "Parked",
        "Callback accepted",
        "Unverified",
    ]);
    look("story-parked");
    browser.likes_it_dark();
    look("story-dark");
    browser.click("main a[href$='/replay']");
    browser.reads(&["Replay this event?", &orderid, "under the same event id"]);
    look("replay-dark");
    browser.click("main form button.first");
    browser.reads(&["The app gets it again"]);
    shop.listed(&orderid, "delivered");
    browser.open(&format!("{home}refusals"));
    browser.reads(&["By reason", "bad-signature", "disputed"]);
    look("refusals-dark");
    let asked =
        "return performance.getEntriesByType('resource').every(it => it.name === location.href)";
    let asked = browser.script(asked);
    assert_eq!(asked.unwrap(), true, "nothing but the page is asked for");
    drop(browser);

    let browser = Browser::start("zh-CN", Screen::Phone);
    browser.open(&home);
    browser.write("input[name=token]", TOKEN);
    browser.click("main form button.first");
    browser.reads(&["概览"]);
    let pages = [
        "",
        "events?state=disputed",
        "events?state=delivered",
        "refusals",
        "merchants",
    ];
    for path in pages
        .map(str::to_owned)
        .into_iter()
        .chain([story_of(MERID, &orderid)[1..].to_owned()])
    {
        browser.open(&format!("{home}{path}"));
        browser.reads(&["概览"]);
        browser.fits_its_width();
        browser.picture(&format!(
            "console-phone-{}",
            path.replace(['?', '&', '='], "-")
        ));
    }
}
