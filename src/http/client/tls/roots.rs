//! TLS to servers: the certificates that are trusted, and the handshake.
//!
//! The trusted roots are read only where https is used, so a machine without any can still serve plain http. The
//! system's roots count, and those of a file; the file is followed.

use std::cell::Cell;
use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::explain::{about_chain, about_key, explain};

/// Pause between two looks at `ca_file`.
const LOOK: Duration = Duration::from_secs(2);

/// The certificates that servers are verified with.
#[derive(Debug)]
pub struct TrustedRoots {
    ca_file: Option<PathBuf>,
    /// Made by the first handshake, and anew where the file has changed.
    config: ArcSwapOption<ClientConfig>,
    /// Digest of the file as it was read last, right or wrong.
    seen: Mutex<[u8; 32]>,
    /// Counts the changes: a connection that was verified with other roots is not used again.
    changes: AtomicU32,
}

impl TrustedRoots {
    /// Trusts the system's roots, and those of `ca_file`, which must be readable PEM.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        if let Some(file) = ca_file {
            read_ca_file(file)?;
        }
        Ok(Self {
            seen: Mutex::new(digest(ca_file)),
            ca_file: ca_file.map(Path::to_owned),
            config: ArcSwapOption::empty(),
            changes: AtomicU32::new(0),
        })
    }

    /// Counts the changes of the roots.
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Finds out whether there is a root at all.
    pub fn check(&self) -> Result<(), String> {
        self.client_config().map(drop)
    }

    /// Follows `ca_file` until the task is dropped. A file with a problem changes nothing.
    pub async fn follow(&self) {
        if self.ca_file.is_none() {
            return;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            let now = digest(self.ca_file.as_deref());
            if std::mem::replace(&mut *self.seen.lock(), now) == now {
                continue;
            }
            match self.build() {
                Ok(config) => {
                    self.config.store(Some(config));
                    // Behind the store: a connection that is opened in between counts as verified with the old roots
                    // and is not used again. The other way round, it would pass for one of the new ones.
                    self.changes.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(ca_file = ?self.ca_file, "ca_file reloaded");
                }
                Err(error) => tracing::error!(
                    error,
                    "ca_file is rejected; the certificates read before stay"
                ),
            }
        }
    }

    /// Verifies the server at the other end of `stream` and encrypts the stream.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        server_name: &ServerName<'static>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let connector = TlsConnector::from(self.client_config()?);
        let mut handshake = pin!(connector.connect(server_name.clone(), stream));
        let mut wanted_certificate = false;
        let connected = poll_fn(|context| {
            // One configuration serves all handshakes, so the resolver does not know which one it is called for. A poll
            // begins and ends on one thread, which does.
            ASKED.set(false);
            let polled = handshake.as_mut().poll(context);
            wanted_certificate |= ASKED.get();
            polled
        });
        let connected = connected.await;
        connected.map_err(|error| explain(&error, wanted_certificate))
    }

    fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.config.load_full() {
            return Ok(config);
        }
        let config = self.build()?;
        self.config.store(Some(config.clone()));
        Ok(config)
    }

    fn build(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        // Some systems ship roots that cannot anchor a chain; they are left out. Errors leave fewer roots, checked below.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = &self.ca_file {
            roots.add_parsable_certificates(read_ca_file(file)?);
        }
        if roots.is_empty() {
            return Err(
                "no root certificate is known: expected the system's (install ca-certificates, or see SSL_CERT_FILE) \
                 or platform.ca_file"
                    .to_owned(),
            );
        }
        let provider = Arc::new(ring::default_provider());
        let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = roots.build().map_err(|error| error.to_string())?;
        config(provider, ExplainingVerifier(verifier)).map_err(|error| error.to_string())
    }
}

fn config(
    provider: Arc<CryptoProvider>,
    verifier: ExplainingVerifier,
) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        // By name alone: the verifier is rustls' own, with its errors put into other words.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(NoCertificate));
    // RFC 7301: a server that prefers HTTP/2 must know that only HTTP/1.1 is spoken here.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates of a PEM file. Each must be able to anchor a chain.
fn read_ca_file(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{shown}: expected PEM certificates: {error}"))?;
    let mut store = RootCertStore::empty();
    let (_, useless) = store.add_parsable_certificates(certificates.iter().cloned());
    // Stricter than with the system's roots: each of these was named on purpose.
    if certificates.is_empty() || useless > 0 {
        return Err(format!(
            "{shown}: expected PEM certificates that can anchor a chain"
        ));
    }
    Ok(certificates)
}

/// The file's digest; one that cannot be read counts as empty.
fn digest(file: Option<&Path>) -> [u8; 32] {
    let content = file.and_then(|file| fs::read(file).ok());
    Sha256::digest(content.unwrap_or_default()).into()
}

/// The library's verifier, with errors that say what is wrong with which certificate. It decides nothing itself.
#[derive(Debug)]
struct ExplainingVerifier(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ExplainingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| about_chain(error, end_entity, intermediates))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.0.verify_tls12_signature(message, certificate, signed);
        verified.map_err(|error| about_key(error, std::iter::once(certificate)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.0.verify_tls13_signature(message, certificate, signed);
        verified.map_err(|error| about_key(error, std::iter::once(certificate)))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

thread_local! {
    /// Set while a handshake is polled in which the server asks for a client certificate.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Has no client certificate, and notes that one was wanted: the server's alert alone does not say so.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        ASKED.set(true);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
