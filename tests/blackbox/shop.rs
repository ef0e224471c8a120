//! A shop: the sidecar between a stand-in platform that keeps a book of payments and a stand-in app that takes results.

use crate::client::{Connection, Response, post_bytes};
use crate::harness::{
    Conf, KEY, MERID, OTHER_KEY, OTHER_MERID, Setup, Sidecar, eventually, fresh_orderid, merchant,
    submit_of,
};
use crate::platform::{Action, PAGE, Platform, Seen, enveloped, http, unsigned};
use crate::wire;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How soon something that is due at once has happened, on a machine with much else to do.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

/// Where callbacks arrive: behind the path of `public_url`, and without it.
pub(crate) const BACK: &str = "/cashier/notify/back";
pub(crate) const FRONT: &str = "/cashier/notify/front";

/// What the platform knows of one payment.
#[derive(Debug, Clone)]
pub(crate) struct Payment {
    pub(crate) merid: String,
    pub(crate) orderid: String,
    pub(crate) queryid: String,
    pub(crate) resultcode: String,
    pub(crate) txnamt: i64,
}

impl Payment {
    /// Paid, as much as [`Shop::order`] asks for.
    pub(crate) fn of(orderid: &str) -> Self {
        Self {
            merid: MERID.to_owned(),
            orderid: orderid.to_owned(),
            queryid: format!("Q{orderid}"),
            resultcode: "0000".to_owned(),
            txnamt: 1280,
        }
    }

    pub(crate) fn to(mut self, merid: &str) -> Self {
        merid.clone_into(&mut self.merid);
        self
    }

    pub(crate) fn with_result(mut self, resultcode: &str) -> Self {
        resultcode.clone_into(&mut self.resultcode);
        self
    }

    pub(crate) fn with_amount(mut self, txnamt: i64) -> Self {
        self.txnamt = txnamt;
        self
    }

    pub(crate) fn with_queryid(mut self, queryid: &str) -> Self {
        queryid.clone_into(&mut self.queryid);
        self
    }

    fn key(&self) -> &'static str {
        if self.merid == OTHER_MERID {
            OTHER_KEY
        } else {
            KEY
        }
    }

    /// A notification (§3.3.3), with spaces and escapes of its own.
    pub(crate) fn json(&self) -> String {
        let Self {
            merid,
            orderid,
            queryid,
            resultcode,
            txnamt,
        } = self;
        format!(
            "{{\"resultcode\":\"{resultcode}\", \"resultmsg\" : \"\\u7ed3\\u679c结果\",\"queryid\":\"{queryid}\",\
             \"txnamt\":{txnamt},\"merid\":\"{merid}\",\"orderid\":\"{orderid}\",\"paytime\":\"2017-03-01 12:00:05\"}}"
        )
    }

    /// The notification in its envelope.
    pub(crate) fn form(&self) -> String {
        wire::answer(self.json(), self.key())
    }

    /// What a query about it is told (§3.4.4).
    pub(crate) fn answer(&self) -> String {
        json!({
            "respcode": "00", "respmsg": "成功", "resultcode": self.resultcode, "resultmsg": "结果",
            "queryid": self.queryid, "txnamt": self.txnamt, "merid": self.merid, "orderid": self.orderid,
            "paytime": if self.resultcode == "1001" { "" } else { "2017-03-01 12:00:05" },
        })
        .to_string()
    }
}

/// What the platform answers to queries; an order that is not in it has not been paid.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Vec<Payment>>>);

impl Book {
    /// The newest entry about an order counts.
    pub(crate) fn enter(&self, payment: Payment) {
        self.0.lock().unwrap().push(payment);
    }

    pub(crate) fn find(&self, asked: &Seen) -> Payment {
        let (queryid, orderid) = (asked.member("queryid"), asked.member("orderid"));
        let book = self.0.lock().unwrap();
        let fits = |payment: &&Payment| {
            if queryid.is_empty() {
                payment.orderid == orderid
            } else {
                payment.queryid == queryid
            }
        };
        match book.iter().rev().find(fits) {
            Some(payment) => payment.clone(),
            None => Payment::of(&orderid)
                .to(&asked.member("merid"))
                .with_result("1001"),
        }
    }

    /// An honest platform with this book.
    pub(crate) fn reply(&self, seen: &Seen) -> Action {
        let key = match seen.member("merid").as_str() {
            MERID => KEY,
            OTHER_MERID => OTHER_KEY,
            _ => return Action::Reply(unsigned("96", "商户号不存在")),
        };
        Action::Reply(if !seen.is_signed_with(key) {
            unsigned("97", "签名错误")
        } else if seen.target.ends_with("/icashier") {
            http(200, &["Content-Type: text/html; charset=utf-8"], PAGE)
        } else {
            enveloped(wire::answer(self.find(seen).answer(), key))
        })
    }
}

/// The app takes the result.
pub(crate) fn taken() -> Action {
    Action::Reply(http(200, &["Content-Type: text/plain"], "0000"))
}

pub(crate) fn refused_by_app() -> Action {
    Action::Reply(http(500, &[], "no"))
}

/// A result as the app got it.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) target: String,
    pub(crate) event: String,
    pub(crate) attempt: String,
    pub(crate) source: String,
    pub(crate) order: String,
    pub(crate) body: String,
    pub(crate) at: Instant,
}

impl Delivery {
    pub(crate) fn of(seen: &Seen) -> Self {
        let header = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        assert_eq!(seen.method, "POST");
        assert!(header("content-type").starts_with("application/json"));
        Self {
            target: seen.target.clone(),
            event: header("countersign-event"),
            attempt: header("countersign-attempt"),
            source: header("countersign-source"),
            order: header("countersign-order"),
            body: seen.form(),
            at: seen.at,
        }
    }

    pub(crate) fn member(&self, name: &str) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap();
        json[name].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn orderid(&self) -> String {
        self.member("orderid")
    }
}

/// A merchant whose results go to this app.
pub(crate) fn merchant_at(app: &str, merid: &str, key: &str) -> String {
    merchant(merid, key) + &format!("back = \"{app}/pay/back\"\nfront = \"{app}/pay/front\"\n\n")
}

pub(crate) struct Shop {
    pub(crate) book: Book,
    pub(crate) platform: Platform,
    pub(crate) app: Platform,
    pub(crate) sidecar: Sidecar,
}

impl Shop {
    /// An app that takes everything, everything else as by default.
    pub(crate) fn open() -> Self {
        Self::with(|_| taken(), |_| {})
    }

    pub(crate) fn with(
        app: impl Fn(&Seen) -> Action + Send + Sync + 'static,
        change: impl FnOnce(&mut Conf),
    ) -> Self {
        Self::start(Book::default(), app, change)
    }

    /// An app that refuses everything until it is told to be well.
    pub(crate) fn with_an_ill_app(change: impl FnOnce(&mut Conf)) -> (Self, Arc<AtomicBool>) {
        let is_well = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&is_well);
        let app = move |_: &Seen| match asked.load(Ordering::SeqCst) {
            true => taken(),
            false => refused_by_app(),
        };
        (Self::with(app, change), is_well)
    }

    pub(crate) fn start(
        book: Book,
        app: impl Fn(&Seen) -> Action + Send + Sync + 'static,
        change: impl FnOnce(&mut Conf),
    ) -> Self {
        let pages = book.clone();
        let platform = Platform::start(move |seen| pages.reply(seen));
        Self::between(book, platform, Platform::start(app), change)
    }

    pub(crate) fn between(
        book: Book,
        platform: Platform,
        app: Platform,
        change: impl FnOnce(&mut Conf),
    ) -> Self {
        let sidecar = Self::setup(&platform, &app.url(), change).start();
        Self {
            book,
            platform,
            app,
            sidecar,
        }
    }

    /// The files of a shop whose app is at this URL.
    pub(crate) fn setup(platform: &Platform, app: &str, change: impl FnOnce(&mut Conf)) -> Setup {
        Setup::new(|conf| {
            conf.platform = platform.url();
            conf.merchants =
                merchant_at(app, MERID, KEY) + &merchant_at(app, OTHER_MERID, OTHER_KEY);
            conf.callbacks = Some(String::new());
            change(conf);
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.sidecar.setup.callbacks
    }

    /// Signs an order of 12.80, so that the ledger knows it; nothing is sent. Its orderid.
    #[track_caller]
    pub(crate) fn order(&self) -> String {
        self.order_of(MERID)
    }

    #[track_caller]
    pub(crate) fn order_of(&self, merid: &str) -> String {
        let orderid = fresh_orderid();
        self.sign(&submit_of(merid, &orderid, 1280));
        orderid
    }

    #[track_caller]
    pub(crate) fn sign(&self, submit: &str) {
        let answer = self.sidecar.post("/apis/icashier", submit);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    pub(crate) fn notify(&self, payment: &Payment) -> Response {
        callback(self.address(), payment.form())
    }

    /// Notifies until it is acknowledged.
    #[track_caller]
    pub(crate) fn notify_until_acknowledged(&self, payment: &Payment) {
        eventually("the notification is acknowledged", 2 * SOON, || {
            is_acknowledged(&self.notify(payment))
        });
    }

    /// Everything that came to the app's `back`, attempts that it did not take too.
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        deliveries(&self.app)
    }

    /// The attempts for one order.
    pub(crate) fn deliveries_of(&self, orderid: &str) -> Vec<Delivery> {
        let mut found = self.deliveries();
        found.retain(|delivery| delivery.orderid() == orderid);
        found
    }

    /// Waits until the app has heard of this order so many times.
    #[track_caller]
    pub(crate) fn hears(&self, orderid: &str, times: usize) -> Vec<Delivery> {
        let what = format!("the app hears {times} times of {orderid}");
        eventually(&what, 3 * SOON, || {
            self.deliveries_of(orderid).len() >= times
        });
        self.deliveries_of(orderid)
    }

    /// A payment from notification to app, of a new order: what was to come before it has come.
    #[track_caller]
    pub(crate) fn goes_well(&self) -> Delivery {
        let orderid = self.order();
        acknowledged(&self.notify(&Payment::of(&orderid)));
        self.hears(&orderid, 1).remove(0)
    }

    pub(crate) fn inbox(&self, arguments: &[&str]) -> Output {
        inbox(&self.sidecar.setup, arguments)
    }

    /// The lines of `inbox list`, each about one event.
    #[track_caller]
    pub(crate) fn list(&self) -> Vec<String> {
        list(&self.sidecar.setup)
    }

    /// The line about this order, once it is there and says this.
    #[track_caller]
    pub(crate) fn listed(&self, orderid: &str, word: &str) -> String {
        let mut found = None;
        eventually(
            &format!("{orderid} is listed as {word}: {:?}", self.list()),
            3 * SOON,
            || {
                let mut lines = self.list().into_iter();
                found = lines.find(|line| line.contains(orderid) && line.contains(word));
                found.is_some()
            },
        );
        found.unwrap()
    }
}

pub(crate) fn deliveries(app: &Platform) -> Vec<Delivery> {
    let seen = app.seen();
    let backs = seen.iter().filter(|seen| seen.target.contains("/back"));
    backs.map(Delivery::of).collect()
}

/// `countersign inbox …` beside the running sidecar.
pub(crate) fn inbox(setup: &Setup, arguments: &[&str]) -> Output {
    crate::harness::command()
        .arg("inbox")
        .args(arguments)
        .arg("-c")
        .arg(setup.conf_file())
        .output()
        .unwrap()
}

#[track_caller]
pub(crate) fn list(setup: &Setup) -> Vec<String> {
    let output = inbox(setup, &["list"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "inbox list: {said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(str::to_owned).collect()
}

/// The id at the beginning of a line of the list.
pub(crate) fn id_of(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// A notification posted to `back`, on a connection of its own.
pub(crate) fn callback(address: SocketAddr, form: impl AsRef<[u8]>) -> Response {
    callback_from(Ipv4Addr::LOCALHOST, address, form)
}

pub(crate) fn callback_from(
    source: Ipv4Addr,
    address: SocketAddr,
    form: impl AsRef<[u8]>,
) -> Response {
    let mut connection = Connection::open_from(source, address).unwrap();
    let answer = connection.exchange(post_bytes(BACK, &[FORM], form));
    answer.unwrap_or_else(|error| panic!("a notification from {source}: {error}"))
}

pub(crate) fn is_acknowledged(answer: &Response) -> bool {
    let content_type = answer.header("content-type").unwrap_or_default();
    answer.status == 200 && answer.body == b"0000" && content_type.starts_with("text/plain")
}

#[track_caller]
pub(crate) fn acknowledged(answer: &Response) {
    assert!(is_acknowledged(answer), "{answer:?}");
}

/// Refused for what it says: 400, and nothing that could be taken for an acknowledgement.
#[track_caller]
pub(crate) fn refused(what: &str, answer: &Response) {
    assert_eq!(answer.status, 400, "{what}: {answer:?}");
    assert!(!answer.text().contains("0000"), "{what}: {answer:?}");
}
