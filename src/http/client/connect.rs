//! How connections are opened, whom they believe, and who counts them.

use std::path::Path;
use std::sync::Arc;

use pingora::connectors::TransportConnector;
use pingora::protocols::tls::CaType;
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Counts connections, for the metrics.
pub trait Count: Send + Sync {
    /// A connection was opened (`false`) or taken from the pool (`true`).
    fn connection(&self, reused: bool);
}

/// Shared by clients; clones are the same one.
#[derive(Clone)]
pub struct Transport {
    /// Opens connections; idle ones are ours to keep.
    pub(super) connector: Arc<TransportConnector>,
    pub(super) ca: Option<Arc<CaType>>,
    pub(super) count: Arc<dyn Count>,
}

impl Transport {
    /// `ca_file` holds PEM certificates that are believed beside the system's.
    pub fn new(ca_file: Option<&Path>, count: Arc<dyn Count>) -> Result<Self, String> {
        Ok(Self {
            connector: Arc::new(TransportConnector::new(None)),
            ca: ca_file.map(believed_certificates).transpose()?,
            count,
        })
    }
}

/// The system's certificates and the file's. Those that cannot anchor a chain are left out, as Pingora does
/// for the system's; the file must have at least one that can.
fn believed_certificates(file: &Path) -> Result<Arc<CaType>, String> {
    let shown = file.display();
    let own: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{shown}: expected PEM certificates: {error}"))?;
    if own.is_empty() || !own.iter().all(anchors) {
        return Err(format!(
            "{shown}: expected PEM certificates that can anchor a chain"
        ));
    }
    let system = rustls_native_certs::load_native_certs().unwrap_or_default();
    let believed = system.into_iter().filter(anchors).chain(own);
    Ok(believed
        .map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509))
        .collect())
}

fn anchors(certificate: &CertificateDer<'_>) -> bool {
    let mut store = rustls::RootCertStore::empty();
    store.add(certificate.clone().into_owned()).is_ok()
}
