//! STUN, as much of it as tells a device where its datagrams come from (RFC 8489): a binding request without attributes,
//! and an answer with XOR-MAPPED-ADDRESS; and the port that can be asked, too (OTHER-ADDRESS of RFC 5780).
//!
//! It shares the socket of WireGuard: a message of that begins with its type, 1 to 4, and three zero bytes; one of STUN
//! with two zero bits, and the magic cookie stands behind its type and length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Begins behind type and length (RFC 8489, 5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];
/// Where else the server answers (RFC 5780, 7.4).
const OTHER_ADDRESS: [u8; 2] = [0x80, 0x2c];

/// Attributes below this must be understood (RFC 8489, 14).
const OPTIONAL: u8 = 0x80;

const HEADER_BYTES: usize = 20;

/// Greatest answer: a header and two IPv6 addresses.
pub const ANSWER_MAX_BYTES: usize = HEADER_BYTES + 2 * (4 + 20);

/// What a server says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Where it came from.
    pub address: SocketAddr,
    /// The port of the server that can be asked, too, to see whether it comes from there for everybody.
    pub other_port: Option<u16>,
}

/// What an answer belongs to a request by. Nobody can guess it, so nobody else answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction([u8; 12]);

impl Transaction {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn generate() -> Result<Transaction, getrandom::Error> {
        let mut id = [0; 12];
        getrandom::fill(&mut id)?;
        Ok(Transaction(id))
    }

    /// The request to be sent.
    #[must_use]
    pub fn request(&self) -> [u8; HEADER_BYTES] {
        let mut request = [0; HEADER_BYTES];
        let parts = BINDING_REQUEST.iter().chain(&[0, 0]).chain(&COOKIE).chain(&self.0);
        request.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        request
    }

    /// What is said of the request, if `datagram` is the answer to it.
    #[must_use]
    pub fn mapped(&self, datagram: &[u8]) -> Option<Mapped> {
        let message = Message::parse(datagram)?;
        if message.kind != BINDING_SUCCESS || message.transaction != *self {
            return None;
        }
        let mut rest = message.attributes;
        let (mut found, mut other_port) = (None, None);
        while let Some((head, behind)) = rest.split_first_chunk::<4>() {
            let [a, b, c, d] = *head;
            let length = usize::from(u16::from_be_bytes([c, d]));
            let (value, behind) = behind.split_at_checked(length)?;
            if [a, b] == XOR_MAPPED_ADDRESS {
                found = found.or(self.address(value));
            } else if [a, b] == OTHER_ADDRESS {
                // Its address is of no use: who stands before the server may have another one.
                let port = value.get(2..4).and_then(|port| Some(u16::from_be_bytes(port.try_into().ok()?)));
                other_port = other_port.or(port.filter(|port| *port != 0));
            }
            // Values fill up to four bytes.
            rest = behind.get(length.wrapping_neg() % 4..).unwrap_or_default();
        }
        let address = found.filter(|address| rest.is_empty() && address.port() != 0)?;
        Some(Mapped { address, other_port })
    }

    /// What an address is mixed with: cookie and transaction.
    fn mask(&self) -> impl Iterator<Item = u8> {
        COOKIE.into_iter().chain(self.0)
    }

    fn address(&self, value: &[u8]) -> Option<SocketAddr> {
        let ([_, family, port @ ..], bytes) = value.split_first_chunk::<4>()?;
        let port = u16::from_be_bytes(*port) ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
        let plain: Vec<u8> = bytes.iter().zip(self.mask()).map(|(byte, mask)| byte ^ mask).collect();
        let ip: IpAddr = match (family, bytes.len()) {
            (1, 4) => Ipv4Addr::from(<[u8; 4]>::try_from(plain).ok()?).into(),
            (2, 16) => Ipv6Addr::from(<[u8; 16]>::try_from(plain).ok()?).into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }
}

struct Message<'a> {
    kind: [u8; 2],
    transaction: Transaction,
    attributes: &'a [u8],
}

impl Message<'_> {
    fn parse(datagram: &[u8]) -> Option<Message<'_>> {
        let (header, attributes) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let [k, l, m, n, c, d, e, f, id @ ..] = *header;
        let fits = usize::from(u16::from_be_bytes([m, n])) == attributes.len() && attributes.len() % 4 == 0;
        (k < 0x40 && fits && [c, d, e, f] == COOKIE).then_some(Message {
            kind: [k, l],
            transaction: Transaction(id),
            attributes,
        })
    }
}

/// Whether a datagram on a socket of WireGuard is the answer to a binding request: of the two bytes of its type none is
/// zero, which the second one of WireGuard's always is.
#[must_use]
pub fn is_answer(datagram: &[u8]) -> bool {
    datagram.starts_with(&BINDING_SUCCESS) && is_stun(datagram)
}

/// Whether a datagram on a socket of WireGuard is one of STUN.
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| *first < 0x40) && datagram.get(4..8) == Some(&COOKIE)
}

/// The answer to `datagram` from `from`, if it is a binding request that asks for nothing else. It says where the server
/// answers as well, if it does.
#[must_use]
pub fn answer(datagram: &[u8], from: SocketAddr, other: Option<SocketAddr>) -> Option<Vec<u8>> {
    let message = Message::parse(datagram)?;
    if message.kind != BINDING_REQUEST {
        return None;
    }
    let mut rest = message.attributes;
    while let Some((head, behind)) = rest.split_first_chunk::<4>() {
        let [kind, _, c, d] = *head;
        if kind < OPTIONAL {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([c, d])).next_multiple_of(4);
        rest = behind.get(length..)?;
    }
    let mut answer = Vec::with_capacity(ANSWER_MAX_BYTES);
    answer.extend(BINDING_SUCCESS);
    answer.extend([0, 0]);
    answer.extend(COOKIE);
    answer.extend(message.transaction.0);
    put_address(&mut answer, XOR_MAPPED_ADDRESS, from, message.transaction.mask());
    if let Some(other) = other {
        put_address(&mut answer, OTHER_ADDRESS, other, std::iter::repeat(0));
    }
    let length = u8::try_from(answer.len() - HEADER_BYTES).unwrap_or_default();
    if let Some(place) = answer.get_mut(3) {
        *place = length;
    }
    Some(answer)
}

/// Writes an attribute that is an address, mixed with `mask`: its port with the first two bytes, and the address with all.
fn put_address(answer: &mut Vec<u8>, kind: [u8; 2], address: SocketAddr, mask: impl Iterator<Item = u8>) {
    let (family, bytes) = match address.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mask: Vec<u8> = mask.take(bytes.len()).collect();
    let mixed = |(byte, mask): (u8, &u8)| byte ^ mask;
    answer.extend(kind);
    answer.extend([0, u8::try_from(bytes.len() + 4).unwrap_or_default(), 0, family]);
    answer.extend(address.port().to_be_bytes().into_iter().zip(&mask).map(mixed));
    answer.extend(bytes.into_iter().zip(&mask).map(mixed));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Transaction and addresses of RFC 5769, 2.2 and 2.3.
    const ID: Transaction =
        Transaction([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

    fn message(kind: [u8; 2], attributes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(attributes.len()).unwrap().to_be_bytes();
        [&kind[..], &length, &COOKIE, &ID.0, attributes].concat()
    }

    #[test]
    fn addresses_are_mixed_as_in_the_samples_of_the_rfc() {
        let four = [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let six = [
            0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79,
            0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        let cases =
            [("192.0.2.1:32853", &four[..]), ("[2001:db8:1234:5678:11:2233:4455:6677]:32853", &six[..])];
        for (text, attribute) in cases {
            let from: SocketAddr = text.parse().unwrap();
            assert_eq!(answer(&ID.request(), from, None).unwrap(), message(BINDING_SUCCESS, attribute));
            // Behind an attribute that need not be known, eleven bytes and one to fill.
            let software = [&[0x80, 0x22, 0x00, 0x0b][..], b"test vector\x20", attribute].concat();
            let mapped = Some(Mapped { address: from, other_port: None });
            assert_eq!(ID.mapped(&message(BINDING_SUCCESS, &software)), mapped);
            assert_eq!(Transaction([1; 12]).mapped(&message(BINDING_SUCCESS, attribute)), None);
            assert_eq!(ID.mapped(&message(BINDING_REQUEST, attribute)), None);
        }
    }

    #[test]
    fn what_asks_for_more_is_not_answered() {
        let from = SocketAddr::from(([192, 0, 2, 1], 1));
        assert!(answer(&message(BINDING_REQUEST, &[0x80, 0x22, 0, 1, b'x', 0, 0, 0]), from, None).is_some());
        // CHANGE-REQUEST: to be answered from elsewhere, which would make it a way to send to others.
        assert_eq!(answer(&message(BINDING_REQUEST, &[0, 3, 0, 4, 0, 0, 0, 6]), from, None), None);
        assert_eq!(answer(&message(BINDING_SUCCESS, &[]), from, None), None);
        assert_eq!(answer(&message(BINDING_REQUEST, &[])[..19], from, None), None);
        let mut long = message(BINDING_REQUEST, &[]);
        long.push(0);
        assert_eq!(answer(&long, from, None), None);
    }

    /// Fails when: the other port is not what was said, the answer is not as RFC 5780 has it, or the answer with all
    /// headers is twice the question or more, so that it would pay to ask under another one's address.
    #[test]
    fn another_port_is_told() {
        let four = ("192.0.2.1:32853", "198.51.100.7:51822", 28, 1);
        let six = ("[2001:db8::1]:9", "[2001:db8::2]:51822", 48, 2);
        for (from, other, headers, family) in [four, six] {
            let (from, other): (SocketAddr, SocketAddr) = (from.parse().unwrap(), other.parse().unwrap());
            let told = answer(&ID.request(), from, Some(other)).unwrap();
            assert_eq!(ID.mapped(&told), Some(Mapped { address: from, other_port: Some(51822) }));
            let attribute = &told[told.len() - if family == 1 { 12 } else { 24 }..];
            assert_eq!((&attribute[..2], attribute[5]), (&OTHER_ADDRESS[..], family));
            assert_eq!(attribute[6..8], 51822_u16.to_be_bytes());
            assert!(told.len() + headers < 2 * (ID.request().len() + headers));
        }
        let mapped = [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        for other in [&[0x80, 0x2c, 0, 0][..], &[0x80, 0x2c, 0, 4, 0, 1, 0, 0]] {
            let told = ID.mapped(&message(BINDING_SUCCESS, &[&mapped, other].concat())).unwrap();
            assert_eq!(told.other_port, None);
        }
    }

    /// The types of WireGuard, each with bytes behind it that could be anything.
    #[test]
    fn wireguard_is_no_stun() {
        for kind in 1..=4 {
            assert!(!is_stun(&[kind, 0, 0, 0, 1, 2, 3, 4, 5]));
        }
        assert!(is_stun(&ID.request()));
        assert!(!is_stun(&ID.request()[..7]));
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(kind in 0_u8..4, rest: Vec<u8>, port: u16, ip: [u8; 16]) {
            let from = SocketAddr::from((ip, port));
            let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
            let datagram = [&[kind & 1, 1][..], &length, &COOKIE, &ID.0, &rest].concat();
            let other = Some(SocketAddr::from((ip, port)));
            let _any = (answer(&rest, from, None), ID.mapped(&rest), ID.mapped(&datagram));
            if let Some(answer) = answer(&datagram, from, other) {
                prop_assert!(answer.len() <= ANSWER_MAX_BYTES);
                prop_assert!(is_stun(&answer));
            }
        }
    }
}
