//! Both macs of handshake messages, cookies, and how many handshakes are looked into.
//!
//! A message whose first mac does not hold costs one hash and gets no answer. While more come than [`PER_SECOND`], only
//! those with a second mac are looked into, made with a cookie that was sent to the very address and port they come
//! from, and of these only a few from each source (sections 5.3 and 5.4.7 of the paper).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use chacha20::{R20, hchacha};
use portway_proto::admission::{Bucket, Source};
use ring::aead::Aad;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::message::{COOKIE, COOKIE_BYTES, array, put};
use super::noise::{Secret, TAG_BYTES, aead, hash, mac};

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// How long a cookie holds, and the secret it is made with.
const COOKIE_LIFE: Duration = Duration::from_secs(120);

/// Handshakes that are looked into without a cookie, a second. One costs about 0.2 ms.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(256).expect("not 0");

/// Cookies that are sent, a second: no flood of ours answers a flood.
const COOKIES_PER_SECOND: NonZeroU32 = NonZeroU32::new(1024).expect("not 0");

/// Under load: handshakes of one source, a second, and at once (`ratelimiter` of wireguard-go).
const SOURCE_EVERY: Duration = Duration::from_millis(50);
const SOURCE_BURST: u32 = 5;

/// Sources that are counted at once.
const SOURCES: usize = 4096;

/// Bytes behind the rest of a message: one mac.
const MAC_BYTES: usize = 16;

/// What the two keys of a receiver's macs are.
pub(crate) struct MacKeys {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

/// What one side knows of the other's cookie.
#[derive(Default)]
pub(crate) struct Jar {
    cookie: Option<([u8; 16], Instant)>,
    /// First mac of the last handshake message, to which alone a cookie may be an answer.
    sent: Option<[u8; 16]>,
}

/// Whether a handshake message is looked into.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// The first mac does not hold.
    Bad,
    /// There are too many; this says how to prove where one is.
    Reply([u8; COOKIE_BYTES]),
    /// There are too many.
    Crowd,
}

/// The receiver's side.
pub(super) struct Gate {
    keys: MacKeys,
    secret: Secret,
    secret_since: Option<Instant>,
    free: Bucket,
    replies: Bucket,
    /// When each source has all its burst again.
    sources: HashMap<Source, Instant>,
}

impl MacKeys {
    pub(crate) fn of(public: &[u8; 32]) -> MacKeys {
        MacKeys { mac1: hash(&[LABEL_MAC1, public]), cookie: hash(&[LABEL_COOKIE, public]) }
    }
}

/// The message up to its first mac, the first mac, the second.
fn parts(message: &[u8]) -> Option<(&[u8], [u8; MAC_BYTES], [u8; MAC_BYTES])> {
    let body = message.get(..message.len().checked_sub(2 * MAC_BYTES)?)?;
    Some((body, array(message, body.len())?, array(message, body.len() + MAC_BYTES)?))
}

impl Jar {
    /// Writes both macs of a message to the one whose keys these are.
    pub(crate) fn stamp(&mut self, keys: &MacKeys, message: &mut [u8], now: Instant) {
        let Some(body) = message.len().checked_sub(2 * MAC_BYTES) else { return };
        let mac1 = mac(&keys.mac1, &[message.get(..body).unwrap_or_default()]);
        put(message, body, &mac1);
        self.sent = Some(mac1);
        let fresh = |(_, since): &([u8; 16], Instant)| now.saturating_duration_since(*since) < COOKIE_LIFE;
        if let Some((cookie, _)) = self.cookie.filter(fresh) {
            let mac2 = mac(&cookie, &[message.get(..body + MAC_BYTES).unwrap_or_default()]);
            put(message, body + MAC_BYTES, &mac2);
        }
    }

    /// Takes a cookie reply to our last message. False: it is none.
    pub(super) fn take(&mut self, keys: &MacKeys, message: &[u8], now: Instant) -> bool {
        let (Some(sent), Some(nonce), Some(mut sealed)) =
            (self.sent, array::<24>(message, 8), array::<32>(message, 32))
        else {
            return false;
        };
        let key = extended_key(&keys.cookie, &nonce);
        let Ok(cookie) = aead(&key).open_in_place(short_nonce(&nonce), Aad::from(sent), &mut sealed) else {
            return false;
        };
        self.cookie = array(cookie, 0).map(|cookie| (cookie, now));
        // One answer to one message.
        self.sent = None;
        true
    }
}

/// `XChaCha20-Poly1305`: half of the nonce makes the key, the other half is the nonce (draft-irtf-cfrg-xchacha-03).
fn extended_key(key: &[u8; 32], nonce: &[u8; 24]) -> Secret {
    let first: [u8; 16] = array(nonce, 0).unwrap_or_default();
    Zeroizing::new(hchacha::<R20>(&(*key).into(), &first.into()).into())
}

fn short_nonce(nonce: &[u8; 24]) -> ring::aead::Nonce {
    super::noise::nonce(array(nonce, 16).map_or(0, u64::from_le_bytes))
}

impl Gate {
    /// For messages to the one whose public key this is.
    pub(super) fn new(public: &[u8; 32]) -> Gate {
        Gate {
            keys: MacKeys::of(public),
            secret: Zeroizing::new([0; 32]),
            secret_since: None,
            free: Bucket::new(PER_SECOND),
            replies: Bucket::new(COOKIES_PER_SECOND),
            sources: HashMap::new(),
        }
    }

    /// Judges a message of a handshake.
    pub(super) fn judge(&mut self, from: SocketAddr, message: &[u8], now: Instant) -> Verdict {
        let Some((body, mac1, mac2)) = parts(message) else { return Verdict::Bad };
        if !bool::from(mac(&self.keys.mac1, &[body]).ct_eq(&mac1)) {
            return Verdict::Bad;
        }
        if self.free.take(now) {
            return Verdict::Good;
        }
        let Ok(cookie) = self.cookie(from, now) else { return Verdict::Crowd };
        if bool::from(mac(&cookie, &[body, &mac1]).ct_eq(&mac2)) {
            return if self.source_has_room(from.ip(), now) { Verdict::Good } else { Verdict::Crowd };
        }
        if !self.replies.take(now) {
            return Verdict::Crowd;
        }
        let sender = array(message, 4).unwrap_or_default();
        self.reply(sender, mac1, cookie).map_or(Verdict::Crowd, Verdict::Reply)
    }

    /// What is known of the address alone, with a secret of ours that changes.
    fn cookie(&mut self, from: SocketAddr, now: Instant) -> Result<[u8; 16], getrandom::Error> {
        let old = |since: Instant| now.saturating_duration_since(since) >= COOKIE_LIFE;
        if self.secret_since.is_none_or(old) {
            getrandom::fill(self.secret.as_mut_slice())?;
            self.secret_since = Some(now);
        }
        let port = from.port().to_be_bytes();
        Ok(match from.ip() {
            IpAddr::V4(ip) => mac(self.secret.as_slice(), &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(self.secret.as_slice(), &[&ip.octets(), &port]),
        })
    }

    fn reply(&self, sender: [u8; 4], mac1: [u8; 16], cookie: [u8; 16]) -> Option<[u8; COOKIE_BYTES]> {
        let mut nonce = [0; 24];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = cookie;
        let key = extended_key(&self.keys.cookie, &nonce);
        let tag =
            aead(&key).seal_in_place_separate_tag(short_nonce(&nonce), Aad::from(mac1), &mut sealed).ok()?;
        let mut message = [0; COOKIE_BYTES];
        put(&mut message, 0, &COOKIE);
        put(&mut message, 4, &sender);
        put(&mut message, 8, &nonce);
        put(&mut message, 32, &sealed);
        put(&mut message, COOKIE_BYTES - TAG_BYTES, tag.as_ref());
        Some(message)
    }

    /// Takes one of a source's share.
    fn source_has_room(&mut self, ip: IpAddr, now: Instant) -> bool {
        let source = Source::from(ip);
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, full_at| *full_at > now);
            if self.sources.len() >= SOURCES {
                return false;
            }
        }
        let full_at = self.sources.entry(source).or_insert(now);
        let next = (*full_at).max(now) + SOURCE_EVERY;
        let has_room = next.saturating_duration_since(now) <= SOURCE_EVERY * SOURCE_BURST;
        if has_room {
            *full_at = next;
        }
        has_room
    }
}

#[cfg(test)]
mod tests;
