//! The usual faults of certificates and ciphers, with OpenSSL as the server: one clear sentence each.

use crate::harness::{
    KEY, MERID, Setup, Sidecar, command, eventually, fresh_orderid, skip, submit_json,
};
use crate::platform::{Platform, honestly};
use crate::shop::SOON;
use crate::tls::Authority;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Certificates made by OpenSSL in a folder of their own.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn open(test: &str) -> Option<Self> {
        if !crate::harness::is_installed("openssl") {
            skip(test, "openssl is not installed");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    }

    /// An authority that signs itself.
    fn root(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 30 -subj /CN={name} \
             -addext subjectAltName=IP:127.0.0.1"
        ));
    }

    /// A certificate that `issuer` signs; `extensions` are its lines.
    fn signed(&self, name: &str, bits: u32, issuer: &str, extensions: &str) {
        fs::write(self.path(&format!("{name}.ext")), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey rsa:{bits} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -out {name}.pem -days 30 \
             -extfile {name}.ext"
        ));
    }

    /// A server with this certificate and these options.
    fn serve(&self, name: &str, options: &str) -> OpenSslServer {
        let port = crate::harness::free_port();
        let child = Command::new("openssl")
            .args([
                "s_server",
                "-quiet",
                "-accept",
                &format!("127.0.0.1:{port}"),
            ])
            .args([
                "-cert",
                &format!("{name}.pem"),
                "-key",
                &format!("{name}.key"),
            ])
            .args(options.split(' ').filter(|option| !option.is_empty()))
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("openssl listens", SOON, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        OpenSslServer { child, port }
    }
}

struct OpenSslServer {
    child: Child,
    port: u16,
}

impl Drop for OpenSslServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const SERVER: &str = "subjectAltName=IP:127.0.0.1\n";
const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\n";

/// The detail of a submit to this server.
fn detail(server: &OpenSslServer, ca_file: &Path) -> (String, String) {
    let sidecar = Sidecar::start(|conf| {
        conf.platform = format!("https://127.0.0.1:{}", server.port);
        conf.ca_file = Some(ca_file.to_owned());
        conf.timeout = "3s";
    });
    let answer = sidecar.submit(submit_json(&fresh_orderid())).json();
    let member = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
    (member("sent"), member("detail"))
}

#[test]
fn each_usual_fault_has_its_sentence() {
    let Some(workshop) = Workshop::open("each_usual_fault_has_its_sentence") else {
        return;
    };
    workshop.root("root");
    workshop.signed("good", 2048, "root", SERVER);
    workshop.signed("short", 1024, "root", SERVER);
    workshop.signed("middle", 2048, "root", AUTHORITY);
    workshop.signed("leaf", 2048, "middle", SERVER);
    let weak = "-cipher DEFAULT@SECLEVEL=0";
    let cbc = "-tls1_2 -cipher ECDHE-RSA-AES128-SHA256:AES128-SHA";
    let wants_old = "-tls1_2 -Verify 1";
    for (name, options, sentence) in [
        (
            "short",
            weak,
            "has an RSA key of 1024 bits; expected at least 2048",
        ),
        ("root", "", "is a CA certificate itself"),
        (
            "good",
            cbc,
            "no cipher in common: expected TLS 1.3, or TLS 1.2 with AES-GCM",
        ),
        (
            "leaf",
            "",
            "sends no intermediate certificate, and CN=middle",
        ),
        ("good", wants_old, "wants a client certificate"),
    ] {
        let server = workshop.serve(name, options);
        let (sent, detail) = detail(&server, &workshop.path("root.pem"));
        let begins = format!("TLS failed: 127.0.0.1 at 127.0.0.1:{}: ", server.port);
        assert!(detail.starts_with(&begins), "{name} {options}: {detail}");
        assert!(detail.contains(sentence), "{name} {options}: {detail}");
        assert_eq!(sent, "no", "{name} {options}: {detail}");
    }
    // In TLS 1.3 the server may reject only after the request is out.
    let server = workshop.serve("good", "-Verify 1");
    let (sent, detail) = detail(&server, &workshop.path("root.pem"));
    assert!(detail.contains("wants a client certificate"), "{detail}");
    assert!(["no", "unknown"].contains(&sent.as_str()), "{sent}");
}

/// `check` where no root certificate can be found.
fn check_without_roots(setup: &Setup) -> (Option<i32>, String) {
    let output = command()
        .args(["check", "-c"])
        .arg(setup.conf_file())
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn a_machine_without_root_certificates_is_warned_where_they_are_needed() {
    let authority = Authority::new("own");
    let setup = |url: &str, ca_file: Option<PathBuf>| {
        let url = url.to_owned();
        Setup::new(|conf| {
            conf.platform = url;
            conf.ca_file = ca_file;
        })
    };
    let https = setup("https://127.0.0.1:9", None);
    let (code, said) = check_without_roots(&https);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("warning: no root certificate is known"),
        "{said}"
    );
    for setup in [
        setup("http://127.0.0.1:9", None),
        setup("https://127.0.0.1:9", Some(authority.file())),
    ] {
        let (code, said) = check_without_roots(&setup);
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains("root certificate"), "{said}");
    }
}

#[test]
fn a_new_ca_file_counts_without_a_restart() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let [certificate, key] = new.files(&["127.0.0.1"]);
    let platform = Platform::start_tls(
        crate::tls::server_of(&certificate, &key),
        honestly(&[(MERID, KEY)]),
    );
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    fs::copy(old.file(), &ca_file).unwrap();
    let sidecar = Sidecar::start(|conf| {
        conf.platform = platform.url();
        conf.ca_file = Some(ca_file.clone());
    });
    let status = || sidecar.submit(submit_json(&fresh_orderid())).status;
    assert_eq!(status(), 502);
    // A file with a problem changes nothing.
    fs::write(&ca_file, "no certificate").unwrap();
    eventually("the problem is logged", SOON, || {
        sidecar.output().contains("ca_file is rejected")
    });
    fs::copy(new.file(), &ca_file).unwrap();
    eventually("the new authority is trusted", SOON, || status() == 200);
    // What was verified with roots that are gone is not used again.
    fs::copy(old.file(), &ca_file).unwrap();
    eventually("the old authority is trusted again", SOON, || {
        status() == 502
    });
}
