//! Attributes of a file.

use super::request::Fields;

const SIZE: u32 = 1;
const IDS: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// What is said of a file; what is `None` is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Length, bytes.
    pub size: Option<u64>,
    /// User and group.
    pub ids: Option<(u32, u32)>,
    /// Type and permissions, as in `st_mode`.
    pub permissions: Option<u32>,
    /// Seconds since 1970 of the last access and of the last change.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(from: &mut Fields<'_>) -> Option<Self> {
        let flags = from.u32()?;
        let has = |flag| flags & flag != 0;
        let mut attributes = Self::default();
        if has(SIZE) {
            attributes.size = Some(from.u64()?);
        }
        if has(IDS) {
            attributes.ids = Some((from.u32()?, from.u32()?));
        }
        if has(PERMISSIONS) {
            attributes.permissions = Some(from.u32()?);
        }
        if has(TIMES) {
            attributes.times = Some((from.u32()?, from.u32()?));
        }
        if has(EXTENDED) {
            // Pairs of texts that nobody here knows. However many are announced, they end with the packet.
            for _ in 0..from.u32()? {
                from.bytes()?;
                from.bytes()?;
            }
        }
        Some(attributes)
    }

    /// Writes them to the end of `to`.
    pub fn write(&self, to: &mut Vec<u8>) {
        let flags = [
            (self.size.is_some(), SIZE),
            (self.ids.is_some(), IDS),
            (self.permissions.is_some(), PERMISSIONS),
            (self.times.is_some(), TIMES),
        ];
        let flags = flags.into_iter().filter(|(said, _)| *said).fold(0, |flags, (_, flag)| flags | flag);
        to.extend(flags.to_be_bytes());
        to.extend(self.size.iter().flat_map(|size| size.to_be_bytes()));
        let pair = |pair: Option<(u32, u32)>| pair.into_iter().flat_map(|(one, two)| [one, two]);
        for number in pair(self.ids).chain(self.permissions).chain(pair(self.times)) {
            to.extend(number.to_be_bytes());
        }
    }
}
