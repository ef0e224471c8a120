//! TLS towards the platform: the good certificate works, everything else is refused before anything is sent.

use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, command, fresh_orderid, query_json, submit_json,
};
use crate::platform::{Action, Platform, honestly};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use tempfile::TempDir;

/// An authority of our own, its certificate in a file for `ca_file`.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's side with a certificate for these names, dated as `change` leaves it.
    fn server(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<rustls::ServerConfig> {
        let (certificate, key) = self.certify(names, change);
        server(certificate.der().clone(), &key)
    }

    /// A certificate and its key, as a server reads them from files.
    pub(crate) fn files(&self, names: &[&str]) -> [String; 2] {
        let (certificate, key) = self.certify(names, |_| {});
        [certificate.pem(), key.serialize_pem()]
    }

    fn certify(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Certificate, KeyPair) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate, key)
    }
}

fn server(certificate: CertificateDer<'static>, key: &KeyPair) -> Arc<rustls::ServerConfig> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

fn before(url: String, authority: Option<&Authority>) -> Sidecar {
    Sidecar::start(|conf| {
        conf.platform = url;
        conf.ca_file = authority.map(Authority::file);
        conf.timeout = "3s";
    })
}

fn honest(config: Arc<rustls::ServerConfig>) -> Platform {
    Platform::start_tls(config, honestly(&[(MERID, KEY)]))
}

#[test]
fn a_certificate_under_our_ca_file_works_by_address_and_by_name() {
    let authority = Authority::new("good");
    let platform = honest(authority.server(&["127.0.0.1", "localhost"], |_| {}));
    let port = platform.address.port();
    for url in [platform.url(), format!("https://localhost:{port}")] {
        let sidecar = before(url.clone(), Some(&authority));
        for _ in 0..3 {
            let answer = sidecar.query(query_json(MERID, ORDERID));
            assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        }
        assert_eq!(
            sidecar.submit(submit_json(&fresh_orderid())).status,
            200,
            "{url}"
        );
        let link = sidecar
            .post("/apis/icashier", submit_json(&fresh_orderid()))
            .json();
        assert!(link["url"].as_str().unwrap().starts_with(&url), "{link}");
    }
    let connections = platform.connections();
    assert!(connections <= 4, "8 calls share too little: {connections}");
}

/// Each call is refused as unreachable over TLS, for this reason, certainly unsent.
#[track_caller]
fn refused(name: &str, sidecar: &Sidecar, reason: &str) {
    let calls = [
        ("/api/query", query_json(MERID, ORDERID)),
        ("/api/icashier", submit_json(&fresh_orderid())),
    ];
    for (path, body) in calls {
        let answer = sidecar.post(path, body);
        assert_eq!(answer.status, 502, "{name} {path}: {}", answer.text());
        let problem = answer.problem(502, "platform-unreachable", "no");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with("TLS failed: "), "{name}: {detail}");
        let words = |text: &str| text.to_lowercase().replace([' ', '_'], "");
        let says_so = words(detail).contains(&words(reason));
        assert!(says_so, "{name}: {reason:?} is not in {detail}");
    }
}

#[test]
fn bad_certificates_are_refused_each_for_its_reason() {
    let authority = Authority::new("ours");
    let stranger = Authority::new("a stranger's");
    let good = ["127.0.0.1"];
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        server(params.self_signed(&key).unwrap().der().clone(), &key)
    };
    let bad = [
        ("self-signed", "unknown issuer", self_signed),
        (
            "an unknown authority",
            "unknown issuer",
            stranger.server(&good, |_| {}),
        ),
        (
            "expired",
            "certificate expired",
            authority.server(&good, |params| {
                params.not_before = date_time_ymd(2015, 1, 1);
                params.not_after = date_time_ymd(2016, 1, 1);
            }),
        ),
        (
            "not yet valid",
            "certificate not valid yet",
            authority.server(&good, |params| {
                params.not_before = date_time_ymd(2090, 1, 1);
                params.not_after = date_time_ymd(2091, 1, 1);
            }),
        ),
        (
            "another name",
            "certificate not valid for name \"127.0.0.1\"",
            authority.server(&["pay.example.com"], |_| {}),
        ),
        (
            "another address",
            "certificate not valid for name \"127.0.0.1\"",
            authority.server(&["127.0.0.2"], |_| {}),
        ),
        (
            "for clients only",
            "does not allow extended key usage for server authentication",
            authority.server(&good, |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
        ),
    ];
    for (name, reason, config) in bad {
        let platform = honest(config);
        refused(name, &before(platform.url(), Some(&authority)), reason);
        assert_eq!(platform.count(), 0, "{name}: a request left us");
    }
}

#[test]
fn the_right_certificate_under_the_wrong_name_is_refused() {
    let authority = Authority::new("ours");
    let platform = honest(authority.server(&["127.0.0.1"], |_| {}));
    let url = format!("https://localhost:{}", platform.address.port());
    let reason = "certificate not valid for name \"localhost\"";
    refused("localhost", &before(url, Some(&authority)), reason);
    assert_eq!(platform.count(), 0);
}

#[test]
fn without_a_ca_file_our_own_authority_is_a_stranger() {
    let authority = Authority::new("ours");
    let platform = honest(authority.server(&["127.0.0.1"], |_| {}));
    let sidecar = before(platform.url(), None);
    refused("no ca_file", &sidecar, "unknown issuer");
    assert_eq!(platform.count(), 0);
}

/// A listener that says this to whoever connects, and reads what comes.
fn says(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut hello = [0; 4096];
                // Whether or not the other side stays to listen.
                drop(stream.read(&mut hello));
                drop(stream.write_all(bytes));
            });
        }
    });
    port
}

#[test]
fn other_protocols_on_the_tls_port_are_refused() {
    // A fatal alert "protocol_version", as a server says that knows TLS 1.0 alone.
    const ALERT: &[u8] = b"\x15\x03\x01\x00\x02\x02\x46";
    // The start of a ServerHello that settles for TLS 1.0.
    const OLD_HELLO: &[u8] = b"\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01\
        0123456789abcdef0123456789abcdef\x00\x00\x2f\x00";
    const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let authority = Authority::new("ours");
    for (name, bytes, reason) in [
        ("alert", ALERT, "no tls version in common"),
        ("TLS 1.0", OLD_HELLO, "peer is incompatible"),
        ("plain HTTP", PLAIN, "what came is not tls"),
        ("nothing", b"", "closed the connection during the handshake"),
    ] {
        let url = format!("https://127.0.0.1:{}", says(bytes));
        refused(name, &before(url, Some(&authority)), reason);
    }
}

#[test]
fn a_tls_handshake_that_never_ends_is_bounded_and_unsent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let sidecar = Sidecar::start(|conf| {
        conf.platform = url;
        conf.connect_timeout = "500ms";
        conf.timeout = "2s";
    });
    let began = std::time::Instant::now();
    let answer = sidecar.submit(submit_json(&fresh_orderid()));
    assert!(began.elapsed() < std::time::Duration::from_secs(4));
    assert_eq!(answer.json()["sent"], "no", "{}", answer.text());
    assert!([502, 504].contains(&answer.status), "{}", answer.text());
}

#[test]
fn a_submit_over_tls_on_a_connection_that_dies_is_sent_once() {
    let authority = Authority::new("ours");
    let config = authority.server(&["127.0.0.1"], |_| {});
    let honest = honestly(&[(MERID, KEY)]);
    let platform = Platform::start_tls(config, move |seen| match seen.number {
        1 => honest(seen),
        _ => Action::Cut(Vec::new()),
    });
    let sidecar = before(platform.url(), Some(&authority));
    let mut cut_off = 0;
    for n in 1..=20 {
        let body = submit_json(&fresh_orderid());
        let answer = sidecar.submit(&body);
        assert_eq!((platform.count(), platform.last().plain()), (n, body));
        if platform.last().number > 1 {
            answer.problem(502, "platform-cut-off", "unknown");
            cut_off += 1;
        }
    }
    assert!(cut_off > 0, "no connection was ever used twice");
}

/// A server's side with a certificate and a key out of files.
pub(crate) fn server_of(certificate: &str, key: &str) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject as _;
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    server(certificate, &KeyPair::from_pem(key).unwrap())
}

/// Returns the warnings of `check`, those in the log of `run`, and the expiry that the metric has.
fn own_certificate(pem: &str, key: &str) -> (String, String, f64) {
    let setup = Setup::new(|conf| {
        conf.callbacks = Some("tls = { cert = \"cert.pem\", key = \"key.pem\" }".to_owned());
    });
    std::fs::write(setup.folder.path().join("cert.pem"), pem).unwrap();
    std::fs::write(setup.folder.path().join("key.pem"), key).unwrap();
    let check = command()
        .arg("check")
        .arg("-c")
        .arg(setup.conf_file())
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let sidecar = setup.start();
    let expiry = sidecar.metrics().sum(&["certificate_expiry_timestamp"]);
    let said = String::from_utf8(check.stderr).unwrap();
    (said, sidecar.output(), expiry)
}

#[test]
fn faults_of_our_own_certificate_are_warned_of_and_its_expiry_is_a_metric() {
    let authority = Authority::new("an authority");
    let root = std::fs::read_to_string(authority.file()).unwrap();
    // Not whole days: within the second of its making, a certificate of ten days has ten left, and nine after it.
    let anchor = time::OffsetDateTime::now_utc() - time::Duration::HOUR;
    let in_days = |days| anchor + time::Duration::days(days);
    for (name, days, is_whole, warning) in [
        ("127.0.0.1", 20, true, None),
        ("127.0.0.1", 10, true, Some("expires in 9 days")),
        ("127.0.0.1", -1, true, Some("has expired")),
        (
            "shop.example.com",
            20,
            true,
            Some("is not for 127.0.0.1, the host of callbacks.public_url"),
        ),
        (
            "127.0.0.1",
            20,
            false,
            Some("has no intermediate certificate beside it"),
        ),
    ] {
        let (certificate, key) = authority.certify(&[name], |params| {
            params.not_before = in_days(-30);
            params.not_after = in_days(days);
        });
        let chain = certificate.pem() + if is_whole { &root } else { "" };
        let (check, log, expiry) = own_certificate(&chain, &key.serialize_pem());
        assert_eq!(
            expiry,
            in_days(days).unix_timestamp() as f64,
            "{name}, {days} days"
        );
        for said in [check, log] {
            match warning {
                Some(warning) => assert!(said.contains(warning), "{warning}: {said}"),
                None => {
                    for word in ["expire", "is not for", "intermediate"] {
                        assert!(!said.contains(word), "{said}");
                    }
                }
            }
        }
    }
}
