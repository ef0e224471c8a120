//! A network whose only way out is a proxy: tinyproxy and squid, with and without credentials.

use crate::harness::{
    KEY, MERID, ORDERID, Setup, Sidecar, command, eventually, free_port, fresh_orderid,
    is_installed, query_json, skip, submit_json,
};
use crate::platform::{Platform, honestly};
use crate::shop::SOON;
use crate::tls::{Authority, server_of};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

const USER: &str = "shop";
const PASSWORD: &str = "geheim-7";

/// A proxy that is ready, until it is dropped.
struct Proxy {
    port: u16,
    child: Child,
    _folder: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tinyproxy,
    Squid,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Tinyproxy, Self::Squid];

    fn program(self) -> &'static str {
        match self {
            Self::Tinyproxy => "tinyproxy",
            Self::Squid => "squid",
        }
    }

    fn program_path(self) -> Option<String> {
        let sbin = format!("/usr/sbin/{}", self.program());
        if is_installed(self.program()) {
            return Some(self.program().to_owned());
        }
        fs::exists(&sbin).unwrap().then_some(sbin)
    }

    /// Starts it; with credentials it passes nothing on for anyone else.
    fn start(self, test: &str, with_credentials: bool) -> Option<Proxy> {
        let Some(program) = self.program_path() else {
            skip(test, &format!("{} is not installed", self.program()));
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        // squid changes its user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let (port, at) = (free_port(), folder.path().display().to_string());
        let conf = folder.path().join("proxy.conf");
        let (text, arguments) = match self {
            Self::Tinyproxy => {
                let auth = format!("BasicAuth {USER} {PASSWORD}\n");
                let auth = if with_credentials { auth.as_str() } else { "" };
                let text =
                    format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\n{auth}");
                (text, ["-d", "-c"].as_slice())
            }
            Self::Squid => {
                let helper = folder.path().join("auth.sh");
                let script = format!(
                    "#!/bin/sh\nwhile read -r u p; do\n  if [ \"$u $p\" = \"{USER} {PASSWORD}\" ]; then echo OK; else echo ERR; fi\ndone\n"
                );
                fs::write(&helper, script).unwrap();
                fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
                let access = match with_credentials {
                    true => format!(
                        "auth_param basic program {at}/auth.sh\nauth_param basic children 1\nacl known proxy_auth REQUIRED\nhttp_access allow known\n"
                    ),
                    false => "http_access allow all\n".to_owned(),
                };
                let text = format!(
                    "http_port 127.0.0.1:{port}\npid_filename none\ncache deny all\naccess_log none\ncache_log {at}/cache.log\ncoredump_dir {at}\nshutdown_lifetime 0 seconds\n{access}http_access deny all\n"
                );
                (text, ["-N", "-f"].as_slice())
            }
        };
        fs::write(&conf, text).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let proxy = Proxy {
            port,
            child,
            _folder: folder,
        };
        eventually("the proxy listens", SOON, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Some(proxy)
    }
}

fn tls(authority: &Authority, name: &str) -> Arc<rustls::ServerConfig> {
    let [certificate, key] = authority.files(&[name]);
    server_of(&certificate, &key)
}

/// A plain platform and one behind TLS, each with the setting that is needed for it.
fn platforms(authority: &Authority) -> [Platform; 2] {
    let honest = || honestly(&[(MERID, KEY)]);
    [
        Platform::start(honest()),
        Platform::start_tls(tls(authority, "127.0.0.1"), honest()),
    ]
}

fn before(platform: &Platform, authority: &Authority, way: String) -> Sidecar {
    Sidecar::start(|conf| {
        conf.platform = platform.url();
        conf.ca_file = Some(authority.file());
        conf.way = way;
        conf.timeout = "5s";
    })
}

#[track_caller]
fn works(what: &str, sidecar: &Sidecar) {
    for _ in 0..6 {
        let answer = sidecar.query(query_json(MERID, ORDERID));
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }
    let answer = sidecar.submit(submit_json(&fresh_orderid()));
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
}

/// Each call is rejected, certainly unsent, with these words.
#[track_caller]
fn fails(what: &str, sidecar: &Sidecar, words: &[&str]) {
    let problem =
        sidecar
            .submit(submit_json(&fresh_orderid()))
            .problem(502, "platform-unreachable", "no");
    let detail = problem["detail"].as_str().unwrap();
    for word in words {
        assert!(detail.contains(word), "{what}: {word:?} is not in {detail}");
    }
    assert!(!sidecar.output().contains("geheim"), "{what}");
}

#[test]
fn calls_go_through_the_proxy_and_nowhere_else() {
    let test = "calls_go_through_the_proxy_and_nowhere_else";
    let authority = Authority::new("platform's");
    for kind in Kind::ALL {
        let platforms = platforms(&authority);
        for platform in &platforms {
            let Some(proxy) = kind.start(test, false) else {
                continue;
            };
            let way = format!("proxy = \"http://127.0.0.1:{}\"", proxy.port);
            let what = format!("{kind:?} {}", platform.url());
            let sidecar = before(platform, &authority, way);
            works(&what, &sidecar);
            // tinyproxy closes after each plain request.
            let is_kept = platform.url().starts_with("https") || matches!(kind, Kind::Squid);
            let reused = sidecar.metrics().sum(&["connections", "reused"]);
            assert!(
                !is_kept || reused >= 4.0,
                "{what}: {reused} connections reused"
            );
            let port = proxy.port;
            drop(proxy);
            let gone = [
                format!("proxy http://127.0.0.1:{port}"),
                "connection refused".into(),
            ];
            // A tunnel that was open may still be found dead.
            eventually("the proxy is gone", SOON, || {
                sidecar.submit(submit_json(&fresh_orderid())).status != 200
                    && sidecar.submit(submit_json(&fresh_orderid())).json()["sent"] == "no"
            });
            fails(&what, &sidecar, &gone.each_ref().map(String::as_str));
        }
    }
}

#[test]
fn a_proxy_that_wants_credentials_gets_them_from_the_setting_or_a_file() {
    let test = "a_proxy_that_wants_credentials_gets_them_from_the_setting_or_a_file";
    let authority = Authority::new("platform's");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    for kind in Kind::ALL {
        let Some(proxy) = kind.start(test, true) else {
            continue;
        };
        let at = format!("127.0.0.1:{}", proxy.port);
        for platform in &platforms(&authority) {
            let what = format!("{kind:?} {}", platform.url());
            for way in [
                format!("proxy = \"http://{USER}:geheim%2D7@{at}\""),
                format!("proxy = \"http://{USER}@{at}\"\nproxy_password_file = {file:?}"),
            ] {
                works(&what, &before(platform, &authority, way));
            }
            let seen = platform.count();
            let none = before(platform, &authority, format!("proxy = \"http://{at}\""));
            fails(
                &what,
                &none,
                &["407", "wants credentials", "proxy_password_file"],
            );
            let wrong = format!("proxy = \"http://{USER}:wrong@{at}\"");
            let wrong = before(platform, &authority, wrong);
            // tinyproxy says 401 to wrong ones, which a server says too.
            if !matches!(kind, Kind::Tinyproxy) {
                fails(&what, &wrong, &["407", "rejects the credentials"]);
            }
            assert_eq!(platform.count(), seen, "{what}: something was passed on");
        }
    }
}

#[test]
fn tls_is_verified_through_the_proxy() {
    let test = "tls_is_verified_through_the_proxy";
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger's"));
    for kind in Kind::ALL {
        let Some(proxy) = kind.start(test, false) else {
            continue;
        };
        let way = format!("proxy = \"http://127.0.0.1:{}\"", proxy.port);
        for (config, words) in [
            (tls(&stranger, "127.0.0.1"), "unknown issuer"),
            (tls(&authority, "other.test"), "not valid for name"),
        ] {
            let platform = Platform::start_tls(config, honestly(&[(MERID, KEY)]));
            let sidecar = before(&platform, &authority, way.clone());
            fails(
                words,
                &sidecar,
                &["TLS failed: 127.0.0.1 through http://127.0.0.1", words],
            );
            assert_eq!(platform.count(), 0);
        }
        // A server that is not there is the proxy's to report.
        let sidecar = Sidecar::start(|conf| {
            conf.platform = format!("https://127.0.0.1:{}", free_port());
            conf.way.clone_from(&way);
        });
        fails(
            "nobody",
            &sidecar,
            &[
                "proxy http://127.0.0.1",
                "status 50",
                "cannot reach 127.0.0.1",
            ],
        );
    }
}

/// An address of this machine that is not its loopback.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
        _ => None,
    }
}

#[test]
fn the_usual_variables_are_followed_and_check_says_so() {
    let test = "the_usual_variables_are_followed_and_check_says_so";
    let Some(own) = own_address() else {
        return skip(test, "this machine has no address but its loopback");
    };
    let Some(proxy) = Kind::Tinyproxy.start(test, false) else {
        return;
    };
    let authority = Authority::new("platform's");
    let through = format!("http://127.0.0.1:{}", proxy.port);
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let start = |url: String, variables: &[(&str, &str)]| {
        let setup = Setup::new(|conf| {
            conf.platform = url;
            conf.ca_file = Some(authority.file());
        });
        let mut check = command();
        check.args(["check", "-c"]).arg(setup.conf_file());
        let assignments: Vec<_> = variables.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let output = check.envs(variables.iter().copied()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let mut wrapper = vec!["env"];
        wrapper.extend(assignments.iter().map(String::as_str));
        let sidecar = setup.start_in(&wrapper);
        (sidecar, String::from_utf8_lossy(&said).into_owned())
    };
    let at = SocketAddr::from((own, free_port()));
    let plain = Platform::start_at(at, honestly(&[(MERID, KEY)]));
    let no_proxy = format!("other.test,{own}/32");
    for (variables, way, is_reached) in [
        (
            [("HTTP_PROXY", through.as_str()), ("A", "b")],
            "through the proxy",
            true,
        ),
        (
            [("http_proxy", &through), ("HTTP_PROXY", &nowhere)],
            "(http_proxy)",
            true,
        ),
        (
            [("HTTP_PROXY", &nowhere), ("A", "b")],
            "(HTTP_PROXY)",
            false,
        ),
        (
            [("HTTP_PROXY", &nowhere), ("NO_PROXY", &no_proxy)],
            "directly (NO_PROXY)",
            true,
        ),
        (
            [("HTTPS_PROXY", &nowhere), ("A", "b")],
            "HTTPS_PROXY is not used",
            true,
        ),
        (
            [("HTTP_PROXY", "socks5://127.0.0.1:1"), ("A", "b")],
            "HTTP_PROXY is not used",
            true,
        ),
    ] {
        let (sidecar, said) = start(plain.url(), &variables);
        assert!(said.contains(way), "{variables:?}: {said}");
        let status = sidecar.query(query_json(MERID, ORDERID)).status;
        assert_eq!(status == 200, is_reached, "{variables:?}");
    }
    // A platform on this machine is reached without one.
    let here = Platform::start(honestly(&[(MERID, KEY)]));
    let (sidecar, said) = start(here.url(), &[("HTTP_PROXY", &nowhere)]);
    assert!(said.contains("on this machine"), "{said}");
    works("on this machine", &sidecar);
}
