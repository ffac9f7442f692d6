use super::*;

fn list(text: &str) -> Result<CidrList, String> {
    text.parse().map_err(|error: ValueError| error.to_string())
}

fn accept(text: &str) -> Result<AcceptProxy, String> {
    text.parse().map_err(|error: ValueError| error.to_string())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect(text)
}

#[test]
fn one_canonical_text() {
    for (text, canonical) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("::1", "::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0:0::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("fe80::/10,10.0.0.0/8,9.0.0.0/8,10.0.0.0/8", "9.0.0.0/8,10.0.0.0/8,fe80::/10"),
    ] {
        let parsed = list(text).expect(text);
        assert_eq!(parsed.to_string(), canonical);
        assert_eq!(list(canonical), Ok(parsed));
    }
}

/// Host bits, /33, and what is no block, each with its place.
#[test]
fn malformed_blocks() {
    let not = |item: &str| format!("`{item}` is not an address block such as 10.0.0.0/8 or 2001:db8::/32");
    for (text, column, message) in [
        ("10.0.0.1/8", 1, "`10.0.0.1/8` has host bits set, the block is 10.0.0.0/8".to_owned()),
        (
            "10.0.0.0/8,2001:db8::1/32",
            12,
            "`2001:db8::1/32` has host bits set, the block is 2001:db8::/32".into(),
        ),
        ("10.0.0.0/33", 10, "`33` is outside 0 to 32".into()),
        ("::/129", 4, "`129` is outside 0 to 128".into()),
        ("10.0.0.0/-1", 10, "`-1` is outside 0 to 32".into()),
        ("10.0.0.0/+8", 10, "`+8` is outside 0 to 32".into()),
        ("10.0.0.0/08", 10, "`08` is outside 0 to 32".into()),
        ("10.0.0.0/", 10, "`` is outside 0 to 32".into()),
        ("10.0.0.0/8/8", 10, "`8/8` is outside 0 to 32".into()),
        ("10.0.0/8", 1, not("10.0.0/8")),
        ("010.0.0.0/8", 1, not("010.0.0.0/8")),
        ("10.0.0.0/8, 9.0.0.0/8", 12, not(" 9.0.0.0/8")),
        ("localhost", 1, not("localhost")),
        ("[::1]/128", 1, not("[::1]/128")),
        ("fe80::1%eth0", 1, not("fe80::1%eth0")),
        ("anybody", 1, not("anybody")),
        ("", 1, "value is empty, expected an address block such as 10.0.0.0/8 or 2001:db8::/32".into()),
        ("::1,", 5, "value is empty, expected an address block such as 10.0.0.0/8 or 2001:db8::/32".into()),
    ] {
        assert_eq!(list(text), Err(format!("column {column}: {message}")), "{text:?}");
    }
    let many = vec!["10.0.0.1"; CidrList::MAX_COUNT].join(",");
    assert!(list(&many).is_ok());
    let error = list(&format!("{many},::1")).expect_err("too many");
    assert!(error.ends_with("more than 128 items in a list"), "{error}");
}

/// To believe everybody has a word of its own.
#[test]
fn everybody_is_spelled_out() {
    for (text, column) in [("0.0.0.0/0", 1), ("::/0", 1), ("10.0.0.0/8,::/0", 12), ("::ffff:0.0.0.0/96", 1)] {
        let error = accept(text).expect_err(text);
        assert!(error.starts_with(&format!("column {column}: ")), "{error}");
        assert!(error.ends_with("lets every client say to be any other, write `anybody` if that is meant"));
    }
    assert_eq!(accept("anybody"), Ok(AcceptProxy::Anybody));
    assert_eq!(AcceptProxy::Anybody.to_string(), "anybody");
    assert!(accept("anybody,::1").is_err() && accept("Anybody").is_err() && accept("").is_err());
    assert!(AcceptProxy::Anybody.contains(ip("192.0.2.1")) && AcceptProxy::Anybody.contains(ip("::1")));
    let some = accept("10.0.0.0/8,::1").expect("blocks");
    assert!(some.contains(ip("10.1.2.3")) && some.contains(ip("::1")) && !some.contains(ip("::2")));
    assert_eq!(some.to_string(), "10.0.0.0/8,::1/128");
}

#[test]
fn who_is_in_a_block() {
    for (block, inside, outside) in [
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
        ("192.0.2.128/25", "192.0.2.128", "192.0.2.127"),
        ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("::/0", "ffff::", "192.0.2.1"),
        ("::/0", "::1", "::ffff:192.0.2.1"),
        ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
        ("::1", "::1", "::"),
    ] {
        let list = list(block).expect(block);
        assert!(list.contains(ip(inside)), "{inside} in {block}");
        assert!(!list.contains(ip(outside)), "{outside} in {block}");
    }
    assert!(!CidrList::default().contains(ip("::1")));
}

#[test]
fn blocks_are_made_only_when_they_are_blocks() {
    assert_eq!(
        Cidr::new(ip("10.0.0.0"), 8).map(|block| (block.ip(), block.prefix())),
        Some((ip("10.0.0.0"), 8))
    );
    assert_eq!(Cidr::new(ip("10.0.0.0"), 6), None);
    assert_eq!(Cidr::new(ip("10.0.0.0"), 33), None);
    assert_eq!(Cidr::new(ip("::ffff:0.0.0.0"), 95), None);
    assert_eq!(Cidr::new(ip("::"), 95).map(Cidr::prefix), Some(95));
}
