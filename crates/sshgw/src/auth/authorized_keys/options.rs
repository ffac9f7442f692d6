//! Options of one key: what stands before its type. Each is honoured, or the key is refused.

use crate::auth::grant::{Grant, Permitted};
use crate::auth::source::Sources;
use crate::auth::time::Expiry;

/// Most values of an option that may be given several times: OpenSSH's bound of environment variables.
const VALUES_MAX: usize = 1024;

/// What the options of a key say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyOptions {
    /// What the key allows.
    pub grant: Grant,
    /// From where.
    pub from: Option<Sources>,
    /// Until when.
    pub expiry: Option<Expiry>,
    /// The key signs certificates, and is none to log in with.
    pub cert_authority: bool,
    /// A security key need not have been touched.
    pub untouched: bool,
    /// Which principals its certificates may name.
    pub principals: Option<Vec<String>>,
}

/// Why the options of a key cannot be honoured. Names are those of the options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not an option of OpenSSH.
    #[error("unknown option {0}")]
    Unknown(String),
    /// A quote that does not end.
    #[error("quote without its end")]
    Quote,
    /// Something behind a value's closing quote, or nothing between two commas.
    #[error("malformed list of options")]
    List,
    /// No value, or one where none belongs.
    #[error("option {0} is malformed")]
    Value(&'static str),
    /// Given twice where one would have to win.
    #[error("option {0} stands there twice")]
    Twice(&'static str),
    /// Known, and nothing we could make sure of.
    #[error("option {0} cannot be honoured")]
    Unsupported(&'static str),
    /// Options that are not text.
    #[error("options are not UTF-8")]
    NotText,
    /// Too many values.
    #[error("option {0} stands there too often")]
    TooMany(&'static str),
}

/// Where the options of a line end: the first blank outside quotes.
pub(super) fn end(line: &str) -> Result<usize, OptionError> {
    let mut quoted = false;
    let mut bytes = line.bytes().enumerate();
    while let Some((position, byte)) = bytes.next() {
        match byte {
            // OpenSSH knows no other escape.
            b'\\' if line.as_bytes().get(position + 1) == Some(&b'"') => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return Ok(position),
            _ => {}
        }
    }
    if quoted { Err(OptionError::Quote) } else { Ok(line.len()) }
}

/// Reads the options of one key.
pub(super) fn parse(text: &str) -> Result<KeyOptions, OptionError> {
    let mut options = KeyOptions::default();
    let mut rest = text;
    loop {
        let name_end = rest.find([',', '=']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(name_end);
        let (value, behind) = match behind.strip_prefix('=') {
            Some(quoted) => {
                let (value, behind) = unquote(quoted)?;
                (Some(value), behind)
            }
            None => (None, behind),
        };
        options.take(name, value)?;
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => break,
            None => return Err(OptionError::List),
        }
    }
    if options.principals.is_some() && !options.cert_authority {
        return Err(OptionError::Value("principals"));
    }
    Ok(options)
}

/// The value within quotes, and what stands behind it.
fn unquote(text: &str) -> Result<(String, &str), OptionError> {
    let inner = text.strip_prefix('"').ok_or(OptionError::List)?;
    let mut value = String::new();
    let mut chars = inner.char_indices().peekable();
    while let Some((position, c)) = chars.next() {
        match c {
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                value.push('"');
                chars.next();
            }
            '"' => return Ok((value, inner.get(position + 1..).unwrap_or_default())),
            c => value.push(c),
        }
    }
    Err(OptionError::Quote)
}

impl KeyOptions {
    fn take(&mut self, name: &str, value: Option<String>) -> Result<(), OptionError> {
        let lower = name.to_ascii_lowercase();
        match value {
            None => self.take_flag(&lower),
            Some(value) => self.take_value(&lower, value),
        }
    }

    fn take_flag(&mut self, name: &str) -> Result<(), OptionError> {
        let (word, given) = match name.strip_prefix("no-") {
            Some(word) => (word, false),
            None => (name, true),
        };
        match word {
            "restrict" if given => {
                let Grant { command, permit_open, permit_listen, environment, .. } =
                    std::mem::take(&mut self.grant);
                self.grant =
                    Grant { command, permit_open, permit_listen, environment, ..Grant::restricted() };
            }
            "cert-authority" if given => self.cert_authority = true,
            "pty" => self.grant.pty = given,
            "port-forwarding" => self.grant.port_forwarding = given,
            "agent-forwarding" => self.grant.agent_forwarding = given,
            "x11-forwarding" => self.grant.x11_forwarding = given,
            "user-rc" => self.grant.user_rc = given,
            "touch-required" if !given => self.untouched = true,
            "verify-required" if given => return Err(OptionError::Unsupported("verify-required")),
            "command" | "environment" | "from" | "expiry-time" | "permitopen" | "permitlisten"
            | "principals" | "tunnel"
                if given =>
            {
                return Err(OptionError::Value(static_name(word)));
            }
            _ => return Err(OptionError::Unknown(printable(name))),
        }
        Ok(())
    }

    fn take_value(&mut self, name: &str, value: String) -> Result<(), OptionError> {
        match name {
            "command" => once(&mut self.grant.command, value, "command"),
            "from" => {
                let sources = Sources::parse(&value).map_err(|_| OptionError::Value("from"))?;
                once(&mut self.from, sources, "from")
            }
            "expiry-time" => {
                let expiry = Expiry::parse(&value).ok_or(OptionError::Value("expiry-time"))?;
                once(&mut self.expiry, expiry, "expiry-time")
            }
            "environment" => {
                let pair = variable(&value).ok_or(OptionError::Value("environment"))?;
                // The first one of a name counts.
                if self.grant.environment.iter().any(|(name, _)| *name == pair.0) {
                    return Ok(());
                }
                push(&mut self.grant.environment, pair, "environment")
            }
            "permitopen" => {
                let place = place(&value, Host::Needed).ok_or(OptionError::Value("permitopen"))?;
                push(self.grant.permit_open.get_or_insert_default(), place, "permitopen")
            }
            "permitlisten" => {
                let place = place(&value, Host::Optional).ok_or(OptionError::Value("permitlisten"))?;
                push(self.grant.permit_listen.get_or_insert_default(), place, "permitlisten")
            }
            "principals" => {
                let names: Vec<String> = value.split(',').map(str::to_owned).collect();
                if names.iter().any(String::is_empty) || names.len() > VALUES_MAX {
                    return Err(OptionError::Value("principals"));
                }
                once(&mut self.principals, names, "principals")
            }
            // The gateway makes no tun devices, whichever a key asks for.
            "tunnel" if !value.is_empty() => Ok(()),
            "tunnel" => Err(OptionError::Value("tunnel")),
            _ => Err(OptionError::Unknown(printable(name))),
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T, name: &'static str) -> Result<(), OptionError> {
    if slot.is_some() {
        return Err(OptionError::Twice(name));
    }
    *slot = Some(value);
    Ok(())
}

fn push<T>(list: &mut Vec<T>, value: T, name: &'static str) -> Result<(), OptionError> {
    if list.len() >= VALUES_MAX {
        return Err(OptionError::TooMany(name));
    }
    list.push(value);
    Ok(())
}

/// `NAME=value`. No NUL, which no environment can hold.
fn variable(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fine = name.chars().all(legal) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    (fine && !value.contains('\0')).then(|| (name.to_owned(), value.to_owned()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Needed,
    Optional,
}

/// `HOST:PORT`, `[IPV6]:PORT`, and `PORT` alone where no host is needed; `*` is any port.
fn place(text: &str, host: Host) -> Option<Permitted> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").map(|(name, port)| (Some(name), port))?,
        None => match text.rsplit_once(':') {
            // A bare IPv6 address would leave it open where the port begins.
            Some((name, _)) if name.contains(':') => return None,
            Some((name, port)) => (Some(name), port),
            None if host == Host::Optional => (None, text),
            None => return None,
        },
    };
    let port = match port {
        "*" => None,
        port => Some(port.parse().ok().filter(|port| *port != 0)?),
    };
    // OpenSSH reads a host `*` as any.
    let name = match name {
        Some("") => return None,
        Some("*") | None => None,
        Some(name) => Some(name.to_ascii_lowercase()),
    };
    Some(Permitted { host: name, port })
}

fn static_name(word: &str) -> &'static str {
    const NAMES: [&str; 8] = [
        "command",
        "environment",
        "from",
        "expiry-time",
        "permitopen",
        "permitlisten",
        "principals",
        "tunnel",
    ];
    NAMES.into_iter().find(|name| *name == word).unwrap_or("option")
}

/// A name for the log: short, and nothing in it that could steer a terminal.
fn printable(name: &str) -> String {
    name.chars().take(32).flat_map(char::escape_default).collect()
}
