//! The handshake, Noise_IKpsk2: what is computed, without a clock, a table or a socket.
//!
//! Names and order of the steps are those of section 5.4 of the WireGuard paper. Secrets are overwritten when they
//! are dropped.

use blake2::{Blake2s256, Blake2sMac, Digest as _};
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::traits::IsIdentity as _;
use hmac::digest::consts::U16;
use hmac::{KeyInit as _, Mac as _, SimpleHmac};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::message::{INITIATION_BYTES, Initiation, RESPONSE_BYTES, Response, put};

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Bytes of an authentication tag.
pub(super) const TAG_BYTES: usize = 16;

/// 32 bytes that nobody else may know.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// Seconds and nanoseconds, big endian, so that a later one is greater.
pub(super) type Timestamp = [u8; 12];

/// A key agreed on the identity element: the other side's key is of small order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WeakKey;

/// What two sides have computed so far.
#[derive(Clone)]
pub(super) struct Chain {
    key: Secret,
    hash: [u8; 32],
}

/// The keys of a session, as one side has them.
pub(super) struct SessionKeys {
    pub(super) send: Secret,
    pub(super) receive: Secret,
}

/// What an initiator keeps until the response is there.
pub(super) struct Waiting {
    chain: Chain,
    ephemeral: Secret,
}

/// What a responder has learnt from an initiation whose static key it could read.
pub(super) struct Heard {
    chain: Chain,
    /// Who it is from, if the rest holds.
    pub(super) who: [u8; 32],
    ephemeral: [u8; 32],
}

pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Blake2s256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// Keyed BLAKE2s of 16 bytes. `key` is of 16 or 32 bytes.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else {
        debug_assert!(false, "a key of at most 32 bytes");
        return [0; 16];
    };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let Ok(mut mac) = SimpleHmac::<Blake2s256>::new_from_slice(key) else {
        unreachable!("HMAC takes keys of any length")
    };
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// HKDF with three outputs; who needs fewer ignores the others.
fn kdf<const N: usize>(key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let root = hmac(key, &[input]);
    let mut last: Option<Secret> = None;
    std::array::from_fn(|at| {
        let before = last.as_ref().map_or(&[][..], |last| last.as_slice());
        let number = u8::try_from(at + 1).unwrap_or(u8::MAX);
        let next = hmac(&root, &[before, &[number]]);
        last = Some(next.clone());
        next
    })
}

/// X25519.
///
/// # Errors
/// [`WeakKey`].
pub(super) fn agree(private: &[u8; 32], public: &[u8; 32]) -> Result<Secret, WeakKey> {
    let point = MontgomeryPoint(*public).mul_clamped(*private);
    if point.is_identity() { Err(WeakKey) } else { Ok(Zeroizing::new(point.to_bytes())) }
}

fn public_of(private: &[u8; 32]) -> [u8; 32] {
    MontgomeryPoint::mul_base_clamped(*private).to_bytes()
}

/// A key of ring's that is used with nonces which differ.
pub(super) fn aead(key: &[u8; 32]) -> LessSafeKey {
    match UnboundKey::new(&CHACHA20_POLY1305, key) {
        Ok(key) => LessSafeKey::new(key),
        Err(_) => unreachable!("the key has the length of the algorithm's"),
    }
}

/// The nonce of a counter.
pub(super) fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    put(&mut nonce, 4, &counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl Chain {
    /// Before anything is said to `responder`.
    fn new(responder: &[u8; 32]) -> Chain {
        let key = hash(&[CONSTRUCTION]);
        let start = hash(&[&key, IDENTIFIER]);
        Chain { key: Zeroizing::new(key), hash: hash(&[&start, responder]) }
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hash = hash(&[&self.hash, bytes]);
    }

    fn mix(&mut self, input: &[u8]) {
        let [key] = kdf(&self.key, input);
        self.key = key;
    }

    fn mix_for_key(&mut self, input: &[u8]) -> Secret {
        let [key, cipher] = kdf(&self.key, input);
        self.key = key;
        cipher
    }

    fn mix_psk(&mut self, psk: &[u8; 32]) -> Secret {
        let [key, note, cipher] = kdf(&self.key, psk);
        self.key = key;
        self.note(note.as_slice());
        cipher
    }

    /// Seals what lies in all but the last 16 bytes of `place`, and puts the tag there.
    fn seal(&mut self, key: &[u8; 32], place: &mut [u8]) {
        let Some((text, room)) = place.split_at_mut_checked(place.len().wrapping_sub(TAG_BYTES)) else {
            return;
        };
        match aead(key).seal_in_place_separate_tag(nonce(0), Aad::from(self.hash), text) {
            Ok(tag) => room.copy_from_slice(tag.as_ref()),
            Err(_) => unreachable!("a short text is always sealed"),
        }
        self.note(place);
    }

    /// Opens `sealed`, whose text is of `N` bytes.
    fn open<const N: usize>(&mut self, key: &[u8; 32], sealed: &[u8]) -> Option<[u8; N]> {
        let mut copy = [0_u8; 64];
        let copy = copy.get_mut(..sealed.len())?;
        copy.copy_from_slice(sealed);
        let text = aead(key).open_in_place(nonce(0), Aad::from(self.hash), copy).ok()?;
        let text = <[u8; N]>::try_from(&*text).ok()?;
        self.note(sealed);
        Some(text)
    }

    fn finish(&self) -> [Secret; 2] {
        kdf(&self.key, &[])
    }
}

/// Writes an initiation from `us` to `them`, but for both macs. `ephemeral` is random and used once; `shared` is what
/// the two static keys agree on.
///
/// # Errors
/// [`WeakKey`].
pub(super) fn initiate(
    us: &[u8; 32],
    them: &[u8; 32],
    shared: &[u8; 32],
    ephemeral: Secret,
    now: Timestamp,
    message: &mut [u8; INITIATION_BYTES],
) -> Result<Waiting, WeakKey> {
    let mut chain = Chain::new(them);
    let public = public_of(&ephemeral);
    put(message, Initiation::EPHEMERAL.start, &public);
    chain.mix(&public);
    chain.note(&public);
    let key = chain.mix_for_key(agree(&ephemeral, them)?.as_slice());
    put(message, Initiation::STATIC.start, us);
    chain.seal(&key, message.get_mut(Initiation::STATIC).unwrap_or_default());
    let key = chain.mix_for_key(shared);
    put(message, Initiation::TIMESTAMP.start, &now);
    chain.seal(&key, message.get_mut(Initiation::TIMESTAMP).unwrap_or_default());
    Ok(Waiting { chain, ephemeral })
}

/// Reads who an initiation to `us` is from.
pub(super) fn hear(private: &[u8; 32], us: &[u8; 32], message: &Initiation<'_>) -> Option<Heard> {
    let mut chain = Chain::new(us);
    let ephemeral = message.ephemeral();
    chain.mix(&ephemeral);
    chain.note(&ephemeral);
    let key = chain.mix_for_key(agree(private, &ephemeral).ok()?.as_slice());
    let who = chain.open(&key, message.sealed_static())?;
    Some(Heard { chain, who, ephemeral })
}

impl Heard {
    /// Reads when it was made, which only who has that static key can have sealed.
    pub(super) fn timestamp(&mut self, shared: &[u8; 32], message: &Initiation<'_>) -> Option<Timestamp> {
        let key = self.chain.mix_for_key(shared);
        self.chain.open(&key, message.sealed_timestamp())
    }

    /// Writes the response, but for both macs, and has the keys.
    ///
    /// # Errors
    /// [`WeakKey`].
    pub(super) fn respond(
        mut self,
        psk: &[u8; 32],
        ephemeral: &[u8; 32],
        message: &mut [u8; RESPONSE_BYTES],
    ) -> Result<SessionKeys, WeakKey> {
        let public = public_of(ephemeral);
        put(message, Response::EPHEMERAL.start, &public);
        self.chain.mix(&public);
        self.chain.note(&public);
        self.chain.mix(agree(ephemeral, &self.ephemeral)?.as_slice());
        self.chain.mix(agree(ephemeral, &self.who)?.as_slice());
        let key = self.chain.mix_psk(psk);
        self.chain.seal(&key, message.get_mut(Response::EMPTY).unwrap_or_default());
        let [receive, send] = self.chain.finish();
        Ok(SessionKeys { send, receive })
    }
}

impl Waiting {
    /// Reads the response. What does not hold leaves everything as it was: the real one may still come.
    pub(super) fn conclude(
        &self,
        private: &[u8; 32],
        psk: &[u8; 32],
        message: &Response<'_>,
    ) -> Option<SessionKeys> {
        let mut chain = self.chain.clone();
        let ephemeral = message.ephemeral();
        chain.mix(&ephemeral);
        chain.note(&ephemeral);
        chain.mix(agree(&self.ephemeral, &ephemeral).ok()?.as_slice());
        chain.mix(agree(private, &ephemeral).ok()?.as_slice());
        let key = chain.mix_psk(psk);
        let [] = chain.open(&key, message.sealed_empty())?;
        let [send, receive] = chain.finish();
        Some(SessionKeys { send, receive })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair agrees on crossed keys, and only with the same preshared key.
    ///
    /// Fails when: the keys are not crossed, the preshared key is left out, or a message that was changed is taken.
    #[test]
    fn two_agree() {
        let (one, two) = ([1; 32], [2; 32]);
        let (one_public, two_public) = (public_of(&one), public_of(&two));
        let shared = agree(&one, &two_public).unwrap();
        assert_eq!(shared, agree(&two, &one_public).unwrap());
        let mut first = [0; INITIATION_BYTES];
        let stamp = [7; 12];
        let waiting =
            initiate(&one_public, &two_public, &shared, Zeroizing::new([3; 32]), stamp, &mut first).unwrap();
        let message = Initiation::new(&first);
        let mut heard = hear(&two, &two_public, &message).unwrap();
        assert_eq!(heard.who, one_public);
        assert_eq!(heard.timestamp(&shared, &message), Some(stamp));
        let mut second = [0; RESPONSE_BYTES];
        let theirs = heard.respond(&[9; 32], &[4; 32], &mut second).unwrap();
        assert!(waiting.conclude(&one, &[8; 32], &Response::new(&second)).is_none(), "another preshared key");
        let ours = waiting.conclude(&one, &[9; 32], &Response::new(&second)).unwrap();
        assert_eq!(ours.send, theirs.receive);
        assert_eq!(ours.receive, theirs.send);
        assert_ne!(ours.send, ours.receive);
        for at in [20, 60, 100] {
            let mut changed = first;
            changed[at] ^= 1;
            let message = Initiation::new(&changed);
            let read =
                hear(&two, &two_public, &message).and_then(|mut heard| heard.timestamp(&shared, &message));
            assert_eq!(read, None, "byte {at} was changed");
        }
    }

    #[test]
    fn keys_of_small_order_agree_on_nothing() {
        assert_eq!(agree(&[1; 32], &[0; 32]), Err(WeakKey));
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(agree(&[1; 32], &one), Err(WeakKey));
    }
}
