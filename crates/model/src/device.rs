//! Names of devices, and what identifies one on this host.

use std::fmt;
use std::str::FromStr;

use crate::at::{RefError, RefErrorKind};
use crate::instance::InstanceKey;
use crate::text::{quote, serde_by_text};

/// Name of a device, by the rule of Incus: 1 to 64 characters, the first and last alphanumeric,
/// no blanks, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

impl DeviceName {
    /// Longest name, characters.
    pub const MAX_CHARS: usize = 64;

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceName {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        const WHAT: &str = "device name";
        let fail = |position, kind| Err(RefError::new(text, position, kind));
        let (Some(first), Some(last)) = (text.chars().next(), text.chars().next_back()) else {
            return fail(0, RefErrorKind::Empty(WHAT));
        };
        for (count, (position, c)) in text.char_indices().enumerate() {
            if count == Self::MAX_CHARS {
                let kind = RefErrorKind::TooLong { what: WHAT, max: Self::MAX_CHARS, unit: "characters" };
                return fail(position, kind);
            }
            if c.is_whitespace() || c.is_control() {
                return fail(position, RefErrorKind::Character { what: WHAT, found: quote(&c.to_string()) });
            }
        }
        if !first.is_alphanumeric() {
            return fail(0, RefErrorKind::Begin { what: WHAT, found: quote(&first.to_string()) });
        }
        if !last.is_alphanumeric() {
            let kind = RefErrorKind::End { what: WHAT, found: quote(&last.to_string()) };
            return fail(text.len() - last.len_utf8(), kind);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device of an instance: `incus:default/c1/web`. In this text a `/` or `%` of the device name is
/// written `%2F` or `%25`, so the last `/` always separates instance and device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey {
    /// Instance.
    pub instance: InstanceKey,
    /// Device.
    pub device: DeviceName,
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.instance)?;
        for c in self.device.0.chars() {
            match c {
                '%' => f.write_str("%25")?,
                '/' => f.write_str("%2F")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for DeviceKey {
    type Err = RefError;

    fn from_str(text: &str) -> Result<Self, RefError> {
        let Some((instance, escaped)) = text.rsplit_once('/') else {
            return Err(RefError::new(text, text.len(), RefErrorKind::DeviceMissing));
        };
        let start = instance.len() + 1;
        let instance: InstanceKey =
            instance.parse().map_err(|error: RefError| RefError::new(text, error.position, error.kind))?;
        let device = unescape(text, start, escaped)?;
        // A position within the name is moved by the escapes before it.
        let moved = |position: usize| {
            let before = device.get(..device.floor_char_boundary(position)).unwrap_or_default();
            start + position + 2 * before.matches(['%', '/']).count()
        };
        let device = device
            .parse()
            .map_err(|error: RefError| RefError::new(text, moved(error.position), error.kind))?;
        Ok(Self { instance, device })
    }
}

/// Undoes the escapes of `text[start..]`.
fn unescape(text: &str, start: usize, escaped: &str) -> Result<String, RefError> {
    let mut out = String::with_capacity(escaped.len());
    let mut parts = escaped.split('%');
    out.push_str(parts.next().unwrap_or_default());
    let mut place = start + out.len();
    for part in parts {
        let (c, rest) = if let Some(rest) = part.strip_prefix("25") {
            ('%', rest)
        } else if let Some(rest) = part.strip_prefix("2F") {
            ('/', rest)
        } else {
            let head: String = part.chars().take(2).collect();
            return Err(RefError::new(text, place, RefErrorKind::Escape(quote(&format!("%{head}")))));
        };
        out.push(c);
        out.push_str(rest);
        place += part.len() + 1;
    }
    Ok(out)
}

serde_by_text!(DeviceName, DeviceKey);
