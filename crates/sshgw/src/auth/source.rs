//! From where a key may be used: the list of `from=`, and the blocks of a certificate's `source-address`.
//!
//! Names of hosts are never looked up: a pattern of a name is compared with the address as text, as OpenSSH does
//! without `UseDNS`.

use std::net::IpAddr;

use portway_model::Cidr;

/// Most patterns of one list.
const PATTERNS_MAX: usize = 256;

/// A list of patterns, comma-separated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources(Vec<Item>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    negated: bool,
    pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Block(Cidr),
    /// With `*` and `?`, lower case.
    Text(String),
}

/// Why a list cannot be used. The key it belongs to is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// Nothing in it, or nothing between two commas.
    #[error("empty pattern")]
    Empty,
    /// A block with a bad length, or whose address is not its first one.
    #[error("malformed block of addresses")]
    Block,
    /// Something else where only blocks may be.
    #[error("not a block of addresses")]
    NotABlock,
    /// Too long.
    #[error("more than {PATTERNS_MAX} patterns")]
    TooMany,
}

impl Sources {
    /// Reads the list of `from=`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(list: &str) -> Result<Self, SourcesError> {
        Self::read(list, |text| Ok(Pattern::Text(text.to_ascii_lowercase())))
    }

    /// Reads the list of `source-address`, which holds addresses and blocks alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_blocks(list: &str) -> Result<Self, SourcesError> {
        let sources = Self::read(list, |_| Err(SourcesError::NotABlock))?;
        // OpenSSH knows no negation there.
        if sources.0.iter().any(|item| item.negated) { Err(SourcesError::NotABlock) } else { Ok(sources) }
    }

    fn read(list: &str, other: impl Fn(&str) -> Result<Pattern, SourcesError>) -> Result<Self, SourcesError> {
        let mut items = Vec::new();
        for text in list.split(',') {
            let (negated, text) = match text.strip_prefix('!') {
                Some(text) => (true, text),
                None => (false, text),
            };
            if text.is_empty() {
                return Err(SourcesError::Empty);
            }
            if items.len() == PATTERNS_MAX {
                return Err(SourcesError::TooMany);
            }
            let pattern = if text.contains('/') || text.parse::<IpAddr>().is_ok() {
                Pattern::Block(block(text).ok_or(SourcesError::Block)?)
            } else {
                other(text)?
            };
            items.push(Item { negated, pattern });
        }
        Ok(Self(items))
    }

    /// Whether a client may come from `address`: some pattern fits, and no negated one.
    #[must_use]
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let text = address.to_string();
        let fits = |item: &&Item| match &item.pattern {
            Pattern::Block(block) => block.contains(address),
            Pattern::Text(pattern) => is_like(&text, pattern),
        };
        let mut found = self.0.iter().filter(fits).peekable();
        found.peek().is_some() && found.all(|item| !item.negated)
    }
}

/// `ADDRESS` or `ADDRESS/BITS`, where the address is the first of its block.
fn block(text: &str) -> Option<Cidr> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let plain = |bits: &str| bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits = match bits {
        Some(bits) => bits.parse().ok().filter(|_| plain(bits))?,
        None => most,
    };
    Cidr::new(address, bits)
}

/// Whether `text` fits a pattern in which `*` stands for any run of characters and `?` for any one. Takes time in
/// proportion to the product of both lengths at most.
#[must_use]
pub fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut at, mut place) = (0, 0);
    // Where the last `*` was, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(at) {
        match pattern.get(place) {
            Some(b'*') => {
                star = Some((place, at));
                place += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                at += 1;
                place += 1;
            }
            Some(_) | None => {
                let Some((star_place, taken)) = star else { return false };
                star = Some((star_place, taken + 1));
                place = star_place + 1;
                at = taken + 1;
            }
        }
    }
    pattern.get(place..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a list lets somebody in whom it does not name, or keeps out whom it does.
    #[test]
    fn lists_of_patterns() {
        let cases = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/8", "10.9.8.7", true),
            ("10.0.0.0/8", "::ffff:10.9.8.7", true),
            ("10.0.0.0/8,!10.0.0.5", "10.0.0.5", false),
            ("!10.0.0.5,10.0.0.0/8", "10.0.0.6", true),
            ("!10.0.0.5", "10.0.0.6", false),
            ("192.168.*.?", "192.168.44.7", true),
            ("192.168.*.?", "192.168.44.17", false),
            ("*", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8::1", true),
            ("2001:DB8::*", "2001:db8::1", true),
            ("*.example.com", "10.0.0.1", false),
        ];
        for (list, address, fits) in cases {
            assert_eq!(
                Sources::parse(list).unwrap().allow(address.parse().unwrap()),
                fits,
                "{list} {address}"
            );
        }
    }

    /// Fails when: a list that OpenSSH refuses is taken for one that lets everybody in, or nobody.
    #[test]
    fn malformed_lists_are_refused() {
        for list in ["", ",", "10.0.0.1,", "!", "10.0.0.0/33", "10.0.0.1/8", "/8", "::/129"] {
            assert!(Sources::parse(list).is_err(), "{list}");
        }
        assert_eq!(Sources::parse_blocks("10.0.0.*"), Err(SourcesError::NotABlock));
        assert_eq!(Sources::parse_blocks("!10.0.0.1"), Err(SourcesError::NotABlock));
        assert_eq!(Sources::parse(&"*,".repeat(300)), Err(SourcesError::TooMany));
    }

    /// Fails when: a pattern of many stars takes longer than anybody waits.
    #[test]
    fn many_stars_take_no_time() {
        assert!(!is_like(&"a".repeat(2000), &format!("{}b", "*a".repeat(1000))));
        assert!(is_like("", "**") && !is_like("", "?") && is_like("abc", "a*c*"));
    }
}
