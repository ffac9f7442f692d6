//! Names, addresses, bytes and tokens, each by itself.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

#[test]
fn names_are_what_dns_and_paths_take() {
    let cases = [
        ("a", Ok(())),
        ("db-1", Ok(())),
        ("", Err(LabelError::Empty)),
        ("Db", Err(LabelError::Character)),
        ("../x", Err(LabelError::Character)),
        ("a.b", Err(LabelError::Character)),
        ("-a", Err(LabelError::Hyphen)),
        ("a-", Err(LabelError::Hyphen)),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<OrgName>().map(|_| ()), expected, "{text}");
    }
    assert_eq!("a".repeat(64).parse::<Tag>(), Err(LabelError::TooLong));
    let of = |host: &str| DeviceName::of_host(host).map(|name| name.to_string());
    assert_eq!(of("Web_1.example.org").as_deref(), Some("web-1"));
    assert_eq!(of("_"), None);
}

#[test]
fn pools_that_are_none_are_refused() {
    let made = |text: &str, first: u8, reserved: &[&str]| {
        Pool::new(block(text), [first, 0, 0, 0, 0, 1], reserved.iter().map(|text| block(text)).collect())
    };
    assert!(made("10.0.0.0/8", 0xfd, &[]).is_ok());
    assert_eq!(made("10.0.0.0/30", 0xfd, &[]), Err(PoolError::Block));
    assert_eq!(made("0.0.0.0/7", 0xfd, &[]), Err(PoolError::Block));
    assert_eq!(made("fd00::/64", 0xfd, &[]), Err(PoolError::Block));
    assert_eq!(made("127.0.0.0/8", 0xfd, &[]), Err(PoolError::Special));
    assert_eq!(made("224.0.0.0/8", 0xfd, &[]), Err(PoolError::Special));
    assert_eq!(made("10.0.0.0/8", 0x20, &[]), Err(PoolError::Prefix));
    assert_eq!(made("10.0.0.0/8", 0xfd, &["fd00::/8"]), Err(PoolError::Reserved));
}

/// Fails when: an address is given twice, or one that nobody may have, or the last free one is not found.
#[test]
fn a_pool_is_used_to_its_last_address() {
    let pool = pool("10.0.0.0/28", &["10.0.0.4/30"]);
    let mut taken = HashSet::new();
    while let Some(ip) = pool.candidate(&key(u16::try_from(taken.len()).unwrap()), |ip| taken.contains(&ip)) {
        assert!(taken.insert(ip));
    }
    let expected = (1..15).filter(|last| !(4..8).contains(last)).map(|last| Ipv4Addr::new(10, 0, 0, last));
    assert_eq!(taken, expected.collect());
}

#[test]
fn tokens_show_a_slip() {
    let trust = Trust { org: "acme".parse().unwrap(), signer: signer(1).public() };
    let token = Token { trust, pin: Pin([9; 32]), secret: secret(3) };
    let text = token.reveal();
    assert_eq!(text.parse(), Ok(token));
    assert_eq!("x".parse::<Token>(), Err(TokenError::Prefix));
    for place in 9..text.len() {
        let mut other = text.as_bytes().to_vec();
        other[place] = if other[place] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).unwrap();
        assert_eq!(other.parse::<Token>(), Err(TokenError::Damaged), "{place}");
        assert_eq!(text[..place].parse::<Token>(), Err(TokenError::Damaged), "{place}");
    }
    assert!(!format!("{:?}", text.parse::<Token>()).contains("3, 3"));
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
}

prop_compose! {
    fn device()(
        names in (label(), label()), number: u16, ip4: [u8; 4], ip6: [u8; 16], tags in prop::collection::vec(label(), 0..16),
        endpoints in prop::collection::vec(("[a-z]{1,20}", 1_u16..), 0..16), routes in prop::collection::vec((any::<[u8; 4]>(), 0_u8..33), 0..16),
        created: u64, revision: u64, hub: bool,
    ) -> Device {
        let route = |(ip, prefix): ([u8; 4], u8)| portway_model::Cidr::around(ip.into(), prefix).unwrap();
        let endpoint = |(host, port)| endpoint(&format!("{host}:{port}")).unwrap();
        Device {
            org: names.0.parse().unwrap(),
            key: key(number),
            name: names.1.parse().unwrap(),
            ip4: ip4.into(),
            ip6: ip6.into(),
            routes: routes.into_iter().map(route).collect(),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            created,
            revision,
            hub,
        }
    }
}

proptest! {
    /// Fails when: a record is read as another than was written, or one value has two texts.
    #[test]
    fn records_are_read_as_they_were_written(device in device(), place: prop::sample::Index, bit in 0_u8..8) {
        let record = Record::Device(device);
        let mut bytes = record.bytes();
        prop_assert_eq!(Record::parse(&bytes), Ok(record.clone()));
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        if let Ok(other) = Record::parse(&bytes) {
            prop_assert_ne!(&other, &record);
            prop_assert_eq!(other.bytes(), bytes);
        }
    }

    /// Fails when: bytes of a stranger make a reader panic, or are taken for what would be written otherwise.
    #[test]
    fn strange_bytes_are_refused_or_canonical(kind in 0_usize..5, rest: Vec<u8>) {
        let kinds = [b"PWd1", b"PWd2", b"PWr1", b"PWh1", b"PWk1"];
        let bytes = [kinds[kind].as_slice(), &rest].concat();
        if let Ok(record) = Record::parse(&bytes) {
            prop_assert_eq!(record.bytes(), bytes.clone());
        }
        if let Ok(head) = Head::parse(&bytes) {
            prop_assert_eq!(head.bytes(), bytes.clone());
        }
        if let Ok(join_key) = JoinKey::parse(&bytes) {
            prop_assert_eq!(join_key.bytes(), bytes);
        }
    }
}

/// Fails when: a record with marks is one of the first form, which older readers take without them; a mark that is not
/// known, or the absence of any, is read over; or a later version is not said to be one.
#[test]
fn marks_are_of_the_second_form() {
    let ledger = joined(&org("10.0.0.0/24", Terms::default()), 1);
    let plain = ledger.member(&key(1)).unwrap().clone();
    let hub = Device { hub: true, ..plain.clone() };
    let [plain, hub] = [plain, hub].map(|device| Record::Device(device).bytes());
    assert!(plain.starts_with(b"PWd1") && hub.starts_with(b"PWd2"));
    assert_eq!(hub[4..], [&plain[4..], &[1, 3], b"hub"].concat());
    assert!(Record::parse(&hub).unwrap().device().unwrap().hub);
    let with = |kind: &[u8], marks: &[u8]| [kind, &plain[4..], marks].concat();
    for bytes in [with(b"PWd2", &[0]), with(b"PWd2", b"\x01\x03hux"), with(b"PWd2", b"\x02\x03hub\x03hub")] {
        assert_eq!(Record::parse(&bytes), Err(Malformed("record")), "{bytes:?}");
    }
    let later = Record::parse(&with(b"PWd3", &[])).unwrap_err();
    assert!(later.to_string().contains("a version that is not known here"), "{later}");
}
