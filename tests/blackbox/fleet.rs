//! Several sidecars on one PostgreSQL: what one was told, all know; what one has in hand, no other touches; and what the
//! server did not confirm, nobody acknowledges.

use crate::client::fetch;
use crate::clock::minutes;
use crate::cluster::Cluster;
use crate::harness::{
    Conf, MERID, ORDERID, Setup, Sidecar, eventually, fresh_orderid, query_json, submit_json,
};
use crate::platform::{Action, Platform, Seen};
use crate::shop::{
    Book, Delivery, Payment, SOON, Shop, acknowledged, callback, callback_from, deliveries,
    is_acknowledged, list, taken,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How soon a fleet works again once its database does (promises).
const RECOVERY: Duration = Duration::from_secs(10);
/// Time in which another sidecar takes over (promises).
const TAKE_OVER: Duration = Duration::from_secs(30);
/// What no callback and no call may last longer than, whatever the database does; with room for a busy machine.
const BOUND: Duration = Duration::from_secs(5);

/// Two sidecars, one platform, one app.
struct Fleet {
    platform: Platform,
    app: Platform,
    sidecars: Vec<Sidecar>,
}

impl Fleet {
    fn start(url: &str, app: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> Self {
        let book = Book::default();
        let platform = Platform::start(move |seen| book.reply(seen));
        let mut fleet = Self {
            app: Platform::start(app),
            platform,
            sidecars: Vec::new(),
        };
        fleet.grow(url);
        fleet.grow(url);
        fleet
    }

    fn setup(&self, url: &str) -> Setup {
        Shop::setup(&self.platform, &self.app.url(), |conf: &mut Conf| {
            conf.store = Some(url.to_owned());
        })
    }

    #[track_caller]
    fn grow(&mut self, url: &str) {
        self.sidecars.push(self.setup(url).start());
    }

    fn deliveries_of(&self, orderid: &str) -> Vec<Delivery> {
        let mut found = deliveries(&self.app);
        found.retain(|delivery| delivery.orderid() == orderid);
        found
    }
}

#[test]
fn two_hundred_copies_at_two_sidecars_are_one_event_and_one_delivery() {
    const COPIES: usize = 200;
    let test = "two_hundred_copies_at_two_sidecars_are_one_event_and_one_delivery";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let fleet = Fleet::start(&cluster.url(&cluster.database()), |_| {
        // Long enough for the other sidecar to look for work meanwhile.
        thread::sleep(Duration::from_millis(500));
        taken()
    });
    let payment = Payment::of(&fresh_orderid());
    let form = payment.form();
    thread::scope(|scope| {
        for copy in 0..COPIES {
            let address = fleet.sidecars[copy % 2].setup.callbacks;
            // One address may have 64 connections.
            let source = Ipv4Addr::new(127, 0, 0, 1 + (copy % 8) as u8);
            let form = &form;
            scope.spawn(move || acknowledged(&callback_from(source, address, form)));
        }
    });
    eventually("the event is delivered", SOON, || {
        let lines = list(&fleet.sidecars[0].setup);
        lines.len() == 1 && lines[0].contains("delivered")
    });
    assert_eq!(list(&fleet.sidecars[1].setup).len(), 1);
    // Two further events, one at each: whatever else was to be delivered came before them.
    for sidecar in &fleet.sidecars {
        let next = Payment::of(&fresh_orderid());
        acknowledged(&callback(sidecar.setup.callbacks, next.form()));
        eventually("a later event is delivered", SOON, || {
            fleet.deliveries_of(&next.orderid).len() == 1
        });
    }
    assert_eq!(fleet.deliveries_of(&payment.orderid).len(), 1);
}

#[test]
fn hundreds_of_events_are_shared_and_each_is_delivered_once() {
    const EVENTS: usize = 300;
    let test = "hundreds_of_events_are_shared_and_each_is_delivered_once";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let fleet = Fleet::start(&cluster.url(&cluster.database()), |_| {
        thread::sleep(Duration::from_millis(20));
        taken()
    });
    thread::scope(|scope| {
        for sender in 0..6 {
            let fleet = &fleet;
            scope.spawn(move || {
                for n in (sender..EVENTS).step_by(6) {
                    let address = fleet.sidecars[n % 2].setup.callbacks;
                    let payment = Payment::of(&format!("SHARED{n:06}"));
                    acknowledged(&callback(address, payment.form()));
                }
            });
        }
    });
    eventually("all are delivered", 3 * SOON, || {
        fleet.app.count() >= EVENTS
    });
    eventually("all of that is written down", SOON, || {
        let delivered = ["countersign_events{", "state=\"delivered\""];
        fleet.sidecars[0].metrics().sum(&delivered) == EVENTS as f64
    });
    assert_eq!(fleet.app.count(), EVENTS, "some were delivered twice");
    for sidecar in &fleet.sidecars {
        let taken = ["countersign_delivery_attempts_total", "taken"];
        assert!(sidecar.metrics().sum(&taken) > 0.0, "one did all the work");
    }
}

#[test]
fn another_sidecar_takes_over_what_a_dead_one_had_in_hand_and_not_before() {
    let test = "another_sidecar_takes_over_what_a_dead_one_had_in_hand_and_not_before";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let url = cluster.url(&cluster.database());
    let attempts = AtomicUsize::new(0);
    let mut fleet = Fleet::start(&url, move |_| {
        match attempts.fetch_add(1, Ordering::SeqCst) {
            0 => Action::Hang,
            _ => taken(),
        }
    });
    fleet.sidecars.truncate(1);
    let payment = Payment::of(&fresh_orderid());
    acknowledged(&callback(fleet.sidecars[0].setup.callbacks, payment.form()));
    fleet.app.wait_for(1);
    fleet.grow(&url);
    // The second one works, and yet leaves the event alone.
    let other = Payment::of(&fresh_orderid());
    acknowledged(&callback(fleet.sidecars[1].setup.callbacks, other.form()));
    eventually("the second delivers", SOON, || {
        fleet.deliveries_of(&other.orderid).len() == 1
    });
    assert_eq!(fleet.deliveries_of(&payment.orderid).len(), 1);
    let killed = Instant::now();
    fleet.sidecars[0].kill();
    eventually("the second takes over", TAKE_OVER, || {
        fleet.deliveries_of(&payment.orderid).len() == 2
    });
    let told = fleet.deliveries_of(&payment.orderid);
    assert_eq!(told[0].event, told[1].event);
    assert!(killed.elapsed() < TAKE_OVER);
}

#[test]
fn an_open_order_is_asked_about_by_one_sidecar() {
    const ORDERS: usize = 20;
    let test = "an_open_order_is_asked_about_by_one_sidecar";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let database = cluster.database();
    let mut fleet = Fleet::start(&cluster.url(&database), |_| taken());
    for n in 0..ORDERS {
        let submit = submit_json(&format!("ASKED{n:06}"));
        let answer = fleet.sidecars[n % 2].post("/apis/icashier", submit);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for sidecar in &mut fleet.sidecars {
        sidecar.kill();
    }
    // The database's clock decides, so that the orders are made older instead.
    let earlier = minutes(21).as_millis();
    cluster.sql(
        &database,
        &format!(
            "UPDATE countersign.orders SET next_look = next_look - {earlier}, signed_at = signed_at - {earlier}; \
             UPDATE countersign.tries SET at = at - {earlier}"
        ),
    );
    for sidecar in &mut fleet.sidecars {
        sidecar.child = sidecar.setup.spawn();
    }
    eventually("all were asked about", 2 * SOON, || {
        fleet.platform.count() >= ORDERS
    });
    let open = ["countersign_watch_queries_total", "not-paid"];
    eventually("all of that is written down", SOON, || {
        let asked = fleet.sidecars.iter().map(|it| {
            let ready = fetch(it.setup.admin, "/readyz").is_ok();
            if ready { it.metrics().sum(&open) } else { 0.0 }
        });
        asked.sum::<f64>() == ORDERS as f64
    });
    assert_eq!(fleet.platform.count(), ORDERS);
}

#[test]
fn sidecars_that_start_together_make_the_tables_once() {
    let test = "sidecars_that_start_together_make_the_tables_once";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let url = cluster.url(&cluster.database());
    let setups: Vec<_> = (0..6)
        .map(|_| Setup::new(|conf| conf.store = Some(url.clone())))
        .collect();
    let started: Vec<_> = setups
        .into_iter()
        .map(|setup| {
            let child = setup.spawn();
            Sidecar { setup, child }
        })
        .collect();
    for sidecar in &started {
        eventually("it is ready", 2 * SOON, || {
            fetch(sidecar.setup.admin, "/readyz").is_ok_and(|answer| answer.status == 200)
        });
    }
}

#[test]
fn a_search_for_what_the_database_cannot_hold_finds_nothing() {
    let test = "a_search_for_what_the_database_cannot_hold_finds_nothing";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let sidecar = Sidecar::start(|conf| conf.store = Some(cluster.url(&cluster.database())));
    for path in [
        "/orders?q=%00",
        "/order?merid=%00&orderid=x",
        "/order?merid=1&orderid=%00",
    ] {
        let answer = sidecar.admin(path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
    }
}

/// Whatever is done to the database: what was acknowledged is delivered, nothing is while it is broken, calls go on,
/// and all is well again soon after it is mended.
#[track_caller]
fn never_acknowledged_and_mended(url: &str, break_it: impl FnOnce(), mend_it: impl FnOnce()) {
    let fleet = Fleet::start(url, |_| taken());
    let kept = Mutex::new(BTreeSet::new());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for sidecar in &fleet.sidecars {
            let (kept, stop, address) = (&kept, &stop, sidecar.setup.callbacks);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let payment = Payment::of(&fresh_orderid());
                    if is_acknowledged(&callback(address, payment.form())) {
                        kept.lock().unwrap().insert(payment.orderid);
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            });
        }
        // The senders end whatever happens here.
        let _stopped = Stop(&stop);
        eventually("some are acknowledged", SOON, || {
            kept.lock().unwrap().len() > 20
        });
        break_it();
        for sidecar in &fleet.sidecars {
            eventually("not ready", RECOVERY, || {
                sidecar.admin("/readyz").status == 503
            });
            let began = Instant::now();
            let answer = callback(
                sidecar.setup.callbacks,
                Payment::of(&fresh_orderid()).form(),
            );
            assert_eq!(answer.status, 503, "{answer:?}");
            assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
            let began = Instant::now();
            let answer = sidecar.query(query_json(MERID, ORDERID));
            assert_eq!(answer.status, 200, "{}", answer.text());
            let answer = sidecar.submit(submit_json(&fresh_orderid()));
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        }
        mend_it();
        let mended = Instant::now();
        for sidecar in &fleet.sidecars {
            eventually("acknowledged again", RECOVERY, || {
                let payment = Payment::of(&fresh_orderid());
                is_acknowledged(&callback(sidecar.setup.callbacks, payment.form()))
            });
            eventually("ready again", RECOVERY, || {
                sidecar.admin("/readyz").status == 200
            });
        }
        assert!(mended.elapsed() < RECOVERY, "{:?}", mended.elapsed());
    });
    let kept = kept.into_inner().unwrap();
    let mut events: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    eventually("what was acknowledged is delivered", 3 * SOON, || {
        events.clear();
        for delivery in deliveries(&fleet.app) {
            let ids = events.entry(delivery.orderid()).or_default();
            ids.insert(delivery.event);
        }
        kept.iter().all(|orderid| events.contains_key(orderid))
    });
    for (orderid, ids) in events {
        assert_eq!(ids.len(), 1, "{orderid} was told under more than one id");
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_server_that_crashes_and_comes_back_loses_nothing() {
    let test = "a_server_that_crashes_and_comes_back_loses_nothing";
    let Some(cluster) = Cluster::own(test) else {
        return;
    };
    let url = cluster.url(&cluster.database());
    never_acknowledged_and_mended(&url, || cluster.crash(), || assert!(cluster.run()));
}

#[test]
fn a_read_only_server_counts_as_down_until_it_can_be_written_again() {
    let test = "a_read_only_server_counts_as_down_until_it_can_be_written_again";
    let Some(cluster) = Cluster::own(test) else {
        return;
    };
    let url = cluster.url(&cluster.database());
    let set = |value| cluster.set("default_transaction_read_only", value);
    never_acknowledged_and_mended(&url, || set("on"), || set("off"));
}

#[test]
fn a_server_that_is_set_to_lose_commits_counts_as_down() {
    let test = "a_server_that_is_set_to_lose_commits_counts_as_down";
    let Some(cluster) = Cluster::own(test) else {
        return;
    };
    let url = cluster.url(&cluster.database());
    let set = |value| cluster.set("fsync", value);
    never_acknowledged_and_mended(&url, || set("off"), || set("on"));
}

#[test]
fn a_server_that_is_cut_off_loses_nothing() {
    let test = "a_server_that_is_cut_off_loses_nothing";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let wire = Wire::to(cluster.port);
    let url = cluster.url(&cluster.database());
    let url = url.replace(
        &format!(":{}/", cluster.port),
        &format!(":{}/", wire.address.port()),
    );
    let cut = |is_cut| wire.is_cut.store(is_cut, Ordering::SeqCst);
    never_acknowledged_and_mended(&url, || cut(true), || cut(false));
}

/// A way to a server that can be cut: connections stay open, and are taken, and nothing comes through. What was under
/// way comes through once it is whole again.
struct Wire {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            is_cut: Arc::default(),
        };
        let is_cut = Arc::clone(&wire.is_cut);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let is_cut = Arc::clone(&is_cut);
                    thread::spawn(move || carry(from, to, &is_cut));
                }
            }
        });
        wire
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    loop {
        let read = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        while is_cut.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(20));
        }
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // An end is carried too, once the other side may hear of it.
    drop(to.shutdown(std::net::Shutdown::Write));
}
