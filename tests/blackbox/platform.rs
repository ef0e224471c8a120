//! A stand-in for the platform, after its document: one thread a connection, everything it saw kept for the test, and a
//! closure that decides what each request gets, faults included.

use crate::client::{Fields, Framing, Stream, framing, read_chunks, read_fields, read_first_line};
use crate::wire;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Fields,
    pub(crate) body: Vec<u8>,
    /// Counted from 1: which connection this is.
    pub(crate) connection: usize,
    /// Counted from 1: which request on that connection.
    pub(crate) number: usize,
    /// When it was complete.
    pub(crate) at: Instant,
}

impl Seen {
    pub(crate) fn form(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The base64 text that was signed.
    pub(crate) fn text(&self) -> String {
        wire::value(&self.form(), "req").unwrap_or_default()
    }

    pub(crate) fn sign(&self) -> String {
        wire::value(&self.form(), "sign").unwrap_or_default()
    }

    /// The JSON that was signed, byte for byte.
    pub(crate) fn plain(&self) -> String {
        let bytes = wire::unbase64(&self.text()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.plain()).unwrap_or(Value::Null)
    }

    /// A member of the JSON that was signed; empty where there is none.
    pub(crate) fn member(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_signed_with(&self, key: &str) -> bool {
        wire::sign(&self.text(), key) == self.sign()
    }
}

/// What a request gets.
#[derive(Clone)]
pub(crate) enum Action {
    /// These bytes; the connection stays.
    Reply(Vec<u8>),
    /// These bytes, which may be none, then the end of the connection.
    Cut(Vec<u8>),
    /// These bytes one by one with this pause between them.
    Drip(Vec<u8>, Duration),
    /// These bytes, after this pause.
    Late(Vec<u8>, Duration),
    /// Each of these after its pause.
    Parts(Vec<(Duration, Vec<u8>)>),
    /// Nothing, until the other side gives up.
    Hang,
}

type Behaviour = dyn Fn(&Seen) -> Action + Send + Sync;

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    more: Condvar,
    connections: AtomicUsize,
    ended: AtomicBool,
}

pub(crate) struct Platform {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    record: Arc<Record>,
}

impl Platform {
    pub(crate) fn start(behaviour: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour)
    }

    /// On an address that the sidecar was told before anybody listened there.
    pub(crate) fn start_at(
        address: SocketAddr,
        behaviour: impl Fn(&Seen) -> Action + Send + Sync + 'static,
    ) -> Self {
        Self::listen(("http", address), behaviour, |stream| Ok(Box::new(stream)))
    }

    /// The same behind TLS.
    pub(crate) fn start_tls(
        config: Arc<rustls::ServerConfig>,
        behaviour: impl Fn(&Seen) -> Action + Send + Sync + 'static,
    ) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::listen(("https", address), behaviour, move |stream| {
            let tls =
                rustls::ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            Ok(Box::new(rustls::StreamOwned::new(tls, stream)))
        })
    }

    /// Honest towards these merchants (merid, key): right signs get the document's answers, anything else an empty sign.
    pub(crate) fn honest(merchants: &[(&str, &str)]) -> Self {
        Self::start(honestly(merchants))
    }

    fn listen(
        (scheme, address): (&'static str, SocketAddr),
        behaviour: impl Fn(&Seen) -> Action + Send + Sync + 'static,
        dress: impl Fn(TcpStream) -> io::Result<Box<dyn Stream>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let dress = Arc::new(dress);
        let kept = Arc::clone(&record);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if kept.ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let connection = kept.connections.fetch_add(1, Ordering::SeqCst) + 1;
                let (record, behaviour) = (Arc::clone(&kept), Arc::clone(&behaviour));
                let dress = Arc::clone(&dress);
                thread::spawn(move || {
                    stream.set_nodelay(true)?;
                    serve(dress(stream)?, connection, &record, &*behaviour)
                });
            }
        });
        Self {
            address,
            scheme,
            record,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.record.seen.lock().unwrap().clone()
    }

    /// What was seen, and forgets it.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.record.seen.lock().unwrap())
    }

    pub(crate) fn count(&self) -> usize {
        self.record.seen.lock().unwrap().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn last(&self) -> Seen {
        let seen = self.record.seen.lock().unwrap();
        seen.last().expect("the platform saw nothing").clone()
    }

    /// The newest request about this order.
    pub(crate) fn last_of(&self, orderid: &str) -> Option<Seen> {
        let seen = self.record.seen.lock().unwrap();
        let mut newest_first = seen.iter().rev();
        let found = newest_first.find(|seen| seen.member("orderid") == orderid);
        found.cloned()
    }

    /// Waits until it has seen this many requests in all.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut seen = self.record.seen.lock().unwrap();
        while seen.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{} of {count} requests arrived",
                seen.len()
            );
            seen = self.record.more.wait_timeout(seen, left).unwrap().0;
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.record.ended.store(true, Ordering::SeqCst);
        // Only to wake the listener, so that its port is free again.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(
    stream: Box<dyn Stream>,
    connection: usize,
    record: &Record,
    behaviour: &Behaviour,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    for number in 1.. {
        let line = read_first_line(&mut stream)?;
        let mut words = line.split(' ');
        let (method, target) = (words.next(), words.next());
        let headers = read_fields(&mut stream)?;
        let mut body = Vec::new();
        match framing(&headers)? {
            Framing::Length(length) => {
                body.resize(length, 0);
                stream.read_exact(&mut body)?;
            }
            Framing::Chunked => read_chunks(&mut stream, &mut body)?,
            Framing::None => {}
        }
        let seen = Seen {
            method: method.unwrap_or_default().to_owned(),
            target: target.unwrap_or_default().to_owned(),
            headers,
            body,
            connection,
            number,
            at: Instant::now(),
        };
        record.seen.lock().unwrap().push(seen.clone());
        record.more.notify_all();
        match behaviour(&seen) {
            Action::Reply(bytes) => write(&mut stream, &bytes)?,
            Action::Late(bytes, pause) => {
                thread::sleep(pause);
                write(&mut stream, &bytes)?;
            }
            Action::Parts(parts) => {
                for (pause, bytes) in parts {
                    thread::sleep(pause);
                    write(&mut stream, &bytes)?;
                }
            }
            Action::Cut(bytes) => return write(&mut stream, &bytes),
            Action::Drip(bytes, pause) => {
                for byte in bytes {
                    write(&mut stream, &[byte])?;
                    thread::sleep(pause);
                }
            }
            Action::Hang => {
                // Ends when the other side does.
                return io::copy(&mut stream, &mut io::sink()).map(drop);
            }
        }
    }
    Ok(())
}

fn write(stream: &mut BufReader<Box<dyn Stream>>, bytes: &[u8]) -> io::Result<()> {
    stream.get_mut().write_all(bytes)?;
    stream.get_mut().flush()
}

/// A whole HTTP answer with its Content-Length.
pub(crate) fn http(status: u16, headers: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!(
        "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n",
        body.len()
    );
    for line in headers {
        bytes.push_str(line);
        bytes.push_str("\r\n");
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A 200 around an envelope in form encoding.
pub(crate) fn enveloped(form: impl AsRef<[u8]>) -> Vec<u8> {
    http(
        200,
        &["Content-Type: application/x-www-form-urlencoded"],
        form,
    )
}

/// A full answer to this query, after §3.4.4 of the document.
pub(crate) fn full_answer(seen: &Seen) -> String {
    let asked = seen.json();
    let or = |name: &str, default: &str| asked[name].as_str().unwrap_or(default).to_owned();
    json!({
        "respcode": "00",
        "respmsg": "成功",
        "resultcode": "0000",
        "resultmsg": "交易成功",
        "queryid": or("queryid", "Q20170301123456789"),
        "txnamt": 1280,
        "merid": or("merid", ""),
        "orderid": or("orderid", "ORD2017030100000001"),
        "paytime": "2017-03-01 12:00:05",
    })
    .to_string()
}

pub(crate) const PAGE: &str = "<!doctype html><title>收银台</title><p>Choose how to pay.";

/// The answer of an honest platform that found this key.
pub(crate) fn honest_answer(seen: &Seen, key: &str) -> Vec<u8> {
    if seen.target.ends_with("/icashier") {
        return http(200, &["Content-Type: text/html; charset=utf-8"], PAGE);
    }
    enveloped(wire::answer(full_answer(seen), key))
}

/// The answer of a platform that could not find the key (§2.2): an empty sign.
pub(crate) fn unsigned(respcode: &str, respmsg: &str) -> Vec<u8> {
    let text = json!({"respcode": respcode, "respmsg": respmsg}).to_string();
    enveloped(wire::answer_around(&wire::base64(text), ""))
}

pub(crate) fn honestly(
    merchants: &[(&str, &str)],
) -> impl Fn(&Seen) -> Action + Send + Sync + 'static {
    let keys: HashMap<String, String> = merchants
        .iter()
        .map(|(merid, key)| ((*merid).to_owned(), (*key).to_owned()))
        .collect();
    move |seen| {
        Action::Reply(match keys.get(&seen.member("merid")) {
            Some(key) if seen.is_signed_with(key) => honest_answer(seen, key),
            Some(_) => unsigned("97", "签名错误"),
            None => unsigned("96", "商户号不存在"),
        })
    }
}

#[test]
fn the_stand_in_answers_a_vector_as_the_document_says() {
    let vectors = crate::vectors::load();
    let case = vectors
        .requests
        .iter()
        .find(|case| case.name == "query-by-orderid")
        .unwrap();
    let platform = Platform::honest(&[("100000000000001", &case.key)]);
    let answer = crate::client::post(platform.address, "/api/query", &case.form);
    let text = wire::value(&answer.text(), "resp").unwrap();
    assert_eq!(
        wire::value(&answer.text(), "sign").unwrap(),
        wire::sign(&text, &case.key)
    );
    let seen = platform.last();
    assert_eq!(
        (seen.plain(), seen.form()),
        (case.json.clone(), case.form.clone())
    );
    assert_eq!((seen.connection, seen.number), (1, 1));

    let forged = wire::request(&case.json, "another key");
    let answer = crate::client::post(platform.address, "/api/query", forged);
    assert_eq!(wire::value(&answer.text(), "sign").unwrap(), "");
}
