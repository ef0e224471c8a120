//! The certificate of a listener, read again when its files change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
use tokio::time::timeout;

use crate::http::io::stream::IoStream;

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

    /// Follows the files until the task is dropped. Files with a problem change nothing.
    pub async fn follow(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = digest(&self.cert, &self.key);
            let before = std::mem::replace(&mut *self.seen.lock(), now);
            if now == before {
                continue;
            }
            match read(&self.cert, &self.key) {
                Ok(certificate) => {
                    self.in_force.store(Arc::new(certificate));
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
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    Acceptor::from_server_config(Arc::new(config))
}

/// Does the handshake of one connection within `time`. Pingora's own listeners would give it a minute.
pub(super) async fn handshake(
    acceptor: &Acceptor,
    stream: IoStream,
    time: Duration,
) -> Option<IoStream> {
    let stream = stream.into_buffered()?;
    let handshake = timeout(time, acceptor.tls_handshake(stream)).await;
    Some(IoStream::Pingora(Box::new(handshake.ok()?.ok()?)))
}

/// Digests both files; one that cannot be read counts as empty.
fn digest(cert: &Path, key: &Path) -> [u8; 32] {
    let mut digest = Sha256::new();
    for path in [cert, key] {
        let content = std::fs::read(path).unwrap_or_default();
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
    CertifiedKey::from_der(chain, private, &provider).map_err(|error| failed(key, &error))
}
