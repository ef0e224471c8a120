//! What every store must do, tried on each: a file, and a database where there is a PostgreSQL to make one in.

use std::sync::Arc;
use std::thread;

use tempfile::TempDir;

use super::activity;
use super::activity::{ActivityEntry, ActivityKind, Weight};
use super::event::{Event, EventState, Source};
use super::store::{
    ActivityFilter, Arrival, AttemptRecord, PutOutcome, RecordOutcome, Store, StoreError,
};
use crate::config::StoreAddress;
use crate::config::store_address;
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

pub(super) fn outcome(
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
    deliverable: true,
};

pub(super) fn attempt(event: &Event, state: EventState, next: Millis) -> AttemptRecord {
    AttemptRecord {
        id: event.id.clone(),
        number: event.attempts + 1,
        at: 7,
        took: 1,
        outcome: "said no".to_owned(),
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
            store.record(merid, &order, 1).await.unwrap()
        };
        assert_eq!(record("1", 100, "Bank").await, RecordOutcome::Agrees);
        assert_eq!(record("1", 100, "Bank").await, RecordOutcome::Agrees);
        assert_eq!(record("1", 101, "Bank").await, RecordOutcome::Conflicts);
        assert_eq!(record("1", 100, "WeiXin").await, RecordOutcome::Conflicts);
        assert_eq!(record("2", 101, "Bank").await, RecordOutcome::Agrees);
        drop(store);
        let again = place.open();
        let other = order("ABCDEFGH", 1, "Bank");
        assert_eq!(
            again.record("1", &other, 1).await.unwrap(),
            RecordOutcome::Conflicts
        );
    }
}

#[tokio::test]
async fn one_story_is_one_event_and_two_are_held() {
    for place in StoreUnderTest::each("one_story_is_one_event_and_two_are_held") {
        let store = place.open();
        let signed = order("ABCDEFGH", 100, "Bank");
        store.record("1", &signed, 1).await.unwrap();
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
        let due = store.due(5, 3, 99).await.unwrap();
        let of = |merid| due.iter().filter(|event| event.merid == merid).count();
        assert_eq!((of("1"), of("2")), (3, 2));
        assert_eq!(store.due(5, 3, 4).await.unwrap().len(), 4);
        assert!(store.due(4, 3, 99).await.unwrap().is_empty());
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
        let read = store.due(5, 1, 1).await.unwrap().remove(0);
        let claimed = store.claim(&read).await.unwrap().unwrap();
        assert_eq!((claimed.attempts, claimed.json), (0, outcome.json.clone()));
        let failed = attempt(&read, EventState::Pending, 900);
        store.attempted(failed).await.unwrap();
        assert!(
            store.claim(&read).await.unwrap().is_none(),
            "read too early"
        );
        assert!(store.due(899, 1, 1).await.unwrap().is_empty());
        let read = store.due(900, 1, 1).await.unwrap().remove(0);
        assert!(store.claim(&read).await.unwrap().is_some());
        let told = store.attempts(&read.id).await.unwrap();
        assert_eq!((told.len(), told[0].outcome.as_str()), (1, "said no"));
        assert!(
            store
                .decide(&read.id, EventState::Discarded, 9)
                .await
                .unwrap()
        );
        assert!(store.claim(&read).await.unwrap().is_none(), "discarded");
        // What a person decided meanwhile stays, except that it was delivered.
        let failed = attempt(&read, EventState::Pending, 1);
        store.attempted(failed).await.unwrap();
        let state = async || store.event(&read.id).await.unwrap().unwrap().state;
        assert_eq!(state().await, EventState::Discarded);
        let taken = attempt(&read, EventState::Delivered, 1);
        store.attempted(taken).await.unwrap();
        assert_eq!(state().await, EventState::Delivered);
        assert!(
            !store
                .decide(&read.id, EventState::Discarded, 9)
                .await
                .unwrap()
        );
        assert!(
            store
                .decide(&read.id, EventState::Pending, 9)
                .await
                .unwrap()
        );
        assert_eq!(store.due(9, 1, 1).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn open_orders_are_asked_about_by_urgency_until_their_result_is_there() {
    let test = "open_orders_are_asked_about_by_urgency_until_their_result_is_there";
    for place in StoreUnderTest::each(test) {
        let store = place.open();
        for (at, orderid) in [(0, "ORDER001"), (1, "ORDER002"), (2, "ORDER003")] {
            let order = order(orderid, 1, "Bank");
            store.record("1", &order, at).await.unwrap();
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
            store.record("1", &order, 9 * day).await.unwrap();
            let outcome = outcome("1", orderid, queryid, "0000", 1);
            let arrival = Arrival {
                at: 9 * day,
                ..ARRIVAL
            };
            store.put(&outcome, arrival).await.unwrap();
        }
        let third = order("ORDER003", 1, "Bank");
        store.record("1", &third, 9 * day).await.unwrap();
        assert!(store.due(day, 9, 9).await.unwrap().is_empty());
        store.set_back(day).await.unwrap();
        let due = store.due(day, 9, 9).await.unwrap();
        assert_eq!(due.len(), 2);
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
            store.record("1", &other, 1).await.unwrap(),
            RecordOutcome::Conflicts
        );
        let forgotten = order("ORDER001", 2, "Bank");
        assert_eq!(
            store.record("1", &forgotten, 1).await.unwrap(),
            RecordOutcome::Agrees
        );
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
