//! Files of wireproxy: a network, written there or in the file that `WGConfig` names, and what leads into it and out of
//! it.

use std::net::IpAddr;

use portway_model::{Direction, Host, Port, nearest};
use zeroize::Zeroizing;

use super::draft::{once, shown};
use super::error::SpecError;
use super::ini::Section;
use super::load::Surroundings;
use super::place::{Field, Place, Source, Warning};
use super::proxies::{Login, ProxyKind, ProxyListen};
use super::rules::Said;

/// Sections that become something here, and those that do not.
const SECTIONS: &[&str] = &[
    "Interface",
    "Peer",
    "TCPClientTunnel",
    "TCPServerTunnel",
    "UDPProxyTunnel",
    "STDIOTunnel",
    "Socks5",
    "http",
];

/// What a file of wireproxy says beside its network.
#[derive(Default)]
pub(super) struct Routines {
    /// The file the network is in instead.
    pub(super) wg_config: Option<Field>,
    pub(super) rules: Vec<Said>,
    pub(super) proxies: Vec<ProxyListen>,
    /// Where passwords stand.
    pub(super) secrets: Vec<Place>,
}

/// Puts in what variables say: a value that begins with `$` names one, `$$` is a dollar.
pub(super) fn fill_in(sections: &mut [Section], around: &dyn Surroundings) -> Result<(), SpecError> {
    for (key, field) in sections.iter_mut().flat_map(|section| &mut section.pairs) {
        let Some(name) = field.text.strip_prefix('$') else { continue };
        if name.starts_with('$') {
            field.text = Zeroizing::new(name.to_owned());
            continue;
        }
        let Some(value) = around.variable(name) else {
            let message = format!("{key}: no variable {} is set", shown(name));
            return Err(SpecError::wrong(&field.place, message));
        };
        *field = Field::new(Place::of(Source::Variable(name.to_owned())), value.trim());
    }
    Ok(())
}

/// Reads what is neither `[Interface]` nor `[Peer]`.
pub(super) fn read(sections: Vec<Section>, warnings: &mut Vec<Warning>) -> Result<Routines, SpecError> {
    let mut routines = Routines::default();
    for section in sections {
        match section.name.to_ascii_lowercase().as_str() {
            "" => {
                for (key, field) in section.pairs {
                    if !key.eq_ignore_ascii_case("WGConfig") {
                        let message = format!("{} stands before the first section", shown(&key));
                        return Err(SpecError::wrong(&field.place, message));
                    }
                    once(&mut routines.wg_config, "WGConfig", field)?;
                }
            }
            "tcpclienttunnel" => routines.rules.push(client_tunnel(section, "tcp", warnings)?),
            "udpproxytunnel" => routines.rules.push(client_tunnel(section, "udp", warnings)?),
            "tcpservertunnel" => routines.rules.push(server_tunnel(section)?),
            "socks5" => proxy(section, ProxyKind::Socks5, &mut routines)?,
            "http" => proxy(section, ProxyKind::Http, &mut routines)?,
            "stdiotunnel" => {
                let message =
                    "[STDIOTunnel] is not taken over: standard input and output belong to no service";
                let error = SpecError::wrong(&section.place, message);
                return Err(error.with_hint("make it a [TCPClientTunnel] on 127.0.0.1 and connect to that"));
            }
            "sni" | "resolve" => {
                let message = format!("[{}] is not taken over", section.name);
                return Err(SpecError::wrong(&section.place, message));
            }
            _ => {
                let message = format!("unknown section {}", shown(&section.name));
                let error = SpecError::wrong(&section.place, message);
                return Err(match nearest(&section.name, SECTIONS.iter().copied()) {
                    Some(name) => error.with_hint(format!("did you mean [{name}]?")),
                    None => error,
                });
            }
        }
    }
    Ok(routines)
}

/// The values of a section, by the keys it may have.
fn values<const N: usize>(section: &Section, keys: [&str; N]) -> Result<[Option<Field>; N], SpecError> {
    let mut values = [const { None }; N];
    for (key, field) in &section.pairs {
        let Some(at) = keys.iter().position(|known| known.eq_ignore_ascii_case(key)) else {
            let message = format!("unknown key {} in [{}]", shown(key), section.name);
            let error = SpecError::wrong(&field.place, message);
            return Err(match nearest(key, keys) {
                Some(name) => error.with_hint(format!("did you mean {name}?")),
                None => error,
            });
        };
        if let (Some(slot), Some(name)) = (values.get_mut(at), keys.get(at)) {
            once(slot, name, field.clone())?;
        }
    }
    Ok(values)
}

fn needed(section: &Section, key: &str, value: Option<Field>) -> Result<Field, SpecError> {
    value
        .filter(|field| !field.text.is_empty())
        .ok_or_else(|| SpecError::wrong(&section.place, format!("[{}] without {key}", section.name)))
}

/// `BindAddress`, as an address in a rule and a port: `:80` is every address, `localhost` is IPv4's.
fn bind_address(field: &Field) -> Result<(Option<IpAddr>, Port), SpecError> {
    let wrong = |message: String| SpecError::wrong(&field.place, message);
    let text = field.text.as_str();
    let Some((host, digits)) = text.rsplit_once(':').filter(|(_, port)| !port.contains(']')) else {
        return Err(wrong(format!("BindAddress {} has no port", shown(text))));
    };
    let port = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    let Some(port) = port.and_then(Port::new) else {
        return Err(wrong(format!("BindAddress {}: port is not from 1 to 65535", shown(text))));
    };
    if host.is_empty() {
        return Ok((None, port));
    }
    match host.parse::<Host>() {
        Ok(Host::Ip(ip)) if ip.zone().is_none() => Ok((Some(ip.ip()), port)),
        Ok(Host::Name(name)) if name.is_loopback() => Ok((Some(IpAddr::from([127, 0, 0, 1])), port)),
        Ok(Host::Ip(_) | Host::Name(_)) => {
            Err(wrong(format!("BindAddress {} is not an address and a port", shown(text))))
        }
        Err(error) => Err(wrong(format!("BindAddress {}: {}", shown(text), error.kind))),
    }
}

/// Listens on the host, leads into the network.
fn client_tunnel(section: Section, transport: &str, warnings: &mut Vec<Warning>) -> Result<Said, SpecError> {
    let [bind, target, idle] = if transport == "udp" {
        values(&section, ["BindAddress", "Target", "InactivityTimeout"])?
    } else {
        let [bind, target] = values(&section, ["BindAddress", "Target"])?;
        [bind, target, None]
    };
    if let Some(field) = idle {
        let message = "InactivityTimeout is ignored: flows end as those of every rule do".to_owned();
        warnings.push(Warning { place: field.place, message });
    }
    let (bind, target) = (needed(&section, "BindAddress", bind)?, needed(&section, "Target", target)?);
    let listen = match bind_address(&bind)? {
        (None, port) => format!("{port}"),
        (Some(ip @ IpAddr::V4(_)), port) => format!("{ip}:{port}"),
        (Some(ip @ IpAddr::V6(_)), port) => format!("[{ip}]:{port}"),
    };
    let field = Field::new(section.place, &format!("{transport}:{listen}:{}", *target.text));
    Ok(Said { direction: Direction::Egress, field })
}

/// Listens in the network, leads to the host.
fn server_tunnel(section: Section) -> Result<Said, SpecError> {
    let [port, target] = values(&section, ["ListenPort", "Target"])?;
    let (port, target) = (needed(&section, "ListenPort", port)?, needed(&section, "Target", target)?);
    let field = Field::new(section.place, &format!("tcp:{}:{}", *port.text, *target.text));
    Ok(Said { direction: Direction::Ingress, field })
}

fn proxy(section: Section, kind: ProxyKind, routines: &mut Routines) -> Result<(), SpecError> {
    let [bind, user, password] = match kind {
        ProxyKind::Socks5 => values(&section, ["BindAddress", "Username", "Password"])?,
        ProxyKind::Http => {
            let [bind, user, password, certificate, key] =
                values(&section, ["BindAddress", "Username", "Password", "CertFile", "KeyFile"])?;
            if let Some(field) = certificate.or(key) {
                return Err(SpecError::wrong(&field.place, "a proxy with TLS is not taken over"));
            }
            [bind, user, password]
        }
    };
    let (address, port) = bind_address(&needed(&section, "BindAddress", bind)?)?;
    let login = match (user, password) {
        (None, None) => None,
        (Some(user), Some(password)) => {
            routines.secrets.push(password.place.clone());
            Some(Login::read(&user, &password)?)
        }
        (Some(field), None) | (None, Some(field)) => {
            return Err(SpecError::wrong(&field.place, "Username and Password stand together or not at all"));
        }
    };
    routines.proxies.push(ProxyListen { kind, address, port, login, place: section.place });
    Ok(())
}

#[cfg(test)]
mod tests;
