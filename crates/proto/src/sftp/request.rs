//! One request.

use super::{Attributes, RequestError};

/// A packet of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first: its version.
    Init {
        /// What the client speaks at most.
        version: u32,
    },
    /// Something to be done and answered.
    Do {
        /// What its answer repeats.
        id: u32,
        /// What is to be done.
        operation: Operation<'a>,
    },
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// It is made when it is not there.
    pub create: bool,
    /// Its contents go.
    pub truncate: bool,
    /// It must not be there.
    pub exclusive: bool,
}

/// What is to be done. Handles and paths are bytes of the client's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the request of that name; its fields are that request's")]
pub enum Operation<'a> {
    Open {
        path: &'a [u8],
        how: Open,
        attributes: Attributes,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        data: &'a [u8],
    },
    Lstat {
        path: &'a [u8],
    },
    Fstat {
        handle: &'a [u8],
    },
    Setstat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Fsetstat {
        handle: &'a [u8],
        attributes: Attributes,
    },
    Opendir {
        path: &'a [u8],
    },
    Readdir {
        handle: &'a [u8],
    },
    Remove {
        path: &'a [u8],
    },
    Mkdir {
        path: &'a [u8],
        attributes: Attributes,
    },
    Rmdir {
        path: &'a [u8],
    },
    Realpath {
        path: &'a [u8],
    },
    Stat {
        path: &'a [u8],
    },
    Rename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Readlink {
        path: &'a [u8],
    },
    Symlink {
        target: &'a [u8],
        path: &'a [u8],
    },
    PosixRename {
        from: &'a [u8],
        to: &'a [u8],
    },
    Statvfs {
        path: &'a [u8],
    },
    Fstatvfs {
        handle: &'a [u8],
    },
    Hardlink {
        from: &'a [u8],
        to: &'a [u8],
    },
    Fsync {
        handle: &'a [u8],
    },
    Lsetstat {
        path: &'a [u8],
        attributes: Attributes,
    },
    Limits,
    ExpandPath {
        path: &'a [u8],
    },
    CopyData {
        from: &'a [u8],
        from_offset: u64,
        length: u64,
        to: &'a [u8],
        to_offset: u64,
    },
    HomeDirectory {
        user: &'a [u8],
    },
    NamesOfIds {
        uids: &'a [u8],
        gids: &'a [u8],
    },
    /// A type or an extension that is not known.
    Unknown,
}

/// Fields of a packet, in order.
#[derive(Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

const INIT: u8 = 1;
const EXTENDED: u8 = 200;

impl<'a> Request<'a> {
    /// Reads a packet, without its length. Bytes after its last field are ignored, as other servers do.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn read(packet: &'a [u8]) -> Result<Self, RequestError> {
        let (kind, rest) = packet.split_first().ok_or(RequestError::Headless)?;
        let mut fields = Fields(rest);
        let number = fields.u32().ok_or(RequestError::Headless)?;
        if *kind == INIT {
            return Ok(Self::Init { version: number });
        }
        let operation = if *kind == EXTENDED { extended(&mut fields) } else { plain(*kind, &mut fields) };
        match operation {
            Some(operation) => Ok(Self::Do { id: number, operation }),
            None => Err(RequestError::Malformed { id: number }),
        }
    }
}

fn plain<'a>(kind: u8, from: &mut Fields<'a>) -> Option<Operation<'a>> {
    Some(match kind {
        3 => Operation::Open {
            path: from.bytes()?,
            how: Open::from_bits(from.u32()?),
            attributes: Attributes::read(from)?,
        },
        4 => Operation::Close { handle: from.bytes()? },
        5 => Operation::Read { handle: from.bytes()?, offset: from.u64()?, length: from.u32()? },
        6 => Operation::Write { handle: from.bytes()?, offset: from.u64()?, data: from.bytes()? },
        7 => Operation::Lstat { path: from.bytes()? },
        8 => Operation::Fstat { handle: from.bytes()? },
        9 => Operation::Setstat { path: from.bytes()?, attributes: Attributes::read(from)? },
        10 => Operation::Fsetstat { handle: from.bytes()?, attributes: Attributes::read(from)? },
        11 => Operation::Opendir { path: from.bytes()? },
        12 => Operation::Readdir { handle: from.bytes()? },
        13 => Operation::Remove { path: from.bytes()? },
        14 => Operation::Mkdir { path: from.bytes()?, attributes: Attributes::read(from)? },
        15 => Operation::Rmdir { path: from.bytes()? },
        16 => Operation::Realpath { path: from.bytes()? },
        17 => Operation::Stat { path: from.bytes()? },
        18 => Operation::Rename { from: from.bytes()?, to: from.bytes()? },
        19 => Operation::Readlink { path: from.bytes()? },
        20 => Operation::Symlink { target: from.bytes()?, path: from.bytes()? },
        _ => Operation::Unknown,
    })
}

fn extended<'a>(from: &mut Fields<'a>) -> Option<Operation<'a>> {
    Some(match from.bytes()? {
        b"posix-rename@openssh.com" => Operation::PosixRename { from: from.bytes()?, to: from.bytes()? },
        b"statvfs@openssh.com" => Operation::Statvfs { path: from.bytes()? },
        b"fstatvfs@openssh.com" => Operation::Fstatvfs { handle: from.bytes()? },
        b"hardlink@openssh.com" => Operation::Hardlink { from: from.bytes()?, to: from.bytes()? },
        b"fsync@openssh.com" => Operation::Fsync { handle: from.bytes()? },
        b"lsetstat@openssh.com" => {
            Operation::Lsetstat { path: from.bytes()?, attributes: Attributes::read(from)? }
        }
        b"limits@openssh.com" => Operation::Limits,
        b"expand-path@openssh.com" => Operation::ExpandPath { path: from.bytes()? },
        b"copy-data" => Operation::CopyData {
            from: from.bytes()?,
            from_offset: from.u64()?,
            length: from.u64()?,
            to: from.bytes()?,
            to_offset: from.u64()?,
        },
        b"home-directory" => Operation::HomeDirectory { user: from.bytes()? },
        b"users-groups-by-id@openssh.com" => {
            Operation::NamesOfIds { uids: from.bytes()?, gids: from.bytes()? }
        }
        _ => Operation::Unknown,
    })
}

impl Open {
    const fn from_bits(bits: u32) -> Self {
        Self {
            read: bits & 1 != 0,
            write: bits & 2 != 0,
            append: bits & 4 != 0,
            create: bits & 8 != 0,
            truncate: bits & 0x10 != 0,
            exclusive: bits & 0x20 != 0,
        }
    }
}
