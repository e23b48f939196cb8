//! TLS to a collector.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use skiff_runtime::cause;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes connections TLS, with those who are vouched for.
pub(super) struct Encrypt(TlsConnector);

impl Encrypt {
    /// Those in the file `authorities` vouch for the other end; without a file, those that the system trusts.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self, String> {
        let roots = match authorities {
            Some(path) => read(path).map_err(|why| format!("{}: {why}", path.display()))?,
            None => of_system()?,
        };
        // Named here: rustls chooses none by itself.
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder =
            builder.with_safe_default_protocol_versions().map_err(|error| format!("TLS: {error}"))?;
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// TLS over `stream` with `host`, a name or an address.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host}: not a host's name"))?;
        self.0.connect(name, stream).await.map_err(|error| format!("TLS: {}", cause(&error)))
    }
}

impl fmt::Debug for Encrypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypt").finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("no certificate in it".into()) } else { Ok(roots) }
}

/// What of these cannot be read or understood is left out.
fn of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system names no certificate authorities, and neither does --otlp-ca".into());
    }
    Ok(roots)
}
