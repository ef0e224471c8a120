//! Requests that a web page made: rejected, because a page of any site can post to a loopback address.
//!
//! A browser names the page's site in `Origin` on every POST (Fetch §3.2), and newer ones add `Sec-Fetch-Site`
//! (Fetch Metadata §2.4), which no script can set or remove.

use http::{HeaderMap, HeaderName, header};

use super::rejection::{CallRejection, Code};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Returns true for header fields that [`reject_pages`] reads.
pub(super) fn reads(field: &HeaderName) -> bool {
    *field == header::ORIGIN || *field == SEC_FETCH_SITE
}

/// Rejects a request with an `Origin` that is not exactly one of `allowed`, `null` included, or with a `Sec-Fetch-Site`
/// other than `none`.
pub(super) fn reject_pages(headers: &HeaderMap, allowed: &[String]) -> Result<(), CallRejection> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    // Each of them has to be allowed: with a second field in front, the page's own could hide behind it.
    if !origins.all(|origin| allowed.iter().any(|known| origin == known.as_str())) {
        let detail = "Origin: expected none, or one of app.allow_origins: this request comes from a web page, or \
                      the app forwards its customer's headers";
        return Err(CallRejection::new(Code::BrowserRequest, detail));
    }
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    // `none` is a request that a user began, at the address bar for example (Fetch Metadata §2.4).
    if !sites.all(|site| site == "none") {
        let detail = "Sec-Fetch-Site: expected none at all, or `none`: this request comes from a web page, or the app \
                      forwards its customer's headers";
        return Err(CallRejection::new(Code::BrowserRequest, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_listed_origins_and_no_site_pass() {
        let allowed = ["https://shop.example.com".to_owned()];
        let passes = |fields: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            reject_pages(&headers, &allowed).is_ok()
        };
        let (origin, site) = (header::ORIGIN, SEC_FETCH_SITE);
        assert!(passes(&[]));
        assert!(passes(&[(origin.clone(), "https://shop.example.com")]));
        assert!(passes(&[(site.clone(), "none")]));
        for origin_of in [
            "null",
            "",
            "https://shop.example.com/",
            "https://shop.example.com:443",
            "http://shop.example.com",
            "HTTPS://shop.example.com",
            "https://shop.example.com.evil.example",
            "http://127.0.0.1:8080",
        ] {
            assert!(!passes(&[(origin.clone(), origin_of)]), "{origin_of}");
        }
        for value in ["cross-site", "same-origin", "same-site", "", "None"] {
            assert!(!passes(&[(site.clone(), value)]), "{value}");
        }
        assert!(!passes(&[
            (origin.clone(), "https://shop.example.com"),
            (origin, "https://evil.example")
        ]));
    }
}
