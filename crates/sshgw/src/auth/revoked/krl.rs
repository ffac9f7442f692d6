//! The binary form: a header, then sections, each with its length. Reads every byte once; what it keeps is no larger
//! than what it reads.

use super::{Certificates, MAGIC, Revoked, RevokedError};

const FORMAT_VERSION: u32 = 1;

const SECTION_CERTIFICATES: u8 = 1;
const SECTION_KEYS: u8 = 2;
const SECTION_SHA1: u8 = 3;
/// Signatures of the list itself; OpenSSH has given them up, and so they say nothing.
const SECTION_SIGNATURE: u8 = 4;
const SECTION_SHA256: u8 = 5;
const SECTION_EXTENSION: u8 = 255;

const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const KEY_ID: u8 = 0x23;
const CERTIFICATES_EXTENSION: u8 = 0x39;

/// Bytes that are read one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Where `bytes` begins in the file.
    start: usize,
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], RevokedError> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(RevokedError::Malformed(self.start + self.at))?;
        self.at += count;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], RevokedError> {
        let place = self.start + self.at;
        self.take(N)?.try_into().map_err(|_| RevokedError::Malformed(place))
    }

    fn u8(&mut self) -> Result<u8, RevokedError> {
        self.number().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, RevokedError> {
        self.number().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, RevokedError> {
        self.number().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], RevokedError> {
        let place = self.start + self.at;
        let length = usize::try_from(self.u32()?).map_err(|_| RevokedError::Malformed(place))?;
        self.take(length)
    }

    /// A string, to be read in its turn.
    fn inner(&mut self) -> Result<Reader<'a>, RevokedError> {
        let bytes = self.string()?;
        Ok(Reader { bytes, start: self.start + self.at - bytes.len(), at: 0 })
    }

    fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

/// Reads a list.
pub(super) fn parse(bytes: &[u8]) -> Result<Revoked, RevokedError> {
    let mut reader = Reader { bytes, start: 0, at: MAGIC.len() };
    let version = reader.u32()?;
    if version != FORMAT_VERSION {
        return Err(RevokedError::Version(version));
    }
    // Version and date of the list, flags, a reserved part, and a comment.
    reader.take(24)?;
    reader.string()?;
    reader.string()?;
    let mut revoked = Revoked::default();
    while !reader.is_done() {
        let kind = reader.u8()?;
        let mut section = reader.inner()?;
        match kind {
            SECTION_CERTIFICATES => revoked.certificates.push(certificates(&mut section)?),
            SECTION_KEYS => strings(&mut section, |key| _ = revoked.keys.insert(key))?,
            SECTION_SHA1 => hashes(&mut section, 20, |hash| _ = revoked.sha1.insert(hash))?,
            SECTION_SHA256 => hashes(&mut section, 32, |hash| _ = revoked.sha256.insert(hash))?,
            SECTION_SIGNATURE => {
                // The signature follows the key within the file, not within the section.
                reader.string()?;
            }
            SECTION_EXTENSION => extension(&mut section, kind)?,
            kind => return Err(RevokedError::Unknown(kind)),
        }
    }
    Ok(revoked)
}

fn certificates(section: &mut Reader<'_>) -> Result<Certificates, RevokedError> {
    let authority = section.string()?;
    section.string()?;
    let mut list = Certificates {
        authority: (!authority.is_empty()).then(|| authority.to_vec()),
        ..Certificates::default()
    };
    while !section.is_done() {
        let kind = section.u8()?;
        let mut part = section.inner()?;
        match kind {
            SERIAL_LIST => {
                while !part.is_done() {
                    let serial = part.u64()?;
                    list.serials.push((serial, serial));
                }
            }
            SERIAL_RANGE => {
                let place = part.start;
                let (from, to) = (part.u64()?, part.u64()?);
                if from > to || !part.is_done() {
                    return Err(RevokedError::Malformed(place));
                }
                list.serials.push((from, to));
            }
            SERIAL_BITMAP => {
                let offset = part.u64()?;
                let bits = part.string()?.to_vec();
                if !part.is_done() {
                    return Err(RevokedError::Malformed(part.start + part.at));
                }
                list.bitmaps.push((offset, bits));
            }
            KEY_ID => strings(&mut part, |id| _ = list.ids.insert(id))?,
            CERTIFICATES_EXTENSION => extension(&mut part, kind)?,
            kind => return Err(RevokedError::Unknown(kind)),
        }
    }
    Ok(list)
}

fn strings(part: &mut Reader<'_>, mut keep: impl FnMut(Vec<u8>)) -> Result<(), RevokedError> {
    while !part.is_done() {
        keep(part.string()?.to_vec());
    }
    Ok(())
}

fn hashes(part: &mut Reader<'_>, length: usize, mut keep: impl FnMut(Vec<u8>)) -> Result<(), RevokedError> {
    while !part.is_done() {
        let place = part.start + part.at;
        let hash = part.string()?;
        if hash.len() != length {
            return Err(RevokedError::Malformed(place));
        }
        keep(hash.to_vec());
    }
    Ok(())
}

/// An extension says whether it must be understood; we know none.
fn extension(part: &mut Reader<'_>, kind: u8) -> Result<(), RevokedError> {
    part.string()?;
    let critical = part.u8()? != 0;
    part.string()?;
    if critical { Err(RevokedError::Unknown(kind)) } else { Ok(()) }
}
