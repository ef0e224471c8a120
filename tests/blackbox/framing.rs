//! Framing without doubt, on every listener: what two readers of HTTP are known to understand differently is rejected and
//! ends its connection, directly and behind the proxies that shops use.

use crate::client::{Connection, fetch, post_bytes};
use crate::harness::{
    KEY, MERID, eventually, free_port, fresh_orderid, is_installed, query_json, skip,
};
use crate::platform::Platform;
use crate::shop::{FORM, Shop};
use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Requests for a path whose end is in doubt. What follows the first end that a reader may find is a request of its own.
fn doubtful(path: &str, hidden: &str) -> Vec<(&'static str, String)> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{FORM}\r\n");
    let length = hidden.len();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunk = |line: &str| format!("{head}{chunked}\r\n{line}abc\r\n0\r\n\r\n{hidden}");
    let after = |fields: &str| format!("{head}{fields}\r\n0\r\n\r\n{hidden}");
    vec![
        ("an empty chunk size", chunk("\r\n")),
        (
            "an empty chunk size at the end",
            format!("{head}{chunked}\r\n3\r\nabc\r\n\r\n\r\n{hidden}"),
        ),
        ("an extension and no size", chunk(";x\r\n")),
        ("a line feed in an extension", chunk("3;x\ny\r\n")),
        ("a line feed after a size", chunk("3\n")),
        ("a NUL in an extension", chunk("3;x\0y\r\n")),
        ("a carriage return in an extension", chunk("3;x\ry\r\n")),
        ("a chunk size with a sign", chunk("+3\r\n")),
        ("a chunk size with 0x", chunk("0x3\r\n")),
        ("a chunk size past 64 bits", chunk("10000000000000003\r\n")),
        (
            "a chunk without its line end",
            format!("{head}{chunked}\r\n3\r\nabc0\r\n\r\n{hidden}"),
        ),
        (
            "a line feed after a chunk",
            format!("{head}{chunked}\r\n3\r\nabc\n0\r\n\r\n{hidden}"),
        ),
        (
            "a trailer that ends in a line feed",
            format!("{head}{chunked}\r\n3\r\nabc\r\n0\r\nX: y\n\r\n{hidden}"),
        ),
        (
            "a length and chunks",
            after(&format!("Content-Length: {}\r\n{chunked}", length + 5)),
        ),
        (
            "chunks and a length",
            after(&format!("{chunked}Content-Length: {}\r\n", length + 5)),
        ),
        (
            "a length twice",
            after("Content-Length: 5\r\nContent-Length: 5\r\n"),
        ),
        (
            "two lengths",
            after(&format!(
                "Content-Length: 5\r\nContent-Length: {}\r\n",
                length + 5
            )),
        ),
        (
            "two lengths in one field",
            after("Content-Length: 5, 5\r\n"),
        ),
        ("a length with a sign", after("Content-Length: +5\r\n")),
        ("an empty length", after("Content-Length:\r\n")),
        ("a coding twice", after(&format!("{chunked}{chunked}"))),
        (
            "a coding in disguise",
            after("Transfer-Encoding: \x0bchunked\r\n"),
        ),
        ("another coding", after("Transfer-Encoding: identity\r\n")),
        (
            "a blank before the colon",
            after(&format!("Content-Length : {}\r\n", length + 5)),
        ),
        (
            "a folded field",
            after(&format!("X: y\r\n Content-Length: {}\r\n", length + 5)),
        ),
        (
            "a bare carriage return",
            after(&format!("X: y\rContent-Length: {}\r\n", length + 5)),
        ),
        (
            "a bare line feed",
            after(&format!("X: y\nContent-Length: {}\r\n", length + 5)),
        ),
        (
            "a NUL in a field",
            after("X: a\0b\r\nContent-Length: 5\r\n"),
        ),
        (
            "no Host",
            format!("POST {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n{hidden}"),
        ),
        (
            "two Hosts",
            after("Host: localhost\r\nContent-Length: 5\r\n"),
        ),
        (
            "chunks in HTTP/1.0",
            format!("POST {path} HTTP/1.0\r\nHost: localhost\r\n{chunked}\r\n0\r\n\r\n{hidden}"),
        ),
    ]
}

#[test]
fn a_request_whose_end_is_in_doubt_is_rejected_and_ends_the_connection_on_every_listener() {
    let shop = Shop::open();
    let setup = &shop.sidecar.setup;
    let before = shop.platform.count();
    let listeners: [(SocketAddr, &str); 3] = [
        (setup.app, "/api/query"),
        (setup.admin, "/-/reload"),
        (setup.callbacks, "/notify/back"),
    ];
    let mut failures = Vec::new();
    for (address, path) in listeners {
        let orderid = fresh_orderid();
        let query = query_json(MERID, &orderid);
        let hidden = post_bytes("/api/query", &[], query);
        let hidden = String::from_utf8(hidden).unwrap();
        for (what, bytes) in doubtful(path, &hidden) {
            let mut connection = Connection::open(address).unwrap();
            // It may be rejected before all of it has been sent.
            drop(connection.send(bytes));
            match connection.receive() {
                Ok(answer) if answer.status == 400 && connection.is_ended() => {}
                Ok(answer) => failures.push((address, what, answer.status.to_string())),
                Err(error) => failures.push((address, what, error.to_string())),
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(
        shop.platform.count(),
        before,
        "a hidden request came through"
    );
    shop.goes_well();
}

#[test]
fn sound_framing_is_taken_on_every_listener() {
    let shop = Shop::open();
    let setup = &shop.sidecar.setup;
    let listeners: [(SocketAddr, &str, &str, u16); 3] = [
        (
            setup.app,
            "/api/query",
            &query_json(MERID, &fresh_orderid()),
            200,
        ),
        (setup.admin, "/-/reload", "", 200),
        (setup.callbacks, "/notify/back", "resp=a&sign=b", 400),
    ];
    for (address, path, body, status) in listeners {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{FORM}\r\n");
        let length = body.len();
        let last = "0;z=\"quoted\"\r\nTrailer: t\r\n\r\n";
        let chunk = match length {
            0 => String::new(),
            length => format!("{length:x};x=y\r\n{body}\r\n"),
        };
        let requests = [
            format!("{head}Content-Length: {length}\r\n\r\n{body}"),
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{last}"),
            format!("\r\n{head}content-length:{length}\r\n\r\n{body}"),
        ];
        // One after the other, then at once, then byte by byte.
        let mut connection = Connection::open(address).unwrap();
        for request in &requests {
            let answer = connection.exchange(request).unwrap();
            assert_eq!(
                answer.status,
                status,
                "{path}: {request:?}: {}",
                answer.text()
            );
        }
        connection.send(requests.concat()).unwrap();
        for request in &requests {
            let answer = connection.receive().unwrap();
            assert_eq!(
                answer.status,
                status,
                "{path}: {request:?}: {}",
                answer.text()
            );
        }
        for byte in requests[1].bytes() {
            connection.send([byte]).unwrap();
        }
        assert_eq!(connection.receive().unwrap().status, status, "{path}");
    }
}

/// A reverse proxy from Debian in front of the app's listener.
struct Proxy {
    name: &'static str,
    process: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx and apache have children of their own, which end with their parent's TERM.
        let pid = self.process.id().to_string();
        drop(Command::new("kill").args(["-TERM", &pid]).status());
        drop(self.process.wait());
    }
}

type Configure = fn(&Path, SocketAddr, SocketAddr) -> (String, Vec<String>);

fn nginx(folder: &Path, listen: SocketAddr, to: SocketAddr) -> (String, Vec<String>) {
    let at = folder.display();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/{name};"))
        .concat();
    let text = format!(
        "daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes 1;\n\
         events {{}}\n\
         http {{ access_log off; {paths}\n\
           upstream app {{ server {to}; keepalive 4; }}\n\
           server {{ listen {listen}; location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_request_buffering off; }} }} }}\n"
    );
    let arguments = ["-e", "error.log", "-p", &at.to_string(), "-c", "conf"];
    (text, arguments.map(str::to_owned).into())
}

fn haproxy(folder: &Path, listen: SocketAddr, to: SocketAddr) -> (String, Vec<String>) {
    let text = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n option http-keep-alive\n\
         frontend in\n bind {listen}\n default_backend app\n\
         backend app\n http-reuse always\n server app {to}\n"
    );
    let file = folder.join("conf").display().to_string();
    (text, vec!["-db".to_owned(), "-f".to_owned(), file])
}

fn apache(folder: &Path, listen: SocketAddr, to: SocketAddr) -> (String, Vec<String>) {
    let at = folder.display();
    let modules = [
        ("mpm_event", "mpm_event"),
        ("authz_core", "authz_core"),
        ("proxy", "proxy"),
        ("proxy_http", "proxy_http"),
    ]
    .map(|(module, file)| {
        format!("LoadModule {module}_module /usr/lib/apache2/modules/mod_{file}.so\n")
    })
    .concat();
    let text = format!(
        "ServerName localhost\nServerRoot {at}\nPidFile {at}/pid\nDefaultRuntimeDir {at}\nErrorLog {at}/error.log\nListen {listen}\n\
         {modules}ProxyPass / http://{to}/\n"
    );
    let file = folder.join("conf").display().to_string();
    (text, ["-X", "-f", &file].map(str::to_owned).into())
}

impl Proxy {
    fn start(name: &'static str, configure: Configure, to: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Their workers may be another user's.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (text, arguments) = configure(folder.path(), address, to);
        fs::write(folder.path().join("conf"), text).unwrap();
        let log = fs::File::create(folder.path().join("output.log")).unwrap();
        let process = Command::new(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let proxy = Self {
            name,
            process,
            address,
            _folder: folder,
        };
        eventually("the proxy listens", Duration::from_secs(10), || {
            TcpStream::connect(proxy.address).is_ok()
        });
        proxy
    }
}

/// Tries everything doubtful through a proxy. Rejected by the proxy, rejected by us or made sound by the proxy: all of that is
/// fine, as long as the request inside the other one is no request.
fn nothing_is_hidden_behind(name: &'static str, configure: Configure) {
    let test = format!("nothing_is_hidden_behind_{name}");
    if !is_installed(name) && !Path::new("/usr/sbin").join(name).exists() {
        return skip(&test, &format!("{name} is not installed"));
    }
    let platform = Platform::honest(&[(MERID, KEY)]);
    let sidecar = crate::harness::Sidecar::before(&platform);
    let proxy = Proxy::start(name, configure, sidecar.app());
    for n in 0..5 {
        let orderid = format!("THROUGH{n:06}");
        let body = query_json(MERID, &orderid);
        let chunked = format!(
            "POST /api/query HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        let mut connection = Connection::open(proxy.address).unwrap();
        for request in [post_bytes("/api/query", &[], &body), chunked.into_bytes()] {
            let answer = connection.exchange(request).unwrap();
            assert_eq!(answer.status, 200, "{}: {}", proxy.name, answer.text());
            assert_eq!(answer.json()["orderid"], orderid);
        }
    }
    for n in 0..doubtful("", "").len() {
        let orderid = format!("HIDDEN{n:06}");
        let hidden = post_bytes("/api/query", &[], query_json(MERID, &orderid));
        let hidden = String::from_utf8(hidden).unwrap();
        let (what, bytes) = doubtful("/api/query", &hidden).swap_remove(n);
        let mut connection = Connection::open(proxy.address).unwrap();
        drop(connection.send(bytes));
        let first = connection.receive();
        if platform.last_of(&orderid).is_some() {
            // The proxy found two requests and passed both on in sound framing: then it has a response to each.
            let second = connection.receive();
            assert!(
                second.is_ok(),
                "{what} through {name}: {first:?}, {second:?}"
            );
        }
    }
    let answer = fetch(proxy.address, "/nowhere").unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(sidecar.query(query_json(MERID, "AFTERWARDS01")).status, 200);
}

#[test]
fn nothing_is_hidden_behind_nginx() {
    nothing_is_hidden_behind("nginx", nginx);
}

#[test]
fn nothing_is_hidden_behind_haproxy() {
    nothing_is_hidden_behind("haproxy", haproxy);
}

#[test]
fn nothing_is_hidden_behind_apache() {
    nothing_is_hidden_behind("apache2", apache);
}
