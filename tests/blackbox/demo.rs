//! `countersign demo` on ports of its own, after its walkthrough.

use crate::client;
use crate::harness::{command, exit_within, signal};
use crate::shop::SOON;
use serde_json::Value;
use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The running demo and where its parts are, each with its scheme.
pub(crate) struct Demo {
    process: Child,
    pub(crate) shop: String,
    pub(crate) platform: String,
    /// For the app, for callbacks, for ops.
    pub(crate) countersign: [String; 3],
    _folder: TempDir,
}

impl Demo {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let process = command()
            .args(["demo", "--free-ports"])
            .stdin(Stdio::null())
            .stdout(File::create(&said).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut demo = Self {
            process,
            shop: String::new(),
            platform: String::new(),
            countersign: Default::default(),
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let said = loop {
            let said = fs::read_to_string(&said).unwrap_or_default();
            let ended = demo.process.try_wait().unwrap();
            if said.contains("\nClick: ") {
                break said;
            }
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{ended:?}: {said}"
            );
            std::thread::sleep(Duration::from_millis(20));
        };
        let addresses = |name: &str| {
            let line = said.lines().find(|line| line.starts_with(name));
            let words = line.unwrap_or_default().split_whitespace();
            let found = words.filter(|word| word.starts_with("http://"));
            found.map(str::to_owned).collect::<Vec<_>>()
        };
        demo.shop = addresses("shop ").remove(0);
        demo.platform = addresses("platform ").remove(0);
        demo.countersign = addresses("countersign ").try_into().unwrap();
        demo
    }

    /// What the platform knows of the newest order.
    pub(crate) fn newest_order(&self) -> Value {
        let address = self
            .platform
            .trim_start_matches("http://")
            .trim_end_matches('/');
        let orders = client::fetch(address.parse().unwrap(), "/sandbox/orders");
        let mut orders = orders.unwrap().json();
        orders.as_array_mut().unwrap().pop().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Asked to end, it ends its sidecar too.
        signal(&self.process, "TERM");
        if exit_within(&mut self.process, Duration::from_secs(10)).is_none() {
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }
}

#[test]
fn a_terminal_that_closes_ends_the_demo_and_its_sidecar() {
    let demo = Demo::start();
    let [app, ..] = &demo.countersign;
    let app: std::net::SocketAddr = app.trim_start_matches("http://").parse().unwrap();
    assert!(client::fetch(app, "/openapi.json").is_ok());
    signal(&demo.process, "HUP");
    crate::harness::eventually("the sidecar's port is free", SOON, || {
        client::fetch(app, "/openapi.json").is_err()
    });
    drop(demo);
}

#[test]
fn a_taken_port_names_its_holder_and_the_option_that_helps() {
    // Whoever holds it: another demo, or this listener.
    let held = std::net::TcpListener::bind("127.0.0.1:8090");
    let output = command().arg("demo").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(
        said.contains("--free-ports") && said.contains("listens there"),
        "{said}"
    );
    drop(held);
}
