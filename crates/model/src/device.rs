//! Names of devices, and what identifies one on this host.

use std::fmt;
use std::str::FromStr;

use crate::at::{RefError, RefErrorKind};
use crate::instance::InstanceKey;
use crate::text::{quote, serde_by_text};

/// A `/` of a device name in the text of a [`DeviceKey`]. `%` is not allowed in device names.
const ESCAPED_SLASH: &str = "%2F";

/// Name of a device, by the rule of Incus: 1 to 64 of the ASCII letters and digits and `-`, `_`, `.`,
/// `:`, `/`, the first not a `.` (tried on Incus 6.0). It is not fit to be a file name.
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
        if text.is_empty() {
            return fail(0, RefErrorKind::Empty(WHAT));
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
        if let Some((position, c)) = text.char_indices().find(|(_, c)| !good(*c)) {
            return fail(position, RefErrorKind::Character { what: WHAT, found: quote(&c.to_string()) });
        }
        if text.len() > Self::MAX_CHARS {
            let kind = RefErrorKind::TooLong { what: WHAT, max: Self::MAX_CHARS, unit: "characters" };
            return fail(Self::MAX_CHARS, kind);
        }
        if text.starts_with('.') {
            return fail(0, RefErrorKind::Begin { what: WHAT, found: quote(".") });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device of an instance: `incus:default/c1/web`. In this text a `/` of the device name is written
/// `%2F`, so the last `/` always separates instance and device.
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
        for (index, part) in self.device.0.split('/').enumerate() {
            f.write_str(if index > 0 { ESCAPED_SLASH } else { "" })?;
            f.write_str(part)?;
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
        let here = |error: RefError| RefError::new(text, error.position, error.kind);
        let instance = instance.parse::<InstanceKey>().map_err(here)?;
        let start = text.len() - escaped.len();
        let device = escaped.replace(ESCAPED_SLASH, "/");
        let device = device.parse().map_err(|error: RefError| {
            // Each escape before the place makes the text longer than the name.
            let before = device.get(..error.position).unwrap_or_default();
            let longer = (ESCAPED_SLASH.len() - 1) * before.matches('/').count();
            RefError::new(text, start + error.position + longer, error.kind)
        })?;
        Ok(Self { instance, device })
    }
}

serde_by_text!(DeviceName, DeviceKey);

#[cfg(test)]
mod tests;
