//! Fields of a frame: read from a slice, written to a vector.

use super::FrameError;

/// Reads the fields of one frame in order.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(kind: u8, rest: &'a [u8]) -> Self {
        Self { kind, rest }
    }

    pub(super) const fn wrong(&self, field: &'static str) -> FrameError {
        FrameError::Field { kind: self.kind, field }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(FrameError::Short(self.kind))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.u32()?;
        let length = usize::try_from(length).map_err(|_| FrameError::Short(self.kind))?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(FrameError::Short(self.kind))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes that will be a string of the system: without a zero byte.
    pub(super) fn text(&mut self, field: &'static str) -> Result<Vec<u8>, FrameError> {
        let bytes = self.bytes()?;
        if bytes.contains(&0) { Err(self.wrong(field)) } else { Ok(bytes.to_vec()) }
    }

    /// The rest of the frame.
    pub(super) const fn remainder(&mut self) -> &'a [u8] {
        let rest = self.rest;
        self.rest = &[];
        rest
    }

    /// A list of at most `most` entries. Its announced length alone takes no memory.
    pub(super) fn list<T>(
        &mut self,
        field: &'static str,
        most: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let count = usize::try_from(self.u32()?).map_err(|_| self.wrong(field))?;
        if count > most {
            return Err(self.wrong(field));
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(entry(self)?);
        }
        Ok(entries)
    }

    pub(super) const fn end(&self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FrameError::Long(self.kind)) }
    }
}

/// Writes the fields of one frame to the end of a vector.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    to: &'a mut Vec<u8>,
    /// Where the frame's length stands.
    begin: usize,
}

/// A length that no frame has: the sign of one that could not be written.
const TOO_LONG: u32 = u32::MAX;

impl<'a> Writer<'a> {
    pub(super) fn new(kind: u8, to: &'a mut Vec<u8>) -> Self {
        let begin = to.len();
        to.extend([0; 4]);
        to.push(kind);
        Self { to, begin }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.to.extend_from_slice(bytes);
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.to.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(super) fn list<T>(&mut self, entries: &[T], mut entry: impl FnMut(&mut Self, &T)) {
        self.count(entries.len());
        for one in entries {
            entry(self, one);
        }
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(TOO_LONG));
    }

    /// Fills in the length; takes back a frame that is too long and says so.
    pub(super) fn end(self) -> Result<(), FrameError> {
        let length = u32::try_from(self.to.len() - self.begin - 4).unwrap_or(TOO_LONG);
        if usize::try_from(length).is_ok_and(|length| length <= super::FRAME_MAX_BYTES)
            && let Some(place) = self.to.get_mut(self.begin..self.begin + 4)
        {
            place.copy_from_slice(&length.to_be_bytes());
            return Ok(());
        }
        self.to.truncate(self.begin);
        Err(FrameError::Length(length))
    }
}
