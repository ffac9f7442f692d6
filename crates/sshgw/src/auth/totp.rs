//! One-time codes by time, RFC 6238: six digits of HMAC-SHA-1, thirty seconds each, one step early or late.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

/// Seconds of one step, RFC 6238 section 5.2.
const STEP_SECONDS: u64 = 30;

/// Least length of a secret, bytes: the 80 bits that authenticators make.
const SECRET_MIN_BYTES: usize = 10;

/// Greatest length of a secret, bytes.
const SECRET_MAX_BYTES: usize = 128;

/// A secret shared with somebody's authenticator.
#[derive(Clone)]
pub struct Totp {
    secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Totp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Totp").finish_non_exhaustive()
    }
}

/// A step whose code was right: the number of thirty seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step(u64);

impl Totp {
    /// Reads a secret in base32 (RFC 4648), as authenticators show it: any case, blanks and final `=` do not count.
    #[must_use]
    pub fn from_base32(text: &str) -> Option<Self> {
        let mut secret = Zeroizing::new(Vec::new());
        let (mut bits, mut count) = (0_u32, 0_u32);
        for c in text.trim_end_matches('=').chars().filter(|c| !matches!(c, ' ' | '-')) {
            let value = match c.to_ascii_uppercase() {
                letter @ 'A'..='Z' => u32::from(letter) - u32::from('A'),
                digit @ '2'..='7' => u32::from(digit) - u32::from('2') + 26,
                _ => return None,
            };
            bits = (bits << 5 | value) & 0xfff;
            count += 5;
            if count >= 8 {
                count -= 8;
                secret.push(u8::try_from(bits >> count & 0xff).ok()?);
            }
            if secret.len() > SECRET_MAX_BYTES {
                return None;
            }
        }
        (secret.len() >= SECRET_MIN_BYTES).then_some(Self { secret })
    }

    /// The step that `code` is of, when it is right at `now` and later than `last`, the step that was right before: no
    /// code counts twice.
    #[must_use]
    pub fn verify(&self, code: &str, now_seconds: u64, last: Option<Step>) -> Option<Step> {
        let code = code.trim();
        let plain = code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit());
        let given: u32 = code.parse().ok().filter(|_| plain)?;
        let middle = now_seconds / STEP_SECONDS;
        let (mut found, mut right) = (0_u64, Choice::from(0));
        for step in middle.saturating_sub(1)..=middle.saturating_add(1) {
            let fresh = last.is_none_or(|last| step > last.0);
            let fits = self.code(step)?.ct_eq(&given) & Choice::from(u8::from(fresh));
            found.conditional_assign(&step, fits);
            right |= fits;
        }
        bool::from(right).then_some(Step(found))
    }

    /// What an authenticator shows at a time.
    #[must_use]
    pub fn shown(&self, now_seconds: u64) -> Option<String> {
        Some(format!("{:06}", self.code(now_seconds / STEP_SECONDS)?))
    }

    /// The code of a step, RFC 4226 section 5.3.
    fn code(&self, step: u64) -> Option<u32> {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.secret).ok()?;
        mac.update(&step.to_be_bytes());
        let sum = mac.finalize().into_bytes();
        let offset = usize::from(sum.last()? & 0xf);
        let bytes: [u8; 4] = sum.get(offset..offset + 4)?.try_into().ok()?;
        Some((u32::from_be_bytes(bytes) & 0x7fff_ffff) % 1_000_000)
    }
}

/// Which steps have been used: one for each person that has a secret.
#[derive(Debug, Clone, Default)]
pub struct Used {
    last: BTreeMap<String, Step>,
    /// What counts as the last one of everybody else.
    floor: Option<Step>,
}

impl Used {
    /// Nobody's so far, and none that could have been used before now: which of those have been is not known any more.
    #[must_use]
    pub fn since(now_seconds: u64) -> Self {
        Self { last: BTreeMap::new(), floor: Some(Step(now_seconds / STEP_SECONDS + 1)) }
    }

    /// Verifies a person's code and remembers its step.
    #[must_use]
    pub fn verify(&mut self, person: &str, totp: &Totp, code: &str, now_seconds: u64) -> bool {
        let last = self.last.get(person).copied().or(self.floor);
        let Some(step) = totp.verify(code, now_seconds, last) else { return false };
        self.last.insert(person.to_owned(), step);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `12345678901234567890`, the secret of RFC 6238's appendix B.
    const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    /// Fails when: a code is not that of the appendix, whose eight digits end in ours.
    #[test]
    fn codes_of_the_appendix() {
        let totp = Totp::from_base32(SECRET).unwrap();
        let cases = [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ];
        for (now, code) in cases {
            assert_eq!(totp.verify(code, now, None), Some(Step(now / 30)), "{now}");
            assert_eq!(totp.verify(code, now + 60, None), None, "two steps late");
        }
        assert!(totp.verify("287082", 59 + 30, None).is_some() && totp.verify("287082", 29, None).is_some());
    }

    /// Fails when: a code counts twice, or an earlier one after a later one.
    #[test]
    fn no_code_counts_twice() {
        let totp = Totp::from_base32(SECRET).unwrap();
        let mut used = Used::default();
        assert!(used.verify("ann", &totp, "050471", 1_111_111_111));
        assert!(!used.verify("ann", &totp, "050471", 1_111_111_111));
        assert!(!used.verify("ann", &totp, "081804", 1_111_111_111), "the step before");
        assert!(used.verify("bob", &totp, "050471", 1_111_111_111));
        let mut used = Used::since(1_111_111_111);
        assert!(!used.verify("ann", &totp, "050471", 1_111_111_111), "perhaps before a restart");
    }

    /// Fails when: something else than six digits is read as a code, or a short secret is taken.
    #[test]
    fn malformed_codes_and_secrets() {
        let totp = Totp::from_base32("gezd gnbv gy3t qojq gezd gnbv gy3t qojq").unwrap();
        for code in ["", "28708", "2870822", "+87082", "28708a", "２８７０８２"] {
            assert_eq!(totp.verify(code, 59, None), None, "{code}");
        }
        assert!(totp.verify(" 287082\n", 59, None).is_some());
        for secret in ["", "AAAA", "GEZDGNBVGY3TQOJ1", "GEZDGNBVGY3TQO\u{e9}"] {
            assert!(Totp::from_base32(secret).is_none(), "{secret}");
        }
        assert!(Totp::from_base32(&"A".repeat(10_000)).is_none());
    }
}
