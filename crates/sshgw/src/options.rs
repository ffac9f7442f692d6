//! Options of the gateway: the flags of ssh2incus by their names and short letters, from arguments, `SSH2INCUS_ARGS`-like
//! text and files, made into one checked [`Options`].
//!
//! A value is a text under a flag's long name wherever it comes from; [`Values`] put sources over each other, and
//! only the result is checked. What a flag means otherwise here than there comes out as a note.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use portway_model::parse_duration;
use portway_proto::login::Dialect;
use serde::{Deserialize, Serialize};

use crate::remotes::{Https, Proof};

mod flags;
mod recording;
mod values;

pub use flags::{FLAGS, Flag, Shape};
pub use recording::Recording;
pub use values::{Values, ValuesError};

/// Longest idle time that can be set: a week.
const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Everything that can be set, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Unix socket of the server; `None` is where it is found.
    pub socket: Option<PathBuf>,
    /// URL of the server, instead of a socket, and what proves who is who.
    pub url: Option<Https>,
    /// Server of a login that names none.
    pub remote: Option<String>,
    /// Groups of the host that may log in; root always may. Empty lets in everybody whom the policy knows.
    pub groups: Vec<String>,
    /// How somebody proves who he is.
    pub auth: AuthOptions,
    /// Logins may make instances.
    pub allow_create: bool,
    /// SFTP of others than root sees its home alone.
    pub chroot_sftp: bool,
    /// How a login shell is started.
    pub shell: ShellMode,
    /// What keeps sessions that stay.
    pub term_mux: TermMux,
    /// Text before authentication.
    pub banner: bool,
    /// Text after it.
    pub welcome: bool,
    /// Until a connection without any byte ends; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Until connections end that are left when nobody new is taken; `None` is never.
    pub drain_timeout: Option<Duration>,
    /// How often the server is asked whether it is there; `None` is never.
    pub healthcheck: Option<Duration>,
    /// How logins are read.
    pub dialect: Dialect,
    /// How what the policy has recorded is kept.
    pub recording: Recording,
    /// Offers the host keys of the host's own sshd besides.
    pub host_key: bool,
    /// More in the log.
    pub debug: bool,
}

/// How somebody proves who he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthOptions {
    /// Any key lets in.
    pub none: bool,
    /// From everywhere.
    pub none_anywhere: bool,
    /// Keys of the user inside the instance count too.
    pub instance: bool,
    /// Passwords.
    pub password: bool,
    /// Which methods must all succeed, in this order; empty means that one is enough.
    pub chain: Vec<Method>,
}

/// A method of RFC 4252.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// A key.
    PublicKey,
    /// A password.
    Password,
    /// Questions, of which a one-time code is one.
    KeyboardInteractive,
}

impl Method {
    /// As RFC 4252 and RFC 4256 have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PublicKey => "publickey",
            Self::Password => "password",
            Self::KeyboardInteractive => "keyboard-interactive",
        }
    }
}

/// How a login shell is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShellMode {
    /// The user's shell itself.
    #[default]
    User,
    /// By `login -f`.
    Login,
    /// By `su -`.
    Su,
    /// By `sush`.
    Sush,
}

/// What keeps sessions that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TermMux {
    /// The gateway's own program in the instance.
    #[default]
    Builtin,
    /// tmux.
    Tmux,
    /// screen.
    Screen,
}

/// Why options cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A value that its flag does not take.
    #[error("{flag}: {value:?} is not {expected}")]
    Value {
        /// Long name.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What could be.
        expected: &'static str,
    },
    /// Two flags that exclude each other.
    #[error("{one} and {other} cannot stand together")]
    Together {
        /// One.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A flag that means nothing without another.
    #[error("{one} means nothing without {other}")]
    Needs {
        /// It.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// Everybody would be let in from everywhere.
    #[error("noauth lets in everybody who reaches {listen}")]
    OpenToAll {
        /// Where it would listen.
        listen: SocketAddr,
    },
}

impl OptionsError {
    /// The likely cure.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::OpenToAll { .. } => {
                Some("listen on 127.0.0.1 or [::1], or add noauth-anywhere if that is meant")
            }
            Self::Value { .. } | Self::Together { .. } | Self::Needs { .. } => None,
        }
    }
}

impl Options {
    /// Checks values; those that are missing have their defaults.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn new(values: &Values) -> Result<Self, OptionsError> {
        for flag in FLAGS.iter().filter(|flag| flag.shape == Shape::Switch) {
            values.is_on(flag.long)?;
        }
        let listen = listen(values)?;
        let auth = auth(values)?;
        auth.check_address(listen)?;
        let text = |name| Some(values.text(name)).filter(|text| !text.is_empty()).map(str::to_owned);
        let duration = |name| {
            let text = values.text(name);
            let read = parse_duration(text, Duration::ZERO, IDLE_MAX);
            let read = if text.is_empty() { Ok(Duration::ZERO) } else { read };
            read.map(|time| Some(time).filter(|time| !time.is_zero()))
                .map_err(|_| values.wrong(name, "a duration such as 10m or 1h, 0 for never, at most 168h"))
        };
        let (socket, url) = (text("socket"), url(values)?);
        if socket.is_some() && url.is_some() {
            return Err(OptionsError::Together { one: "socket", other: "url" });
        }
        Ok(Self {
            listen,
            socket: socket.map(PathBuf::from),
            url,
            remote: text("remote"),
            groups: list(values.text("groups")).map(str::to_owned).collect(),
            auth,
            allow_create: values.is_on("allow-create")?,
            chroot_sftp: values.is_on("chroot-sftp")?,
            shell: match values.text("shell") {
                "" => ShellMode::User,
                "login" => ShellMode::Login,
                "su" => ShellMode::Su,
                "sush" => ShellMode::Sush,
                _ => return Err(values.wrong("shell", "login, su, sush, or nothing for the user's own")),
            },
            term_mux: match values.text("term-mux") {
                "builtin" => TermMux::Builtin,
                "tmux" => TermMux::Tmux,
                "screen" => TermMux::Screen,
                _ => return Err(values.wrong("term-mux", "builtin, tmux or screen")),
            },
            banner: values.is_on("banner")?,
            welcome: values.is_on("welcome")?,
            idle_timeout: duration("idle-timeout")?,
            drain_timeout: duration("drain-timeout")?,
            healthcheck: duration("healthcheck")?,
            dialect: values
                .text("dialect")
                .parse()
                .map_err(|_| values.wrong("dialect", "auto, 0.7 or 0.10"))?,
            recording: Recording::new(values)?,
            host_key: values.is_on("host-key")?,
            debug: values.is_on("debug")?,
        })
    }
}

/// The server elsewhere that is the gateway's own.
fn url(values: &Values) -> Result<Option<Https>, OptionsError> {
    let file = |name| Some(values.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from);
    let needs = |one, other| OptionsError::Needs { one, other };
    if values.text("url").is_empty() {
        let alone =
            ["client-cert", "client-key", "server-cert"].into_iter().find(|name| file(name).is_some());
        return alone.map_or(Ok(None), |one| Err(needs(one, "url")));
    }
    let cert = file("client-cert").ok_or_else(|| needs("url", "client-cert"))?;
    let key = file("client-key").ok_or_else(|| needs("client-cert", "client-key"))?;
    let proof = file("server-cert").map_or(Proof::Known, Proof::Pinned);
    let made = Https::new(values.text("url"), cert, key, proof);
    made.map(Some).map_err(|_| values.wrong("url", "https://HOST:PORT"))
}

/// `HOST:PORT`; without a host every address of the host, both families. Port 0 is one that is free.
fn listen(values: &Values) -> Result<SocketAddr, OptionsError> {
    let text = values.text("listen");
    let wrong =
        || values.wrong("listen", "an address and a port such as 127.0.0.1:2222, [::1]:2222 or :2222");
    match text.strip_prefix(':') {
        Some(port) => {
            Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port.parse().map_err(|_| wrong())?))
        }
        None => text.parse().map_err(|_| wrong()),
    }
}

impl AuthOptions {
    /// Whether clients may connect to this address.
    ///
    /// # Errors
    /// [`OptionsError::OpenToAll`].
    pub fn check_address(&self, listen: SocketAddr) -> Result<(), OptionsError> {
        let open = self.none && !self.none_anywhere && !listen.ip().to_canonical().is_loopback();
        if open { Err(OptionsError::OpenToAll { listen }) } else { Ok(()) }
    }
}

fn auth(values: &Values) -> Result<AuthOptions, OptionsError> {
    let mut chain: Vec<Method> = Vec::new();
    for word in list(values.text("auth-methods")) {
        let method = match word {
            "publickey" => Method::PublicKey,
            "password" => Method::Password,
            "keyboard-interactive" => Method::KeyboardInteractive,
            _ => {
                let expected = "a list of publickey, password and keyboard-interactive";
                return Err(values.wrong("auth-methods", expected));
            }
        };
        if !chain.contains(&method) {
            chain.push(method);
        }
    }
    let instance = values.is_on("instance-auth")? || values.is_on("inauth")?;
    Ok(AuthOptions {
        // Whoever says how to log in does not mean that nobody has to.
        none: values.is_on("noauth")? && !instance && chain.is_empty(),
        none_anywhere: values.is_on("noauth-anywhere")?,
        instance,
        password: values.is_on("password-auth")? || chain.contains(&Method::Password),
        chain,
    })
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests;
