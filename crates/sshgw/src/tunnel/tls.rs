//! TLS 1.3 with a certificate of ours, and a server that has to be a certain one.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version};

use super::InitProof;

/// What a connection is made of. An error is for the log and for who asks: no key is in it.
pub(super) fn config(cert: &[u8], key: &[u8], proof: &InitProof) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or("our certificate for it cannot be read")?;
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|_| "the key of our certificate for it cannot be read")?;
    let verifier: Arc<dyn ServerCertVerifier> = match proof {
        InitProof::Pinned(pem) => {
            let cert = CertificateDer::from_pem_slice(pem.as_bytes());
            let cert = cert.map_err(|_| "the certificate it has to have cannot be read")?;
            Arc::new(Pinned { cert, provider: Arc::clone(&provider) })
        }
        InitProof::Known(path) => {
            let mut roots = RootCertStore::empty();
            let certs = CertificateDer::pem_file_iter(path);
            let certs = certs.map_err(|_| "the authorities of this host cannot be read")?;
            // One that means nothing proves nothing.
            roots.add_parsable_certificates(certs.filter_map(Result::ok));
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            verifier.build().map_err(|_| "this host trusts no authority")?
        }
    };
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|config| {
            config.dangerous().with_custom_certificate_verifier(verifier).with_client_auth_cert(chain, key)
        })
        .map_err(|_| "our certificate for it and its key cannot be used".to_owned())
}

/// What went wrong, for who asks.
pub(super) fn words(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)) => {
            "its certificate is another than the one it has to have".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "its certificate is signed by nobody whom this host trusts".to_owned()
        }
        Some(error) => format!("TLS: {error}"),
        None => error.to_string(),
    }
}

/// A server that has this very certificate, whatever else it says. Its dates and names say nothing: it was given by hand.
#[derive(Debug)]
struct Pinned {
    cert: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.cert {
            Ok(ServerCertVerified::assertion())
        } else {
            let other = rustls::CertificateError::ApplicationVerificationFailure;
            Err(rustls::Error::InvalidCertificate(other))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
