//! STUN, as much of it as tells a device where its datagrams come from (RFC 8489): a binding request without attributes,
//! and an answer with XOR-MAPPED-ADDRESS.
//!
//! It shares the socket of WireGuard: a message of that begins with its type, 1 to 4, and three zero bytes; one of STUN
//! with two zero bits, and the magic cookie stands behind its type and length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Begins behind type and length (RFC 8489, 5).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];

/// Attributes below this must be understood (RFC 8489, 14).
const OPTIONAL: u8 = 0x80;

const HEADER_BYTES: usize = 20;

/// Greatest answer: a header and an IPv6 address.
pub const ANSWER_MAX_BYTES: usize = HEADER_BYTES + 4 + 20;

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

    /// Where the request came from, if `datagram` is the answer to it.
    #[must_use]
    pub fn mapped(&self, datagram: &[u8]) -> Option<SocketAddr> {
        let message = Message::parse(datagram)?;
        if message.kind != BINDING_SUCCESS || message.transaction != *self {
            return None;
        }
        let mut rest = message.attributes;
        let mut found = None;
        while let Some((head, behind)) = rest.split_first_chunk::<4>() {
            let [a, b, c, d] = *head;
            let length = usize::from(u16::from_be_bytes([c, d]));
            let (value, behind) = behind.split_at_checked(length)?;
            if [a, b] == XOR_MAPPED_ADDRESS {
                found = found.or(self.address(value));
            }
            // Values fill up to four bytes.
            rest = behind.get(length.wrapping_neg() % 4..).unwrap_or_default();
        }
        found.filter(|address| rest.is_empty() && address.port() != 0)
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

/// The answer to `datagram` from `from`, if it is a binding request that asks for nothing else.
#[must_use]
pub fn answer(datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
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
    let ip = from.ip().to_canonical();
    let (family, bytes) = match ip {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let length = u8::try_from(bytes.len() + 4).unwrap_or_default();
    let port = from.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let mut answer = Vec::with_capacity(ANSWER_MAX_BYTES);
    answer.extend(BINDING_SUCCESS);
    answer.extend([0, length + 4]);
    answer.extend(COOKIE);
    answer.extend(message.transaction.0);
    answer.extend(XOR_MAPPED_ADDRESS);
    answer.extend([0, length, 0, family]);
    answer.extend(port.to_be_bytes());
    answer.extend(bytes.iter().zip(message.transaction.mask()).map(|(byte, mask)| byte ^ mask));
    Some(answer)
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
            assert_eq!(answer(&ID.request(), from).unwrap(), message(BINDING_SUCCESS, attribute));
            // Behind an attribute that need not be known, eleven bytes and one to fill.
            let software = [&[0x80, 0x22, 0x00, 0x0b][..], b"test vector\x20", attribute].concat();
            assert_eq!(ID.mapped(&message(BINDING_SUCCESS, &software)), Some(from));
            assert_eq!(Transaction([1; 12]).mapped(&message(BINDING_SUCCESS, attribute)), None);
            assert_eq!(ID.mapped(&message(BINDING_REQUEST, attribute)), None);
        }
    }

    #[test]
    fn what_asks_for_more_is_not_answered() {
        let from = SocketAddr::from(([192, 0, 2, 1], 1));
        assert!(answer(&message(BINDING_REQUEST, &[0x80, 0x22, 0, 1, b'x', 0, 0, 0]), from).is_some());
        // CHANGE-REQUEST: to be answered from elsewhere, which would make it a way to send to others.
        assert_eq!(answer(&message(BINDING_REQUEST, &[0, 3, 0, 4, 0, 0, 0, 6]), from), None);
        assert_eq!(answer(&message(BINDING_SUCCESS, &[]), from), None);
        assert_eq!(answer(&message(BINDING_REQUEST, &[])[..19], from), None);
        let mut long = message(BINDING_REQUEST, &[]);
        long.push(0);
        assert_eq!(answer(&long, from), None);
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
            let _any = (answer(&rest, from), ID.mapped(&rest), ID.mapped(&datagram));
            if let Some(answer) = answer(&datagram, from) {
                prop_assert!(answer.len() <= ANSWER_MAX_BYTES);
                prop_assert!(is_stun(&answer));
            }
        }
    }
}
