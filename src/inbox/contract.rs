//! What every store must do, tried on each: a file, and a database where there is a PostgreSQL to make one in.

use std::sync::Arc;
use std::thread;

use tempfile::TempDir;

use super::activity;
use super::activity::{ActivityEntry, ActivityKind, Weight};
use super::attempt::{
    AppResponse, AttemptRecord, ClaimOutcome, ClaimedEvent, DueEvent, FailingApp,
};
use super::event::{EventState, ReviewReason, Source, WaitReason};
use super::listing::{OrderFilter, OrderState};
use super::minutes::{KEPT_MINUTES, MINUTE, MinuteFigures, MinuteRange};
use super::order::{NewTry, RecordOutcome, Try, TryKind, TryState};
use super::review::{DecideOutcome, DecisionKind, Operator, REVIEWS_EACH, Review, ReviewOutcome};
use super::store::{ActivityFilter, Arrival, KeySwitch, PutOutcome, Store, StoreError};
use crate::config::StoreAddress;
use crate::config::store_address;
use crate::config::store_address::PostgresAddress;
use crate::protocol::envelope;
use crate::protocol::envelope::{Envelope, Verified};
use crate::protocol::key::Key;
use crate::protocol::request::Order;
use crate::protocol::result::{PaymentResult, read_result};
use crate::time::Millis;

#[path = "../../tests/blackbox/cluster.rs"]
#[allow(dead_code, reason = "the other tests break their server; these do not")]
mod cluster;

#[path = "../../tests/blackbox/skip.rs"]
#[allow(dead_code, reason = "the other tests look for programs too")]
mod skip;

/// A place for a store, empty at first.
pub(super) struct StoreUnderTest {
    address: StoreAddress,
    _folder: TempDir,
}

impl StoreUnderTest {
    fn each(test: &str) -> Vec<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = Self {
            address: StoreAddress::Sqlite(folder.path().join("a.db")),
            _folder: folder,
        };
        std::iter::once(file).chain(Self::database(test)).collect()
    }

    /// In a database; `None` where there can be none.
    pub(super) fn database(test: &str) -> Option<Self> {
        let cluster = cluster::Cluster::shared(test)?;
        let url = cluster.url(&cluster.database());
        let folder = tempfile::tempdir().unwrap();
        Some(Self {
            address: store_address::tests::parsed(&url),
            _folder: folder,
        })
    }

    pub(super) fn postgres(&self) -> &PostgresAddress {
        match &self.address {
            StoreAddress::Postgres(at) => at,
            StoreAddress::Sqlite(path) => panic!("no database: {}", path.display()),
        }
    }

    /// Does some SQL in its database, as a DBA would.
    pub(super) fn sql(&self, sql: &str) -> String {
        let at = self.postgres();
        let cluster = cluster::Cluster::shared("").unwrap();
        cluster.sql(at.config.get_dbname().unwrap(), sql)
    }

    /// Does some SQL in a transaction that stays open until the process is killed.
    pub(super) fn hold(&self, sql: &str) -> std::process::Child {
        let at = self.postgres();
        let cluster = cluster::Cluster::shared("").unwrap();
        let database = at.config.get_dbname().unwrap();
        let child = cluster.hold(database, sql);
        while cluster.sql(
            database,
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' \
            AND datname = current_database() AND pid <> pg_backend_pid()",
        ) == "0"
        {
            thread::yield_now();
        }
        child
    }

    /// Also where the last handle was dropped just now: a writer gives its lock back on its own thread.
    pub(super) fn open(&self) -> Arc<dyn Store> {
        loop {
            match super::open(&self.address) {
                Err(StoreError::InUse(_)) => thread::yield_now(),
                result => return result.unwrap(),
            }
        }
    }
}

pub(super) fn order(orderid: &str, amount: u64, action: &'static str) -> Order {
    Order {
        orderid: orderid.to_owned(),
        amount,
        action,
    }
}

pub(crate) fn outcome(
    merid: &str,
    orderid: &str,
    queryid: &str,
    code: &str,
    amount: u64,
) -> Verified<PaymentResult> {
    let json = format!(
        r#"{{"merid":"{merid}","orderid":"{orderid}","queryid":"{queryid}","resultcode":"{code}","txnamt":{amount}}}"#
    );
    let key = Key::new("k").unwrap();
    let form = Envelope::seal(json.as_bytes(), &key).form("resp");
    let message = envelope::read(form.as_bytes(), "resp")
        .unwrap()
        .verify([&key])
        .unwrap();
    read_result(&message).unwrap()
}

pub(super) const ARRIVAL: Arrival = Arrival {
    source: Source::Notification,
    at: 5,
    waits: None,
};

/// A submit whose `backurl` the sidecar filled in.
pub(super) const SUBMIT: NewTry<'_> = NewTry {
    kind: TryKind::Submit,
    backurl: None,
};

/// The first due events, whosever they are.
pub(super) async fn due(store: &dyn Store, now: Millis, each: u32) -> Vec<DueEvent> {
    let due = store.due(now, each).await.unwrap();
    due.into_iter().flat_map(|it| it.events).collect()
}

/// The event, where it could be claimed.
pub(super) async fn claimed(store: &dyn Store, event: &DueEvent) -> Option<ClaimedEvent> {
    let claims = store.claim(vec![event.clone()]).await.unwrap();
    match claims.into_iter().next() {
        Some(ClaimOutcome::Claimed(claimed)) => Some(*claimed),
        _ => None,
    }
}

pub(super) fn attempt(event: &DueEvent, state: EventState, next: Millis) -> AttemptRecord {
    AttemptRecord {
        id: event.id.clone(),
        number: event.attempts + 1,
        at: 7,
        took: 1,
        outcome: "said no".to_owned(),
        response: None,
        state,
        next,
    }
}

#[tokio::test]
async fn an_order_signed_with_another_amount_or_action_conflicts() {
    for place in StoreUnderTest::each("an_order_signed_with_another_amount_or_action_conflicts") {
        let store = place.open();
        let record = async |merid, amount, action| {
            let order = order("ABCDEFGH", amount, action);
            let recorded = store.record(merid, &order, SUBMIT, 1).await.unwrap();
            match recorded {
                RecordOutcome::Agrees(it) => Some((it.number, it.created)),
                RecordOutcome::Conflicts => None,
            }
        };
        assert_eq!(record("1", 100, "Bank").await, Some((1, true)));
        assert_eq!(record("1", 100, "Bank").await, Some((2, false)));
        assert_eq!(record("1", 101, "Bank").await, None);
        assert_eq!(record("1", 100, "WeiXin").await, None);
        assert_eq!(record("2", 101, "Bank").await, Some((1, true)));
        drop(store);
        let again = place.open();
        let other = order("ABCDEFGH", 1, "Bank");
        let recorded = again.record("1", &other, SUBMIT, 1).await.unwrap();
        assert_eq!(recorded, RecordOutcome::Conflicts);
    }
}

/// Records a try that agrees.
async fn recorded(store: &dyn Store, orderid: &str, new: NewTry<'_>, at: Millis) -> Try {
    let order = order(orderid, 100, "Bank");
    match store.record("1", &order, new, at).await.unwrap() {
        RecordOutcome::Agrees(it) => it,
        RecordOutcome::Conflicts => panic!("{orderid} conflicts"),
    }
}

#[tokio::test]
async fn a_try_that_was_not_sent_frees_the_order_that_it_created_unless_another_may_have_been_sent()
{
    let test =
        "a_try_that_was_not_sent_frees_the_order_that_it_created_unless_another_may_have_been_sent";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        let store = &*store;
        let is_there = async |orderid| store.signed("1", orderid).await.unwrap().is_some();
        let alone = recorded(store, "ORDERAAA", SUBMIT, 1).await;
        assert!(store.settle_try(&alone, TryState::No).await.unwrap());
        assert!(!is_there("ORDERAAA").await);
        assert!(store.tries("1", "ORDERAAA").await.unwrap().is_empty());
        assert!(!store.settle_try(&alone, TryState::No).await.unwrap());
        let link = NewTry {
            kind: TryKind::Link,
            backurl: None,
        };
        for (orderid, other, settled) in [
            ("ORDERBBB", SUBMIT, None),
            ("ORDERCCC", SUBMIT, Some(TryState::Yes)),
            ("ORDERDDD", SUBMIT, Some(TryState::Unknown)),
            ("ORDEREEE", link, None),
        ] {
            let first = recorded(store, orderid, SUBMIT, 1).await;
            let other = recorded(store, orderid, other, 2).await;
            if let Some(settled) = settled {
                store.settle_try(&other, settled).await.unwrap();
            }
            assert!(!store.settle_try(&first, TryState::No).await.unwrap());
            assert!(is_there(orderid).await, "{orderid}");
        }
        // A try that found the row frees nothing, and its settling as sent neither.
        let first = recorded(store, "ORDERFFF", SUBMIT, 1).await;
        let second = recorded(store, "ORDERFFF", SUBMIT, 1).await;
        assert!(!store.settle_try(&first, TryState::Yes).await.unwrap());
        assert!(!store.settle_try(&second, TryState::No).await.unwrap());
        // Nor does one whose result is there already.
        let paid = recorded(store, "ORDERGGG", SUBMIT, 1).await;
        let result = outcome("1", "ORDERGGG", "Q7", "1001", 100);
        store.put(&result, ARRIVAL).await.unwrap();
        assert!(!store.settle_try(&paid, TryState::No).await.unwrap());
        assert!(is_there("ORDERGGG").await);
    }
}

#[tokio::test]
async fn an_order_is_open_until_it_is_paid_and_a_new_submit_opens_it_again() {
    let test = "an_order_is_open_until_it_is_paid_and_a_new_submit_opens_it_again";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        let store = &*store;
        let day = 24 * 60 * 60 * 1000;
        recorded(store, "ORDERAAA", SUBMIT, 1).await;
        let failed = outcome("1", "ORDERAAA", "QA", "1003", 100);
        store.put(&failed, ARRIVAL).await.unwrap();
        let open = store.open_orders(day, 9).await.unwrap();
        assert_eq!(open.len(), 1, "failed, and may be tried again");
        store.asked(&open[0], None).await.unwrap();
        assert_eq!(store.counts().await.unwrap().open_orders, 0);
        recorded(store, "ORDERAAA", SUBMIT, day).await;
        let open = store.open_orders(2 * day, 9).await.unwrap();
        assert_eq!((open.len(), open[0].signed_at), (1, day));
        let paid = outcome("1", "ORDERAAA", "QB", "0000", 100);
        store.put(&paid, ARRIVAL).await.unwrap();
        recorded(store, "ORDERAAA", SUBMIT, 2 * day).await;
        assert_eq!(store.counts().await.unwrap().open_orders, 0);
        assert!(store.open_orders(9 * day, 9).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_try_that_its_process_never_settled_is_unknown_and_its_order_urgent() {
    let test = "a_try_that_its_process_never_settled_is_unknown_and_its_order_urgent";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        let store = &*store;
        recorded(store, "ORDERAAA", SUBMIT, 1).await;
        assert!(store.open_orders(60_000, 9).await.unwrap().is_empty());
        let open = store.open_orders(180_000, 9).await.unwrap();
        assert_eq!(open.len(), 1);
        let tries = store.tries("1", "ORDERAAA").await.unwrap();
        assert_eq!(tries[0].state, TryState::Unknown);
    }
}

#[tokio::test]
async fn a_payment_belongs_to_the_only_try_that_can_be_meant() {
    for place in StoreUnderTest::each("a_payment_belongs_to_the_only_try_that_can_be_meant") {
        let store = place.open();
        let store = &*store;
        let own = |url| NewTry {
            backurl: Some(url),
            ..SUBMIT
        };
        let put = async |queryid, code| {
            let result = outcome("1", "ORDERAAA", queryid, code, 100);
            store.put(&result, ARRIVAL).await.unwrap();
        };
        let first = recorded(store, "ORDERAAA", own("http://a/1"), 1).await;
        store.settle_try(&first, TryState::Yes).await.unwrap();
        put("QA", "1003").await;
        recorded(store, "ORDERAAA", own("http://a/2"), 2).await;
        let third = recorded(store, "ORDERAAA", own("http://a/3"), 3).await;
        put("QA", "1001").await;
        put("QB", "1001").await;
        let queryids = async || {
            let tries = store.tries("1", "ORDERAAA").await.unwrap();
            let queryids = tries.into_iter().map(|it| it.queryid);
            queryids.collect::<Vec<_>>()
        };
        assert_eq!(queryids().await, [Some("QA".to_owned()), None, None]);
        store.link_try(&third, "QB").await.unwrap();
        assert_eq!(queryids().await[2].as_deref(), Some("QB"));
        // The latest address is the delivery's; not that of a try which was never sent, nor a shadow call's.
        store.settle_try(&third, TryState::No).await.unwrap();
        let shadow = NewTry {
            kind: TryKind::Shadow,
            backurl: Some("http://a/4"),
        };
        recorded(store, "ORDERAAA", shadow, 4).await;
        let due = due(store, 5, 1).await.remove(0);
        let claimed = claimed(store, &due).await.unwrap();
        assert_eq!(claimed.own_back.as_deref(), Some("http://a/2"));
    }
}

#[tokio::test]
async fn one_story_is_one_event_and_two_are_held() {
    for place in StoreUnderTest::each("one_story_is_one_event_and_two_are_held") {
        let store = place.open();
        let signed = order("ABCDEFGH", 100, "Bank");
        store.record("1", &signed, SUBMIT, 1).await.unwrap();
        let put = async |o: &Verified<PaymentResult>| store.put(o, ARRIVAL).await.unwrap();
        let lower = outcome("1", "ABCDEFGH", "Q1", "0000", 1);
        assert!(matches!(
            put(&lower).await,
            PutOutcome::Disputed { new: true, .. }
        ));
        assert!(matches!(
            put(&lower).await,
            PutOutcome::Disputed { new: false, .. }
        ));
        let right = outcome("1", "ABCDEFGH", "Q1", "0000", 100);
        let PutOutcome::Kept {
            id,
            state: EventState::Pending,
        } = put(&right).await
        else {
            panic!("the ledger confirms this one");
        };
        assert_eq!(
            put(&right).await,
            PutOutcome::Repeated {
                id: id.clone(),
                state: EventState::Pending
            }
        );
        assert_eq!(
            put(&outcome("2", "ABCDEFGH", "Q9", "0000", 100)).await,
            PutOutcome::Foreign
        );
        let other_order = outcome("1", "ZZZZZZZZ", "Q1", "0000", 100);
        assert!(matches!(
            put(&other_order).await,
            PutOutcome::Disputed { new: true, .. }
        ));
        let event = store.event(&id).await.unwrap().unwrap();
        assert_eq!(event.state, EventState::Disputed);
        assert!(event.matched);
        assert!(store.open_orders(Millis::MAX, 9).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn stories_that_come_at_once_are_judged_one_after_another() {
    for place in StoreUnderTest::each("stories_that_come_at_once_are_judged_one_after_another") {
        let store = place.open();
        let same = outcome("1", "ABCDEFGH", "Q1", "0000", 100);
        let other = outcome("1", "ABCDEFGH", "Q1", "0000", 101);
        let puts = (0..40).map(|n| store.put(if n % 2 == 0 { &same } else { &other }, ARRIVAL));
        let puts = futures_util::future::join_all(puts).await;
        let count = |is_so: fn(&PutOutcome) -> bool| {
            let puts = puts.iter().map(|put| put.as_ref().unwrap());
            puts.filter(|put| is_so(put)).count()
        };
        assert_eq!(count(|put| matches!(put, PutOutcome::Kept { .. })), 1);
        assert_eq!(
            count(|put| matches!(put, PutOutcome::Disputed { new: true, .. })),
            1
        );
        assert_eq!(store.counts().await.unwrap().events, [0, 0, 0, 2, 0]);
    }
}

#[tokio::test]
async fn each_merchant_has_its_share_of_what_is_due() {
    for place in StoreUnderTest::each("each_merchant_has_its_share_of_what_is_due") {
        let store = place.open();
        for number in 0..9 {
            let merid = if number < 7 { "1" } else { "2" };
            let (orderid, queryid) = (format!("ORDER00{number}"), format!("Q{number}"));
            let outcome = outcome(merid, &orderid, &queryid, "0000", 1);
            store.put(&outcome, ARRIVAL).await.unwrap();
        }
        let due = store.due(5, 3).await.unwrap();
        let shares = due.iter().map(|it| (it.merid.as_str(), it.events.len()));
        assert_eq!(shares.collect::<Vec<_>>(), [("1", 3), ("2", 2)]);
        let wanted = vec![("1".to_owned(), 99), ("3".to_owned(), 99)];
        let due = store.due_of_each(wanted, 5).await.unwrap();
        let shares = due.iter().map(|it| (it.merid.as_str(), it.events.len()));
        assert_eq!(
            shares.filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
            [("1", 7)]
        );
        assert!(store.due(4, 3).await.unwrap().is_empty());
        let counts = store.counts().await.unwrap();
        assert_eq!(
            (counts.events, counts.oldest_pending),
            ([9, 0, 0, 0, 0], Some(5))
        );
    }
}

#[tokio::test]
async fn an_event_is_claimed_as_it_was_read_or_not_at_all() {
    for place in StoreUnderTest::each("an_event_is_claimed_as_it_was_read_or_not_at_all") {
        let store = place.open();
        let outcome = outcome("1", "ABCDEFGH", "Q1", "0000", 1);
        store.put(&outcome, ARRIVAL).await.unwrap();
        let store = &*store;
        let read = due(store, 5, 1).await.remove(0);
        let event = claimed(store, &read).await.unwrap().event;
        assert_eq!((event.attempts, event.json), (0, outcome.json.clone()));
        let response = AppResponse {
            status: 302,
            content_type: "text/html".to_owned(),
            first_bytes: vec![0xff, b'<'],
            location: "/login".to_owned(),
            explanation: "a redirect to /login".to_owned(),
        };
        let failed = AttemptRecord {
            response: Some(response),
            ..attempt(&read, EventState::Pending, 900)
        };
        assert!(store.attempted(failed.clone()).await.unwrap());
        assert!(claimed(store, &read).await.is_none(), "read too early");
        assert!(due(store, 899, 1).await.is_empty());
        let kept = store.attempts(&read.id).await.unwrap();
        assert_eq!(
            kept,
            [AttemptRecord {
                next: 0,
                ..failed.clone()
            }]
        );
        assert!(!store.attempted(failed).await.unwrap(), "had it already");
        let read = due(store, 900, 1).await.remove(0);
        assert!(claimed(store, &read).await.is_some());
        let operator = Operator {
            who: "ops".to_owned(),
            from: "127.0.0.1".to_owned(),
        };
        let decide = async |kind| store.decide(&read.id, kind, &operator, 9).await.unwrap();
        let done = |from| DecideOutcome::Done { from };
        assert_eq!(
            decide(DecisionKind::Discard).await,
            done(EventState::Pending)
        );
        assert!(claimed(store, &read).await.is_none(), "discarded");
        // A decision that was made meanwhile stands, except that what the app took is delivered.
        assert!(
            store
                .attempted(attempt(&read, EventState::Pending, 1))
                .await
                .unwrap()
        );
        let event = async || store.event(&read.id).await.unwrap().unwrap();
        assert_eq!(event().await.state, EventState::Discarded);
        assert_eq!(
            decide(DecisionKind::Replay).await,
            done(EventState::Discarded)
        );
        let read = due(store, 9, 1).await.remove(0);
        assert!(claimed(store, &read).await.is_some());
        assert_eq!(
            decide(DecisionKind::Discard).await,
            done(EventState::Pending)
        );
        assert!(
            store
                .attempted(attempt(&read, EventState::Delivered, 1))
                .await
                .unwrap()
        );
        assert_eq!(event().await.state, EventState::Delivered);
        let stays = DecideOutcome::Stays(EventState::Delivered);
        assert_eq!(decide(DecisionKind::Discard).await, stays);
        assert_eq!(decide(DecisionKind::Release).await, stays);
        assert_eq!(
            decide(DecisionKind::Replay).await,
            done(EventState::Delivered)
        );
        assert_eq!(due(store, 9, 1).await.len(), 1);
        let event = event().await;
        assert_eq!((event.received_at, event.offered_since), (5, 9));
        let decisions = store.decisions(&read.id).await.unwrap();
        let states: Vec<_> = decisions.iter().map(|it| (it.kind, it.from)).collect();
        assert_eq!(
            states,
            [
                (DecisionKind::Discard, EventState::Pending),
                (DecisionKind::Replay, EventState::Discarded),
                (DecisionKind::Discard, EventState::Pending),
                (DecisionKind::Replay, EventState::Delivered),
            ]
        );
        assert!(
            decisions
                .iter()
                .all(|it| it.operator == operator && it.at == 9)
        );
        let all = store.decisions_since(8).await.unwrap();
        assert!(all.iter().all(|(id, _)| *id == read.id));
        let all: Vec<_> = all.into_iter().map(|(_, decision)| decision).collect();
        assert_eq!(all.len(), decisions.len());
        assert!(all.iter().all(|it| decisions.contains(it)));
        assert!(store.decisions_since(9).await.unwrap().is_empty());
        let nothing = store
            .decide("none", DecisionKind::Replay, &operator, 9)
            .await;
        assert_eq!(nothing.unwrap(), DecideOutcome::NotFound);
    }
}

#[tokio::test]
async fn a_lesser_state_of_a_payment_is_known_as_superseded_and_a_failure_after_paid_is_reviewed() {
    let test =
        "a_lesser_state_of_a_payment_is_known_as_superseded_and_a_failure_after_paid_is_reviewed";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        let store = &*store;
        let put = async |queryid, code| {
            let result = outcome("1", "ORDERAAA", queryid, code, 100);
            store.put(&result, ARRIVAL).await.unwrap()
        };
        put("QA", "1002").await;
        let processing = due(store, 5, 9).await.remove(0);
        assert!(!claimed(store, &processing).await.unwrap().superseded);
        let taken = attempt(&processing, EventState::Delivered, 1);
        store.attempted(taken).await.unwrap();
        for (queryid, code, superseded) in [
            ("QA", "1001", true),
            ("QA", "1003", true),
            ("QA", "1004", false),
            ("QA", "0000", false),
            ("QB", "1001", false),
        ] {
            put(queryid, code).await;
            let due = due(store, 5, 1).await.remove(0);
            let claimed = claimed(store, &due).await.unwrap();
            assert_eq!(claimed.superseded, superseded, "{queryid} {code}");
            let parked = attempt(&due, EventState::Parked, 1);
            store.attempted(parked).await.unwrap();
        }
        put("QC", "0000").await;
        let failed = put("QC", "1003").await;
        assert!(matches!(
            failed,
            PutOutcome::Disputed {
                new: true,
                reason: ReviewReason::FailedAfterPaid,
                ..
            }
        ));
    }
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_kept_once_and_a_thousand_of_a_merchant() {
    let test = "a_payload_that_cannot_be_read_is_kept_once_and_a_thousand_of_a_merchant";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        let review = |merid: &str, payload: &[u8]| Review {
            merid: merid.to_owned(),
            orderid: "ORDERAAA".to_owned(),
            queryid: String::new(),
            payload: payload.to_vec(),
            reason: ReviewReason::Unreadable,
            field: "txnamt".to_owned(),
            source: Source::Notification,
            at: 5,
        };
        let put = async |merid, payload: &[u8]| {
            store.put_for_review(review(merid, payload)).await.unwrap()
        };
        let odd = b"{\"a\":\0\xff}";
        let ReviewOutcome::Kept { id } = put("1", odd).await else {
            panic!("new");
        };
        let state = EventState::Disputed;
        let again = ReviewOutcome::Repeated {
            id: id.clone(),
            state,
        };
        assert_eq!(put("1", odd).await, again);
        let event = store.event(&id).await.unwrap().unwrap();
        assert_eq!(event.payload(), odd);
        assert_eq!((event.state, event.field.as_str()), (state, "txnamt"));
        assert_eq!(event.review, Some(ReviewReason::Unreadable));
        for number in 1..REVIEWS_EACH {
            let payload = number.to_string();
            assert!(matches!(
                put("1", payload.as_bytes()).await,
                ReviewOutcome::Kept { .. }
            ));
        }
        assert_eq!(put("1", b"one more").await, ReviewOutcome::Full);
        assert!(matches!(
            put("1", odd).await,
            ReviewOutcome::Repeated { .. }
        ));
        assert!(matches!(put("2", odd).await, ReviewOutcome::Kept { .. }));
        let counts = store.counts().await.unwrap();
        assert_eq!(counts.events, [0, 0, 0, i64::from(REVIEWS_EACH) + 1, 0]);
    }
}

#[tokio::test]
async fn events_without_an_address_wait_and_resume() {
    for place in StoreUnderTest::each("events_without_an_address_wait_and_resume") {
        let store = place.open();
        let store = &*store;
        for (queryid, waits) in [("QA", None), ("QB", Some(WaitReason::NoMerchant))] {
            let result = outcome("1", "ORDERAAA", queryid, "1001", 100);
            store
                .put(&result, Arrival { waits, ..ARRIVAL })
                .await
                .unwrap();
        }
        assert_eq!(store.waiting().await.unwrap(), ["1"]);
        store.wait_for("1", WaitReason::NoBack, 5).await.unwrap();
        assert!(due(store, 6, 9).await.is_empty());
        let waiting = store.events(Some(EventState::Pending), 9).await.unwrap();
        assert!(
            waiting
                .iter()
                .all(|it| it.waits == Some(WaitReason::NoBack))
        );
        store.resume("2", 6).await.unwrap();
        assert!(due(store, 6, 9).await.is_empty());
        store.resume("1", 6).await.unwrap();
        assert_eq!(due(store, 6, 9).await.len(), 2);
        assert!(store.waiting().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn failing_apps_and_key_switches_outlive_the_process() {
    for place in StoreUnderTest::each("failing_apps_and_key_switches_outlive_the_process") {
        let app = |last| FailingApp {
            merid: "1".to_owned(),
            since: 1,
            last,
            why: "refused".to_owned(),
        };
        let switch = |to: &str| KeySwitch {
            merid: "1".to_owned(),
            from_key: "aaaaaaaa".to_owned(),
            to_key: to.to_owned(),
            at: 7,
        };
        let store = place.open();
        store.set_failing(app(2)).await.unwrap();
        store.set_failing(app(3)).await.unwrap();
        store.key_switched(switch("bbbbbbbb")).await.unwrap();
        store.key_switched(switch("cccccccc")).await.unwrap();
        drop(store);
        let store = place.open();
        assert_eq!(store.failing().await.unwrap(), [app(3)]);
        assert_eq!(store.key_switches().await.unwrap(), [switch("cccccccc")]);
        store.set_working("1").await.unwrap();
        store.forget_key_switch("1").await.unwrap();
        assert!(store.failing().await.unwrap().is_empty());
        assert!(store.key_switches().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn open_orders_are_asked_about_by_urgency_until_their_result_is_there() {
    let test = "open_orders_are_asked_about_by_urgency_until_their_result_is_there";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        for (at, orderid) in [(0, "ORDER001"), (1, "ORDER002"), (2, "ORDER003")] {
            let order = order(orderid, 1, "Bank");
            let recorded = store.record("1", &order, SUBMIT, at).await.unwrap();
            let RecordOutcome::Agrees(sent) = recorded else {
                panic!("{orderid} conflicts");
            };
            store.settle_try(&sent, TryState::Yes).await.unwrap();
        }
        let twenty_minutes = 20 * 60 * 1000;
        assert!(
            store
                .open_orders(twenty_minutes - 1, 9)
                .await
                .unwrap()
                .is_empty()
        );
        store.hasten("1", "ORDER003", 50).await.unwrap();
        let urgent = store.open_orders(50, 9).await.unwrap();
        assert_eq!((urgent.len(), urgent[0].signed_at), (1, 2));
        store
            .asked(&urgent[0], Some(twenty_minutes + 9))
            .await
            .unwrap();
        let first = store.open_orders(twenty_minutes + 1, 1).await.unwrap();
        assert_eq!(first[0].orderid, "ORDER001");
        store.asked(&first[0], None).await.unwrap();
        let found = outcome("1", "ORDER002", "Q2", "0000", 1);
        store.put(&found, ARRIVAL).await.unwrap();
        let open = store.open_orders(Millis::MAX, 9).await.unwrap();
        let open: Vec<_> = open.iter().map(|order| order.orderid.as_str()).collect();
        assert_eq!(open, ["ORDER003"]);
        assert_eq!(store.counts().await.unwrap().open_orders, 1);
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_delays_nothing_and_what_is_old_and_done_is_forgotten() {
    let test = "a_clock_that_was_set_back_delays_nothing_and_what_is_old_and_done_is_forgotten";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        let day = 24 * 60 * 60 * 1000;
        for (orderid, queryid) in [("ORDER001", "Q1"), ("ORDER002", "Q2")] {
            let order = order(orderid, 1, "Bank");
            store.record("1", &order, SUBMIT, 9 * day).await.unwrap();
            let outcome = outcome("1", orderid, queryid, "0000", 1);
            let arrival = Arrival {
                at: 9 * day,
                ..ARRIVAL
            };
            store.put(&outcome, arrival).await.unwrap();
        }
        let third = order("ORDER003", 1, "Bank");
        store.record("1", &third, SUBMIT, 9 * day).await.unwrap();
        assert!(store.due(day, 9).await.unwrap().is_empty());
        store.set_back(day).await.unwrap();
        let due = due(&*store, day, 9).await;
        assert_eq!(due.len(), 2);
        assert!(claimed(&*store, &due[0]).await.is_some());
        assert_eq!(store.open_orders(day, 9).await.unwrap().len(), 1);
        let taken = attempt(&due[0], EventState::Delivered, 1);
        store.attempted(taken).await.unwrap();
        store.forget(9 * day).await.unwrap();
        assert_eq!(store.events(None, 9).await.unwrap().len(), 2);
        store.forget(9 * day + 1).await.unwrap();
        assert!(store.event(&due[0].id).await.unwrap().is_none());
        assert!(store.attempts(&due[0].id).await.unwrap().is_empty());
        let left = store.events(Some(EventState::Pending), 9).await.unwrap();
        assert_eq!((left.len(), &left[0].id), (1, &due[1].id));
        assert!(
            store
                .events(Some(EventState::Delivered), 9)
                .await
                .unwrap()
                .is_empty()
        );
        // The order that is still open is there, and conflicts.
        let other = order("ORDER003", 2, "Bank");
        assert_eq!(
            store.record("1", &other, SUBMIT, 1).await.unwrap(),
            RecordOutcome::Conflicts
        );
        let forgotten = order("ORDER001", 2, "Bank");
        let recorded = store.record("1", &forgotten, SUBMIT, 1).await.unwrap();
        assert!(matches!(recorded, RecordOutcome::Agrees(_)));
    }
}

fn note(weight: Weight, at: Millis) -> ActivityEntry {
    ActivityEntry {
        request_id: format!("r{at}"),
        outcome: "malformed".into(),
        old_key: if at == 1 { "0a1b2c3d" } else { "" }.to_owned(),
        weight,
        refused: at == 1,
        stranger: weight == Weight::Common,
        ..ActivityEntry::about(ActivityKind::Callback, Some("1"), Some("ABCDEFGH"), at)
    }
}

#[tokio::test]
async fn the_newest_notes_are_kept_and_common_ones_displace_no_step() {
    for place in StoreUnderTest::each("the_newest_notes_are_kept_and_common_ones_displace_no_step")
    {
        let store = place.open();
        let step = note(Weight::Step, 1);
        store.note(vec![step.clone()]).await.unwrap();
        let last = Millis::from(activity::KEPT_COMMON) + 10;
        for first in (2..=last).step_by(1000) {
            let group = first..=(first + 999).min(last);
            let group = group.map(|at| note(Weight::Common, at)).collect();
            store.note(group).await.unwrap();
        }
        let wanted = || ActivityFilter::Order("1".to_owned(), "ABCDEFGH".to_owned());
        let all = store.notes(wanted(), u32::MAX).await.unwrap();
        assert_eq!(all.len(), activity::KEPT_COMMON as usize + 1);
        assert_eq!(
            (&all[0], all.last()),
            (&note(Weight::Common, last), Some(&step))
        );
        let found = store
            .notes(ActivityFilter::Request("r1".to_owned()), 9)
            .await
            .unwrap();
        assert_eq!(found, std::slice::from_ref(&step));
        let refused = store.notes(ActivityFilter::Refusals, 9).await.unwrap();
        assert_eq!(refused, std::slice::from_ref(&step));
        assert_eq!(store.old_keys().await.unwrap()[0].seen_at, 1);
        let claimed = ActivityEntry {
            merid: "0".to_owned(),
            ..note(Weight::Common, last)
        };
        store.note(vec![claimed]).await.unwrap();
        for number in ["r1", "ABCDEFGH"] {
            let found = store.find(number, 9).await.unwrap();
            assert_eq!(found, [("1".to_owned(), "ABCDEFGH".to_owned())]);
        }
        let few = store.notes(wanted(), 2).await.unwrap();
        assert_eq!((few.len(), few.last()), (3, Some(&step)));
        store.forget(last).await.unwrap();
        assert_eq!(store.notes(wanted(), 9).await.unwrap().len(), 1);
        store.forget(last + 1).await.unwrap();
        assert_eq!(store.notes(wanted(), 9).await.unwrap(), []);
    }
}

#[tokio::test]
async fn figures_of_a_minute_add_up_over_processes_and_the_oldest_give_way() {
    let name = "figures_of_a_minute_add_up_over_processes_and_the_oldest_give_way";
    for place in StoreUnderTest::each(name) {
        let busy = |minute: Millis, calls, median, p99| MinuteFigures {
            at: minute * MINUTE,
            minutes: 1,
            calls,
            calls_rejected: 1,
            callbacks: 2,
            callbacks_rejected: 0,
            median,
            p99,
        };
        let all = |until: Millis, step| MinuteRange {
            from: 0,
            until: until * MINUTE,
            step,
        };
        let store = place.open();
        let minutes = vec![
            busy(10, 1, Some(0.1), Some(0.2)),
            busy(11, 3, Some(0.5), Some(0.5)),
        ];
        store.add_minutes(minutes).await.unwrap();
        drop(store);
        let store = place.open();
        let minutes = vec![busy(11, 1, Some(0.1), Some(0.9)), busy(12, 0, None, None)];
        store.add_minutes(minutes).await.unwrap();
        let found = store.minutes(all(13, 1)).await.unwrap();
        let calls: Vec<_> = found
            .iter()
            .map(|it| (it.at / MINUTE, it.calls, it.callbacks))
            .collect();
        assert_eq!(calls, [(10, 1, 2), (11, 4, 4), (12, 0, 2)]);
        // (3 × 0.5 + 1 × 0.1) / 4, and the higher of the two.
        let seconds: Vec<_> = found.iter().map(|it| (it.median, it.p99)).collect();
        assert_eq!(seconds[1], (Some(0.4), Some(0.9)));
        assert_eq!(seconds[2], (None, None));
        // What ends at a minute does not hold it.
        assert_eq!(store.minutes(all(12, 1)).await.unwrap().len(), 2);
        let together = store.minutes(all(13, 10)).await.unwrap();
        let [ten] = together.as_slice() else {
            panic!("{together:?}");
        };
        assert_eq!((ten.at, ten.minutes, ten.calls), (10 * MINUTE, 3, 5));
        assert_eq!((ten.calls_rejected, ten.p99), (4, Some(0.9)));
        let week = Millis::from(KEPT_MINUTES);
        for first in (0..week).step_by(1000) {
            let group = first..(first + 1000).min(week);
            let group = group.map(|it| busy(100 + it, 1, None, None)).collect();
            store.add_minutes(group).await.unwrap();
        }
        let found = store.minutes(all(i64::from(u32::MAX), 1)).await.unwrap();
        assert_eq!(found.len(), KEPT_MINUTES as usize);
        assert_eq!(found.first().map(|it| it.at), Some(100 * MINUTE));
    }
}

#[tokio::test]
async fn orders_are_listed_newest_first_page_by_page_with_what_came_of_them() {
    let name = "orders_are_listed_newest_first_page_by_page_with_what_came_of_them";
    for place in StoreUnderTest::each(name) {
        let store = place.open();
        // Three at one time: a page may end between them.
        for (merid, number, at) in [
            ("1", "AAAAAAA1", 10),
            ("1", "AAAAAAA2", 20),
            ("2", "AAAAAAA2", 20),
            ("1", "BBBBBBB3", 20),
            ("1", "BBBBBBB4", 30),
        ] {
            let new = order(number, 5, "Bank");
            store.record(merid, &new, SUBMIT, at).await.unwrap();
        }
        for (merid, number, code, amount) in [
            ("1", "AAAAAAA1", "0000", 5),
            ("1", "AAAAAAA2", "1003", 5),
            ("1", "BBBBBBB3", "0000", 6),
        ] {
            let result = outcome(merid, number, number, code, amount);
            store.put(&result, ARRIVAL).await.unwrap();
        }
        let all = OrderFilter::default();
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.orders(&all, after, 2).await.unwrap();
            assert!(page.orders.len() <= 2);
            found.extend(page.orders);
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let seen: Vec<_> = found
            .iter()
            .map(|it| (&*it.row.merid, &*it.row.orderid, it.state.name()))
            .collect();
        assert_eq!(
            seen,
            [
                ("1", "BBBBBBB4", "open"),
                ("2", "AAAAAAA2", "open"),
                ("1", "BBBBBBB3", "differs"),
                ("1", "AAAAAAA2", "failed"),
                ("1", "AAAAAAA1", "paid"),
            ]
        );
        let differs = &found[2];
        assert_eq!((differs.row.amount, differs.row.signed_at), (5, 20));
        assert_eq!(differs.result.as_ref().map(|it| it.amount), Some(6));
        let listed = async |filter: OrderFilter| {
            let page = store.orders(&filter, None, 9).await.unwrap();
            assert_eq!(page.next, None);
            let names = page.orders.into_iter();
            names.map(|it| it.row.orderid).collect::<Vec<_>>()
        };
        let filter = |merid: &str, prefix: &str, state| OrderFilter {
            merid: merid.to_owned(),
            prefix: prefix.to_owned(),
            state,
            ..OrderFilter::default()
        };
        assert_eq!(listed(filter("2", "", None)).await, ["AAAAAAA2"]);
        assert_eq!(
            listed(filter("1", "BBB", None)).await,
            ["BBBBBBB4", "BBBBBBB3"]
        );
        assert_eq!(listed(filter("1", "_", None)).await, [""; 0]);
        let failed = filter("", "", Some(OrderState::Failed));
        assert_eq!(listed(failed).await, ["AAAAAAA2"]);
        let times = OrderFilter {
            from: 10,
            until: 20,
            ..OrderFilter::default()
        };
        assert_eq!(listed(times).await, ["AAAAAAA1"]);
    }
}
