//! TLS to etcd: an authority that its members' certificates are from, and a certificate of ours where it asks for one.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use super::EtcdTls;

/// Why there is no TLS. No key is in it.
#[derive(Debug, Error)]
pub enum EtcdTlsError {
    /// A file that has no certificate or key.
    #[error("{path}: no {what} can be read from it")]
    File {
        /// The file.
        path: String,
        /// What it was to have.
        what: &'static str,
    },
    /// They do not go together.
    #[error("the certificate and key for etcd cannot be used: {0}")]
    Unfit(#[from] rustls::Error),
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EtcdTlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| EtcdTlsError::File { path: path.display().to_string(), what: "certificate" })
}

/// Believes what `authority` has signed, and shows `identity`: a certificate and its key.
///
/// # Errors
/// [`EtcdTlsError`].
pub fn etcd_tls(authority: &Path, identity: Option<(&Path, &Path)>) -> Result<EtcdTls, EtcdTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority)? {
        roots.add(certificate)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let Some((certificate, key)) = identity else { return Ok(Arc::new(config.with_no_client_auth())) };
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|_| EtcdTlsError::File { path: key.display().to_string(), what: "private key" })?;
    Ok(Arc::new(config.with_client_auth_cert(certificates(certificate)?, private)?))
}
