//! OpenSSH user certificates: a key, who may use it as whom and until when, signed by an authority.

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Algorithm, Certificate, HashAlg};

use super::grant::{Circumstances, Grant};
use super::key::{self, WeakKey};
use super::source::Sources;

/// Why a certificate lets nobody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// That of a host.
    #[error("the certificate is not one of a user")]
    NotUser,
    /// Signed by another key than the authority's.
    #[error("the certificate is not signed by this authority")]
    Authority,
    /// A signature that does not hold.
    #[error("the signature of the certificate does not hold")]
    Signature,
    /// With SHA-1.
    #[error("the certificate is signed with SHA-1")]
    OldSignature,
    /// Whether a security key was touched cannot be seen from here.
    #[error("a touch of the security key cannot be made sure of")]
    Touch,
    /// Before or after its time.
    #[error("the certificate is not valid at this time")]
    Time,
    /// For others.
    #[error("the certificate is not for this name")]
    Principal,
    /// For nobody: it lists no principal.
    #[error("the certificate names no principal")]
    NoPrincipal,
    /// From elsewhere.
    #[error("the certificate may not be used from there")]
    Source,
    /// A critical option whose value cannot be read.
    #[error("critical option {0} is malformed")]
    OptionValue(&'static str),
    /// One that is not known, or that nothing here could make sure of.
    #[error("critical option {0} cannot be honoured")]
    OptionUnknown(String),
    /// The line of the authority and the certificate force different commands.
    #[error("two different commands are forced")]
    CommandsDiffer,
    /// A key, or an authority, that is not used.
    #[error(transparent)]
    Weak(#[from] WeakKey),
}

/// What a certificate allows, when `authority` has signed it and it is for one of `names`.
///
/// That the client holds its key has been proven elsewhere.
///
/// # Errors
/// The first reason why it allows nothing.
pub fn check(
    certificate: &Certificate,
    authority: &KeyData,
    names: &[String],
    circumstances: &Circumstances,
) -> Result<Grant, CertificateError> {
    key::check(certificate.public_key())?;
    key::check(authority)?;
    if matches!(certificate.signature().algorithm(), Algorithm::Rsa { hash: None } | Algorithm::Dsa) {
        return Err(CertificateError::OldSignature);
    }
    let is_security_key =
        matches!(certificate.public_key(), KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_));
    if is_security_key && !certificate.extensions().contains_key("no-touch-required") {
        return Err(CertificateError::Touch);
    }
    if certificate.cert_type() != CertType::User {
        return Err(CertificateError::NotUser);
    }
    if certificate.signature_key() != authority {
        return Err(CertificateError::Authority);
    }
    let now = circumstances.now_seconds;
    if now < certificate.valid_after() || now >= certificate.valid_before() {
        return Err(CertificateError::Time);
    }
    // Looks at the time again, and at the signature.
    let fingerprint = authority.fingerprint(HashAlg::Sha256);
    certificate.validate_at(now, [&fingerprint]).map_err(|_| CertificateError::Signature)?;
    let principals = certificate.valid_principals();
    if principals.is_empty() {
        return Err(CertificateError::NoPrincipal);
    }
    if !principals.iter().any(|principal| names.contains(principal)) {
        return Err(CertificateError::Principal);
    }
    let mut grant = extensions(certificate);
    for (name, value) in certificate.critical_options().iter() {
        take_critical(&mut grant, name, value, circumstances)?;
    }
    Ok(grant)
}

/// What the extensions allow; one that is not known allows nothing more.
fn extensions(certificate: &Certificate) -> Grant {
    let has = |name: &str| certificate.extensions().contains_key(name);
    Grant {
        pty: has("permit-pty"),
        port_forwarding: has("permit-port-forwarding"),
        agent_forwarding: has("permit-agent-forwarding"),
        x11_forwarding: has("permit-X11-forwarding"),
        user_rc: has("permit-user-rc"),
        ..Grant::default()
    }
}

fn take_critical(
    grant: &mut Grant,
    name: &str,
    value: &str,
    circumstances: &Circumstances,
) -> Result<(), CertificateError> {
    match name {
        "force-command" => grant.command = Some(value.to_owned()),
        "source-address" => {
            let sources =
                Sources::parse_blocks(value).map_err(|_| CertificateError::OptionValue("source-address"))?;
            if !sources.allow(circumstances.client) {
                return Err(CertificateError::Source);
            }
        }
        // Whether a security key has checked its user cannot be seen from here: `verify-required` is one of these.
        _ => {
            let name = name.chars().take(64).flat_map(char::escape_default).collect();
            return Err(CertificateError::OptionUnknown(name));
        }
    }
    Ok(())
}
