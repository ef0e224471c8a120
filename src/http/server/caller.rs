//! Callers: the parties that connections and memory are shared out among.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A party that may open several connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// An IPv4 address.
    Address(Ipv4Addr),
    /// The first 64 bits of an IPv6 address. A customer of any provider has a whole /64 (RFC 6177), so that counting single
    /// addresses would count nothing.
    Network([u8; 8]),
    /// A process on this host, through a socket in the file system.
    Local,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Network(start) => {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(start);
                write!(f, "{}/64", Ipv6Addr::from(octets))
            }
            Self::Local => f.write_str("local"),
        }
    }
}

impl Caller {
    /// Finds the caller behind an address; `None` is a socket in the file system.
    pub fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(address)) => Self::Address(address),
            Some(IpAddr::V6(address)) => Self::Network(network(address)),
        }
    }
}

fn network(address: Ipv6Addr) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_64_of_ipv6_is_one_caller() {
        let caller = |address: &str| Caller::of(Some(address.parse().unwrap()));
        assert_eq!(caller("2001:db8::1"), caller("2001:db8::ffff:0:0:2"));
        assert_ne!(caller("2001:db8::1"), caller("2001:db8:0:1::1"));
        assert_ne!(caller("192.0.2.1"), caller("192.0.2.2"));
        assert_eq!(caller("::ffff:192.0.2.1"), caller("192.0.2.1"));
        assert_ne!(Caller::of(None), caller("127.0.0.1"));
        assert_eq!(caller("2001:db8:0:7::1").to_string(), "2001:db8:0:7::/64");
    }
}
