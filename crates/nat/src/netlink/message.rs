//! Writing messages, and taking apart what was received.

use super::{Attributes, Malformed};

/// `NLM_F_REQUEST`.
pub(crate) const FLAG_REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(crate) const FLAG_ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub(crate) const FLAG_DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: what is there already is an error.
pub(crate) const FLAG_EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(crate) const FLAG_CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const FLAG_APPEND: u16 = 0x800;

/// Set in the type of an attribute that holds attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;

/// Length of `nlmsghdr`, bytes.
const HEADER_BYTES: usize = 16;

/// Length of the second header of netfilter's messages, `nfgenmsg`, bytes.
const FAMILY_HEADER_BYTES: usize = 4;

/// Messages, one after the other, to be sent at once.
#[derive(Debug, Default, Clone)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    /// Where each begins.
    begins: Vec<usize>,
    /// How many ask for an acknowledgement.
    acknowledged: usize,
    first_acknowledged: bool,
}

impl Writer {
    /// Adds a message: type, flags, the body's first bytes, then its attributes. Sequence numbers are
    /// the connection's to give.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, head: &[u8], fill: impl FnOnce(&mut Self)) {
        let begin = self.bytes.len();
        self.begins.push(begin);
        let acknowledged = flags & FLAG_ACK != 0;
        self.first_acknowledged |= acknowledged && begin == 0;
        self.acknowledged += usize::from(acknowledged);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | FLAG_REQUEST).to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend(head);
        fill(self);
        let length = u32::try_from(self.bytes.len() - begin).expect("messages are cut far below 4 GiB");
        self.overwrite(begin, &length.to_ne_bytes());
    }

    /// Adds a netfilter message: subsystem and type in one number, address family, resource.
    pub(crate) fn netfilter(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Self),
    ) {
        let [high, low] = resource.to_be_bytes();
        self.message(kind, flags, &[family, 0, high, low], fill);
    }

    /// An attribute of bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let begin = self.open(kind);
        self.bytes.extend(value);
        self.close(begin);
    }

    /// A text with its zero byte.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        let begin = self.open(kind);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        self.close(begin);
    }

    /// A number, most significant byte first.
    pub(crate) fn u32(&mut self, kind: u16, number: u32) {
        self.bytes(kind, &number.to_be_bytes());
    }

    /// A number, most significant byte first.
    pub(crate) fn u64(&mut self, kind: u16, number: u64) {
        self.bytes(kind, &number.to_be_bytes());
    }

    /// An attribute of attributes.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let begin = self.open(kind | NESTED);
        fill(self);
        self.close(begin);
    }

    /// How many bytes it holds.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// How many messages it holds.
    pub(crate) fn count(&self) -> usize {
        self.begins.len()
    }

    /// How many of them the kernel will acknowledge, or refuse.
    pub(crate) fn wants_acknowledgement(&self) -> usize {
        self.acknowledged
    }

    /// Whether the first of them will be.
    pub(crate) fn first_wants(&self) -> bool {
        self.first_acknowledged
    }

    /// The bytes, numbered from `first` on.
    pub(crate) fn numbered(&mut self, first: u32) -> &[u8] {
        for (begin, number) in self.begins.clone().into_iter().zip(0_u32..) {
            self.overwrite(begin + 8, &first.wrapping_add(number).to_ne_bytes());
        }
        &self.bytes
    }

    fn open(&mut self, kind: u16) -> usize {
        let begin = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        begin
    }

    fn close(&mut self, begin: usize) {
        let length = u16::try_from(self.bytes.len() - begin).expect("lists of elements are cut below 64 KiB");
        self.overwrite(begin, &length.to_ne_bytes());
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    fn overwrite(&mut self, at: usize, value: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(at).zip(value) {
            *place = *byte;
        }
    }
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// Its type.
    pub(crate) kind: u16,
    /// Its flags.
    pub(crate) flags: u16,
    /// Number of the request it answers.
    pub(crate) sequence: u32,
    /// The socket whose request it answers or announces.
    pub(crate) port_id: u32,
    /// Everything after the header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes of a netfilter message.
    pub(crate) fn attributes(&self) -> Result<Attributes<'a>, Malformed> {
        self.attributes_after(FAMILY_HEADER_BYTES)
    }

    /// The attributes after a header of the body.
    pub(crate) fn attributes_after(&self, header_bytes: usize) -> Result<Attributes<'a>, Malformed> {
        let rest = self.body.get(header_bytes.next_multiple_of(4)..).ok_or(Malformed("message"))?;
        Ok(Attributes::new(rest))
    }

    /// Address family of a netfilter message.
    pub(crate) fn family(&self) -> u8 {
        self.body.first().copied().unwrap_or_default()
    }
}

/// The messages in what was received at once. Ends after the first that does not fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Those in `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn split(&self) -> Result<(Message<'a>, &'a [u8]), Malformed> {
        let wrong = Malformed("message");
        let header: [u8; HEADER_BYTES] =
            self.rest.get(..HEADER_BYTES).and_then(|bytes| bytes.try_into().ok()).ok_or(wrong)?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, p0, p1, p2, p3] = header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).map_err(|_| wrong)?;
        let message = Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            port_id: u32::from_ne_bytes([p0, p1, p2, p3]),
            body: self.rest.get(HEADER_BYTES..length).ok_or(wrong)?,
        };
        let next = length.checked_next_multiple_of(4).and_then(|next| self.rest.get(next..));
        Ok((message, next.unwrap_or_default()))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let split = self.split();
        self.rest = split.as_ref().map_or(&[][..], |(_, rest)| rest);
        Some(split.map(|(message, _)| message))
    }
}
