//! The address that a result is delivered to: the order's own `backurl` where it is the merchant's app, else `back`.

use url::Url;

/// The reason for which an order's own address is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForeignAddress {
    /// It is no absolute http or https URL.
    Unreadable,
    /// It carries a user name or a password.
    UserInfo,
    /// Scheme, host or port differ from those of the merchant's `back`.
    OtherOrigin,
}

impl ForeignAddress {
    /// The reason as a log line gives it. The address itself is the app's and may name a customer.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "it is no absolute http or https URL",
            Self::UserInfo => "it has a user name or a password in it",
            Self::OtherOrigin => "its scheme, host or port are not those of the merchant's back",
        }
    }
}

/// The URL for a delivery, and why the order's own address was passed over where it was.
pub(super) fn address(back: &Url, own: Option<&str>) -> (Url, Option<ForeignAddress>) {
    match own.map(|own| own_address(back, own)) {
        None => (back.clone(), None),
        Some(Ok(own)) => (own, None),
        Some(Err(reason)) => (back.clone(), Some(reason)),
    }
}

fn own_address(back: &Url, own: &str) -> Result<Url, ForeignAddress> {
    // What comes in an order must not make the sidecar post results, and the token with them, to some other server.
    let own = Url::parse(own).map_err(|_| ForeignAddress::Unreadable)?;
    if !matches!(own.scheme(), "http" | "https") {
        return Err(ForeignAddress::Unreadable);
    }
    if !own.username().is_empty() || own.password().is_some() {
        return Err(ForeignAddress::UserInfo);
    }
    // The parser has lower-cased the host and dropped a default port, so that equal origins compare equal.
    if own.origin() != back.origin() {
        return Err(ForeignAddress::OtherOrigin);
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_at_the_merchant_s_app_is_used() {
        let back = Url::parse("https://shop.example.com/pay/back").unwrap();
        for own in [
            "https://shop.example.com/pay/back?store=7",
            "https://SHOP.example.com:443/other/path",
            "https://shop.example.com",
        ] {
            let (url, passed_over) = address(&back, Some(own));
            assert_eq!(
                (url, passed_over),
                (Url::parse(own).unwrap(), None),
                "{own}"
            );
        }
        assert_eq!(address(&back, None), (back.clone(), None));
    }

    #[test]
    fn an_address_elsewhere_is_passed_over() {
        let back = Url::parse("https://shop.example.com/pay/back").unwrap();
        for (own, reason) in [
            (
                "http://shop.example.com/pay/back",
                ForeignAddress::OtherOrigin,
            ),
            (
                "https://shop.example.com:8443/pay/back",
                ForeignAddress::OtherOrigin,
            ),
            (
                "https://shop.example.com.evil.example/pay/back",
                ForeignAddress::OtherOrigin,
            ),
            ("https://example.com/pay/back", ForeignAddress::OtherOrigin),
            (
                "https://shop.example.com@evil.example/",
                ForeignAddress::UserInfo,
            ),
            (
                "https://user:password@shop.example.com/",
                ForeignAddress::UserInfo,
            ),
            (
                "https://:password@shop.example.com/",
                ForeignAddress::UserInfo,
            ),
            ("ftp://shop.example.com/", ForeignAddress::Unreadable),
            ("/pay/back", ForeignAddress::Unreadable),
            ("javascript:alert(1)", ForeignAddress::Unreadable),
            ("", ForeignAddress::Unreadable),
        ] {
            assert_eq!(
                address(&back, Some(own)),
                (back.clone(), Some(reason)),
                "{own}"
            );
        }
    }
}
