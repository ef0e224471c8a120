//! The egress proxy: which connections take it, and how one is opened through it.
//!
//! An https server is reached through a tunnel (`CONNECT`, RFC 9110 §9.3.6), in which TLS is verified as without a proxy.
//! Requests to a plain http server go to the proxy in absolute form (RFC 9112 §3.2.2). The variables are read as curl
//! and Go read them, and a server on this machine is never reached through a proxy that they name.

use std::fmt::Write as _;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Response, Status};
use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::{Host, Position, Url};
use zeroize::Zeroizing;

use super::response::MAX_FIELDS;
use crate::config::proxy::{ProxyAddress, ProxySetting};
use crate::config::web_url;

/// Bytes of a proxy's response to `CONNECT`, which has no body where it opens a tunnel.
const MAX_HEAD: usize = 16 * 1024;
/// Bytes that are read at once of it.
const READ_SIZE: usize = 1024;

/// The way to one server: straight, or through a proxy.
#[derive(Debug, Default)]
pub struct EgressWay {
    /// The proxy, where there is one.
    pub proxy: Option<ProxyAddress>,
    /// The setting or variable that decided.
    reason: &'static str,
    /// Variables that are set and not used.
    pub warnings: Vec<String>,
}

impl EgressWay {
    /// Chooses the way to the server of `url`. `variable` reads the environment.
    pub fn choose(
        setting: &ProxySetting,
        url: &Url,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        match setting {
            ProxySetting::Through(proxy) => Self {
                proxy: Some(proxy.clone()),
                reason: "platform.proxy",
                warnings: Vec::new(),
            },
            ProxySetting::Direct => Self {
                reason: "platform.proxy is \"none\"",
                ..Self::default()
            },
            ProxySetting::FromEnvironment => Self::of_environment(url, variable),
        }
    }

    fn of_environment(url: &Url, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        // curl ignores HTTP_PROXY, which a web server sets for a CGI program from a request's `Proxy` field (httpoxy).
        // This is no CGI program, and Go reads both.
        let (names, other) = match url.scheme() {
            "https" => (["https_proxy", "HTTPS_PROXY"], ["http_proxy", "HTTP_PROXY"]),
            _ => (["http_proxy", "HTTP_PROXY"], ["https_proxy", "HTTPS_PROXY"]),
        };
        let set = |names: [&'static str; 2]| {
            let value = |name| variable(name).filter(|value| !value.trim().is_empty());
            names
                .into_iter()
                .find_map(|name| value(name).map(|value| (name, value)))
        };
        let mut way = Self::default();
        // Go does so too: a proxy elsewhere cannot reach this machine's loopback.
        if web_url::is_loopback(url) {
            way.reason = "the platform is on this machine";
            return way;
        }
        let all = set(["all_proxy", "ALL_PROXY"]).map(|(name, _)| name);
        let Some((name, value)) = set(names) else {
            let unused = set(other).map(|(name, _)| name).into_iter().chain(all);
            let scheme = url.scheme();
            way.warnings = unused
                .map(|name| {
                    format!(
                        "{name} is not used: platform.url is {scheme}; expected {} or platform.proxy",
                        names[1]
                    )
                })
                .collect();
            return way;
        };
        let [lower, upper] = ["no_proxy", "NO_PROXY"];
        let excluded = set([lower, upper]).is_some_and(|(_, list)| is_excluded(&list, url));
        if excluded {
            way.reason = "NO_PROXY";
            return way;
        }
        match ProxyAddress::parse(value.trim()) {
            Ok(proxy) => {
                way.proxy = Some(proxy);
                way.reason = name;
            }
            // The value may hold a password.
            Err(_) => way.warnings.push(format!(
                "{name} is not used: expected \"http://HOST:PORT\" or \"http://USER:PASSWORD@HOST:PORT\""
            )),
        }
        way
    }

    /// Says which way is taken and why, without credentials.
    pub fn describe(&self) -> String {
        match (&self.proxy, self.reason) {
            (Some(proxy), reason) => format!("through the proxy {proxy} ({reason})"),
            (None, "") => "directly".to_owned(),
            (None, reason) => format!("directly ({reason})"),
        }
    }
}

/// Returns true where an entry of `NO_PROXY` covers the server: `*`, a host, a domain with its subdomains, an address or
/// a network, each with or without a port.
fn is_excluded(list: &str, url: &Url) -> bool {
    let port = url.port_or_known_default();
    let entries = list.split([',', ' ', '\t']).map(str::trim);
    let mut entries = entries.filter(|entry| !entry.is_empty());
    entries.any(|entry| {
        if entry == "*" {
            return true;
        }
        let (host, own_port) = with_port(entry);
        let port_fits = own_port.is_none() || own_port == port;
        port_fits && covers(host, url)
    })
}

/// Splits a port off an entry; an IPv6 address has one only behind brackets.
fn with_port(entry: &str) -> (&str, Option<u16>) {
    let split = entry.rsplit_once(':').filter(|(host, _)| {
        let is_ipv6 = host.contains(':');
        !is_ipv6 || host.ends_with(']')
    });
    // curl takes both "::1" and "[::1]".
    match split.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => (host.trim_matches(['[', ']']), Some(port)),
        None => (entry.trim_matches(['[', ']']), None),
    }
}

fn covers(entry: &str, url: &Url) -> bool {
    let address: IpAddr = match url.host() {
        Some(Host::Ipv4(ip)) => ip.into(),
        Some(Host::Ipv6(ip)) => ip.into(),
        Some(Host::Domain(name)) => return covers_name(entry, name),
        None => return false,
    };
    let network = entry.parse::<IpNet>();
    entry.parse() == Ok(address) || network.is_ok_and(|network| network.contains(&address))
}

fn covers_name(entry: &str, name: &str) -> bool {
    // A leading dot covers the domain itself too, as for curl; for Go it would cover subdomains alone.
    let entry = entry.trim_start_matches('*').trim_matches('.');
    let name = name.trim_end_matches('.');
    let Some(at) = name.len().checked_sub(entry.len()) else {
        return false;
    };
    let is_suffix = name.is_char_boundary(at) && name[at..].eq_ignore_ascii_case(entry);
    !entry.is_empty() && is_suffix && (at == 0 || name.as_bytes()[at - 1] == b'.')
}

/// A proxy on the way to one server.
pub struct Hop {
    /// Its address as messages show it.
    pub shown: String,
    /// The server behind it, as `CONNECT` names it.
    target: String,
    /// True for an https server, which gets a tunnel.
    pub is_tunnel: bool,
    /// The value of `Proxy-Authorization`.
    authorization: Option<Zeroizing<String>>,
}

impl Hop {
    /// A way through `proxy` to the server of `url`.
    pub fn new(proxy: &ProxyAddress, url: &Url) -> Self {
        let authorization = proxy.credentials.as_ref().map(|known| {
            // RFC 7617 §2.
            let pair = Zeroizing::new(format!("{}:{}", known.user, known.password()));
            Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
        });
        let host = &url[Position::BeforeHost..Position::AfterHost];
        // `CONNECT` has no default port (RFC 9110 §9.3.6).
        let port = url.port_or_known_default().unwrap_or(443);
        Self {
            shown: proxy.to_string(),
            target: format!("{host}:{port}"),
            is_tunnel: url.scheme() == "https",
            authorization,
        }
    }

    /// The header lines that each request in absolute form needs.
    pub fn request_lines(&self) -> Zeroizing<String> {
        let lines = self.authorization.as_ref();
        let lines = lines.map(|value| format!("\r\nProxy-Authorization: {}", value.as_str()));
        Zeroizing::new(lines.unwrap_or_default())
    }

    /// Opens a tunnel to the server over a connection to the proxy.
    pub async fn tunnel(&self, stream: &mut TcpStream) -> Result<(), String> {
        let mut request = Zeroizing::new(format!(
            "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nUser-Agent: countersign/{1}",
            self.target,
            env!("CARGO_PKG_VERSION")
        ));
        // Writing to a string never fails.
        let _ = write!(request, "{}\r\n\r\n", self.request_lines().as_str());
        let written = stream.write_all(request.as_bytes()).await;
        let status = match written {
            Ok(()) => read_status(stream).await?,
            Err(error) => return Err(error.to_string()),
        };
        // Any 2xx opens the tunnel, and its length fields mean nothing (RFC 9110 §9.3.6).
        if (200..300).contains(&status) {
            return Ok(());
        }
        Err(self.explain(status))
    }

    /// Says what a proxy's status means for a connection through it.
    pub fn explain(&self, status: u16) -> String {
        let target = &self.target;
        match (status, &self.authorization) {
            (407, None) => format!(
                "status 407: it wants credentials; expected platform.proxy = \"http://USER@{}\" with \
                 platform.proxy_password_file",
                self.shown.trim_start_matches("http://")
            ),
            (407, Some(_)) => {
                "status 407: it rejects the credentials; check the user and the password".to_owned()
            }
            (403 | 405, _) => format!("status {status}: it does not allow CONNECT to {target}"),
            (500..=504, _) => format!("status {status}: it cannot reach {target}"),
            _ => format!("status {status} to CONNECT {target}; expected 200"),
        }
    }
}

/// Reads the head of a response to `CONNECT` and returns its status. Nothing may follow it: in a tunnel the client
/// speaks first.
async fn read_status(stream: &mut TcpStream) -> Result<u16, String> {
    let mut head = Vec::with_capacity(READ_SIZE);
    loop {
        match stream.read_buf(&mut head).await {
            Ok(0) => return Err("it closed the connection instead of opening a tunnel".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = Response::new(&mut fields);
        let parsed = response.parse(&head);
        let status = response.code.unwrap_or_default();
        match parsed {
            Ok(Status::Complete(_)) if !(200..300).contains(&status) => return Ok(status),
            // Further bytes would be lost to the TLS handshake, which reads from the socket.
            Ok(Status::Complete(length)) if length == head.len() => return Ok(status),
            Ok(Status::Complete(_)) => return Err("it sent bytes before the tunnel".to_owned()),
            Ok(Status::Partial) if head.len() < MAX_HEAD => {}
            _ => return Err("what came is not HTTP: is it an HTTP proxy?".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(url: &str, variables: &[(&str, &str)]) -> EgressWay {
        let url = Url::parse(url).unwrap();
        EgressWay::choose(&ProxySetting::FromEnvironment, &url, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_scheme_chooses_the_variable_and_lower_case_comes_first() {
        let both = [
            ("HTTPS_PROXY", "http://upper:1"),
            ("https_proxy", "http://lower:2"),
            ("HTTP_PROXY", "plain:3"),
        ];
        let chosen = |url, variables: &[(&str, &str)]| way(url, variables).describe();
        assert_eq!(
            chosen("https://pay.test", &both),
            "through the proxy http://lower:2 (https_proxy)"
        );
        assert_eq!(
            chosen("https://pay.test", &both[..1]),
            "through the proxy http://upper:1 (HTTPS_PROXY)"
        );
        assert_eq!(
            chosen("http://pay.test", &both),
            "through the proxy http://plain:3 (HTTP_PROXY)"
        );
        assert_eq!(chosen("https://pay.test", &[]), "directly");
        assert_eq!(
            chosen("https://pay.test", &[("HTTPS_PROXY", " ")]),
            "directly"
        );
        for here in [
            "http://127.0.0.1:9",
            "http://localhost:9",
            "http://localhost.:9",
            "http://pay.localhost:9",
            "http://[::1]:9",
        ] {
            let own = way(here, &both);
            assert!(own.proxy.is_none() && own.warnings.is_empty(), "{here}");
        }
    }

    #[test]
    fn a_variable_that_is_not_used_is_named_without_its_value() {
        for (name, value) in [
            ("HTTP_PROXY", "http://u:secret@p:1"),
            ("ALL_PROXY", "socks5://u:secret@p:1"),
            ("HTTPS_PROXY", "socks5://u:secret@p:1"),
            ("https_proxy", "https://u:secret@p:1"),
        ] {
            let way = way("https://pay.test", &[(name, value)]);
            assert!(way.proxy.is_none(), "{name}");
            let [warning] = way.warnings.as_slice() else {
                panic!("{name}: {:?}", way.warnings);
            };
            assert!(
                warning.starts_with(&format!("{name} is not used")),
                "{warning}"
            );
            assert!(!warning.contains("secret"), "{warning}");
        }
    }

    #[test]
    fn no_proxy_names_hosts_domains_addresses_networks_and_ports() {
        for (list, url, excluded) in [
            ("*", "https://pay.test", true),
            ("pay.test", "https://pay.test", true),
            ("PAY.test", "https://pay.test", true),
            ("pay.test", "https://api.pay.test", true),
            (".pay.test", "https://api.pay.test", true),
            (".pay.test", "https://pay.test", true),
            ("*.pay.test", "https://api.pay.test", true),
            ("pay.test", "https://notpay.test", false),
            ("api.pay.test", "https://pay.test", false),
            ("other.test, pay.test", "https://pay.test", true),
            ("other.test pay.test", "https://pay.test", true),
            ("pay.test:443", "https://pay.test", true),
            ("pay.test:8443", "https://pay.test", false),
            ("pay.test:8443", "https://pay.test:8443", true),
            ("203.0.113.7", "https://203.0.113.7", true),
            ("203.0.113.0/24", "https://203.0.113.7", true),
            ("203.0.113.0/24", "https://203.0.114.7", false),
            ("203.0.113.7:443", "https://203.0.113.7", true),
            ("2001:db8::/32", "https://[2001:db8::7]", true),
            ("2001:db8::7", "https://[2001:db8::7]", true),
            ("[2001:db8::7]:443", "https://[2001:db8::7]", true),
            ("[2001:db8::7]:444", "https://[2001:db8::7]", false),
            ("", "https://pay.test", false),
            (",. ,", "https://pay.test", false),
        ] {
            let variables = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", list)];
            let way = way(url, &variables);
            assert_eq!(way.proxy.is_none(), excluded, "{list:?} for {url}");
        }
    }
}
