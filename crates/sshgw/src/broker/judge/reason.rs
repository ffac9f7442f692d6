//! Why somebody is not let in.

use crate::auth::accounts::Expired;
use crate::auth::authorized_keys::KeyRefusal;
use crate::auth::certificate::CertificateError;
use crate::auth::key::WeakKey;
use crate::wire::Strange;

/// Why somebody is not let in: for the log, never for the client.
#[derive(Debug, thiserror::Error)]
pub(in crate::broker) enum Reason {
    /// The login says nothing, or nothing that is known.
    #[error("the login is not understood: {0}")]
    Login(String),
    /// The same, in the words that its person would get.
    #[error("{0}")]
    Misread(String),
    /// What it asks for cannot be done.
    #[error("{0} cannot be asked for")]
    Wish(&'static str),
    /// What the client offers is no key.
    #[error("the key is not understood")]
    Key,
    /// It is one that is not used, wherever it is listed.
    #[error(transparent)]
    Weak(#[from] WeakKey),
    /// What the client says is nothing that could be looked at.
    #[error("{0}")]
    Strange(Strange),
    /// The method is not one that is asked for here, or not yet.
    #[error("{0} is not asked for")]
    Method(&'static str),
    /// There is no such user of the host.
    #[error("there is no host user {0}")]
    NoUser(String),
    /// Users of the host are not known.
    #[error("the host's users cannot be looked up: {0}")]
    Names(String),
    /// None of the groups is his.
    #[error("host user {0} is in none of the groups that may come in")]
    Group(String),
    /// He does not have the key.
    #[error("host user {0} has no such key")]
    NoKey(String),
    /// He has it, and it lets nobody in.
    #[error("the key of host user {0} is refused: {1}")]
    KeyRefused(String, KeyRefusal),
    /// His keys cannot be trusted.
    #[error("the keys of host user {0} are not used: {1}")]
    Keys(String, String),
    /// The key, or the certificate, or who has signed it.
    #[error("the key is revoked")]
    Revoked,
    /// A certificate of a trusted authority that lets nobody in.
    #[error(transparent)]
    Certificate(CertificateError),
    /// A list for everybody cannot be used.
    #[error("{0}")]
    Lists(String),
    /// The user of the instance is not there, or is somebody else.
    #[error("user {user} of instance {instance} has not proven it")]
    Inside {
        /// The user.
        user: String,
        /// The instance.
        instance: String,
    },
    /// A password that is not his.
    #[error("wrong password of {0}")]
    Password(String),
    /// One that cannot be looked at.
    #[error("the password of {0} is not used: {1}")]
    NoPassword(String, String),
    /// Too late.
    #[error("{0}: {1}")]
    Expired(String, Expired),
    /// A one-time code that is not his, or has been used.
    #[error("wrong one-time code of {0}")]
    Code(String),
    /// One step was good, and another would have had to follow.
    #[error("{0} did not follow")]
    Half(&'static str),
    /// The login has changed on the way.
    #[error("the login has changed")]
    Changed,
    /// Each proof was good, and they are not about one person.
    #[error("the proofs are not of one person")]
    Differ,
    /// As many are in as may.
    #[error("the person or the address has too many connections")]
    Crowd,
    /// The policy has it otherwise.
    #[error("the policy allows nothing there: {0}")]
    Policy(String),
}
