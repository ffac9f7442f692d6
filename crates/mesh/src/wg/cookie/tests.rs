use super::*;

const PUBLIC: [u8; 32] = [5; 32];

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A message with macs as a peer would make them.
fn message(jar: &mut Jar, now: Instant) -> [u8; 148] {
    let mut message = [1; 148];
    message[132..].fill(0);
    jar.stamp(&MacKeys::of(&PUBLIC), &mut message, now);
    message
}

/// A gate that has let in all it lets in freely.
fn crowded(now: Instant) -> Gate {
    let mut gate = Gate::new(&PUBLIC);
    let from = address("192.0.2.1:1");
    let let_in =
        (0..1000).filter(|_| gate.judge(from, &message(&mut Jar::default(), now), now) == Verdict::Good);
    assert_eq!(let_in.count(), 256);
    gate
}

/// Fails when: a message without our key is answered, or its last byte is not covered.
#[test]
fn the_first_mac_is_asked_for() {
    let now = Instant::now();
    let mut gate = Gate::new(&PUBLIC);
    for at in [0, 115, 116, 131] {
        let mut bad = message(&mut Jar::default(), now);
        bad[at] ^= 1;
        assert_eq!(gate.judge(address("192.0.2.1:1"), &bad, now), Verdict::Bad, "byte {at}");
    }
    assert_eq!(gate.judge(address("192.0.2.1:1"), &[0; 20], now), Verdict::Bad);
}

/// Under load a cookie lets in who got it, at its address and port, for as long as it holds.
///
/// Fails when: the port is left out of the cookie, a cookie is taken twice for one message or after another one, or
/// lives for ever.
#[test]
fn a_cookie_lets_in_who_got_it() {
    let now = Instant::now();
    let mut gate = crowded(now);
    let (keys, mut jar) = (MacKeys::of(&PUBLIC), Jar::default());
    let from = address("192.0.2.7:7000");
    let Verdict::Reply(reply) = gate.judge(from, &message(&mut jar, now), now) else { panic!("a cookie") };
    let mut other = Jar::default();
    message(&mut other, now);
    let mut changed = reply;
    changed[40] ^= 1;
    assert!(!jar.take(&keys, &changed, now), "forged");
    assert!(!Jar::default().take(&keys, &reply, now), "not asked for");
    assert!(jar.take(&keys, &reply, now) && !jar.take(&keys, &reply, now));
    assert_eq!(gate.judge(from, &message(&mut jar, now), now), Verdict::Good);
    assert!(matches!(gate.judge(address("192.0.2.7:7001"), &message(&mut jar, now), now), Verdict::Reply(_)));
    assert!(matches!(gate.judge(address("192.0.2.8:7000"), &message(&mut jar, now), now), Verdict::Reply(_)));
    let later = now + COOKIE_LIFE;
    let stamped = message(&mut jar, later);
    assert_eq!(stamped[132..], [0; 16], "an old cookie is not used");
}

/// Fails when: a source with a cookie has more than its share, or the table grows without bound.
#[test]
fn a_source_has_its_share_and_no_more() {
    let now = Instant::now();
    let mut gate = crowded(now);
    let room =
        |gate: &mut Gate, now| (0..20).filter(|_| gate.source_has_room([192, 0, 2, 9].into(), now)).count();
    assert_eq!(room(&mut gate, now), 5);
    assert_eq!(room(&mut gate, now + Duration::from_millis(100)), 2);
    for n in 0..10_000_u32 {
        gate.source_has_room(std::net::Ipv4Addr::from(n).into(), now);
    }
    assert!(gate.sources.len() <= SOURCES);
    assert!(
        gate.source_has_room([203, 0, 113, 1].into(), now + Duration::from_secs(1)),
        "old ones make room"
    );
}

/// Appendix A.3.1 of draft-irtf-cfrg-xchacha-03: the text's first half of the sealed message.
#[test]
fn the_long_nonce_is_used_as_in_the_draft() {
    let key: [u8; 32] = std::array::from_fn(|at| 0x80 + u8::try_from(at).expect("small"));
    let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + u8::try_from(at).expect("small"));
    let aad = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
    let mut text = *b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let key = extended_key(&key, &nonce);
    let tag = aead(&key)
        .seal_in_place_separate_tag(short_nonce(&nonce), Aad::from(aad), &mut text)
        .expect("sealed");
    assert_eq!(text[..8], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
    assert_eq!(tag.as_ref()[..8], [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79]);
}
