//! Rotations one after another under load, whichever side moves first, at a platform that changes all at once or by halves.
//! `COUNTERSIGN_ROTATIONS=1000` makes a long campaign of it.

use crate::client::{self, Response};
use crate::harness::{Setup, Sidecar, fresh_orderid, query_json, submit_of};
use crate::platform::{Action, Platform, Seen, enveloped, full_answer, http, unsigned};
use crate::shop::{Payment, acknowledged, callback};
use crate::wire;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const MERCHANTS: usize = 4;
const PAGE: &str = "<html>";
/// Queries that a half of the platform's change lasts for.
const BETWEEN_HALVES: usize = 4;

/// Order in which the platform and the file change their keys.
#[derive(Clone, Copy)]
enum Change {
    AtOnce,
    /// It takes the new key only, and signs with the old one for a while.
    TakesFirst,
    /// It signs with the new key, and takes the old one only for a while.
    SignsFirst,
}

/// The keys that the platform knows of one merchant.
#[derive(Clone)]
struct Known {
    takes: String,
    signs: String,
}

#[derive(Default)]
struct Books {
    keys: HashMap<String, Known>,
    /// Submits by order.
    submits: HashMap<String, usize>,
}

struct Campaign {
    sidecar: Sidecar,
    platform: Platform,
    books: Arc<Mutex<Books>>,
    queries: AtomicUsize,
    rejected: AtomicUsize,
    submitted: AtomicUsize,
}

fn merid(number: usize) -> String {
    format!("10000000000010{number}")
}

fn key(merchant: usize, round: usize) -> String {
    format!(
        "{:032x}",
        0x7d0f_1c0a_9be8_4e6e_u128 + (round * 100 + merchant) as u128
    )
}

fn change(merchant: usize, round: usize) -> Change {
    [Change::AtOnce, Change::TakesFirst, Change::SignsFirst][(merchant + round) % 3]
}

/// The file is the first to have the new key for `key` in every other rotation.
fn file_moves_first(merchant: usize, round: usize) -> bool {
    (merchant + round / 2).is_multiple_of(2)
}

fn reply(books: &Mutex<Books>, seen: &Seen) -> Vec<u8> {
    let mut books = books.lock().unwrap();
    let known = books.keys[&seen.member("merid")].clone();
    let is_submit = seen.target == "/api/icashier";
    if is_submit {
        *books.submits.entry(seen.member("orderid")).or_default() += 1;
    }
    drop(books);
    let is_even = seen.member("merid").ends_with(['0', '2']);
    match seen.is_signed_with(&known.takes) {
        true if is_submit => http(200, &["Content-Type: text/html"], PAGE),
        true => enveloped(wire::answer(full_answer(seen), &known.signs)),
        false if is_even => {
            let json = r#"{"respcode":"97","respmsg":"签名错误"}"#;
            enveloped(wire::answer(json, &known.signs))
        }
        false => unsigned("97", "签名错误"),
    }
}

impl Campaign {
    fn start() -> Self {
        let books = Arc::new(Mutex::new(Books::default()));
        for number in 0..MERCHANTS {
            let first = key(number, 0);
            let known = Known {
                takes: first.clone(),
                signs: first,
            };
            books.lock().unwrap().keys.insert(merid(number), known);
        }
        let theirs = Arc::clone(&books);
        let platform = Platform::start(move |seen| Action::Reply(reply(&theirs, seen)));
        let url = platform.url();
        let sidecar = Setup::new(|conf| {
            conf.platform = url;
            conf.merchants = file(|number| format!("key = \"{}\"", key(number, 0)));
            conf.callbacks = Some(String::new());
            conf.log_level = "warn";
        })
        .start();
        Self {
            sidecar,
            platform,
            books,
            queries: AtomicUsize::new(0),
            rejected: AtomicUsize::new(0),
            submitted: AtomicUsize::new(0),
        }
    }

    fn edit(&self, keys: impl Fn(usize) -> String) {
        std::fs::write(self.sidecar.merchants_file(), file(keys)).unwrap();
        let answer = self.sidecar.reload();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn query(&self, number: usize) {
        let answer = self
            .sidecar
            .query(query_json(&merid(number), "ORD2017030100000001"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["respcode"], "00", "{}", answer.text());
        self.queries.fetch_add(1, Ordering::Relaxed);
    }

    fn submit(&self, number: usize) -> Response {
        self.submitted.fetch_add(1, Ordering::Relaxed);
        let answer = self
            .sidecar
            .submit(submit_of(&merid(number), &order(), 1280));
        if !is_page(&answer) {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            assert_is_rejected_for_its_key(&answer);
        }
        answer
    }

    /// A submit at a time when both sides agree on the key.
    fn submit_well(&self, number: usize) {
        let answer = self.submit(number);
        assert!(is_page(&answer), "{}", answer.text());
    }

    fn replay(&self, number: usize, key: &str) {
        let payment = Payment::of(&order()).to(&merid(number));
        let form = wire::answer(payment.json(), key);
        acknowledged(&callback(self.sidecar.setup.callbacks, form));
    }

    /// One rotation of every merchant.
    fn rotate(&self, round: usize) {
        self.edit(|number| {
            let (old, new) = (key(number, round), key(number, round + 1));
            match file_moves_first(number, round) {
                true => format!("key = \"{new}\"\nnext_key = \"{old}\""),
                false => format!("key = \"{old}\"\nnext_key = \"{new}\""),
            }
        });
        for number in 0..MERCHANTS {
            let (old, new) = (key(number, round), key(number, round + 1));
            self.query(number);
            self.replay(number, &new);
            self.replay(number, &old);
            self.submit_well(number);
            self.change(number, round, &new);
            self.query(number);
            self.replay(number, &old);
            self.submit_well(number);
        }
        self.edit(|number| {
            let (old, new) = (key(number, round), key(number, round + 1));
            format!("key = \"{new}\"\nold_keys = [\"{old}\"]")
        });
        for number in 0..MERCHANTS {
            self.submit_well(number);
        }
        drop(self.platform.take());
    }

    fn change(&self, number: usize, round: usize, new: &str) {
        let set = |change: &dyn Fn(&mut Known)| {
            let mut books = self.books.lock().unwrap();
            change(books.keys.get_mut(&merid(number)).unwrap());
        };
        match change(number, round) {
            Change::AtOnce => {}
            Change::TakesFirst => set(&|known| new.clone_into(&mut known.takes)),
            Change::SignsFirst => set(&|known| new.clone_into(&mut known.signs)),
        }
        for _ in 0..BETWEEN_HALVES {
            self.query(number);
            self.submit(number);
        }
        set(&|known| {
            new.clone_into(&mut known.takes);
            new.clone_into(&mut known.signs);
        });
    }

    /// Queries all merchants without a pause, and submits an order now and then.
    fn load(&self, ended: &AtomicBool) {
        let mut number = 0;
        while !ended.load(Ordering::SeqCst) {
            self.query(number % MERCHANTS);
            if number % 16 == 0 {
                self.submit(number / 16 % MERCHANTS);
            }
            number += 1;
        }
    }
}

fn file(keys: impl Fn(usize) -> String) -> String {
    let entry = |number| {
        format!(
            "[[merchant]]\nmerid = \"{}\"\n{}\n\n",
            merid(number),
            keys(number)
        )
    };
    (0..MERCHANTS).map(entry).collect()
}

fn order() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    format!("{}R{number:07}", &fresh_orderid()[..10])
}

fn is_page(answer: &Response) -> bool {
    answer.status == 200 && answer.text() == PAGE
}

/// Signed by the platform or not, the app reads its reason, and that the order was sent.
#[track_caller]
fn assert_is_rejected_for_its_key(answer: &Response) {
    if answer.status == 200 {
        assert_eq!(answer.json()["respcode"], "97", "{}", answer.text());
        assert_eq!(answer.header("countersign-sent"), Some("yes"));
        return;
    }
    let problem = answer.problem(502, "unsigned-answer", "yes");
    assert_eq!(problem["platform"]["respcode"], "97", "{}", answer.text());
}

#[test]
fn rotations_under_load_fail_no_query_and_repeat_no_submit() {
    let wanted = std::env::var("COUNTERSIGN_ROTATIONS").ok();
    let wanted = wanted.map_or(24, |count| count.parse::<usize>().unwrap());
    let campaign = Campaign::start();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let loads = [(); 2].map(|()| scope.spawn(|| campaign.load(&ended)));
        // A failed assertion of the rotations ends the load too.
        let rotations = scope.spawn(|| {
            for round in 0..wanted.div_ceil(MERCHANTS) {
                campaign.rotate(round);
            }
        });
        let rotated = rotations.join();
        ended.store(true, Ordering::SeqCst);
        for load in loads {
            load.join().unwrap();
        }
        rotated.unwrap();
    });
    let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
    println!(
        "{wanted} rotations, {} queries without a failure, {} submits, {} of them rejected",
        count(&campaign.queries),
        count(&campaign.submitted),
        count(&campaign.rejected)
    );
    let books = campaign.books.lock().unwrap();
    assert_eq!(books.submits.len(), count(&campaign.submitted));
    let twice = books.submits.values().filter(|count| **count != 1).count();
    assert_eq!(twice, 0, "submits that were sent twice, or never");
    assert!(count(&campaign.queries) > wanted);
    let output = campaign.sidecar.output();
    assert!(!output.contains("panicked"), "{output}");
}

#[test]
fn a_platform_that_goes_back_is_followed_back() {
    let campaign = Campaign::start();
    let (old, new) = (key(0, 0), key(0, 1));
    let set = |key: &str| {
        let mut books = campaign.books.lock().unwrap();
        let known = Known {
            takes: key.to_owned(),
            signs: key.to_owned(),
        };
        books.keys.insert(merid(0), known);
    };
    campaign.edit(|number| match number {
        0 => format!("key = \"{old}\"\nnext_key = \"{new}\""),
        _ => format!("key = \"{}\"", key(number, 0)),
    });
    let switches = |to: &str| {
        let metrics = campaign.sidecar.metrics();
        metrics.sum(&["countersign_key_switches_total", to])
    };
    set(&new);
    campaign.query(0);
    campaign.submit_well(0);
    assert_eq!((switches("\"next_key\""), switches("\"key\"")), (1.0, 0.0));
    set(&old);
    campaign.query(0);
    campaign.submit_well(0);
    assert_eq!((switches("\"next_key\""), switches("\"key\"")), (1.0, 1.0));
    let warned = campaign.sidecar.output();
    assert!(warned.contains("signs with key again"), "{warned}");
    // And forward again, as soon as it takes nothing else.
    set(&new);
    campaign.query(0);
    campaign.submit_well(0);
    assert_eq!((switches("\"next_key\""), switches("\"key\"")), (2.0, 1.0));
}

#[test]
fn a_rejected_submit_has_the_key_tried_before_the_next_one() {
    let campaign = Campaign::start();
    let (old, new) = (key(1, 0), key(1, 1));
    campaign.edit(|number| match number {
        1 => format!("key = \"{old}\"\nnext_key = \"{new}\""),
        _ => format!("key = \"{}\"", key(number, 0)),
    });
    campaign.query(1);
    {
        let mut books = campaign.books.lock().unwrap();
        let known = Known {
            takes: new.clone(),
            signs: new,
        };
        books.keys.insert(merid(1), known);
    }
    let rejected = campaign.submit(1);
    rejected.problem(502, "unsigned-answer", "yes");
    // No query comes from the app: the sidecar finds out itself, long before the minute of a probe is over.
    crate::harness::eventually("the switch is found out", Duration::from_secs(10), || {
        let metrics = campaign.sidecar.metrics();
        metrics.sum(&["countersign_key_switches_total", "next_key"]) == 1.0
    });
    campaign.submit_well(1);
    let books = campaign.books.lock().unwrap();
    assert!(books.submits.values().all(|count| *count == 1));
    drop(books);
    let page = client::fetch(campaign.sidecar.setup.admin, "/merchants").unwrap();
    assert!(
        page.text().contains("make it key in the file"),
        "{}",
        page.text()
    );
}
