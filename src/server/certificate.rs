//! Warnings about the certificate of the callbacks' listener, as a caller from outside would judge it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::{Host, Url};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Days before its end that a certificate is called out: automatic renewals have happened by then.
const DAYS_LEFT: i64 = 14;
const SECONDS_A_DAY: i64 = 86_400;

/// Warnings about a chain of certificates that can be read; what cannot is an error elsewhere.
pub(super) fn warnings(chain_file: &Path, public_url: Option<&Url>) -> Vec<String> {
    let Ok(chain) = read(chain_file) else {
        return Vec::new();
    };
    let Some((_, leaf)) = chain
        .first()
        .and_then(|der| parse_x509_certificate(der).ok())
    else {
        return Vec::new();
    };
    let found = [
        expiry(&leaf, now()),
        public_url.and_then(|url| misnamed(&leaf, url)),
        incomplete(&leaf, chain.len()),
    ];
    let found = found.into_iter().flatten();
    found
        .map(|what| format!("callbacks.tls.cert: {}: {what}", chain_file.display()))
        .collect()
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_file_iter(file).and_then(Iterator::collect)
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn expiry(leaf: &X509Certificate<'_>, now: i64) -> Option<String> {
    let left = leaf.validity().not_after.timestamp() - now;
    if leaf.validity().not_before.timestamp() > now {
        return Some("is not valid yet; look at this machine's clock".to_owned());
    }
    match left {
        ..0 => Some("has expired, so the platform's callbacks fail; renew it".to_owned()),
        left if left < DAYS_LEFT * SECONDS_A_DAY => Some(format!(
            "expires in {} days; renew it",
            left / SECONDS_A_DAY
        )),
        _ => None,
    }
}

fn misnamed(leaf: &X509Certificate<'_>, public_url: &Url) -> Option<String> {
    let host = public_url.host()?;
    // The common name no longer counts (RFC 9525 §2).
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map(|names| &names.value.general_names);
    let is_named = names.into_iter().flatten().any(|name| match (name, &host) {
        (GeneralName::DNSName(name), Host::Domain(host)) => is_for(name, host),
        (GeneralName::IPAddress(bytes), Host::Ipv4(address)) => *bytes == address.octets(),
        (GeneralName::IPAddress(bytes), Host::Ipv6(address)) => *bytes == address.octets(),
        _ => false,
    });
    (!is_named).then(|| format!("is not for {host}, the host of callbacks.public_url"))
}

/// A star matches one label, the first one (RFC 9525 §6.3).
fn is_for(name: &str, host: &str) -> bool {
    let rest = host.split_once('.').map(|(_, rest)| rest);
    name.eq_ignore_ascii_case(host)
        || name
            .strip_prefix("*.")
            .is_some_and(|name| rest.is_some_and(|rest| name.eq_ignore_ascii_case(rest)))
}

/// Callers complete a chain from their roots alone: browsers may fetch what is missing, a platform's client does not.
fn incomplete(leaf: &X509Certificate<'_>, length: usize) -> Option<String> {
    if length > 1 || leaf.issuer().as_raw() == leaf.subject().as_raw() {
        return None;
    }
    let roots = rustls_native_certs::load_native_certs().certs;
    let is_issuer = |root: &CertificateDer<'_>| {
        parse_x509_certificate(root)
            .is_ok_and(|(_, root)| root.subject().as_raw() == leaf.issuer().as_raw())
    };
    (!roots.iter().any(is_issuer)).then(|| {
        "has no intermediate certificate beside it, so callers may not believe it; append its issuer's".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(not_after: (i32, u8, u8), names: &[&str], url: &str) -> Vec<String> {
        let mut params = rcgen::CertificateParams::new(
            names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(),
        )
        .unwrap();
        params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
        let key = rcgen::KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cert.pem");
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        warnings(&file, Some(&Url::parse(url).unwrap()))
    }

    #[test]
    fn an_expired_or_misnamed_certificate_is_called_out() {
        let good = (4000, 1, 1);
        let none = [""; 0];
        assert_eq!(
            warned(good, &["shop.example.com"], "https://shop.example.com/x"),
            none
        );
        assert_eq!(
            warned(good, &["*.example.com"], "https://shop.example.com"),
            none
        );
        assert_eq!(warned(good, &["203.0.113.7"], "https://203.0.113.7"), none);
        for (url, names) in [
            ("https://a.shop.example.com", &["*.example.com"][..]),
            ("https://example.com", &["*.example.com"]),
            ("https://203.0.113.8", &["203.0.113.7"]),
        ] {
            let said = warned(good, names, url);
            assert!(said[0].contains("is not for"), "{said:?}");
        }
        let said = warned(
            (2001, 1, 1),
            &["shop.example.com"],
            "https://shop.example.com",
        );
        assert!(said[0].contains("has expired"), "{said:?}");
    }
}
