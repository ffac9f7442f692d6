//! Passwords against the hashes of crypt(5): yescrypt, SHA-512, SHA-256 and bcrypt.
//!
//! The hash may be an instance's, whose root chooses what it costs us: parameters above a bound are refused before
//! anything is computed. Checks run on a thread of their own, a few at a time, and the answer for somebody who is not
//! there takes as long as for somebody who is.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

/// Longest password, bytes: `CRYPT_MAX_PASSPHRASE_SIZE` of libxcrypt.
pub const PASSWORD_MAX_BYTES: usize = 512;

/// Most rounds of SHA-crypt: 200 times the default, half a second.
const SHA_ROUNDS_MAX: u32 = 1_000_000;

/// Most cost of bcrypt: one second.
const BCRYPT_COST_MAX: u32 = 14;

/// Most memory of yescrypt, bytes: four times what Debian's default takes.
const YESCRYPT_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Longest hash, bytes: crypt(5) has none above 384.
const HASH_MAX_BYTES: usize = 384;

/// Checks at the same time.
const CHECKS_MAX: usize = 2;

/// A hash in Debian's default form, computed for those who are not there; its answer is not asked for.
const DECOY: &str = "$y$j9T$AAt9R641xPvCI9nXw1HHW/$KhvDNybkEpGBOWMZBUoQzJDo2r0lRnLgykmhV/bxwI1";

/// Why a hash is not compared with anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// No password, which lets nobody in from outside.
    #[error("the account has no password")]
    Empty,
    /// `*` or `!`.
    #[error("the password is locked")]
    Locked,
    /// Another kind of hash.
    #[error("unknown kind of hash")]
    Unknown,
    /// Malformed, or cut short.
    #[error("malformed hash")]
    Malformed,
    /// It would take too much time or memory.
    #[error("the hash asks for more work than is allowed")]
    TooCostly,
}

/// Whether a password is that of a hash. Takes what the hash asks for, within the bounds.
///
/// # Errors
/// Why there was nothing to compare.
pub fn verify(hash: &str, password: &[u8]) -> Result<bool, HashError> {
    let kind = kind_of(hash)?;
    // crypt(3) ends at a NUL: a password with one would be another's.
    if password.len() > PASSWORD_MAX_BYTES || password.contains(&0) {
        return Ok(false);
    }
    match kind {
        Kind::Yescrypt => {
            use yescrypt::PasswordVerifier as _;
            Ok(yescrypt::Yescrypt::default().verify_password(password, hash).is_ok())
        }
        Kind::Sha => {
            use sha_crypt::PasswordVerifier as _;
            Ok(sha_crypt::ShaCrypt::default().verify_password(password, hash).is_ok())
        }
        Kind::Bcrypt => bcrypt::verify(password, hash).map_err(|_| HashError::Malformed),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Yescrypt,
    Sha,
    Bcrypt,
}

/// The kind of a hash whose cost is within bounds.
fn kind_of(hash: &str) -> Result<Kind, HashError> {
    if hash.is_empty() {
        return Err(HashError::Empty);
    }
    if hash.starts_with(['*', '!']) {
        return Err(HashError::Locked);
    }
    if !hash.is_ascii() || hash.len() > HASH_MAX_BYTES {
        return Err(HashError::Malformed);
    }
    let fields: Vec<&str> = hash.split('$').collect();
    match fields.as_slice() {
        ["", "y", parameters, _salt, sum] => {
            // A shorter one would be compared in part, an empty one not at all.
            if sum.len() != 43 {
                return Err(HashError::Malformed);
            }
            check_yescrypt(parameters).map(|()| Kind::Yescrypt)
        }
        ["", kind @ ("5" | "6"), middle @ .., _salt, sum] => {
            if sum.len() != if *kind == "5" { 43 } else { 86 } {
                return Err(HashError::Malformed);
            }
            check_sha(middle).map(|()| Kind::Sha)
        }
        ["", "2a" | "2b" | "2y", cost, rest] if rest.len() == 53 => {
            let cost: u32 = cost.parse().map_err(|_| HashError::Malformed)?;
            if cost > BCRYPT_COST_MAX { Err(HashError::TooCostly) } else { Ok(Kind::Bcrypt) }
        }
        ["", "2a" | "2b" | "2y", ..] => Err(HashError::Malformed),
        _ => Err(HashError::Unknown),
    }
}

/// Parameters are flavour, log2 of N, and r, a character each, as libxcrypt writes all of its costs. What could follow
/// makes a hash take longer, and stands in no hash of a distribution.
fn check_yescrypt(parameters: &str) -> Result<(), HashError> {
    if !parameters.starts_with('j') || parameters.len() < 3 {
        return Err(HashError::Malformed);
    }
    if parameters.len() > 3 {
        return Err(HashError::TooCostly);
    }
    let parameters: yescrypt::Params = parameters.parse().map_err(|_| HashError::Malformed)?;
    let blocks = parameters.n().checked_mul(u64::from(parameters.r()));
    let fits =
        blocks.and_then(|blocks| blocks.checked_mul(128)).is_some_and(|bytes| bytes <= YESCRYPT_MAX_BYTES);
    if fits { Ok(()) } else { Err(HashError::TooCostly) }
}

fn check_sha(middle: &[&str]) -> Result<(), HashError> {
    match middle {
        [] => Ok(()),
        [rounds] => {
            let rounds = rounds.strip_prefix("rounds=").ok_or(HashError::Malformed)?;
            let rounds: u32 = rounds.parse().map_err(|_| HashError::Malformed)?;
            if rounds > SHA_ROUNDS_MAX { Err(HashError::TooCostly) } else { Ok(()) }
        }
        _ => Err(HashError::Malformed),
    }
}

/// Checks passwords beside the connections, a few at a time.
#[derive(Debug, Clone)]
pub struct Checker {
    permits: Arc<Semaphore>,
}

impl Default for Checker {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(CHECKS_MAX)) }
    }
}

impl Checker {
    /// Whether a password is that of `hash`; without a hash, a decoy is computed and the answer is no.
    ///
    /// Cancel safe: a check that has begun runs to its end, and its answer is dropped.
    ///
    /// # Errors
    /// Why there was nothing to compare, after as long as a comparison takes.
    pub async fn check(
        &self,
        hash: Option<Zeroizing<String>>,
        password: Zeroizing<Vec<u8>>,
    ) -> Result<bool, HashError> {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return Ok(false) };
        let work = spawn_blocking(move || {
            let _permit = permit;
            let answer = hash.map(|hash| verify(&hash, &password));
            match answer {
                Some(Ok(right)) => Ok(right),
                None => {
                    let _not_asked = verify(DECOY, &password);
                    Ok(false)
                }
                Some(Err(error)) => {
                    let _not_asked = verify(DECOY, &password);
                    Err(error)
                }
            }
        });
        // It ends without an answer only when the runtime ends.
        work.await.unwrap_or(Ok(false))
    }
}

#[cfg(test)]
mod tests;
