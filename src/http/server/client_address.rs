//! The address that a request comes from, as far as trusted proxies let it be known.

use std::fmt;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use super::caller::Caller;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Bytes of an unreadable entry that are kept for the log.
const MAX_SHOWN: usize = 64;

/// The client of a request that went through a session, among the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAddress {
    /// The other end of the connection, or the client that a chain of trusted proxies vouches for.
    Known(IpAddr),
    /// A trusted proxy vouches for an entry of `X-Forwarded-For` that is no address. Such a client is never allowed where
    /// addresses matter: taking the proxy's own address instead would let in everyone behind it.
    Unreadable {
        /// The trusted proxy.
        proxy: IpAddr,
        /// The beginning of the entry, escaped.
        entry: String,
    },
    /// A socket in the file system.
    Local,
}

impl ClientAddress {
    /// Finds the client of a request from `peer`: the last entry of `X-Forwarded-For` that is not a trusted proxy.
    /// Entries in front of it are whatever the client wrote.
    pub(super) fn of(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let Some(mut client) = peer else {
            return Self::Local;
        };
        // From the end: each proxy appends the address that it saw, in the same line or in one of its own (RFC 9110
        // §5.3), so the client cannot write behind an entry of a trusted proxy.
        let lines = headers.get_all(&FORWARDED_FOR).iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        // Empty entries of a list count as none (RFC 9110 §5.6.1.2).
        let mut entries = entries.map(<[u8]>::trim_ascii).filter(|it| !it.is_empty());
        while is_in(trusted, client) {
            let Some(entry) = entries.next() else {
                break;
            };
            match address(entry) {
                Some(address) => client = address,
                None => {
                    let entry = &entry[..entry.len().min(MAX_SHOWN)];
                    return Self::Unreadable {
                        proxy: client,
                        entry: entry.escape_ascii().to_string(),
                    };
                }
            }
        }
        Self::Known(client)
    }

    /// Returns the caller that a request counts for.
    pub fn caller(&self) -> Caller {
        match self {
            Self::Known(address) | Self::Unreadable { proxy: address, .. } => {
                Caller::of(Some(*address))
            }
            Self::Local => Caller::Local,
        }
    }

    /// Returns true where `nets` are empty or one of them has the client's address in it.
    pub fn is_allowed(&self, nets: &[IpNet]) -> bool {
        nets.is_empty() || matches!(self, Self::Known(address) if is_in(nets, *address))
    }
}

/// The address for a log line.
impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(address) => address.fmt(f),
            Self::Unreadable { proxy, entry } => {
                write!(
                    f,
                    "unreadable X-Forwarded-For entry {entry} from {proxy}, expected an IP address with or without a port"
                )
            }
            Self::Local => f.write_str("local"),
        }
    }
}

/// Returns true where one of `nets` has `address` in it.
pub(super) fn is_in(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// Reads an entry: an address, an address with a port as Azure's and some other load balancers write it, or an IPv6
/// address in brackets with a port or without.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?;
    // `parse` takes a plus sign, which no port has (RFC 3986 §3.2.3).
    let is_port = |port: &str| port.parse::<u16>().is_ok() && !port.starts_with('+');
    let bare = match entry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let sound = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            return sound.then(|| IpAddr::from(address).to_canonical());
        }
        // One colon: an IPv4 address and its port. An IPv6 address has at least two.
        None => match entry.split_once(':') {
            Some((address, port)) if !port.contains(':') => is_port(port)
                .then_some(address)
                .filter(|it| it.contains('.'))?,
            _ => entry,
        },
    };
    // A proxy that listens on both families writes `::ffff:192.0.2.1` (RFC 4291 §2.5.5.2), which no IPv4 network
    // contains.
    bare.parse::<IpAddr>()
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> ClientAddress {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = http::HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append(FORWARDED_FOR, value);
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        ClientAddress::of(Some(peer.parse().unwrap()), &headers, &trusted)
    }

    #[test]
    fn forwarded_for_counts_from_trusted_proxies_alone() {
        for (peer, lines, found) in [
            ("192.0.2.1", &["203.0.113.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.1"], "203.0.113.1"),
            (
                "10.0.0.1",
                &["203.0.113.9, 192.0.2.7, 10.0.0.2"],
                "192.0.2.7",
            ),
            ("10.0.0.1", &["203.0.113.9", "192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["nonsense, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["192.0.2.7, ,"], "192.0.2.7"),
            ("fd00::1", &["::ffff:192.0.2.7"], "192.0.2.7"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
            ("fd00::1", &["[2001:db8::7]"], "2001:db8::7"),
            ("fd00::1", &["[2001:db8::7]:443"], "2001:db8::7"),
            ("10.0.0.1", &["203.0.113.7:51234"], "203.0.113.7"),
            (
                "10.0.0.1",
                &["203.0.113.7:51234, 10.0.0.3:80"],
                "203.0.113.7",
            ),
        ] {
            let expected = ClientAddress::Known(found.parse().unwrap());
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
        assert_eq!(
            ClientAddress::of(None, &HeaderMap::new(), &[]),
            ClientAddress::Local
        );
    }

    #[test]
    fn an_unreadable_entry_of_a_trusted_proxy_is_never_the_proxy_itself() {
        for entry in [
            "nonsense",
            "unknown",
            "\u{ff}",
            "203.0.113.7:",
            "203.0.113.7:port",
            "203.0.113.7:99999",
            "203.0.113.7:+80",
            "203.0.113.7:80:80",
            "[203.0.113.7]:80",
            "[2001:db8::7",
            "[2001:db8::7]443",
            "2001:db8::7]:443",
            "2001:db8::7%eth0",
            "203.0.113",
            "dead:80",
        ] {
            let found = client("10.0.0.1", &["192.0.2.7", entry]);
            let unreadable = matches!(&found, ClientAddress::Unreadable { proxy, .. } if proxy.to_string() == "10.0.0.1");
            assert!(unreadable, "{entry}: {found:?}");
            assert!(!found.is_allowed(&["0.0.0.0/0".parse().unwrap()]));
            assert!(found.is_allowed(&[]));
        }
    }
}
