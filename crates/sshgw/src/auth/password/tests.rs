//! Hashes that libxcrypt has made of `correct horse`, and hashes that nobody should compute.

use super::*;

const YESCRYPT: &str = "$y$j9T$AAt9R641xPvCI9nXw1HHW/$KhvDNybkEpGBOWMZBUoQzJDo2r0lRnLgykmhV/bxwI1";
const SHA512: &str =
    "$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiUvBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0";
const ROUNDS: &str = "$6$rounds=10000$saltsalt$EMCAJaVdD8QpgIn1w2Sq1C8/BIypyMaemdjCDgDu8NxiKn5cVOzQe8ZMNovWPPitzBG6NZOSXfpu45VIxD1OF0";
const SHA256: &str = "$5$saltsalt$myjXcpMpE2Ofk7fj9hqyNYSn6lmWG4Mqnjx.KIRRr4/";
const BCRYPT: &str = "$2b$10$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o/7vBdDut3Xu";
const UMLAUT: &str =
    "$6$saltsalt$diHZ9pHajWguXJt5DhmxxOqqQtb6VXQJO61uDTYZg0KvweLf4WVHMDTz3vJcPLmYTsOPf./9fP7Nq8LRI78tO1";

/// Fails when: a right password is refused, or a wrong one is not.
#[test]
fn what_libxcrypt_has_hashed() {
    for hash in [YESCRYPT, SHA512, ROUNDS, SHA256, BCRYPT] {
        assert_eq!(verify(hash, b"correct horse"), Ok(true), "{hash}");
        for wrong in ["", "correct hors", "correct horse ", "Correct horse"] {
            assert_eq!(verify(hash, wrong.as_bytes()), Ok(false), "{hash} {wrong}");
        }
        assert_eq!(verify(hash, b"correct horse\0x"), Ok(false), "what crypt(3) would not see");
        assert_eq!(verify(hash, &[b'x'; PASSWORD_MAX_BYTES + 1]), Ok(false));
    }
    assert_eq!(verify(UMLAUT, "päss".as_bytes()), Ok(true));
}

/// Fails when: a hash that is cut short fits a password, or one of no password fits the empty one.
#[test]
fn what_is_no_hash_fits_nothing() {
    let cases = [
        ("", HashError::Empty),
        ("*", HashError::Locked),
        ("!", HashError::Locked),
        ("!$6$saltsalt$x", HashError::Locked),
        ("x", HashError::Unknown),
        ("$1$salt$uXdHrfCd.CnHQasvSgrAO0", HashError::Unknown),
        ("$gy$j9T$x$y", HashError::Unknown),
        ("$y$j9T$AAt9R641xPvCI9nXw1HHW/$", HashError::Malformed),
        ("$y$j9T$AAt9R641xPvCI9nXw1HHW/$Kh", HashError::Malformed),
        ("$y$j9T$AAt9R641xPvCI9nXw1HHW/", HashError::Unknown),
        ("$6$saltsalt$", HashError::Malformed),
        ("$6$saltsalt$hRM5", HashError::Malformed),
        ("$5$saltsalt$myjX", HashError::Malformed),
        ("$2b$10$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o", HashError::Malformed),
        ("$2b$xx$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o/7vBdDut3Xu", HashError::Malformed),
        ("$6$saltsalt$\u{e9}", HashError::Malformed),
    ];
    for (hash, error) in cases {
        for password in ["", "correct horse"] {
            assert_eq!(verify(hash, password.as_bytes()), Err(error), "{hash}");
        }
    }
    assert_eq!(verify(&format!("$6${}$x", "s".repeat(1000)), b"x"), Err(HashError::Malformed));
}

/// The root of an instance writes its shadow file: it must not hold our processor or memory.
///
/// Fails when: a bound is taken away; then this test does not end.
#[test]
fn hostile_costs_are_refused_before_anything_is_computed() {
    let sum = "KhvDNybkEpGBOWMZBUoQzJDo2r0lRnLgykmhV/bxwI1";
    let sha = "h".repeat(86);
    let costly = [
        format!("$6$rounds=999999999$saltsalt${sha}"),
        format!("$6$rounds=1000001$saltsalt${sha}"),
        format!("$5$rounds=999999999$saltsalt${sum}"),
        "$2b$31$abcdefghijklmnopqrstuu23JPZtHcGhwXSF41f93o/7vBdDut3Xu".to_owned(),
        // 1 GiB: N of 2^18 with r of 32.
        format!("$y$jFT$AAt9R641xPvCI9nXw1HHW/${sum}"),
    ];
    for hash in costly {
        assert_eq!(verify(&hash, b"x"), Err(HashError::TooCostly), "{hash}");
    }
    for parameters in
        ["", "j", "j9", "j99999999999999999", "/9T", ".9T", "jzT", "jzzzzzzzzzzzzzz", "j9T5zzzz", "j9T......"]
    {
        let hash = format!("$y${parameters}$AAt9R641xPvCI9nXw1HHW/${sum}");
        assert!(matches!(verify(&hash, b"x"), Ok(false) | Err(_)), "{hash}");
    }
}

/// Fails when: whoever is not there is told sooner, or at all.
#[tokio::test]
async fn nobody_takes_as_long_as_somebody() {
    let checker = Checker::default();
    let password = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    let hash = || Some(Zeroizing::new(SHA256.to_owned()));
    assert_eq!(checker.check(hash(), password("correct horse")).await, Ok(true));
    assert_eq!(checker.check(hash(), password("wrong")).await, Ok(false));
    assert_eq!(checker.check(None, password("correct horse")).await, Ok(false));
    let locked = Some(Zeroizing::new("!".to_owned()));
    assert_eq!(checker.check(locked, password("x")).await, Err(HashError::Locked));
    assert_eq!(verify(DECOY, b"correct horse"), Ok(true), "the decoy is a hash that is computed to its end");
}
