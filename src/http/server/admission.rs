//! What a listener that faces the internet asks of a request before anybody reads it.
//!
//! Stricter than Pingora on purpose: whatever two HTTP readers are known to understand differently is refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, Method, header};
use ipnet::IpNet;
use pingora::protocols::IO;
use pingora::protocols::http::ServerSession;

use super::rejection::Rejection;

/// Bytes of a request's line and fields (promises: 16 KiB).
const MAX_HEADER: usize = 16 * 1024;
/// Fields of a request (promises: 64).
const MAX_FIELDS: usize = 64;
/// Bytes of a request's target (promises: 8 KiB).
const MAX_TARGET: usize = 8 * 1024;
/// Connections from one address (promises: 64).
const MAX_EACH: usize = 64;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who may come in, and how many of them at once.
pub struct Public {
    allow_from: Vec<IpNet>,
    trust_forwarded_from: Vec<IpNet>,
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One open connection; it counts until this is dropped.
pub struct Admitted {
    address: IpAddr,
    connections: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.address);
            }
        }
    }
}

impl Public {
    /// `allow_from` empty means anyone; proxies in `trust_forwarded_from` are believed about whom they speak for.
    pub fn new(allow_from: Vec<IpNet>, trust_forwarded_from: Vec<IpNet>) -> Self {
        Self {
            allow_from,
            trust_forwarded_from,
            connections: Arc::default(),
        }
    }

    /// Counts a new connection, unless its address has too many. A trusted proxy's are bounded in all only.
    pub fn admit(&self, connection: &dyn IO) -> Option<Admitted> {
        let digest = connection.get_socket_digest()?;
        let address = digest.peer_addr()?.as_inet()?.ip().to_canonical();
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = connections.entry(address).or_default();
        if *count >= MAX_EACH && !is_in(&self.trust_forwarded_from, address) {
            return None;
        }
        *count += 1;
        Some(Admitted {
            address,
            connections: self.connections.clone(),
        })
    }

    /// Checks a request whose header was read and whose body was not.
    pub fn check(&self, session: &ServerSession) -> Result<(), Rejection> {
        let head = session.req_header();
        let raw = session
            .as_http1()
            .map(|session| session.get_headers_raw_bytes());
        let raw = raw.ok_or(Rejection::Malformed)?;
        let has_body = head.headers.contains_key(header::TRANSFER_ENCODING)
            || head
                .headers
                .get(header::CONTENT_LENGTH)
                .is_some_and(|length| length.as_bytes() != b"0");
        let sound = is_unambiguous(&raw)
            && head.raw_path().len() <= MAX_TARGET
            && matches!(head.method, Method::GET | Method::POST)
            && !(head.method == Method::GET && has_body)
            && !head.headers.contains_key(header::CONTENT_ENCODING);
        if !sound {
            return Err(Rejection::Malformed);
        }
        let client = peer(session).map(|peer| self.speaks_for(peer, &head.headers));
        let allowed = self.allow_from.is_empty()
            || client.is_some_and(|client| is_in(&self.allow_from, client));
        if allowed {
            Ok(())
        } else {
            Err(Rejection::NotAllowed)
        }
    }

    /// The address that a chain of trusted proxies vouches for: the last one that is not a trusted proxy itself.
    fn speaks_for(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let lines = headers.get_all(&FORWARDED_FOR).iter().rev();
        for hop in lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')) {
            if !is_in(&self.trust_forwarded_from, client) {
                break;
            }
            match hop.trim().parse::<IpAddr>() {
                Ok(hop) => client = hop.to_canonical(),
                Err(_) => break,
            }
        }
        client
    }
}

fn peer(session: &ServerSession) -> Option<IpAddr> {
    let address = session.client_addr()?.as_inet()?;
    Some(address.ip().to_canonical())
}

fn is_in(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// Whether a raw header can be read in one way only: lines end in CR LF, one `Host`, one way to tell the body's end.
fn is_unambiguous(raw: &[u8]) -> bool {
    if raw.len() > MAX_HEADER || raw.contains(&0) {
        return false;
    }
    let mut lines = raw
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r"));
    let Some(Some(request_line)) = lines.next() else {
        return false;
    };
    let (mut fields, mut hosts, mut lengths, mut codings) = (0, 0, 0, 0);
    for line in lines {
        let line = match line {
            Some([]) => break,
            Some(line) => line,
            None => return false,
        };
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        fields += 1;
        let value = line.get(name.len() + 1..).unwrap_or_default().trim_ascii();
        match name.to_ascii_lowercase().as_slice() {
            b"host" => hosts += 1,
            b"content-length" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                lengths += 1
            }
            b"transfer-encoding" if value.eq_ignore_ascii_case(b"chunked") => codings += 1,
            // One number or one coding, and no list of them.
            b"content-length" | b"transfer-encoding" => return false,
            _ => {}
        }
        // No white space around names and no folded lines: both are read differently by different readers.
        if name.is_empty()
            || name
                .iter()
                .any(|byte| byte.is_ascii_whitespace() || *byte == b'\r')
        {
            return false;
        }
    }
    let old = request_line.ends_with(b"HTTP/1.0");
    fields <= MAX_FIELDS
        && (hosts == 1 || (old && hosts == 0))
        && lengths + codings <= 1
        && !(old && codings > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let request =
            |fields: &str| is_unambiguous(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
        assert!(request("Host: a\r\n"));
        assert!(request("Host: a\r\nContent-Length: 1\r\n"));
        for fields in [
            "",
            "Host: a\r\nHost: a\r\n",
            "Host: a\r\nhOST: b\r\n",
            "Host: a\n",
            "Host: a\r\nX: b\n c\r\n",
            "Host: a\r\n folded\r\n",
            "Host : a\r\n",
            "Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
            "Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nContent-Length: 1, 1\r\n",
            "Host: a\r\nContent-Length: +1\r\n",
            "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n",
            "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n",
            "Host: a\r\nX: \0\r\n",
        ] {
            assert!(!request(fields), "{fields:?}");
        }
        assert!(!request(&format!("Host: a\r\n{}", "X: y\r\n".repeat(64))));
        assert!(!request(&format!(
            "Host: a\r\nX: {}\r\n",
            "y".repeat(16 * 1024)
        )));
        assert!(!is_unambiguous(
            b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        assert!(is_unambiguous(b"GET / HTTP/1.0\r\n\r\n"));
    }

    #[test]
    fn forwarded_for_is_believed_from_trusted_proxies_alone() {
        let public = Public::new(Vec::new(), vec!["10.0.0.0/8".parse().unwrap()]);
        let speaks_for = |peer: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            public
                .speaks_for(peer.parse().unwrap(), &headers)
                .to_string()
        };
        assert_eq!(speaks_for("192.0.2.1", &["203.0.113.1"]), "192.0.2.1");
        assert_eq!(speaks_for("10.0.0.1", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(
            speaks_for("10.0.0.1", &["203.0.113.9, 192.0.2.7, 10.0.0.2"]),
            "192.0.2.7"
        );
        assert_eq!(
            speaks_for("10.0.0.1", &["203.0.113.9", "192.0.2.7"]),
            "192.0.2.7"
        );
        assert_eq!(speaks_for("10.0.0.1", &["nonsense"]), "10.0.0.1");
    }
}
