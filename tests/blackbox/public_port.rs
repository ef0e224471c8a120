//! The port that faces the internet: bounds on everything, framing without doubt, and who may call at all.

use crate::client::{Connection, Response, connect_from, fetch, post_bytes};
use crate::harness::{Conf, KEY, Setup};
use crate::shop::{
    BACK, FORM, FRONT, Payment, SOON, Shop, acknowledged, callback_from, is_acknowledged,
};
use crate::wire;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, (n / 250) as u8 + 2, (n % 250) as u8 + 1)
}

/// What is missing from a short 4xx and the end of the connection.
fn shortcoming(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Option<String> {
    let mut connection = Connection::open(address).unwrap();
    // It may be refused before all of it has been sent.
    drop(connection.send(bytes));
    let answer = match connection.receive() {
        Ok(answer) => answer,
        Err(error) => return Some(error.to_string()),
    };
    let is_refused = (400..500).contains(&answer.status) && !answer.text().contains("0000");
    if !is_refused || answer.body.len() > 4096 {
        return Some(format!("{} {}", answer.status, answer.text()));
    }
    (!connection.is_ended()).then(|| "the connection stays".to_owned())
}

#[track_caller]
fn turned_away(what: &str, address: SocketAddr, bytes: impl AsRef<[u8]>) {
    let shortcoming = shortcoming(address, bytes);
    assert_eq!(shortcoming, None, "{what}");
}

#[test]
fn a_request_whose_end_is_in_doubt_is_turned_away() {
    let shop = Shop::open();
    let form = Payment::of(&shop.order()).form();
    let length = form.len();
    let chunked = format!("{length:x}\r\n{form}\r\n0\r\n\r\n");
    let post = |headers: &str, body: &str| {
        format!("POST {BACK} HTTP/1.1\r\nHost: shop\r\n{FORM}\r\n{headers}\r\n{body}")
    };
    let lengthy = post(&format!("Content-Length: {length}\r\n"), &form);
    let cl = |value: String| post(&format!("Content-Length: {value}\r\n"), &form);
    let te = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), &chunked);
    let both = format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n");
    let turned = format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n");
    let twice = format!("Content-Length: {length}\r\nContent-Length: {length}\r\n");
    let two = format!("Content-Length: {length}\r\nContent-Length: 5\r\n");
    let link = format!("GET {BACK}?{form} HTTP/1.1\r\nHost: shop\r\n");
    let cases = [
        ("a length and chunks", post(&both, &chunked)),
        ("chunks and a length", post(&turned, &chunked)),
        ("a length twice", post(&twice, &form)),
        ("two lengths", post(&two, &form)),
        (
            "two lengths in one field",
            cl(format!("{length}, {length}")),
        ),
        ("a length with a sign", cl(format!("+{length}"))),
        ("a length below nought", cl(format!("-{length}"))),
        ("a length in hexadecimal", cl(format!("0x{length:x}"))),
        ("an empty length", cl(String::new())),
        (
            "a length past 64 bits",
            cl(format!("1844674407370955{length}")),
        ),
        ("line feeds alone", lengthy.replace("\r\n", "\n")),
        (
            "one line feed alone",
            lengthy.replace("Host: shop\r\n", "Host: shop\n"),
        ),
        ("no Host", lengthy.replace("Host: shop\r\n", "")),
        (
            "two Hosts",
            lengthy.replace("Host: shop\r\n", "Host: shop\r\nHost: shop\r\n"),
        ),
        (
            "two different Hosts",
            lengthy.replace("Host: shop\r\n", "Host: shop\r\nHost: localhost\r\n"),
        ),
        ("TRACE", lengthy.replacen("POST", "TRACE", 1)),
        ("CONNECT", lengthy.replacen("POST", "CONNECT", 1)),
        (
            "a method that nobody knows",
            lengthy.replacen("POST", "BREW", 1),
        ),
        ("post in small letters", lengthy.replacen("POST", "post", 1)),
        (
            "a GET with a body",
            format!("{link}Content-Length: 4\r\n\r\nbody"),
        ),
        (
            "a GET with chunks",
            format!("{link}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        ),
        (
            "a GET with its envelope in the body",
            lengthy.replacen("POST", "GET", 1),
        ),
        (
            "a compressed body",
            post(
                &format!("Content-Encoding: gzip\r\nContent-Length: {length}\r\n"),
                &form,
            ),
        ),
        (
            "a body that says it is as it is",
            post(
                &format!("Content-Encoding: br, identity\r\nContent-Length: {length}\r\n"),
                &form,
            ),
        ),
        (
            "HTTP/1.0 with chunks",
            te("chunked").replace("HTTP/1.1", "HTTP/1.0"),
        ),
        ("another coding", te("gzip")),
        ("a coding before chunks", te("gzip, chunked")),
        ("chunks twice", te("chunked, chunked")),
        ("chunks in disguise", te("xchunked")),
        (
            "a broken chunk size",
            te("chunked").replace(&format!("{length:x}\r\n"), "zz\r\n"),
        ),
        (
            "a space before the colon",
            lengthy.replace("Content-Length:", "Content-Length :"),
        ),
        (
            "a folded field",
            lengthy.replace("Host: shop\r\n", "Host: shop\r\nX-Folded: a\r\n b\r\n"),
        ),
        (
            "a NUL in a field",
            lengthy.replace("Host: shop\r\n", "Host: shop\r\nX-Nul: a\0b\r\n"),
        ),
        (
            "a carriage return in a field",
            lengthy.replace(
                "Host: shop\r\n",
                "Host: shop\r\nX-Cr: a\rContent-Length: 4\r\n",
            ),
        ),
        ("another version", lengthy.replace("HTTP/1.1", "HTTP/3.7")),
        ("no version", lengthy.replace(" HTTP/1.1", "")),
        ("no HTTP", "hello\r\n\r\n".to_owned()),
    ];
    let failures: Vec<_> = cases
        .iter()
        .filter_map(|(what, bytes)| Some((what, shortcoming(shop.address(), bytes)?)))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    shop.goes_well();
    assert_eq!(shop.app.count(), 1, "the app heard of one of them");
}

#[test]
fn sizes_have_bounds_and_what_is_within_them_is_taken() {
    let shop = Shop::open();
    let padded = |bytes: usize| {
        let json = Payment::of(&shop.order()).json();
        let padding = format!("{{\"more\":\"{}\",", "x".repeat(bytes));
        wire::answer(json.replacen('{', &padding, 1), KEY)
    };
    let post = |further: &[&str], form: &str| post_bytes(BACK, &[&[FORM], further].concat(), form);
    let link =
        |form: &str| format!("GET {BACK}?{form} HTTP/1.1\r\nHost: shop\r\n\r\n").into_bytes();
    let field = |bytes: usize| format!("X-Padding: {}", "y".repeat(bytes));
    let many = |count: usize| {
        let lines: Vec<_> = (0..count).map(|n| format!("X-{n}: {n}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        post(&lines, &padded(0))
    };
    let taken = [
        ("a field of 12 KiB", post(&[&field(12 << 10)], &padded(0))),
        ("60 fields", many(57)),
        ("a link of 7 KiB", link(&padded(4_700))),
        ("a body of 60 KiB", post(&[], &padded(44_000))),
    ];
    let count = taken.len();
    for (what, bytes) in taken {
        let mut connection = Connection::open(shop.address()).unwrap();
        let answer = connection.exchange(bytes).unwrap();
        assert!(is_acknowledged(&answer), "{what}: {answer:?}");
    }
    for (what, bytes) in [
        ("a field of 17 KiB", post(&[&field(17 << 10)], &padded(0))),
        (
            "fields of 17 KiB",
            post(&[&field(9 << 10), &field(8 << 10)], &padded(0)),
        ),
        ("70 fields", many(67)),
        ("a link of 9 KiB", link(&padded(6_200))),
        ("a body of 66 KiB", post(&[], &padded(49_000))),
    ] {
        turned_away(what, shop.address(), bytes);
    }
    let huge = format!("POST {BACK} HTTP/1.1\r\nHost: shop\r\nContent-Length: 99999999999\r\n\r\n");
    turned_away("a length of 100 GB", shop.address(), huge);
    let chunks = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(3);
    let endless =
        format!("POST {BACK} HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    turned_away("chunks without an end", shop.address(), endless);
    shop.goes_well();
    assert_eq!(shop.app.count(), count + 1);
}

#[test]
fn the_public_port_serves_nothing_else() {
    let shop = Shop::open();
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/version",
        "/api/query",
        "/apis/icashier",
        "/-/reload",
        "/cashier",
        "/cashier/notify",
        "/cashier/metrics",
    ] {
        let answer = fetch(shop.address(), path).unwrap();
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        let answer = crate::client::post(shop.address(), path, "{}");
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
    }
}

/// Whether the other side ends the connection at once, without a request.
fn is_closed_at_once(stream: &TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut rest = Vec::new();
    let end = (&mut &*stream).read_to_end(&mut rest);
    match end {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn one_address_holds_sixty_four_connections_and_no_more() {
    let shop = Shop::open();
    let (greedy, other) = (source(0), source(1));
    let held: Vec<_> = (0..64)
        .map(|_| connect_from(greedy, shop.address()).unwrap())
        .collect();
    // The last of them is being served, so all of them have been counted.
    let mut last = held.last().unwrap();
    last.write_all(&post_bytes(
        BACK,
        &[FORM],
        Payment::of(&shop.order()).form(),
    ))
    .unwrap();
    let mut line = String::new();
    BufReader::new(last).read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    let again = connect_from(greedy, shop.address()).unwrap();
    let further = connect_from(greedy, shop.address()).unwrap();
    let is_closed = is_closed_at_once(&further) || is_closed_at_once(&again);
    assert!(is_closed, "more than 64 connections from one address");
    let payment = Payment::of(&shop.order());
    acknowledged(&callback_from(other, shop.address(), payment.form()));
    drop((held, further, again));
    crate::harness::eventually("the address is served again", SOON, || {
        let Ok(mut connection) = Connection::open_from(greedy, shop.address()) else {
            return false;
        };
        let bytes = post_bytes(BACK, &[FORM], Payment::of(&shop.order()).form());
        connection
            .exchange(bytes)
            .is_ok_and(|answer| is_acknowledged(&answer))
    });
}

/// A client that sends a byte a second, and when the other side had enough.
struct Slow {
    stream: TcpStream,
    rest: Vec<u8>,
    began: Instant,
    ended: Option<Duration>,
}

impl Slow {
    fn start(n: usize, address: SocketAddr, head: &[u8]) -> Self {
        let stream = connect_from(source(n / 60), address).unwrap();
        let began = Instant::now();
        (&stream).write_all(head).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            rest: Vec::new(),
            began,
            ended: None,
        }
    }

    /// Sends one more byte, and looks whether it was worth it.
    fn go_on(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let written = (&self.stream).write(b"a");
        let read = (&self.stream).read_to_end(&mut self.rest);
        let is_open = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        let is_ended = match (&written, &read) {
            (_, Ok(_)) => true,
            (Err(error), _) | (_, Err(error)) => !is_open(error),
        };
        if is_ended {
            self.ended = Some(self.began.elapsed());
        }
    }
}

#[test]
fn slow_senders_are_cut_off_in_time_and_delay_nobody() {
    const EACH: usize = 1_000;
    let shop = Shop::open();
    let address = shop.address();
    let header = format!("POST {BACK} HTTP/1.1\r\nHost: shop\r\nX-Slow: ");
    let body = format!(
        "POST {BACK} HTTP/1.1\r\nHost: shop\r\n{FORM}\r\nContent-Length: 60000\r\n\r\nresp="
    );
    let slow = thread::spawn(move || {
        let mut slow: Vec<_> = (0..2 * EACH)
            .map(|n| Slow::start(n, address, [&header, &body][n % 2].as_bytes()))
            .collect();
        let deadline = Instant::now() + Duration::from_secs(25);
        while slow.iter().any(|it| it.ended.is_none()) && Instant::now() < deadline {
            let round = Instant::now();
            slow.iter_mut().for_each(Slow::go_on);
            thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
        }
        slow
    });
    let mut took = Vec::new();
    while !slow.is_finished() {
        let form = Payment::of(&shop.order()).form();
        let began = Instant::now();
        acknowledged(&callback_from(Ipv4Addr::LOCALHOST, address, form));
        took.push(began.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
    let peak = shop.sidecar.peak_memory_kib();
    assert!(peak < 400_000, "{peak} KiB");
    for (n, it) in slow.join().unwrap().into_iter().enumerate() {
        let (what, bound) = [("header", 10), ("body", 15)][n % 2];
        let ended = it.ended;
        let ended = ended.unwrap_or_else(|| panic!("slow {what} {n} is still open"));
        // A round of the sender is a second, and the machine has other tests to run.
        let (earliest, latest) = (bound - 1, bound + 4);
        let range = Duration::from_secs(earliest)..Duration::from_secs(latest);
        assert!(range.contains(&ended), "slow {what} {n}: {ended:?}");
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    assert!(took.len() > 50, "{}", took.len());
    assert!(median < Duration::from_millis(50), "median {median:?}");
    assert!(worst < Duration::from_secs(1), "worst {worst:?}");
    shop.goes_well();
}

/// Sends these bytes and then nothing; how long the connection lasted, measured from the last of them.
fn lasts(address: SocketAddr, first: Option<Vec<u8>>, bytes: &[u8]) -> Duration {
    let mut connection = Connection::open(address).unwrap();
    if let Some(first) = first {
        acknowledged(&connection.exchange(first).unwrap());
    }
    connection.send(bytes).unwrap();
    let began = Instant::now();
    // A word about the reason is allowed.
    while connection.receive().is_ok() {}
    assert!(connection.is_ended());
    began.elapsed()
}

#[test]
fn silence_is_cut_off_in_time_wherever_it_begins() {
    let shop = Shop::open();
    let address = shop.address();
    let form = Payment::of(&shop.order()).form();
    let good = move || Some(post_bytes(BACK, &[FORM], &form));
    let half = format!("POST {BACK} HTTP/1.1\r\nHost: sh");
    let body = format!("POST {BACK} HTTP/1.1\r\nHost: shop\r\nContent-Length: 99\r\n\r\nresp");
    let chunk =
        format!("POST {BACK} HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nre");
    let cases = [
        ("nothing", None, String::new(), 10),
        ("half a header", None, half.clone(), 10),
        ("half a header after a good one", good(), half, 10),
        ("half a body", None, body.clone(), 15),
        ("half a body after a good one", good(), body, 15),
        ("half a chunk", None, chunk, 15),
    ];
    let threads: Vec<_> = cases
        .into_iter()
        .map(|(what, first, bytes, bound)| {
            let waiting = thread::spawn(move || lasts(address, first, bytes.as_bytes()));
            (what, bound, waiting)
        })
        .collect();
    for (what, bound, waiting) in threads {
        let lasted = waiting.join().unwrap();
        assert!(
            lasted < Duration::from_secs(bound + 3),
            "{what}: {lasted:?}"
        );
    }
}

fn allowing(lines: &'static str) -> impl FnOnce(&mut Conf) {
    move |conf| conf.callbacks = Some(lines.to_owned())
}

fn forwarded(shop: &Shop, source: Ipv4Addr, forwarded_for: &[&str]) -> Response {
    let lines: Vec<_> = forwarded_for
        .iter()
        .map(|list| format!("X-Forwarded-For: {list}"))
        .collect();
    let mut lines: Vec<_> = lines.iter().map(String::as_str).collect();
    lines.push(FORM);
    let bytes = post_bytes(BACK, &lines, Payment::of(&shop.order()).form());
    let mut connection = Connection::open_from(source, shop.address()).unwrap();
    connection.exchange(bytes).unwrap()
}

#[test]
fn only_who_is_allowed_may_notify() {
    let shop = Shop::with(
        |_| crate::shop::taken(),
        allowing("allow_from = [\"127.0.9.0/24\", \"::1\"]"),
    );
    let (allowed, other) = (Ipv4Addr::new(127, 0, 9, 77), Ipv4Addr::new(127, 0, 8, 77));
    for (source, forwarded_for) in [
        (other, &[][..]),
        (Ipv4Addr::LOCALHOST, &[]),
        (other, &["127.0.9.77"]),
        (other, &["127.0.9.77, 127.0.9.77"]),
    ] {
        let answer = forwarded(&shop, source, forwarded_for);
        assert!((400..500).contains(&answer.status), "{source}: {answer:?}");
        assert!(!answer.text().contains("0000"), "{source}: {answer:?}");
    }
    acknowledged(&forwarded(&shop, allowed, &[]));
    // What an allowed peer says about others is no matter where nobody is trusted with it.
    acknowledged(&forwarded(&shop, allowed, &["192.0.2.1"]));
    crate::harness::eventually("two were told", SOON, || shop.app.count() == 2);
    let refused = shop
        .sidecar
        .metrics()
        .sum(&["countersign_callbacks_total", "kind=\"back\""]);
    assert_eq!(refused, 6.0);
}

#[test]
fn a_proxy_that_is_trusted_says_who_notifies() {
    let shop = Shop::with(
        |_| crate::shop::taken(),
        allowing(
            "allow_from = [\"203.0.113.0/24\"]\ntrust_forwarded_from = [\"127.0.7.0/24\", \"10.0.0.0/8\"]",
        ),
    );
    let (proxy, stranger) = (Ipv4Addr::new(127, 0, 7, 1), Ipv4Addr::new(127, 0, 6, 1));
    let good: [&[&str]; 4] = [
        &["203.0.113.5"],
        &["192.0.2.1, 203.0.113.5"],
        &["203.0.113.5, 10.1.1.1"],
        &["192.0.2.1", "203.0.113.5"],
    ];
    for list in good {
        let answer = forwarded(&shop, proxy, list);
        assert!(is_acknowledged(&answer), "{list:?}: {answer:?}");
    }
    let bad: [&[&str]; 5] = [
        &[],
        &["192.0.2.1"],
        // The first entries are whatever the client wrote.
        &["203.0.113.5, 192.0.2.1"],
        &["203.0.113.5", "192.0.2.1"],
        &["203.0.113.5, nonsense"],
    ];
    for list in bad {
        let answer = forwarded(&shop, proxy, list);
        assert!((400..500).contains(&answer.status), "{list:?}: {answer:?}");
    }
    for list in good {
        let answer = forwarded(&shop, stranger, list);
        assert!((400..500).contains(&answer.status), "{list:?}: {answer:?}");
    }
}

/// A certificate for this machine, into the two files.
pub(crate) fn certify(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    certificate.der().clone()
}

/// A notification over TLS by a client that trusts this certificate alone.
pub(crate) fn notify_tls(
    setup: &Setup,
    root: &CertificateDer<'static>,
    form: &str,
) -> io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = rustls::ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let stream = TcpStream::connect(setup.callbacks)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut stream = rustls::StreamOwned::new(tls, stream);
    stream.write_all(&post_bytes(BACK, &[FORM, "Connection: close"], form))?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        // Some close without saying so in TLS.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(answer),
    }
}

#[test]
fn https_is_served_and_a_new_certificate_taken_up() {
    let app = crate::platform::Platform::start(|_| crate::shop::taken());
    let platform = crate::platform::Platform::honest(&[]);
    let setup = Shop::setup(
        &platform,
        &app.url(),
        allowing("tls = { cert = \"cert.pem\", key = \"key.pem\" }"),
    );
    let first = certify(setup.folder.path());
    let sidecar = setup.start();
    let notify = |root: &CertificateDer<'static>, orderid: &str| {
        notify_tls(&sidecar.setup, root, &Payment::of(orderid).form())
    };
    let answer = notify(&first, "OVERTLS0001").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n0000"), "{answer}");
    app.wait_for(1);

    // A key that does not fit, and half a file, change nothing.
    let cert = sidecar.setup.folder.path().join("cert.pem");
    fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
    sidecar.reload();
    notify(&first, "OVERTLS0002").unwrap();
    let second = certify(sidecar.setup.folder.path());
    crate::harness::eventually("the new certificate is in force", 2 * SOON, || {
        notify(&second, "OVERTLS0003").is_ok_and(|answer| answer.ends_with("\r\n\r\n0000"))
    });
    assert!(notify(&first, "OVERTLS0004").is_err());
    app.wait_for(3);
}

#[test]
fn a_silent_client_over_tls_is_cut_off_in_time() {
    let platform = crate::platform::Platform::honest(&[]);
    let setup = Shop::setup(
        &platform,
        "http://127.0.0.1:9",
        allowing("tls = { cert = \"cert.pem\", key = \"key.pem\" }"),
    );
    certify(setup.folder.path());
    let sidecar = setup.start();
    let address = sidecar.setup.callbacks;
    // The first bytes of a handshake, or none.
    let waiting = [&b""[..], b"\x16\x03\x01\x02"]
        .map(|bytes| thread::spawn(move || lasts(address, None, bytes)));
    for waiting in waiting {
        let lasted = waiting.join().unwrap();
        assert!(lasted < Duration::from_secs(14), "{lasted:?}");
    }
}

#[test]
fn a_front_page_has_the_same_bounds() {
    let shop = Shop::open();
    let form = Payment::of(&shop.order()).form();
    let long = format!("{form}&more={}", "x".repeat(9 << 10));
    let bytes = format!("GET {FRONT}?{long} HTTP/1.1\r\nHost: shop\r\n\r\n");
    turned_away("a long link", shop.address(), bytes);
    let bytes = format!("GET {FRONT}?{form} HTTP/1.1\r\n\r\n");
    turned_away("no Host", shop.address(), bytes);
    assert_eq!(shop.app.count(), 0);
}
