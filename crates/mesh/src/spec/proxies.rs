//! Proxies on the host whose clients say themselves where in the network they want to go: SOCKS5, and HTTP with CONNECT.

use std::net::{IpAddr, Ipv4Addr};

use portway_model::{Direction, Host, Port, RuleListen, Transport};
use zeroize::Zeroizing;

use super::draft::{Draft, shown};
use super::error::SpecError;
use super::network::Network;
use super::place::{Field, Place};
use super::rules::{PortRights, Rules};

/// What a client of a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// SOCKS version 5.
    Socks5,
    /// HTTP with CONNECT.
    Http,
}

impl ProxyKind {
    /// Its word in texts, and its key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ProxyKind::Socks5 => "socks5",
            ProxyKind::Http => "http_connect",
        }
    }
}

/// A proxy on the host whose connections lead into the network.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyListen {
    /// What its clients speak.
    pub kind: ProxyKind,
    /// Address it listens on; `None` for all of the host.
    pub address: Option<IpAddr>,
    /// Port it listens on.
    pub port: Port,
    /// Who may use it; `None` for everybody.
    pub login: Option<Login>,
    /// Where it was said.
    pub place: Place,
}

/// Name and password of the users of a proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name.
    pub user: String,
    /// Password, overwritten when it goes.
    pub password: Zeroizing<String>,
}

/// A proxy as it was said: `[ADDRESS:]PORT`.
pub(super) struct ProxySaid {
    pub(super) kind: ProxyKind,
    pub(super) field: Field,
}

impl ProxyListen {
    /// The place it takes on the host.
    #[must_use]
    pub const fn listen(&self) -> RuleListen {
        RuleListen {
            direction: Direction::Egress,
            transport: Transport::Tcp,
            address: self.address,
            port: self.port,
        }
    }

    /// Reads `[ADDRESS:]PORT`: without an address only this host can reach it.
    fn read(said: &ProxySaid, login: Option<&Login>) -> Result<ProxyListen, SpecError> {
        let ProxySaid { kind, field } = said;
        let text = field.text.as_str();
        let wrong = |why: &str| {
            let message = format!("{} {}: {why}", kind.as_str(), shown(text));
            SpecError::wrong(&field.place, message)
                .with_hint("it is written [ADDRESS:]PORT, as in 127.0.0.1:1080")
        };
        let (host, digits) = match text.rsplit_once(':') {
            Some((host, digits)) => (Some(host), digits),
            None => (None, text),
        };
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let port = digits.parse().ok().filter(|_| is_number).and_then(Port::new);
        let port = port.ok_or_else(|| wrong("the port is not from 1 to 65535"))?;
        let address = match host.map(str::parse::<Host>) {
            None => IpAddr::from(Ipv4Addr::LOCALHOST),
            Some(Ok(Host::Ip(ip))) if ip.zone().is_none() && !ip.ip().is_multicast() => ip.ip(),
            Some(_) => return Err(wrong("that is no address of this host")),
        };
        Ok(ProxyListen {
            kind: *kind,
            address: Some(address),
            port,
            login: login.cloned(),
            place: field.place.clone(),
        })
    }
}

impl Login {
    /// Checks that both protocols can say them.
    pub(super) fn read(user: &Field, password: &Field) -> Result<Login, SpecError> {
        let wrong = |field: &Field, message: &str| Err(SpecError::wrong(&field.place, message));
        // RFC 1929, 2.
        let fits = |field: &Field| (1..=255).contains(&field.text.len());
        if !fits(user) || user.text.contains(':') {
            // RFC 7617, 2: a colon ends the name.
            return wrong(user, "the name of a proxy's user has 1 to 255 bytes and no colon");
        }
        if !fits(password) {
            return wrong(password, "the password of a proxy has 1 to 255 bytes");
        }
        Ok(Login { user: user.text.to_string(), password: password.text.clone() })
    }
}

/// Reads what was said of proxies, and checks all of them against their network and its rules.
pub(super) fn build(
    draft: &Draft,
    others: Vec<ProxyListen>,
    network: &Network,
    rules: &Rules,
) -> Result<Vec<ProxyListen>, SpecError> {
    let login = match (&draft.proxy_user, &draft.proxy_password) {
        (None, None) => None,
        (Some(user), Some(password)) => Some(Login::read(user, password)?),
        (Some(field), None) | (None, Some(field)) => {
            let message = "proxy_user and proxy_password stand together or not at all";
            return Err(SpecError::wrong(&field.place, message));
        }
    };
    let mut proxies = others;
    for said in &draft.proxies {
        proxies.push(ProxyListen::read(said, login.as_ref())?);
    }
    for (number, proxy) in proxies.iter().enumerate() {
        let wrong = |message: String| {
            SpecError::wrong(&proxy.place, format!("{} {}: {message}", proxy.kind.as_str(), address(proxy)))
        };
        let in_the_way = |listen: &RuleListen| *listen == proxy.listen() || listen.conflicts(&proxy.listen());
        if let Some(first) = proxies.iter().take(number).find(|other| in_the_way(&other.listen())) {
            return Err(wrong(format!("{} listens there, at {}", address(first), first.place)));
        }
        if let Some(listener) = rules.listeners().iter().find(|listener| in_the_way(&listener.listen)) {
            return Err(wrong(format!("an egress rule listens on {}", listener.listen)));
        }
        if network.addresses.iter().any(|own| Some(own.ip) == proxy.address) {
            return Err(wrong(
                "that is this node's address in the network, a proxy listens on the host".to_owned(),
            ));
        }
        let is_local = proxy.address.is_some_and(|ip| ip.is_loopback());
        if proxy.login.is_none() && !is_local {
            let error = wrong("everybody who reaches this host could use it".to_owned());
            return Err(error.with_hint("listen on 127.0.0.1, or say who may: proxy_user and proxy_password"));
        }
    }
    Ok(proxies)
}

/// Checks that a process with these rights may listen where they want to.
///
/// # Errors
/// [`SpecError::Privilege`], of the first one.
pub fn allowed(proxies: &[ProxyListen], rights: PortRights) -> Result<(), SpecError> {
    let refused = |proxy: &&ProxyListen| !rights.privileged && proxy.port.get() < rights.first_free;
    match proxies.iter().find(refused) {
        None => Ok(()),
        Some(proxy) => Err(SpecError::Privilege {
            place: proxy.place.clone(),
            listen: proxy.listen().to_string(),
            first_free: rights.first_free,
        }),
    }
}

/// Where it listens, as it is written.
fn address(proxy: &ProxyListen) -> String {
    match proxy.address {
        None => format!(":{}", proxy.port),
        Some(ip) => std::net::SocketAddr::new(ip, proxy.port.get()).to_string(),
    }
}

impl std::fmt::Debug for ProxyListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, address, port, place, login } = self;
        write!(f, "ProxyListen({kind:?} {address:?} {port} {place}, login: {})", login.is_some())
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(..)")
    }
}

#[cfg(test)]
mod tests;
