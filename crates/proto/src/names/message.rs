//! Questions for the addresses of a name, and their answers (RFC 1035, 4; RFC 3596; RFC 6891).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ADDRESSES_MAX;

/// Longest answer that is asked for by UDP: it fits one packet on every way of IPv6 (as most resolvers have it since 2020).
pub const ANSWER_MAX_BYTES: u16 = 1232;

/// Longest name and label (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

const HEADER: usize = 12;
const INTERNET: u16 = 1;

/// Flags of the header: an answer, kinds of question, and "look it up for me".
const IS_ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSE: u16 = 0x0100;
const RCODE: u16 = 0x000f;
const FORMAT: u16 = 1;
const NO_SUCH_NAME: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;

/// The record that says what else a question means, by its type (RFC 6891, 6.1.1).
const OPTIONS: u16 = 41;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of IPv4.
    V4,
    /// Of IPv6.
    V6,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn number(self) -> u16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 28,
        }
    }
}

/// How much a question says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As RFC 1035 has it: an answer by UDP has at most 512 bytes.
    Plain,
    /// That an answer by UDP may be longer, [`ANSWER_MAX_BYTES`].
    Extended,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The addresses, which may be none.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoName,
    /// No address fitted: another way of asking has room for them.
    Cut,
    /// It does not understand questions of this style.
    Foreign,
    /// It does not know, or does not say.
    Failed,
}

/// The question for a name; `None` for one that no name can be.
#[must_use]
pub fn question(id: u16, name: &str, kind: Kind, style: Style) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER + name.len() + 17);
    for word in [id, RECURSE, 1, 0, 0, u16::from(style == Style::Extended)] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    encode(name, &mut message)?;
    message.extend_from_slice(&kind.number().to_be_bytes());
    message.extend_from_slice(&INTERNET.to_be_bytes());
    if style == Style::Extended {
        // Of the root, with no flags and no options: the class is the length.
        message.push(0);
        for word in [OPTIONS, ANSWER_MAX_BYTES, 0, 0, 0] {
            message.extend_from_slice(&word.to_be_bytes());
        }
    }
    Some(message)
}

/// What a message answers to that question; `None` when it is no answer to it.
#[must_use]
pub fn answer(message: &[u8], id: u16, name: &str, kind: Kind) -> Option<Answer> {
    let mut from = Reader { message, at: 0 };
    let (is, flags, questions) = (from.u16()?, from.u16()?, from.u16()?);
    let count = from.u16()?;
    from.at = HEADER;
    if is != id || flags & IS_ANSWER == 0 || flags & OPCODE != 0 {
        return None;
    }
    // Who does not understand a question need not repeat it.
    if questions == 0 && matches!(flags & RCODE, FORMAT | NOT_IMPLEMENTED) {
        return Some(Answer::Foreign);
    }
    if questions != 1 {
        return None;
    }
    let mut asked = Vec::new();
    encode(name, &mut asked)?;
    let repeated = from.take(asked.len())?;
    if !repeated.eq_ignore_ascii_case(&asked) || from.u16()? != kind.number() || from.u16()? != INTERNET {
        return None;
    }
    match flags & RCODE {
        0 => {}
        NO_SUCH_NAME => return Some(Answer::NoName),
        FORMAT | NOT_IMPLEMENTED => return Some(Answer::Foreign),
        _ => return Some(Answer::Failed),
    }
    let mut found = Vec::new();
    for _ in 0..count {
        // Of one that is cut short what has come counts.
        let Some(record) = from.record() else { break };
        if let Some(address) = record.filter(|_| found.len() < ADDRESSES_MAX) {
            found.push(address);
        }
    }
    found.retain(|address: &IpAddr| address.is_ipv4() == (kind == Kind::V4));
    let is_cut = found.is_empty() && flags & TRUNCATED != 0;
    Some(if is_cut { Answer::Cut } else { Answer::Addresses(found) })
}

/// The labels of a name.
fn encode(name: &str, to: &mut Vec<u8>) -> Option<()> {
    if name.is_empty() || name.len() > NAME_MAX {
        return None;
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| usize::from(*length) <= LABEL_MAX)?;
        if length == 0 {
            return None;
        }
        to.push(length);
        to.extend_from_slice(label.as_bytes());
    }
    to.push(0);
    Some(())
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(bytes)?;
        let taken = self.message.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// One record of an answer: the address it has, if it is one.
    fn record(&mut self) -> Option<Option<IpAddr>> {
        self.skip_name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        let _time_to_live = self.take(4)?;
        let length = self.u16()?;
        let data = self.take(length.into())?;
        if class != INTERNET {
            return Some(None);
        }
        Some(match kind {
            1 => <[u8; 4]>::try_from(data).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
            28 => <[u8; 16]>::try_from(data).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
            _ => None,
        })
    }

    /// Labels, or what says where they stand, which nobody follows here.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match *self.take(1)?.first()? {
                0 => return Some(()),
                0xc0.. => return self.take(1).map(|_| ()),
                length if usize::from(length) <= LABEL_MAX => self.take(length.into())?,
                _ => return None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to the question, with records that name it by where it stands.
    fn answered(id: u16, name: &str, kind: Kind, flags: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question(id, name, kind, Style::Plain).expect("a name");
        message[2..4].copy_from_slice(&flags.to_be_bytes());
        message[6..8].copy_from_slice(&u16::try_from(records.len()).expect("few").to_be_bytes());
        for (kind, data) in records {
            message.extend_from_slice(&[0xc0, 12]);
            for word in [*kind, 1, 0, 60, u16::try_from(data.len()).expect("short")] {
                message.extend_from_slice(&word.to_be_bytes());
            }
            message.extend_from_slice(data);
        }
        message
    }

    #[test]
    fn a_question_is_one_of_rfc_1035() {
        let expected = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x02db\x03lan\0\0\x1c\0\x01";
        assert_eq!(question(0x1234, "db.lan", Kind::V6, Style::Plain).expect("a name"), expected);
        let extended = question(0x1234, "db.lan", Kind::V6, Style::Extended).expect("a name");
        assert_eq!(extended[..11], expected[..11]);
        assert_eq!(extended[11..], [b"\x01", &expected[12..], b"\0\0\x29\x04\xd0\0\0\0\0\0\0"].concat());
        for wrong in ["", ".", "a..b", "a.", &"x".repeat(64), &"a.".repeat(127)] {
            assert_eq!(question(1, wrong, Kind::V4, Style::Plain), None, "{wrong}");
        }
    }

    #[test]
    fn answers_have_addresses_of_their_kind() {
        let alias: (u16, &[u8]) = (5, b"\x01x\0");
        let records = [alias, (1, &[10, 0, 0, 1]), (28, &[1; 16]), (1, &[10, 0])];
        let good = answered(7, "db.lan", Kind::V4, 0x8180, &records);
        let expected = Answer::Addresses(vec![Ipv4Addr::new(10, 0, 0, 1).into()]);
        assert_eq!(answer(&good, 7, "DB.lan", Kind::V4), Some(expected));
        let of = |flags| answer(&answered(7, "db.lan", Kind::V6, flags, &[]), 7, "db.lan", Kind::V6);
        assert_eq!(of(0x8183), Some(Answer::NoName));
        assert_eq!((of(0x8182), of(0x8185)), (Some(Answer::Failed), Some(Answer::Failed)));
        assert_eq!(of(0x8180), Some(Answer::Addresses(Vec::new())));
        assert_eq!((of(0x8181), of(0x8184)), (Some(Answer::Foreign), Some(Answer::Foreign)));
        let short = |flags: u8| answer(&[0, 7, 0x81, flags, 0, 0, 0, 0, 0, 0, 0, 0], 7, "db.lan", Kind::V6);
        assert_eq!((short(0x81), short(0x80)), (Some(Answer::Foreign), None));
        // Of one that is cut, what is whole.
        let first = good.len() - 40;
        for end in 0..good.len() {
            let cut = answer(&good[..end], 7, "db.lan", Kind::V4);
            assert!(end < first || cut.is_some(), "{end}");
        }
    }

    /// Fails when what did not fit is taken for what is not there.
    #[test]
    fn an_answer_that_did_not_fit_says_so() {
        let of = |records: &[(u16, &[u8])]| {
            answer(&answered(7, "db.lan", Kind::V4, 0x8380, records), 7, "db.lan", Kind::V4)
        };
        assert_eq!((of(&[]), of(&[(5, b"\x01x\0")])), (Some(Answer::Cut), Some(Answer::Cut)));
        let some = of(&[(1, &[10, 0, 0, 1])]);
        assert_eq!(some, Some(Answer::Addresses(vec![Ipv4Addr::new(10, 0, 0, 1).into()])));
    }

    /// Fails when what answers another question, or none, is taken.
    #[test]
    fn what_was_not_asked_is_no_answer() {
        let good = answered(7, "db.lan", Kind::V4, 0x8180, &[(1, &[10, 0, 0, 1])]);
        assert_eq!(answer(&good, 8, "db.lan", Kind::V4), None);
        assert_eq!(answer(&good, 7, "dx.lan", Kind::V4), None);
        assert_eq!(answer(&good, 7, "db.lan", Kind::V6), None);
        let asked = question(7, "db.lan", Kind::V4, Style::Extended).expect("a name");
        assert_eq!(answer(&asked, 7, "db.lan", Kind::V4), None);
        assert_eq!(answer(b"", 7, "db.lan", Kind::V4), None);
        // A name that leads to itself is left alone.
        let mut round = good.clone();
        let at = round.len() - 16;
        round[at..at + 2].copy_from_slice(&[0xc0, u8::try_from(at).expect("short")]);
        assert!(answer(&round, 7, "db.lan", Kind::V4).is_some());
    }
}
