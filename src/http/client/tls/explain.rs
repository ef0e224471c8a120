//! One sentence for each way in which TLS with a server fails: what is wrong, and what was expected.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::io::ErrorKind;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError, Error, OtherError};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Bits of the smallest RSA key that the cryptography accepts.
const MIN_RSA_BITS: usize = 2048;
/// Bytes of a name out of a certificate that a sentence repeats.
const MAX_NAME: usize = 80;
/// Names out of a certificate that a sentence repeats.
const MAX_NAMES: usize = 4;

const WANTS_CERTIFICATE: &str =
    "the server wants a client certificate, and Countersign has none to show";

/// A sentence about a certificate, in the place of the library's error.
#[derive(Debug)]
struct CertificateProblem(String);

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for CertificateProblem {}

/// Turns the verifier's error into one that says what the certificates show.
pub fn about_chain(
    error: Error,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Error {
    let Error::InvalidCertificate(reason) = &error else {
        return error;
    };
    let sentence = match reason {
        CertificateError::UnknownIssuer => unknown_issuer(end_entity, intermediates),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => wrong_name(&expected.to_str(), presented),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired on {}", day(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "certificate not valid yet, only from {}: is this machine's clock right?",
            day(*not_before)
        ),
        _ => return about_key(error, std::iter::once(end_entity).chain(intermediates)),
    };
    problem(sentence)
}

/// Names the RSA key that is too short, where that is the reason for an error about a signature.
pub fn about_key<'c>(
    error: Error,
    mut chain: impl Iterator<Item = &'c CertificateDer<'c>>,
) -> Error {
    let Error::InvalidCertificate(reason) = &error else {
        return error;
    };
    let Some(first) = chain.next() else {
        return error;
    };
    let short = std::iter::once(first).chain(chain).find_map(rsa_bits);
    match (reason, short) {
        (_, Some(bits)) if bits < MIN_RSA_BITS => problem(format!(
            "a certificate of the server has an RSA key of {bits} bits; expected at least {MIN_RSA_BITS}"
        )),
        (CertificateError::Other(_), _) if is_authority(first) => problem(
            "the server's certificate is a CA certificate itself; expected one for the server, issued by that CA"
                .to_owned(),
        ),
        _ => error,
    }
}

fn problem(sentence: String) -> Error {
    let problem = Arc::new(CertificateProblem(sentence));
    Error::InvalidCertificate(CertificateError::Other(OtherError(problem)))
}

fn unknown_issuer(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> String {
    let last = intermediates.last().unwrap_or(end_entity);
    let Ok((_, certificate)) = X509Certificate::from_der(last) else {
        return "unknown issuer".to_owned();
    };
    let issuer = shown(&certificate.issuer().to_string());
    let is_self_signed = certificate.issuer() == certificate.subject();
    match (is_self_signed, intermediates.is_empty()) {
        (true, true) => format!(
            "unknown issuer: the certificate is self-signed ({issuer}) and in neither the system's roots nor ca_file"
        ),
        (true, false) => format!(
            "unknown issuer: the chain ends at {issuer}, which is in neither the system's roots nor ca_file"
        ),
        (false, true) => format!(
            "unknown issuer: the server sends no intermediate certificate, and {issuer}, which issued its own, is in \
             neither the system's roots nor ca_file"
        ),
        (false, false) => format!(
            "unknown issuer: {issuer}, which issued the last certificate of the chain, is in neither the system's \
             roots nor ca_file"
        ),
    }
}

fn wrong_name(expected: &str, presented: &[String]) -> String {
    let names: Vec<_> = presented
        .iter()
        .take(MAX_NAMES)
        .map(|name| shown(name))
        .collect();
    let names = if names.is_empty() {
        "nobody".to_owned()
    } else {
        names.join(", ")
    };
    format!("certificate not valid for name \"{expected}\": it is for {names}")
}

fn day(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| "a far day".to_owned(), |at| at.date().to_string())
}

/// A stranger chose this text.
fn shown(text: &str) -> String {
    let plain = text.chars().filter(|char| !char.is_control());
    plain.take(MAX_NAME).collect()
}

fn rsa_bits(certificate: &CertificateDer<'_>) -> Option<usize> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => Some(key.key_size()).filter(|bits| *bits < MIN_RSA_BITS),
        _ => None,
    }
}

fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| certificate.is_ca())
}

/// Says why a handshake failed. `wanted_certificate`: the server has requested one of ours.
pub fn explain(error: &io::Error, wanted_certificate: bool) -> String {
    let Some(tls) = tls_error(error) else {
        return match error.kind() {
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => {
                "the server closed the connection during the handshake".to_owned()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        Error::InvalidCertificate(CertificateError::Other(OtherError(problem))) => {
            problem.to_string()
        }
        Error::InvalidMessage(_) => {
            "what came is not TLS: the server may speak plain HTTP on this port".to_owned()
        }
        Error::PeerIncompatible(_) => format!("no TLS in common with the server: {}", plain(tls)),
        Error::AlertReceived(alert) => explain_alert(*alert, wanted_certificate),
        _ => plain(tls),
    }
}

/// Says the same about an error that came after the handshake; none where it is no TLS error.
pub fn explain_later(error: &io::Error) -> Option<String> {
    match tls_error(error)? {
        // TLS 1.3 lets a server reject a missing certificate only after the client is done (RFC 8446 §4.4.2.4).
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            Some(WANTS_CERTIFICATE.to_owned())
        }
        Error::AlertReceived(alert) => Some(format!("TLS alert {alert:?}")),
        other => Some(plain(other)),
    }
}

fn explain_alert(alert: AlertDescription, wanted_certificate: bool) -> String {
    match alert {
        AlertDescription::CertificateRequired => WANTS_CERTIFICATE.to_owned(),
        // TLS 1.2 has no alert for this alone: servers send handshake_failure (RFC 5246 §7.4.6).
        _ if wanted_certificate => WANTS_CERTIFICATE.to_owned(),
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "no cipher in common: expected TLS 1.3, or TLS 1.2 with AES-GCM or ChaCha20-Poly1305 (not CBC)".to_owned()
        }
        AlertDescription::ProtocolVersion => {
            "no TLS version in common: expected TLS 1.2 or 1.3".to_owned()
        }
        AlertDescription::UnrecognisedName => "the server does not know this host name".to_owned(),
        other => format!("the server ended the handshake with the alert {other:?}"),
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// The library's words, without the outer ones that say no more.
fn plain(error: &Error) -> String {
    let words = error.to_string();
    let inner = words.strip_prefix("invalid peer certificate: ");
    inner.unwrap_or(&words).to_owned()
}
