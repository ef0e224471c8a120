//! The configuration that the docs show, each loaded by what it is for: `check`, nginx, systemd, Prometheus.

use super::{Class, of, the};
use crate::harness::{KEY, Sidecar, binary, command, free_port, is_installed, merchant, skip};
use crate::harness::{MERID, eventually};
use crate::shop::{Payment, SOON, Shop, acknowledged, callback};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use toml::{Table, Value};

/// Puts the keys of one table over those of another, section by section.
fn layered(mut below: Table, above: Table) -> Table {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => {
                *under = layered(std::mem::take(under), over);
            }
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
    below
}

/// Has `check` judge both files, each a minimal one below the text.
#[track_caller]
fn is_accepted(place: &str, settings: &str, merchants: &str) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let over = |below: &str, text: &str| {
        let [below, above] = [below, text].map(|text| text.parse::<Table>().unwrap());
        layered(below, above).to_string()
    };
    let minimal = "[platform]\nurl = \"https://pay.example.com\"\n";
    write("countersign.toml", &over(minimal, settings));
    write("merchants.toml", &over(&merchant(MERID, KEY), merchants));
    // What the examples name.
    write("100000000000001.key", KEY);
    write("back.token", "0123456789abcdef0123456789abcdef");
    write("proxy.password", "tunnel");
    let output = command()
        .args(["check", "--files", "-c"])
        .arg(folder.path().join("countersign.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{place}: {output:?}");
}

#[test]
fn check_accepts_every_piece_of_settings() {
    let blocks = of(Class::Settings);
    assert!(blocks.len() >= 4, "{blocks:?}");
    for (page, block) in blocks {
        is_accepted(&page, &block.text(), "");
    }
}

#[test]
fn check_accepts_every_piece_of_a_merchants_file() {
    for (page, block) in of(Class::Merchants) {
        is_accepted(&page, "", &block.text());
    }
}

#[test]
#[should_panic(expected = "unknown")]
fn a_piece_with_an_unknown_key_is_not_accepted() {
    is_accepted("unknown", "[inbox]\nstroe = \"sqlite:x.db\"\n", "");
}

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its children end with their parent's TERM.
        let pid = self.0.id().to_string();
        drop(Command::new("kill").args(["-TERM", &pid]).status());
        drop(self.0.wait());
    }
}

fn nginx_with(location: &str, listen: SocketAddr, folder: &Path) -> Nginx {
    let at = folder.display();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/{name};"))
        .concat();
    let text = format!(
        "daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes 1;\nevents {{}}\n\
         http {{ access_log off; {paths}\nserver {{ listen {listen};\n{location}\n}} }}\n"
    );
    fs::write(folder.join("conf"), text).unwrap();
    let program = if is_installed("nginx") {
        "nginx"
    } else {
        "/usr/sbin/nginx"
    };
    let mut nginx = Command::new(program);
    nginx
        .args(["-e", "error.log", "-c", "conf", "-p"])
        .arg(folder);
    Nginx(nginx.spawn().unwrap())
}

#[test]
fn a_callback_comes_through_nginx() {
    if !is_installed("nginx") && !Path::new("/usr/sbin/nginx").exists() {
        return skip("a_callback_comes_through_nginx", "nginx is not installed");
    }
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut shop = Shop::with(
        |_| crate::shop::taken(),
        |conf| conf.callbacks = Some("trust_forwarded_from = [\"127.0.0.1\"]".to_owned()),
    );
    let callbacks = shop.sidecar.setup.callbacks;
    let location = the(Class::Nginx).text();
    assert!(location.contains("http://127.0.0.1:8081;"), "{location}");
    let location = location.replace("127.0.0.1:8081", &callbacks.to_string());
    let folder = tempfile::tempdir().unwrap();
    let _nginx = nginx_with(&location, listen, folder.path());
    eventually("nginx listens", SOON, || TcpStream::connect(listen).is_ok());
    let payment = Payment::of(&shop.order());
    acknowledged(&callback(listen, payment.form()));
    shop.sidecar.kill();
}

#[test]
fn systemd_takes_the_drop_in() {
    if !is_installed("systemd-analyze") {
        let name = "systemd_takes_the_drop_in";
        return skip(name, "systemd-analyze is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = binary().display().to_string();
    let unit = include_str!("../../../conf/systemd/countersign.service");
    let unit = unit.replace("/usr/bin/countersign", &path);
    fs::write(folder.path().join("countersign.service"), unit).unwrap();
    let drop_ins = folder.path().join("countersign.service.d");
    fs::create_dir(&drop_ins).unwrap();
    let verify = |drop_in: &str| {
        fs::write(drop_ins.join("override.conf"), drop_in).unwrap();
        Command::new("systemd-analyze")
            .args(["verify", "countersign.service"])
            .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
            .output()
            .unwrap()
    };
    let drop_in = the(Class::DropIn).text();
    assert_eq!(drop_in.matches("/usr/bin/countersign ").count(), 2);
    let output = verify(&drop_in.replace("/usr/bin/countersign", &path));
    let is_clean = output.status.success() && output.stderr.is_empty();
    assert!(is_clean, "{output:?}");
    // The neighbour shows that the drop-in was read at all.
    let output = verify("[Service]\nExecReload=\nExecRelaod=/usr/bin/true\n");
    assert!(!output.stderr.is_empty(), "{output:?}");
}

#[test]
fn promtool_takes_the_scrape_job() {
    let job = the(Class::Scrape).text();
    assert!(job.contains("job_name: countersign"), "{job}");
    if !is_installed("promtool") {
        let name = "promtool_takes_the_scrape_job";
        return skip(name, "promtool is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    fs::write(&file, job).unwrap();
    let output = Command::new("promtool")
        .args(["check", "config"])
        .arg(&file)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_broken_merchants_file_is_reported_as_shown() {
    let sidecar = Sidecar::start(|_| {});
    let file = sidecar.merchants_file();
    let mut text = fs::read_to_string(file).unwrap();
    while text.lines().count() < 5 {
        text.push('\n');
    }
    fs::write(file, text + "old_keys\n").unwrap();
    let [exchange] = super::exchanges(&the(Class::BrokenReload))
        .try_into()
        .ok()
        .unwrap();
    let shown = exchange.output.concat();
    let reply = sidecar.reload().text();
    let path = file.display().to_string();
    assert_eq!(
        reply.trim(),
        shown.replace("/etc/countersign/merchants.toml", &path)
    );
}
