//! Errors of texts: what is wrong, and at which place.

use std::error::Error;
use std::fmt;

/// Something wrong at one place of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<K> {
    /// Byte offset of the place in the text, 0 to its length.
    pub position: usize,
    /// The same place as a person counts: characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub kind: K,
}

impl<K> At<K> {
    /// An error at byte `position` of `text`. A position inside a character means its first byte.
    pub(crate) fn new(text: &str, position: usize, kind: K) -> Self {
        let position = text.floor_char_boundary(position);
        let column = text.get(..position).map_or(0, |before| before.chars().count()) + 1;
        Self { position, column, kind }
    }
}

impl<K: fmt::Display> fmt::Display for At<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.kind)
    }
}

impl<K: fmt::Debug + fmt::Display> Error for At<K> {}

/// What is wrong with an address, and where.
pub type AddrError = At<AddrErrorKind>;

/// What is wrong with the value of an option, and where.
pub type ValueError = At<ValueErrorKind>;

/// What is wrong with the name of an instance, project or device, and where.
pub type RefError = At<RefErrorKind>;

/// What can be wrong with an address. Texts in variants are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddrErrorKind {
    /// Nothing there.
    #[error("address is empty, expected tcp:HOST:PORT, udp:HOST:PORT or unix:PATH")]
    Empty,
    /// No colon, so no protocol.
    #[error("protocol missing before {0}, expected tcp:, udp: or unix:")]
    ProtocolMissing(String),
    /// Not one of ours.
    #[error("unknown protocol {found}, expected tcp, udp, unix, unixgram or unixpacket")]
    ProtocolUnknown {
        /// What stands there.
        found: String,
    },
    /// Nothing after the protocol.
    #[error("address missing after `{0}:`")]
    AddressMissing(&'static str),
    /// A host name, which is never looked up.
    #[error("{0} is not an IP address, host names are not looked up")]
    HostName(String),
    /// An IPv4 address that is not four numbers.
    #[error("expected 4 parts in an IPv4 address, found {0}")]
    Ipv4Parts(usize),
    /// An empty part of an IPv4 address.
    #[error("IPv4 address has an empty part")]
    Ipv4Empty,
    /// A part with a leading zero, octal to some programs.
    #[error("IPv4 address part {0} has a leading zero")]
    Ipv4LeadingZero(String),
    /// A part above 255.
    #[error("IPv4 address part {0} is above 255")]
    Ipv4TooLarge(String),
    /// Not an IPv6 address.
    #[error("{0} is not an IPv6 address")]
    Ipv6(String),
    /// An IPv6 address without brackets.
    #[error("IPv6 address needs brackets, as in [::1]:80")]
    Ipv6Bare,
    /// An IPv4 address within brackets.
    #[error("brackets are for IPv6 addresses only")]
    Ipv4Bracketed,
    /// An opening bracket without its end.
    #[error("closing bracket missing")]
    BracketOpen,
    /// A zone on an address that takes none.
    #[error("only a link-local IPv6 address takes a zone")]
    ZoneUnexpected,
    /// A link-local address without its zone.
    #[error("link-local address needs a zone, as in [fe80::1%eth0]")]
    ZoneMissing,
    /// Not the name of an interface.
    #[error("zone {0} is not an interface name")]
    ZoneInvalid(String),
    /// No colon after the host.
    #[error("port missing, expected HOST:PORT")]
    HostOnly,
    /// No port where one has to be.
    #[error("port missing")]
    PortMissing,
    /// Something other than a digit in a port.
    #[error("unexpected {0} in a port")]
    PortCharacter(String),
    /// Port 0.
    #[error("port 0 is not allowed")]
    PortZero,
    /// Above 65535.
    #[error("port {0} is above 65535")]
    PortTooLarge(String),
    /// A range that does not rise.
    #[error("range {first}-{last} does not rise")]
    RangeOrder {
        /// First port.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// A third number in a range.
    #[error("a range has two ports")]
    RangeParts,
    /// A listen port given twice.
    #[error("port {0} is listed twice")]
    PortTwice(u16),
    /// Too many items.
    #[error("more than {0} items in a port list, use ranges")]
    TooManyItems(usize),
    /// Too many ports.
    #[error("more than {0} ports in a port list")]
    TooManyPorts(u32),
    /// Something after the end of a part.
    #[error("unexpected {0} after the address")]
    Trailing(String),
    /// A path that does not begin with `/`.
    #[error("path is not absolute")]
    PathRelative,
    /// A `..` in a path.
    #[error("path has a `..` component")]
    PathParent,
    /// A path that ends in `/` or `/.`.
    #[error("path names a directory")]
    PathDirectory,
    /// A path above the limit of the kernel.
    #[error("path is longer than {0} bytes")]
    PathTooLong(usize),
    /// A NUL byte.
    #[error("NUL byte in a socket name")]
    Nul,
    /// An abstract name of no bytes.
    #[error("abstract socket name is empty")]
    AbstractEmpty,
    /// An abstract name above the limit of the kernel.
    #[error("abstract socket name is longer than {0} bytes")]
    AbstractTooLong(usize),
}

/// What can be wrong with the value of an option. Texts in variants are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueErrorKind {
    /// Nothing there.
    #[error("value is empty, expected {expected}")]
    Empty {
        /// What could stand there.
        expected: &'static str,
    },
    /// Not one of the words.
    #[error("{found} is not {expected}")]
    NotOneOf {
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// Something other than a digit in a number.
    #[error("unexpected {found}, expected {expected}")]
    Character {
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// A number or duration outside its bounds.
    #[error("{found} is outside {min} to {max}")]
    Bounds {
        /// What stands there.
        found: String,
        /// Least value, as text.
        min: String,
        /// Greatest value, as text.
        max: String,
    },
    /// A fraction of a second where the kernel counts seconds.
    #[error("{0} is not a whole number of seconds")]
    NotSeconds(String),
    /// A block whose address is not its first one.
    #[error("{found} has host bits set, the block is {block}")]
    HostBits {
        /// What stands there.
        found: String,
        /// The block that has that address.
        block: String,
    },
    /// A block of a whole family where that has to be said in words.
    #[error("{0} lets every client say to be any other, write `anybody` if that is meant")]
    Everybody(String),
    /// A list that is too long.
    #[error("more than {0} items in a list")]
    TooMany(usize),
    /// The id that means "unchanged" to the kernel.
    #[error("id 4294967295 is reserved by the kernel")]
    IdReserved,
}

/// What can be wrong with a name. Texts in variants are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefErrorKind {
    /// Nothing there.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Too long.
    #[error("{what} is longer than {max} {unit}")]
    TooLong {
        /// Which name.
        what: &'static str,
        /// Greatest length.
        max: usize,
        /// `characters` or `bytes`.
        unit: &'static str,
    },
    /// A character that cannot be there.
    #[error("unexpected {found} in {what}")]
    Character {
        /// Which name.
        what: &'static str,
        /// The character.
        found: String,
    },
    /// A first character that cannot be first.
    #[error("{what} cannot begin with {found}")]
    Begin {
        /// Which name.
        what: &'static str,
        /// The character.
        found: String,
    },
    /// A last character that cannot be last.
    #[error("{what} cannot end with {found}")]
    End {
        /// Which name.
        what: &'static str,
        /// The character.
        found: String,
    },
    /// A name that means something else.
    #[error("{found} cannot be {what}")]
    Reserved {
        /// Which name.
        what: &'static str,
        /// The name.
        found: String,
    },
    /// Not a provider of ours.
    #[error("unknown provider {0}, expected incus, lxd, netns or pid")]
    ProviderUnknown(String),
    /// No provider in the canonical text.
    #[error("provider missing, expected incus:, lxd:, netns: or pid:")]
    ProviderMissing,
    /// No project in the canonical text.
    #[error("project missing, expected PROJECT/INSTANCE")]
    ProjectMissing,
    /// A project where there are none.
    #[error("{0} instances have no project")]
    ProjectUnexpected(&'static str),
    /// Two projects that differ.
    #[error("project {typed} differs from the project {flag} asked for")]
    ProjectConflict {
        /// Of the reference.
        typed: String,
        /// Of the flag.
        flag: String,
    },
    /// A path that is not normalised.
    #[error("path has a `..` component")]
    PathParent,
    /// A path that names no file.
    #[error("path names a directory")]
    PathDirectory,
    /// Not a process id.
    #[error("{0} is not a process id")]
    Pid(String),
    /// No device in a device key.
    #[error("device missing, expected INSTANCE/DEVICE")]
    DeviceMissing,
}
