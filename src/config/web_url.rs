//! Absolute http and https URLs; problems are reported without quoting the text, which may be a misplaced key.

use url::{Host, Url};

const EXPECTED: &str = "expected an absolute http or https url";

/// The parts that a URL may have after its path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Paths are appended to it.
    Nothing,
    /// Parameters may be there already.
    Query,
}

/// Reads an absolute http or https URL without user, password and fragment.
pub fn parse(text: &str, tail: Tail) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| EXPECTED)?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !has_authority(text) {
        return Err(EXPECTED.into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected a url without user name and password".into());
    }
    if url.fragment().is_some() {
        return Err("expected a url without a fragment".into());
    }
    if tail == Tail::Nothing && url.query().is_some() {
        return Err("expected a url without a query".into());
    }
    Ok(url)
}

/// Returns true if the URL stays on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        // RFC 6761 §6.3 reserves the names below it for loopback too.
        Some(Host::Domain(name)) => {
            // With the root's dot it is the same name (RFC 1034 §3.1).
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Returns true for addresses that mean another host, or none, to hosts outside this network.
pub fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => {
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_unspecified()
        }
        Some(Host::Ipv6(address)) => {
            address.is_loopback()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_unspecified()
        }
        _ => is_loopback(url),
    }
}

/// The parser of browsers also takes `http:host` and `http:\\host`, and trims; a settings file means what it says.
fn has_authority(text: &str) -> bool {
    text.split_once("://").is_some() && !text.contains(|c: char| c.is_whitespace() || c == '\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_web_urls_pass() {
        for right in ["https://pay.example.com", "http://127.0.0.1:8090/prefix"] {
            assert!(parse(right, Tail::Nothing).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "pay.example.com",
            "/pay",
            "ftp://pay.example.com",
            "http:pay.example.com",
            "http://",
            " http://pay.example.com",
            "http://a b/",
            "https://user@pay.example.com",
            "https://pay.example.com/#top",
            "https://pay.example.com/?a=1",
        ] {
            assert!(parse(wrong, Tail::Nothing).is_err(), "{wrong}");
        }
        assert!(parse("http://127.0.0.1/back?a=1", Tail::Query).is_ok());
    }

    #[test]
    fn loopback_is_this_machine_alone() {
        let local = |text| is_loopback(&parse(text, Tail::Nothing).unwrap());
        assert!(local("http://127.0.0.1:1") && local("http://[::1]/") && local("http://localhost"));
        assert!(!local("http://10.0.0.1") && !local("http://localhost.example.com"));
    }
}
