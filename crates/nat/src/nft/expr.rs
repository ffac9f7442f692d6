//! The expressions a rule is made of.

use super::attr;
use crate::netlink::{Attribute, Attributes, Malformed, Writer};

/// A register: what one expression leaves for the next.
///
/// There are sixteen of four bytes; a longer value takes several in a row. The kernel counts them from
/// 8, and takes 1 to 4 for the four groups of four: the number that nft prefers, and that is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(u32);

impl Register {
    /// The verdict's own.
    pub(crate) const VERDICT: Self = Self(0);

    /// The one `words` of four bytes from the first, 0 to 15.
    pub(crate) const fn word(words: u32) -> Self {
        if words.is_multiple_of(4) { Self(words / 4 + 1) } else { Self(words + 8) }
    }

    /// A number of the kernel's, which lists the groups as 1 to 4 and other words from 8.
    const fn read(number: u32) -> Self {
        Self(number)
    }
}

/// What `meta` loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetaKey {
    /// The interface a packet came by, its name in 16 bytes.
    InInterface,
    /// The address family, one byte.
    Family,
    /// The protocol above IP, one byte.
    Protocol,
}

impl MetaKey {
    const ALL: [(Self, u32); 3] = [(Self::InInterface, 6), (Self::Family, 15), (Self::Protocol, 16)];
}

/// From where `payload` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayloadBase {
    /// The IP header.
    Network,
    /// What is above.
    Transport,
}

impl PayloadBase {
    const ALL: [(Self, u32); 2] = [(Self::Network, 1), (Self::Transport, 2)];
}

/// What `ct` loads or sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CtKey {
    /// 128 bits that stay with a connection.
    Labels,
}

impl CtKey {
    const ALL: [(Self, u32); 1] = [(Self::Labels, 13)];
}

/// What `fib` asks the routing table about the destination: is it an address of this host, of any
/// interface or of the one the packet came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fib {
    /// `fib daddr type`
    DestinationType,
    /// `fib daddr . iif type`
    DestinationTypeOnInterface,
}

impl Fib {
    /// `NFTA_FIB_F_DADDR`, and with `NFTA_FIB_F_IIF`.
    const ALL: [(Self, u32); 2] = [(Self::DestinationType, 2), (Self::DestinationTypeOnInterface, 2 | 8)];
    /// `NFT_FIB_RESULT_ADDRTYPE`
    const RESULT: u32 = 3;
}

/// Where a rule ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on without this table.
    Accept,
    /// Back to where the chain was called.
    Return,
    /// To a chain, and not back.
    Goto(String),
    /// Any other; the code.
    Other(u32),
}

impl Verdict {
    const ACCEPT: u32 = 1;
    const RETURN: u32 = 0xffff_fffb;
    const GOTO: u32 = 0xffff_fffc;
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Loads a property of the packet.
    Meta {
        /// Which.
        key: MetaKey,
        /// Into.
        to: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// From where it is counted.
        base: PayloadBase,
        /// Bytes from there.
        offset: u32,
        /// How many.
        length: u32,
        /// Into.
        to: Register,
    },
    /// Goes on if a register's value is this one, or is not.
    Compare {
        /// The register.
        from: Register,
        /// Whether it is to be equal.
        equal: bool,
        /// The value.
        value: Vec<u8>,
    },
    /// Keeps the bits of a mask.
    Mask {
        /// From.
        from: Register,
        /// Into.
        to: Register,
        /// The bits.
        mask: Vec<u8>,
    },
    /// Loads a value.
    Value {
        /// Into.
        to: Register,
        /// The value.
        value: Vec<u8>,
    },
    /// Ends the rule.
    Verdict(Verdict),
    /// Goes on if a set holds the key.
    Lookup {
        /// The set.
        set: String,
        /// The key.
        from: Register,
        /// Of a map: where the value goes.
        to: Option<Register>,
    },
    /// Asks the routing table.
    Fib {
        /// What.
        what: Fib,
        /// Into.
        to: Register,
    },
    /// Loads a property of the connection.
    Ct {
        /// Which.
        key: CtKey,
        /// Into.
        to: Register,
    },
    /// Sets a property of the connection.
    SetCt {
        /// Which.
        key: CtKey,
        /// From.
        from: Register,
    },
    /// Changes the destination.
    Dnat {
        /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
        family: u8,
        /// The address.
        address: Register,
        /// First port.
        first: Register,
        /// Last port, of a range within which the port is counted from its own number.
        last: Option<Register>,
    },
    /// Changes the source into an address of the interface the packet leaves by.
    Masquerade,
    /// Counts packets.
    Counter,
    /// Any other: its name.
    Unknown(String),
}

/// `NF_NAT_RANGE_MAP_IPS`, `_PROTO_SPECIFIED`, `_PROTO_OFFSET` of linux/netfilter/nf_nat.h. The kernel adds
/// the first two by itself from the registers that are given.
const NAT_FLAGS: u32 = 1 | 2;
const NAT_OFFSET: u32 = 1 << 5;

impl Expr {
    /// Its name in the kernel.
    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Value { .. } | Self::Verdict(_) => "immediate",
            Self::Lookup { .. } => "lookup",
            Self::Fib { .. } => "fib",
            Self::Ct { .. } | Self::SetCt { .. } => "ct",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Counter => "counter",
            Self::Unknown(name) => name,
        }
    }

    /// Writes it as name and data.
    pub(crate) fn write(&self, out: &mut Writer) {
        self.write_name(out);
        out.nested(attr::EXPR_DATA, |out| self.write_data(out));
    }

    /// Writes its name alone.
    pub(super) fn write_name(&self, out: &mut Writer) {
        out.text(attr::EXPR_NAME, self.name());
    }

    fn write_data(&self, out: &mut Writer) {
        match self {
            Self::Meta { key, to } => {
                out.u32(1, to.0);
                out.u32(2, number(&MetaKey::ALL, *key));
            }
            Self::Payload { base, offset, length, to } => {
                out.u32(1, to.0);
                out.u32(2, number(&PayloadBase::ALL, *base));
                out.u32(3, *offset);
                out.u32(4, *length);
            }
            Self::Compare { from, equal, value } => {
                out.u32(1, from.0);
                out.u32(2, u32::from(!equal));
                write_value(out, 3, value);
            }
            Self::Mask { from, to, mask } => {
                out.u32(1, from.0);
                out.u32(2, to.0);
                out.u32(3, u32::try_from(mask.len()).unwrap_or_default());
                write_value(out, 4, mask);
                write_value(out, 5, &vec![0; mask.len()]);
            }
            Self::Value { to, value } => {
                out.u32(1, to.0);
                write_value(out, 2, value);
            }
            Self::Verdict(verdict) => {
                out.u32(1, Register::VERDICT.0);
                out.nested(2, |out| write_verdict(out, verdict));
            }
            Self::Lookup { set, from, to } => {
                out.text(1, set);
                out.u32(2, from.0);
                if let Some(to) = to {
                    out.u32(3, to.0);
                }
            }
            Self::Fib { what, to } => {
                out.u32(1, to.0);
                out.u32(2, Fib::RESULT);
                out.u32(3, number(&Fib::ALL, *what));
            }
            Self::Ct { key, to } => {
                out.u32(1, to.0);
                out.u32(2, number(&CtKey::ALL, *key));
            }
            Self::SetCt { key, from } => {
                out.u32(2, number(&CtKey::ALL, *key));
                out.u32(4, from.0);
            }
            Self::Dnat { family, address, first, last } => {
                out.u32(1, 1);
                out.u32(2, u32::from(*family));
                out.u32(3, address.0);
                out.u32(5, first.0);
                if let Some(last) = last {
                    out.u32(6, last.0);
                    out.u32(7, NAT_FLAGS | NAT_OFFSET);
                }
            }
            Self::Masquerade | Self::Counter | Self::Unknown(_) => {}
        }
    }

    /// Reads name and data.
    pub(crate) fn read(attributes: Attributes<'_>) -> Result<Self, Malformed> {
        let name = attributes.need(attr::EXPR_NAME, "expression")?.text();
        let data = attributes.find(attr::EXPR_DATA)?.map_or(Attributes::new(&[]), |data| data.nested());
        let known = Self::read_data(&name, data)?;
        Ok(known.unwrap_or(Self::Unknown(name)))
    }

    fn read_data(name: &str, data: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let register = |kind| data.need(kind, "register")?.u32().map(Register::read);
        let optional = |kind| data.find(kind)?.map(|found| found.u32().map(Register::read)).transpose();
        let word = |kind| data.find(kind)?.map_or(Ok(0), |found| found.u32());
        Ok(match name {
            "meta" => {
                keyed(&MetaKey::ALL, word(2)?).zip(optional(1)?).map(|(key, to)| Self::Meta { key, to })
            }
            "payload" => keyed(&PayloadBase::ALL, word(2)?)
                .zip(optional(1)?)
                .map(|(base, to)| Ok(Self::Payload { base, offset: word(3)?, length: word(4)?, to }))
                .transpose()?,
            "cmp" => {
                let equal = match word(2)? {
                    0 => true,
                    1 => false,
                    _ => return Ok(None),
                };
                Some(Self::Compare { from: register(1)?, equal, value: read_value(data.need(3, "value")?)? })
            }
            "bitwise" => read_mask(data)?,
            "immediate" => read_immediate(data)?,
            "lookup" if word(5)? == 0 => {
                Some(Self::Lookup { set: data.need(1, "set")?.text(), from: register(2)?, to: optional(3)? })
            }
            "fib" if word(2)? == Fib::RESULT => {
                keyed(&Fib::ALL, word(3)?).zip(optional(1)?).map(|(what, to)| Self::Fib { what, to })
            }
            "ct" if data.find(3)?.is_none() => {
                let key = keyed(&CtKey::ALL, word(2)?);
                match (key, optional(1)?, optional(4)?) {
                    (Some(key), Some(to), None) => Some(Self::Ct { key, to }),
                    (Some(key), None, Some(from)) => Some(Self::SetCt { key, from }),
                    (Some(_) | None, _, _) => None,
                }
            }
            "nat" => read_nat(data)?,
            "masq" if data.find(1)?.is_none() && data.find(2)?.is_none() => Some(Self::Masquerade),
            "counter" => Some(Self::Counter),
            _ => None,
        })
    }
}

fn read_mask(data: Attributes<'_>) -> Result<Option<Expr>, Malformed> {
    let (Some(mask), Some(xor)) = (data.find(4)?, data.find(5)?) else { return Ok(None) };
    let (mask, xor) = (read_value(mask)?, read_value(xor)?);
    let plain =
        xor.iter().all(|byte| *byte == 0) && data.find(6)?.map_or(Ok(0), |operation| operation.u32())? == 0;
    let from = data.need(1, "register")?.u32().map(Register::read)?;
    let to = data.need(2, "register")?.u32().map(Register::read)?;
    Ok(plain.then_some(Expr::Mask { from, to, mask }))
}

fn read_immediate(data: Attributes<'_>) -> Result<Option<Expr>, Malformed> {
    let to = Register::read(data.need(1, "register")?.u32()?);
    let value = data.need(2, "value")?;
    if to != Register::VERDICT {
        return Ok(Some(Expr::Value { to, value: read_value(value)? }));
    }
    let verdict = value.nested().need(attr::DATA_VERDICT, "verdict")?.nested();
    let code = verdict.need(attr::VERDICT_CODE, "verdict")?.u32()?;
    Ok(Some(Expr::Verdict(match code {
        Verdict::ACCEPT => Verdict::Accept,
        Verdict::RETURN => Verdict::Return,
        Verdict::GOTO => Verdict::Goto(verdict.need(attr::VERDICT_CHAIN, "verdict")?.text()),
        code => Verdict::Other(code),
    })))
}

fn read_nat(data: Attributes<'_>) -> Result<Option<Expr>, Malformed> {
    let optional = |kind| data.find(kind)?.map(|found| found.u32()).transpose();
    let (Some(1), Some(family), Some(address), Some(first)) =
        (optional(1)?, optional(2)?, optional(3)?, optional(5)?)
    else {
        return Ok(None);
    };
    // The kernel lists the first of a range as its last where there is one only.
    let same = |last: &u32, first: u32| *last != first;
    let last = optional(6)?.filter(|last| same(last, first));
    let one_address = optional(4)?.is_none_or(|last| last == address);
    let flags = optional(7)?.unwrap_or_default() & !NAT_FLAGS;
    let wanted = if last.is_some() { NAT_OFFSET } else { 0 };
    let Ok(family) = u8::try_from(family) else { return Ok(None) };
    Ok((one_address && flags == wanted).then_some(Expr::Dnat {
        family,
        address: Register::read(address),
        first: Register::read(first),
        last: last.map(Register::read),
    }))
}

fn write_verdict(out: &mut Writer, verdict: &Verdict) {
    out.nested(attr::DATA_VERDICT, |out| match verdict {
        Verdict::Accept => out.u32(attr::VERDICT_CODE, Verdict::ACCEPT),
        Verdict::Return => out.u32(attr::VERDICT_CODE, Verdict::RETURN),
        Verdict::Goto(chain) => {
            out.u32(attr::VERDICT_CODE, Verdict::GOTO);
            out.text(attr::VERDICT_CHAIN, chain);
        }
        Verdict::Other(code) => out.u32(attr::VERDICT_CODE, *code),
    });
}

/// A value inside an attribute of its own.
pub(super) fn write_value(out: &mut Writer, kind: u16, value: &[u8]) {
    out.nested(kind, |out| out.bytes(attr::DATA_VALUE, value));
}

/// The value inside an attribute.
pub(super) fn read_value(attribute: Attribute<'_>) -> Result<Vec<u8>, Malformed> {
    Ok(attribute.nested().need(attr::DATA_VALUE, "value")?.value.to_vec())
}

fn number<K: Copy + PartialEq>(all: &[(K, u32)], key: K) -> u32 {
    all.iter().find(|(known, _)| *known == key).map_or(u32::MAX, |(_, number)| *number)
}

fn keyed<K: Copy>(all: &[(K, u32)], number: u32) -> Option<K> {
    all.iter().find(|(_, known)| *known == number).map(|(key, _)| *key)
}
