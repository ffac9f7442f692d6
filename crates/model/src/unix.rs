//! Names of unix sockets: a path, or an abstract name.

use std::fmt;
use std::path::Path;

use crate::at::{AddrError, AddrErrorKind};

/// Longest path or abstract name, bytes: `sun_path` has 108, one of them the final NUL of a path
/// or the leading NUL of an abstract name (unix(7)).
pub const UNIX_NAME_MAX_BYTES: usize = 107;

/// An absolute path without empty, `.` or `..` components and without a final `/`, at most
/// [`UNIX_NAME_MAX_BYTES`] long, free of NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixPath(String);

impl UnixPath {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Reads `text[start..]`. Repeated `/` and `.` components are dropped; `..` is refused, because
    /// what it means depends on symbolic links.
    pub(crate) fn parse_at(text: &str, start: usize) -> Result<Self, AddrError> {
        let fail = |position, kind| Err(AddrError::new(text, position, kind));
        let path = text.get(start..).unwrap_or_default();
        if !path.starts_with('/') {
            return fail(start, AddrErrorKind::PathRelative);
        }
        if let Some(offset) = path.find('\0') {
            return fail(start + offset, AddrErrorKind::Nul);
        }
        let mut normal = String::with_capacity(path.len().min(UNIX_NAME_MAX_BYTES));
        let mut place = start;
        let mut ends_in_name = false;
        for component in path.split('/') {
            ends_in_name = !matches!(component, "" | ".");
            if component == ".." {
                return fail(place, AddrErrorKind::PathParent);
            }
            if ends_in_name {
                let room = UNIX_NAME_MAX_BYTES.saturating_sub(normal.len() + 1);
                if component.len() > room {
                    return fail(place + room, AddrErrorKind::PathTooLong(UNIX_NAME_MAX_BYTES));
                }
                normal.push('/');
                normal.push_str(component);
            }
            place += component.len() + 1;
        }
        if !ends_in_name {
            return fail(text.len() - 1, AddrErrorKind::PathDirectory);
        }
        Ok(Self(normal))
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name in the abstract namespace of a network namespace, without its leading NUL: 1 to
/// [`UNIX_NAME_MAX_BYTES`] bytes, free of NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbstractName(String);

impl AbstractName {
    /// As text, without `@`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads `text[start..]`, what follows the `@`.
    pub(crate) fn parse_at(text: &str, start: usize) -> Result<Self, AddrError> {
        let fail = |position, kind| Err(AddrError::new(text, position, kind));
        let name = text.get(start..).unwrap_or_default();
        if name.is_empty() {
            return fail(start, AddrErrorKind::AbstractEmpty);
        }
        if let Some(offset) = name.find('\0') {
            return fail(start + offset, AddrErrorKind::Nul);
        }
        if name.len() > UNIX_NAME_MAX_BYTES {
            return fail(start + UNIX_NAME_MAX_BYTES, AddrErrorKind::AbstractTooLong(UNIX_NAME_MAX_BYTES));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for AbstractName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// Kind of a unix socket (unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnixKind {
    /// `SOCK_STREAM`: a connection that carries bytes.
    Stream,
    /// `SOCK_SEQPACKET`: a connection that carries records.
    Packet,
    /// `SOCK_DGRAM`: no connection.
    Datagram,
}

/// Name of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnixName {
    /// A file.
    Path(UnixPath),
    /// An abstract name.
    Abstract(AbstractName),
}

impl UnixName {
    /// The path, where it is one.
    #[must_use]
    pub const fn path(&self) -> Option<&UnixPath> {
        match self {
            Self::Path(path) => Some(path),
            Self::Abstract(_) => None,
        }
    }

    pub(crate) fn parse_at(text: &str, start: usize) -> Result<Self, AddrError> {
        if text.get(start..).is_some_and(|name| name.starts_with('@')) {
            AbstractName::parse_at(text, start + 1).map(Self::Abstract)
        } else {
            UnixPath::parse_at(text, start).map(Self::Path)
        }
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Abstract(name) => name.fmt(f),
        }
    }
}
