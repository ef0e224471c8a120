//! `platform.proxy`: the way out of a network that has no other.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;
use zeroize::Zeroizing;

const EXPECTED: &str =
    "expected \"http://HOST:PORT\", \"http://USER:PASSWORD@HOST:PORT\" or \"none\"";

/// The way that connections to the platform take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ProxySetting {
    /// The proxy that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name.
    #[default]
    FromEnvironment,
    /// `"none"`: straight to the platform, whatever the environment says.
    Direct,
    /// This proxy and no other.
    Through(ProxyAddress),
}

/// An HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// A name or an address, an IPv6 address without brackets.
    pub host: String,
    /// The port; 80 where the URL names none.
    pub port: u16,
    /// The credentials that the proxy asks for.
    pub credentials: Option<ProxyCredentials>,
}

/// A user and a password of a proxy. Shown without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyCredentials {
    /// Decoded, without a colon (RFC 7617 §2).
    pub user: String,
    password: Zeroizing<String>,
}

impl ProxyCredentials {
    /// The password, for the header `Proxy-Authorization` alone.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for ProxyCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyCredentials({}, …)", self.user)
    }
}

/// Without the credentials.
impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "http://[{}]:{}", self.host, self.port),
            false => write!(f, "http://{}:{}", self.host, self.port),
        }
    }
}

impl ProxyAddress {
    /// Reads a proxy's URL, from the settings or from the environment, where the scheme is often left out.
    pub fn parse(text: &str) -> Result<Self, String> {
        let full = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let url = Url::parse(&full).map_err(|_| EXPECTED)?;
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or(EXPECTED)?;
        let rest = url.path().trim_matches('/').is_empty()
            && url.query().is_none()
            && url.fragment().is_none();
        if url.scheme() != "http" || !rest || text.contains(char::is_whitespace) {
            return Err(EXPECTED.into());
        }
        let decoded = |text| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(|text| Zeroizing::new(text.into_owned()))
                .map_err(|_| EXPECTED)
        };
        let user = decoded(url.username())?;
        if user.contains(':') {
            return Err("expected a user's name without a colon".into());
        }
        let password = url.password().map(decoded).transpose()?;
        let credentials = (!user.is_empty() || password.is_some()).then(|| ProxyCredentials {
            user: user.to_string(),
            password: password.unwrap_or_default(),
        });
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            // 80 as Go has it; curl would take 1080 for a proxy without a port.
            port: url.port_or_known_default().unwrap_or(80),
            credentials,
        })
    }
}

impl ProxySetting {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Direct),
            _ => ProxyAddress::parse(text).map(Self::Through),
        }
    }

    /// Returns true for a setting with a password in it.
    pub(super) fn names_password(text: &str) -> bool {
        ProxyAddress::parse(text).is_ok_and(|proxy| {
            proxy
                .credentials
                .is_some_and(|credentials| !credentials.password.is_empty())
        })
    }

    /// Takes the password of a file for the user that the setting names.
    pub(super) fn take_password(&mut self, password: &[u8]) -> Result<(), String> {
        let password = std::str::from_utf8(password).map_err(|_| "expected UTF-8 text")?;
        let Self::Through(ProxyAddress {
            credentials: Some(credentials),
            ..
        }) = self
        else {
            return Err(
                "expected platform.proxy with a user, as in \"http://USER@HOST:PORT\"".into(),
            );
        };
        if !credentials.password.is_empty() {
            return Err("expected no password in platform.proxy beside it".into());
        }
        credentials.password = Zeroizing::new(password.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> ProxyAddress {
        ProxyAddress::parse(text).unwrap()
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port_with_or_without_credentials() {
        let plain = proxy("http://proxy.internal:3128");
        assert_eq!((plain.host.as_str(), plain.port), ("proxy.internal", 3128));
        assert_eq!(proxy("proxy.internal:3128/"), plain);
        assert_eq!(proxy("http://[::1]:8").to_string(), "http://[::1]:8");
        assert_eq!(proxy("http://p").port, 80);
        let known = proxy("http://u%40x:p%3Aw@proxy.internal:3128");
        let credentials = known.credentials.as_ref().unwrap();
        assert_eq!(
            (credentials.user.as_str(), credentials.password()),
            ("u@x", "p:w")
        );
        assert!(!format!("{known:?} {known}").contains("p:w"));
    }

    #[test]
    fn other_schemes_and_paths_are_rejected_without_being_quoted() {
        for text in [
            "",
            "https://p:1",
            "socks5://p:1",
            "http://p:1/path",
            "http://p:1?a",
            "http://",
            "p :1",
            "none",
        ] {
            let rejected = text == "none" || ProxySetting::parse(text).is_err();
            assert!(rejected, "{text}");
        }
        assert_eq!(ProxySetting::parse("none"), Ok(ProxySetting::Direct));
    }
}
