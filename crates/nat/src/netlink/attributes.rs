//! Reading attributes: type, length, value, one after the other, each at a multiple of four bytes.

use super::Malformed;

/// Length and type of an attribute, bytes.
const HEADER_BYTES: usize = 4;

/// The bits of an attribute's type that are its type; the others say nested and byte order
/// (`NLA_TYPE_MASK` of linux/netlink.h).
const TYPE_MASK: u16 = 0x3fff;

/// One attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    /// Its type, which means something in the place where it stands.
    pub(crate) kind: u16,
    /// Its value.
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attributes inside.
    pub(crate) fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }

    /// A number, most significant byte first.
    pub(crate) fn u64(&self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number, most significant byte first.
    pub(crate) fn u32(&self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A number, most significant byte first.
    pub(crate) fn u16(&self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// A number of one byte.
    pub(crate) fn u8(&self) -> Result<u8, Malformed> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    /// A text, with or without the zero byte at its end. Names are anybody's, and the kernel takes any bytes:
    /// what is no UTF-8 becomes U+FFFD, which no name of ours has.
    pub(crate) fn text(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(self.value.get(..end).unwrap_or_default()).into_owned()
    }

    fn array<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.value.try_into().map_err(|_| Malformed("number"))
    }
}

/// The attributes of a message, or of an attribute. Ends after the first that does not fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Those in `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The last one of a type, as the kernel reads them.
    pub(crate) fn find(self, kind: u16) -> Result<Option<Attribute<'a>>, Malformed> {
        let mut found = None;
        for attribute in self {
            let attribute = attribute?;
            if attribute.kind == kind {
                found = Some(attribute);
            }
        }
        Ok(found)
    }

    /// The one of a type.
    pub(crate) fn need(self, kind: u16, what: &'static str) -> Result<Attribute<'a>, Malformed> {
        self.find(kind)?.ok_or(Malformed(what))
    }

    fn split(&self) -> Result<(Attribute<'a>, &'a [u8]), Malformed> {
        let wrong = Malformed("attribute");
        let header: [u8; HEADER_BYTES] =
            self.rest.get(..HEADER_BYTES).and_then(|bytes| bytes.try_into().ok()).ok_or(wrong)?;
        let [l0, l1, k0, k1] = header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.rest.get(HEADER_BYTES..length).ok_or(wrong)?;
        let kind = u16::from_ne_bytes([k0, k1]) & TYPE_MASK;
        // The last one may come without its padding.
        let next = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Ok((Attribute { kind, value }, next))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = self.split();
        self.rest = split.as_ref().map_or(&[][..], |(_, rest)| rest);
        Some(split.map(|(attribute, _)| attribute))
    }
}
