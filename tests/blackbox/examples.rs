//! The programs in `conf/examples/`: each tells the outcomes of a call apart, and takes a result once, from Countersign alone.

use crate::client;
use crate::harness::{KEY, MERID, eventually, free_port, is_installed, skip};
use crate::platform::{Action, Platform, Seen, enveloped, honestly};
use crate::shop::{Payment, SOON, Shop, acknowledged, merchant_at, taken};
use crate::wire;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// An order that the platform does not know.
const MISSING: &str = "NOSUCHORDER1";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf/examples")
        .join(name)
}

/// A program, and how it is started for calls and for taking results.
struct Program {
    call: Vec<String>,
    serve: Box<dyn Fn(u16) -> Vec<String>>,
}

impl Program {
    fn of(words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let call = words.clone();
        Self {
            call,
            serve: Box::new(move |port| {
                let serve = ["serve".to_owned(), port.to_string()];
                [words.clone(), serve.to_vec()].concat()
            }),
        }
    }
}

fn command(words: &[String], countersign: SocketAddr, orders: &Path) -> Command {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .env("COUNTERSIGN", format!("http://{countersign}"))
        .env("BACK_TOKEN", TOKEN)
        .env("ORDERS", orders)
        // What a company's machine may have: the programs must not use it for this machine.
        .env("http_proxy", "http://127.0.0.1:1")
        .stdin(Stdio::null());
    command
}

/// An app of the example, ended on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn platform(seen: &Seen) -> Action {
    if seen.member("orderid") == MISSING {
        let failed = r#"{"respcode":"25","respmsg":"no such order"}"#;
        return Action::Reply(enveloped(wire::answer(failed, KEY)));
    }
    honestly(&[(MERID, KEY)])(seen)
}

fn works(program: &Program) {
    let orders = TempDir::new().unwrap();
    let port = free_port();
    let app = Platform::start(|_| taken());
    let shop = Shop::between(Default::default(), Platform::start(platform), app, |conf| {
        let app = format!("http://127.0.0.1:{port}");
        let merchant = merchant_at(&app, MERID, KEY);
        conf.merchants = format!("{}\nback_token = \"{TOKEN}\"\n", merchant.trim_end());
    });
    tells_the_outcomes_apart(program, shop.sidecar.app(), orders.path());
    takes_results(program, &shop, port, orders.path());
}

#[track_caller]
fn tells_the_outcomes_apart(program: &Program, countersign: SocketAddr, orders: &Path) {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for (at, arguments, said) in [
        (
            countersign,
            &["query", "ORD2017030100000001"][..],
            "paid: ORD2017030100000001 1280",
        ),
        (
            countersign,
            &["query", MISSING],
            "platform: 25 no such order",
        ),
        (
            countersign,
            &["query", "short"],
            "rejected: invalid-field, sent no",
        ),
        (
            countersign,
            &["submit", "EXAMPLE00001", "1280"],
            "page for the customer",
        ),
        (
            countersign,
            &["submit", "EXAMPLE00001", "1"],
            "rejected: order-conflict, sent no",
        ),
        (
            nobody,
            &["submit", "EXAMPLE00002", "1"],
            "rejected: no-answer, sent unknown",
        ),
    ] {
        let words: Vec<_> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let words = [program.call.clone(), words].concat();
        let output = command(&words, at, orders).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert_eq!(printed.trim(), said, "{words:?}: {complaints}");
        assert_eq!(complaints, "", "{words:?}");
    }
}

#[track_caller]
fn takes_results(program: &Program, shop: &Shop, port: u16, orders: &Path) {
    let words = (program.serve)(port);
    let mut serve = command(&words, shop.sidecar.app(), orders);
    let child = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _server = Server(child.unwrap());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the app listens", 2 * SOON, || {
        std::net::TcpStream::connect(address).is_ok()
    });
    let forged = Payment::of("FORGED000001").json();
    for token in [
        "",
        "countersign-token: 0123456789abcdef0123456789abcdee\r\n",
    ] {
        let request = format!(
            "POST /pay/back HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{token}\
             countersign-event: 0badcafe\r\nContent-Length: {}\r\n\r\n{forged}",
            forged.len()
        );
        let mut connection = client::Connection::open(address).unwrap();
        let response = connection.exchange(request).unwrap();
        assert_eq!(response.status, 403, "{token:?}: {response:?}");
    }
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    shop.listed(&payment.orderid, "delivered");
    let output = shop.inbox(&[
        "replay",
        crate::shop::id_of(&shop.listed(&payment.orderid, "")),
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    shop.listed(&payment.orderid, "delivered");
    let booked: Vec<_> = fs::read_dir(orders)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(booked, [format!("{} 1280 0000 current\n", payment.orderid)]);
}

#[test]
fn the_php_example_works() {
    if !is_installed("php") {
        return skip("the_php_example_works", "php is not installed");
    }
    let back = example("back.php").display().to_string();
    works(&Program {
        call: vec!["php".to_owned(), example("pay.php").display().to_string()],
        serve: Box::new(move |port| {
            let address = format!("127.0.0.1:{port}");
            ["php", "-S", &address, &back].map(str::to_owned).to_vec()
        }),
    });
}

#[test]
fn the_python_example_works() {
    if !is_installed("python3") {
        return skip("the_python_example_works", "python3 is not installed");
    }
    works(&Program::of(&[
        "python3",
        &example("pay.py").display().to_string(),
    ]));
}

#[test]
fn the_node_example_works() {
    if !is_installed("node") {
        return skip("the_node_example_works", "node is not installed");
    }
    works(&Program::of(&[
        "node",
        &example("pay.js").display().to_string(),
    ]));
}

#[test]
fn the_java_example_works() {
    if !is_installed("javac") {
        return skip("the_java_example_works", "no Java compiler is installed");
    }
    let classes = TempDir::new().unwrap();
    let compiled = Command::new("javac")
        .args(["-Xlint:-options", "--release", "8", "-d"])
        .arg(classes.path())
        .arg(example("Pay.java"))
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    let classes = classes.path().display().to_string();
    works(&Program::of(&["java", "-cp", &classes, "Pay"]));
}

#[test]
fn the_go_example_compiles() {
    if !is_installed("go") {
        return skip("the_go_example_compiles", "go is not installed");
    }
    let checked = Command::new("go")
        .arg("vet")
        .arg(example("pay.go"))
        .output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn the_dotnet_example_compiles() {
    if !is_installed("dotnet") {
        return skip("the_dotnet_example_compiles", "dotnet is not installed");
    }
    let folder = TempDir::new().unwrap();
    let project = "<Project Sdk=\"Microsoft.NET.Sdk\"><PropertyGroup><OutputType>Exe</OutputType>\
        <TargetFramework>net8.0</TargetFramework><Nullable>annotations</Nullable></PropertyGroup></Project>";
    fs::write(folder.path().join("pay.csproj"), project).unwrap();
    fs::copy(example("Pay.cs"), folder.path().join("Program.cs")).unwrap();
    let built = Command::new("dotnet")
        .arg("build")
        .current_dir(folder.path())
        .output();
    let built = built.unwrap();
    assert!(built.status.success(), "{built:?}");
}
