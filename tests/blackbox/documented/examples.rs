//! The programs and sessions that the docs show, run as they are written.

use super::markdown::Block;
use super::{Class, exchanges, the};
use crate::demo::Demo;
use crate::harness::{KEY, MERID, binary, command, eventually, free_port, is_installed, skip};
use crate::platform::Platform;
use crate::shop::{Payment, SOON, Shop, acknowledged, merchant_at, taken};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A shop whose app listens at this URL and knows the token.
fn shop_before(app: &str) -> Shop {
    let elsewhere = Platform::start(|_| taken());
    let book = crate::shop::Book::default();
    let pages = book.clone();
    let platform = Platform::start(move |seen| pages.reply(seen));
    Shop::between(book, platform, elsewhere, |conf| {
        let merchant = merchant_at(app, MERID, KEY);
        conf.merchants = format!("{}\nback_token = \"{TOKEN}\"\n", merchant.trim_end());
    })
}

#[test]
fn an_app_receives_what_the_readme_shows() {
    let app = Platform::start(|_| taken());
    let shop = shop_before(&app.url());
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    app.wait_for(1);
    let seen = app.last();
    let Block { lines, .. } = the(Class::Delivery);
    let (head, body) = lines.split_at(lines.iter().position(String::is_empty).unwrap());
    let request = format!("{} {} HTTP/1.1", seen.method, seen.target);
    assert_eq!(head[0], request);
    let documented: Vec<_> = head[1..]
        .iter()
        .map(|line| line.split_once(": ").unwrap())
        .collect();
    assert!(documented.len() >= 6, "{documented:?}");
    for (name, value) in documented {
        let sent = seen.header(name).unwrap_or_else(|| panic!("no {name}"));
        match name {
            "countersign-event" => {
                let is_id = |it: &str| it.len() == 32 && it.bytes().all(|b| b.is_ascii_hexdigit());
                assert!(is_id(sent) && is_id(value), "{sent}");
            }
            _ => assert_eq!(sent, value, "{name}"),
        }
    }
    let fields = |text: &str| {
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        let fields = json.as_object().unwrap().iter();
        fields
            .map(|(name, value)| (name.clone(), value.is_string()))
            .collect::<Vec<_>>()
    };
    assert_eq!(fields(&body.concat()), fields(&seen.form()));
}

/// An app of the docs, ended on drop.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_php_that_takes_a_result_takes_it_once_and_from_countersign_alone() {
    let name = "the_php_that_takes_a_result_takes_it_once_and_from_countersign_alone";
    if !is_installed("php") {
        return skip(name, "php is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("back.php");
    // The app's own part: it books an id once.
    let book = "<?php function book_once($id, $order, $cents, $result) {\n\
        file_put_contents(__DIR__.\"/$id.booked\", \"$order $cents $result\"); }\n";
    fs::write(&script, format!("{book}{}", the(Class::PhpBack).text())).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let child = Command::new("php")
        .args(["-d", "display_errors=1", "-S", &address.to_string()])
        .arg(&script)
        .env("BACK_TOKEN", TOKEN)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _app = Served(child.unwrap());
    eventually("PHP listens", 2 * SOON, || {
        TcpStream::connect(address).is_ok()
    });
    let shop = shop_before(&format!("http://{address}"));
    let payment = Payment::of(&shop.order());
    let forged = Payment::of("FORGED000001").json();
    let wrong = "countersign-token: 0123456789abcdef0123456789abcdee";
    for token in [&[][..], &[wrong]] {
        let more = [token, &["countersign-event: 0badcafe"]].concat();
        let reply = crate::client::post_with(address, "/pay/back", &more, &forged);
        assert_eq!(reply.status, 403, "{token:?}: {reply:?}");
    }
    acknowledged(&shop.notify(&payment));
    shop.listed(&payment.orderid, "delivered");
    let files = fs::read_dir(folder.path()).unwrap();
    let booked = files.map(|entry| entry.unwrap().path());
    let booked: Vec<_> = booked
        .filter(|path| path.extension().is_some_and(|kind| kind == "booked"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(booked, [format!("{} 1280 0000", payment.orderid)]);
}

#[test]
fn explain_prints_what_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let here = binary().parent().unwrap().display().to_string();
    for exchange in exchanges(&the(Class::Exact)) {
        let output = Command::new("sh")
            .args(["-c", &exchange.command])
            .current_dir(&folder)
            .env("PATH", format!("{here}:{path}"))
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(lines, exchange.output, "{}", exchange.command);
    }
}

/// A line with its figures as `#`, so that orders, sizes and ports of one day are those of another.
fn without_figures(line: &str) -> String {
    let mut kept = String::new();
    for word in line.split_inclusive(' ') {
        if word.starts_with("CONF") {
            kept += "CONF# ";
            continue;
        }
        let mut digits = false;
        for c in word.chars() {
            if !c.is_ascii_digit() {
                kept.push(c);
            } else if !digits {
                kept.push('#');
            }
            digits = c.is_ascii_digit();
        }
    }
    kept
}

#[test]
fn the_conformance_run_against_the_demo_s_shop_is_as_shown() {
    let demo = Demo::start();
    let [app, callbacks, admin] = &demo.countersign;
    let [exchange] = exchanges(&the(Class::Conformance)).try_into().ok().unwrap();
    let words = exchange.command.replace("http://127.0.0.1:8081", callbacks);
    let mut run = command();
    run.args(words.split(' ').skip(1)).args([
        "--app",
        app,
        "--admin",
        admin,
        "--restart-command",
        "true",
    ]);
    let output = run.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<_> = printed.lines().map(without_figures).collect();
    let shown = exchange.output.iter();
    // The prompt is for a terminal.
    let shown: Vec<_> = shown
        .filter(|line| !line.starts_with("restart the sidecar"))
        .map(|line| without_figures(line))
        .collect();
    assert_eq!(printed, shown);
}

#[test]
fn the_copy_of_a_running_store_is_whole() {
    if !is_installed("sqlite3") {
        let name = "the_copy_of_a_running_store_is_whole";
        return skip(name, "sqlite3 is not installed");
    }
    let shop = Shop::with(
        |_| taken(),
        |conf| conf.store = Some("sqlite:countersign.db".to_owned()),
    );
    let payment = Payment::of(&shop.order());
    acknowledged(&shop.notify(&payment));
    let folder = tempfile::tempdir().unwrap();
    let backups = folder.path().display().to_string();
    let store = shop.sidecar.setup.folder.path().join("countersign.db");
    let typed = the(Class::Backup).text();
    assert!(typed.contains("VACUUM INTO"), "{typed}");
    let typed = typed
        .replace(
            "/var/lib/countersign/countersign.db",
            &store.display().to_string(),
        )
        .replace("/var/backups", &backups);
    let count = format!("\nsqlite3 {backups}/countersign.db 'SELECT count(*) FROM events'");
    let output = Command::new("sh").args(["-ec", &(typed + &count)]).output();
    let output = output.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, "ok\n1\n", "{output:?}");
}
