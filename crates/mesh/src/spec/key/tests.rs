//! Keys: what is read, what is refused, what is never printed. `tests/wg_tools` holds them against `wg`.

use super::*;

/// A private key that is not clamped, and its public key, as `wg pubkey` says.
const PAIR: (&str, &str) =
    ("dwdtCnMYpX08FsFyUbJmRd9ML5LrwJkqwXf7pR25LCo=", "+KlTWi0v9gXo4UTVT071xiMTogVduyH93T/ZwpnrAV0=");

#[test]
fn a_private_key_has_its_public_key() {
    let key: PrivateKey = PAIR.0.parse().unwrap();
    assert_eq!(key.public().to_string(), PAIR.1);
    assert_eq!(key.public(), PAIR.1.parse().unwrap());
    assert_ne!(*key.reveal(), PAIR.0, "it is kept clamped");
    assert_eq!(PrivateKey::from_str(&key.reveal()).unwrap(), key);
}

#[test]
fn new_keys_differ_and_are_clamped() {
    let (a, b) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    assert_ne!(a, b);
    for key in [a, b] {
        assert_eq!((key.0[0] & 7, key.0[31] & 0xc0), (0, 0x40));
        assert_eq!(key.reveal().parse(), Ok(key));
    }
    assert_ne!(PresharedKey::generate().unwrap(), PresharedKey::generate().unwrap());
}

#[test]
fn what_is_no_key_is_refused() {
    let zeros = format!("{}=", "A".repeat(43));
    let cases = [
        ("", KeyError::Length(0)),
        ("hSDwCYkwp1R0i33ctD73Wg2/OjYzfcfqsVR2/dCZMl", KeyError::Length(42)),
        ("hSDwCYkwp1R0i33ctD73Wg2/OjYzfcfqsVR2/dCZMlo", KeyError::Length(43)),
        ("hSDwCYkwp1R0i33ctD73Wg2/OjYzfcfqsVR2/dCZMloA", KeyError::Base64),
        ("hSDwCYkwp1R0i33ctD73Wg2/OjYzfcfqsVR2/dCZMl==", KeyError::Base64),
        // Bits behind the last byte.
        ("hSDwCYkwp1R0i33ctD73Wg2/OjYzfcfqsVR2/dCZMlp=", KeyError::Base64),
        ("hSDwCYkwp1R0i33ctD73Wg2-OjYzfcfqsVR2_dCZMlo=", KeyError::Base64),
        ("hSDwCYkwp1R0i33ctD73Wg2/OjYzfcfqsVR2/dCZMl\u{e4}=", KeyError::Base64),
        (&zeros, KeyError::Zero),
        // One, a point of order four.
        ("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", KeyError::SmallOrder),
        // A point of order eight.
        ("4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=", KeyError::SmallOrder),
    ];
    for (text, error) in cases {
        assert_eq!(PublicKey::from_str(text), Err(error), "{text}");
    }
    assert_eq!(PrivateKey::from_str(&zeros), Err(KeyError::Zero));
    assert_eq!(PresharedKey::parse(&zeros), Ok(None));
    assert_eq!(PresharedKey::parse("x"), Err(KeyError::Length(1)));
}

#[test]
fn secrets_are_not_printed() {
    let key: PrivateKey = PAIR.0.parse().unwrap();
    assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    let key = PresharedKey::parse(PAIR.0).unwrap().unwrap();
    assert_eq!(format!("{key:?}"), "PresharedKey(..)");
    assert!(!KeyError::Base64.to_string().contains(PAIR.0));
}
