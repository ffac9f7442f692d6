//! Servers as the client of Incus, or of LXD, knows them: its `config.yml`, and the certificates beside it.
//!
//! What is read here says where a server is and what proves who is who. Nobody is asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portway_config::files::{self, FileError, Trust};
use portway_incus::ImageProtocol;
use portway_proto::login::RemoteName;
use serde::Deserialize;

/// The name of the gateway's own server.
pub const LOCAL: &str = "local";

/// Longest `config.yml`.
const FILE_BYTES: u64 = 1 << 20;

/// Longest certificate or key, PEM.
pub(crate) const PEM_BYTES: u64 = 64 << 10;

/// Where programs of a system find whom it trusts, the first that is there.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// On this host.
    Socket(PathBuf),
    /// Anywhere.
    Https(Https),
}

/// A server that is spoken to by TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// `https://HOST:PORT`, for messages.
    pub url: String,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// What proves the server.
    pub proof: Proof,
}

/// What proves a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// This certificate and no other.
    Pinned(PathBuf),
    /// The same, where there is such a file, and else the authorities that this host trusts.
    PinnedOrKnown(PathBuf),
    /// The authorities that this host trusts.
    Known,
}

/// Servers by their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remotes {
    /// Which one counts where none is named.
    pub default: Option<String>,
    named: BTreeMap<String, Result<Named, String>>,
    images: BTreeMap<String, ImageServer>,
}

/// A server that has images for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageServer {
    /// What is spoken with it.
    pub protocol: ImageProtocol,
    /// Where it is.
    pub url: String,
    /// Its certificate, where the client has one of it.
    pub certificate: Option<PathBuf>,
    /// Whether everybody has its images.
    pub is_public: bool,
}

/// A server with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The gateway's own, whatever that is.
    Own,
    /// This one.
    At(At),
}

/// Why there is no way to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Nobody has told of it.
    #[error("there is no server {0}")]
    Unknown(String),
    /// It cannot be used.
    #[error("server {0}: {1}")]
    Unusable(String, String),
}

/// Why the servers are not known.
#[derive(Debug, thiserror::Error)]
pub enum RemotesError {
    /// The file cannot be read, or be trusted.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is malformed.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Why an address is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not https://HOST:PORT")]
pub struct UrlError(String);

#[derive(Deserialize)]
struct File {
    #[serde(rename = "default-remote", default)]
    default: Option<String>,
    #[serde(default)]
    remotes: Option<BTreeMap<String, Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    addr: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    auth_type: Option<String>,
    #[serde(default)]
    public: Option<bool>,
}

/// The folder of the client's configuration of this user: `INCUS_CONF`, `~/.config/incus`, and where that is not there,
/// LXD's. `env` looks up a variable; an empty one counts as unset.
pub fn folder(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = set("INCUS_CONF") {
        return Some(named);
    }
    let own = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.dir);
    let home = set("HOME").or_else(own)?;
    let lxd = set("LXD_CONF").unwrap_or_else(|| home.join(".config/lxc"));
    let places = [home.join(".config/incus"), lxd, home.join("snap/lxd/common/config")];
    let [first, ..] = &places;
    Some(places.iter().find(|place| place.join("config.yml").exists()).unwrap_or(first).clone())
}

/// The file of certificates of those whom this host trusts.
#[must_use]
pub fn authorities() -> Option<PathBuf> {
    AUTHORITIES.iter().map(PathBuf::from).find(|path| path.exists())
}

impl Https {
    /// A server at a URL.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(url: &str, cert: PathBuf, key: PathBuf, proof: Proof) -> Result<Self, UrlError> {
        let wrong = || UrlError(url.chars().take(64).collect());
        let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(is_plain) {
            return Err(wrong());
        }
        // Of a URL without one (RFC 9110, 4.2.2).
        let port = port.map_or(Some(443), |port| port.parse().ok().filter(|port| *port != 0));
        let port: u16 = port.ok_or_else(wrong)?;
        let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Ok(Self { url: format!("https://{shown}:{port}"), host: host.to_owned(), port, cert, key, proof })
    }

    /// Whether its files can be read and be trusted. Nobody is asked.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self) -> Result<(), FileError> {
        let pinned = match &self.proof {
            Proof::Pinned(path) => Some(path),
            Proof::PinnedOrKnown(path) => Some(path).filter(|path| path.exists()),
            Proof::Known => None,
        };
        for path in [&self.cert, &self.key].into_iter().chain(pinned) {
            files::read(path, PEM_BYTES, Trust::Own)?;
        }
        Ok(())
    }
}

impl Remotes {
    /// Reads the configuration in a folder; without a file there is the gateway's own server alone.
    ///
    /// # Errors
    /// [`RemotesError`].
    pub fn load(dir: &Path) -> Result<Self, RemotesError> {
        let path = dir.join("config.yml");
        let text = match files::read(&path, FILE_BYTES, Trust::Own) {
            Ok(bytes) => files::text(&path, bytes)?,
            Err(FileError::Missing { .. }) => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        Self::read(&text, dir).map_err(|message| RemotesError::Syntax { path, message })
    }

    fn read(text: &str, dir: &Path) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let file: File = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| error.without_snippet().to_string().replace('\n', ", "))?;
        let remotes = file.remotes.unwrap_or_default();
        let images =
            remotes.iter().filter_map(|(name, entry)| Some((name.clone(), entry.images(name, dir)?)));
        let images = images.collect();
        let named = remotes.into_iter();
        let named = named.map(|(name, entry)| {
            let at = entry.at(&name, dir);
            (name, at)
        });
        let default = file.default.filter(|name| !name.is_empty());
        Ok(Self { default, named: named.collect(), images })
    }

    /// A server of images.
    #[must_use]
    pub fn images(&self, name: &str) -> Option<&ImageServer> {
        self.images.get(name)
    }

    /// Where a server is.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn find(&self, name: &str) -> Result<Named, RemoteError> {
        match self.named.get(name) {
            _ if name == LOCAL => Ok(Named::Own),
            None => Err(RemoteError::Unknown(name.to_owned())),
            Some(Ok(at)) => Ok(at.clone()),
            Some(Err(why)) => Err(RemoteError::Unusable(name.to_owned(), why.clone())),
        }
    }
}

impl Entry {
    /// The server as one of images, if it is any.
    fn images(&self, name: &str, dir: &Path) -> Option<ImageServer> {
        let protocol = match self.protocol.as_deref().unwrap_or_default() {
            "" | "incus" | "lxd" => ImageProtocol::Incus,
            "simplestreams" => ImageProtocol::Simplestreams,
            "oci" => ImageProtocol::Oci,
            _ => return None,
        };
        let url = self.addr.clone().filter(|addr| addr.starts_with("https://"))?;
        let is_named = name.parse::<RemoteName>().is_ok() && !name.starts_with('.');
        let pinned = dir.join("servercerts").join(format!("{name}.crt"));
        let certificate = Some(pinned).filter(|path| is_named && path.exists());
        let is_public = self.public == Some(true) || protocol != ImageProtocol::Incus;
        Some(ImageServer { protocol, url, certificate, is_public })
    }

    /// Where it is, or why it cannot be used.
    fn at(&self, name: &str, dir: &Path) -> Result<Named, String> {
        let is = |text: &Option<String>, words: &[&str]| {
            text.as_deref().is_none_or(|text| text.is_empty() || words.contains(&text))
        };
        if name.parse::<RemoteName>().is_err() || name.starts_with('.') {
            return Err("no login can have its name".to_owned());
        }
        if !is(&self.protocol, &["incus", "lxd"]) {
            return Err("it has images and no instances".to_owned());
        }
        if self.public == Some(true) {
            return Err("it is public: nobody has instances there".to_owned());
        }
        if !is(&self.auth_type, &["tls"]) {
            return Err("only certificates are used to log in to servers".to_owned());
        }
        let addr = self.addr.as_deref().unwrap_or_default();
        if let Some(path) = addr.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            let socket = || Named::At(At::Socket(PathBuf::from(path)));
            return Ok(if path.is_empty() { Named::Own } else { socket() });
        }
        // A pair of its own, where there is one.
        let own = |kind: &str| dir.join("clientcerts").join(format!("{name}.{kind}"));
        let file = |kind: &str| {
            if own("crt").exists() { own(kind) } else { dir.join(format!("client.{kind}")) }
        };
        let pinned = dir.join("servercerts").join(format!("{name}.crt"));
        let https = Https::new(addr, file("crt"), file("key"), Proof::PinnedOrKnown(pinned));
        https.map(|https| Named::At(At::Https(https))).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn https(url: &str) -> Result<(String, String, u16), String> {
        let made = Https::new(url, PathBuf::new(), PathBuf::new(), Proof::Known);
        made.map(|https| (https.url, https.host, https.port)).map_err(|error| error.to_string())
    }

    /// Fails when another server than the one that is written is meant, or what is none is taken.
    #[test]
    fn a_url_is_a_host_and_a_port() {
        let is = |url: &str, shown: &str, host: &str, port| {
            assert_eq!(https(url), Ok((shown.to_owned(), host.to_owned(), port)), "{url}");
        };
        is("https://h:8443", "https://h:8443", "h", 8443);
        is("https://h.example/", "https://h.example:443", "h.example", 443);
        is("https://[::1]:8443", "https://[::1]:8443", "::1", 8443);
        is("https://[::1]", "https://[::1]:443", "::1", 443);
        for wrong in [
            "http://h:1",
            "h:1",
            "https://",
            "https://:1",
            "https://h:",
            "https://h:0",
            "https://h:99999",
            "https://u@h:1",
            "https://h:1/p",
            "https://[::1]x:1",
            "https://h h:1",
            "https://a:1:2",
        ] {
            assert!(https(wrong).is_err_and(|why| why.ends_with("is not https://HOST:PORT")), "{wrong}");
        }
    }

    const CONFIG: &str = "default-remote: r1
remotes:
  r1: {addr: 'https://192.0.2.1:8443', auth_type: tls, project: default, protocol: incus, public: false}
  old: {addr: 'https://h:8443', protocol: lxd}
  here: {addr: 'unix://', public: false}
  there: {addr: 'unix:///run/other.socket'}
  local: {addr: 'https://192.0.2.9:8443'}
  images: {addr: 'https://images.linuxcontainers.org', protocol: simplestreams, public: true}
  sso: {addr: 'https://h:8443', auth_type: oidc}
  open: {addr: 'https://h:8443', public: true}
  odd: {addr: 'ftp://h'}
  ../x: {addr: 'https://h:8443'}
aliases: {}
";

    /// Fails when a server that the client of Incus would use is not found, another is taken for it, or a name leads out
    /// of the folder.
    #[test]
    fn servers_are_those_of_the_client() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Remotes::load(dir.path()).expect("none"), Remotes::default());
        std::fs::write(dir.path().join("config.yml"), CONFIG).expect("written");
        std::fs::create_dir(dir.path().join("clientcerts")).expect("made");
        std::fs::write(dir.path().join("clientcerts/old.crt"), "").expect("written");
        let remotes = Remotes::load(dir.path()).expect("read");
        assert_eq!(remotes.default.as_deref(), Some("r1"));
        let at = |name: &str| match remotes.find(name) {
            Ok(Named::At(At::Https(https))) => https,
            other => unreachable!("{name}: {other:?}"),
        };
        let (one, old) = (at("r1"), at("old"));
        assert_eq!((one.url.as_str(), one.cert), ("https://192.0.2.1:8443", dir.path().join("client.crt")));
        assert_eq!(one.proof, Proof::PinnedOrKnown(dir.path().join("servercerts/r1.crt")));
        assert_eq!(old.key, dir.path().join("clientcerts/old.key"));
        assert_eq!(remotes.find("here"), Ok(Named::Own));
        assert_eq!(remotes.find("there"), Ok(Named::At(At::Socket(PathBuf::from("/run/other.socket")))));
        // That name is the gateway's own to give.
        assert_eq!(remotes.find(LOCAL), Ok(Named::Own));
        assert_eq!(remotes.find("none"), Err(RemoteError::Unknown("none".to_owned())));
        for name in ["images", "sso", "open", "odd", "../x"] {
            assert!(matches!(remotes.find(name), Err(RemoteError::Unusable(..))), "{name}");
        }
        for wrong in ["remotes: [", "remotes: 7", "- a"] {
            std::fs::write(dir.path().join("config.yml"), wrong).expect("written");
            let error = Remotes::load(dir.path()).expect_err("malformed").to_string();
            assert!(error.contains("config.yml: ") && !error.contains('\n'), "{error}");
        }
    }

    /// Fails when the folder of somebody else is read, or LXD's hides that of Incus.
    #[test]
    fn the_folder_is_the_users() {
        let home = tempfile::tempdir().expect("a folder");
        let text = home.path().display().to_string();
        let with = |extra: Option<(&'static str, &'static str)>| {
            let text = text.clone();
            folder(move |name| match extra {
                Some((key, value)) if key == name => Some(value.to_owned()),
                _ => Some(text.clone()).filter(|_| name == "HOME"),
            })
        };
        let incus = home.path().join(".config/incus");
        assert_eq!(with(None), Some(incus.clone()));
        std::fs::create_dir_all(home.path().join(".config/lxc")).expect("made");
        std::fs::write(home.path().join(".config/lxc/config.yml"), "").expect("written");
        assert_eq!(with(None), Some(home.path().join(".config/lxc")));
        std::fs::create_dir_all(&incus).expect("made");
        std::fs::write(incus.join("config.yml"), "").expect("written");
        assert_eq!(with(None), Some(incus));
        assert_eq!(with(Some(("INCUS_CONF", "/c"))), Some(PathBuf::from("/c")));
    }
}
