//! The certificate of a listener, read again when its files change.

use std::fmt;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora::listeners::tls::Acceptor;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::admission::listener_metrics::HandshakeFailure;
use crate::http::io::buffer::discard;
use crate::http::io::stream::{IoStream, ReceivedBytes};

/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(2);

/// A certificate chain and its key, in force until the files hold another sound pair.
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    in_force: ArcSwap<CertifiedKey>,
    /// Digest of the files at the last look, sound or not.
    seen: Mutex<[u8; 32]>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.cert.display())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.in_force.load_full())
    }
}

impl Certificate {
    /// Reads both files; the key must be the certificate's.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, String> {
        let in_force = ArcSwap::from_pointee(read(cert, key)?);
        Ok(Self {
            seen: Mutex::new(digest(cert, key)),
            in_force,
            cert: cert.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Returns the end of the certificate's validity, in seconds since 1970.
    pub fn not_after(&self) -> Option<i64> {
        not_after(&self.in_force.load())
    }

    /// Follows the files until the task is dropped, and calls `replaced` after each new certificate. Files with a problem
    /// change nothing.
    pub async fn follow(&self, replaced: impl Fn()) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = digest(&self.cert, &self.key);
            // Remembered before it is known to be good, so that a broken pair is logged once and not at every look.
            let before = std::mem::replace(&mut *self.seen.lock(), now);
            if now == before {
                continue;
            }
            match read(&self.cert, &self.key) {
                Ok(certificate) => {
                    self.in_force.store(Arc::new(certificate));
                    replaced();
                    tracing::info!(cert = %self.cert.display(), "certificate reloaded");
                }
                Err(error) => {
                    tracing::error!(
                        error,
                        "the certificate files were rejected; the last good certificate stays in force"
                    )
                }
            }
        }
    }
}

/// Builds what a listener's handshakes are done with.
pub fn acceptor(certificate: Arc<Certificate>) -> Acceptor {
    // Without ALPN on purpose: a client that offers h2 as well then stays with HTTP/1.1 (RFC 9113 §3.2).
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    Acceptor::from_server_config(Arc::new(config))
}

/// First byte of a TLS handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;
/// Bytes that a client sends up to the end of a handshake. One without a certificate of its own needs some 2 KiB.
const MAX_HANDSHAKE: usize = 16 * 1024;
/// Bytes that TLS keeps for an open connection beside what came in. Measured: 4,096 of them took 77 MiB.
pub(super) const TLS_STATE: usize = 12 * 1024;
/// Bytes that it keeps until a handshake is done. Measured: 4,096 of them took 98 MiB.
const HANDSHAKE_STATE: usize = 16 * 1024;
/// Response to a client that speaks HTTP without TLS.
const EXPECTS_HTTPS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 44\r\nconnection: close\r\n\r\nthis port expects HTTPS: use an https:// URL\n";

/// Reason for a handshake that came to nothing, and the library's own words.
pub(super) struct HandshakeError {
    pub(super) failure: HandshakeFailure,
    pub(super) detail: String,
}

impl From<HandshakeFailure> for HandshakeError {
    fn from(failure: HandshakeFailure) -> Self {
        Self {
            failure,
            detail: String::new(),
        }
    }
}

/// Does the handshake of one connection within `time`. Pingora's own listeners would give it a minute. `hold` is called with
/// the bytes that the handshake takes up.
pub(super) async fn handshake(
    acceptor: &Acceptor,
    stream: IoStream,
    time: Duration,
    mut hold: impl FnMut(usize),
) -> Result<(IoStream, ReceivedBytes), HandshakeError> {
    let IoStream::Tcp(stream) = stream else {
        return Err(HandshakeFailure::NotTls.into());
    };
    let stream = timeout(time, expect_tls(stream))
        .await
        .map_err(|_| HandshakeFailure::Late)??;
    let (stream, received) = IoStream::into_buffered(stream);
    let mut handshake = pin!(acceptor.tls_handshake(stream));
    let bounded = poll_fn(|context| {
        let polled = handshake.as_mut().poll(context);
        hold(HANDSHAKE_STATE + received.total());
        match polled {
            Poll::Pending if received.total() > MAX_HANDSHAKE => Poll::Ready(None),
            polled => polled.map(Some),
        }
    });
    let failed = |detail| HandshakeError {
        failure: HandshakeFailure::Failed,
        detail,
    };
    match timeout(time, bounded).await {
        Ok(Some(Ok(stream))) => Ok((IoStream::Pingora(Box::new(stream)), received)),
        Ok(Some(Err(error))) => {
            let cause = error.cause.as_ref();
            Err(failed(
                cause.map_or_else(|| error.to_string(), ToString::to_string),
            ))
        }
        Ok(None) => Err(failed("the client's handshake has no end".to_owned())),
        Err(_) => Err(HandshakeFailure::Late.into()),
    }
}

/// Waits for the first byte. A client without TLS gets a response that names it.
async fn expect_tls(mut stream: TcpStream) -> Result<TcpStream, HandshakeError> {
    let mut first = [0];
    // Peeked, because TLS needs this byte too.
    match stream.peek(&mut first).await {
        Ok(1) if first[0] == HANDSHAKE => Ok(stream),
        Ok(1) if first[0].is_ascii_alphabetic() => {
            // The other side may be gone already.
            if stream.write_all(EXPECTS_HTTPS).await.is_ok() && stream.shutdown().await.is_ok() {
                discard(&mut stream).await;
            }
            Err(HandshakeFailure::PlainHttp.into())
        }
        Ok(1) => Err(HandshakeFailure::NotTls.into()),
        _ => Err(HandshakeFailure::Closed.into()),
    }
}

/// Returns the end of a certificate's validity, in seconds since 1970.
fn not_after(certificate: &CertifiedKey) -> Option<i64> {
    let leaf = certificate.cert.first()?;
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    Some(leaf.validity().not_after.timestamp())
}

/// Digests both files; one that cannot be read counts as empty.
fn digest(cert: &Path, key: &Path) -> [u8; 32] {
    let mut digest = Sha256::new();
    for path in [cert, key] {
        let content = std::fs::read(path).unwrap_or_default();
        // The length first: bytes that move from one file to the other would otherwise give the same digest.
        digest.update(content.len().to_be_bytes());
        digest.update(content);
    }
    digest.finalize().into()
}

fn read(cert: &Path, key: &Path) -> Result<CertifiedKey, String> {
    let failed = |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| failed(cert, &error))?;
    if chain.is_empty() {
        return Err(failed(cert, &"expected a PEM certificate"));
    }
    // The parser's errors name the file's form and never its content.
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, &error))?;
    let provider = ring::default_provider();
    // Fails where the key is not the certificate's: a renewal replaces two files, and a look may come between them.
    CertifiedKey::from_der(chain, private, &provider).map_err(|error| failed(key, &error))
}
