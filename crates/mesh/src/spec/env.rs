//! A network, or a part of one, from the environment: `PORTWAY_MESH_PRIVATE_KEY`, `PORTWAY_MESH_PEER_1_ENDPOINT`. Each
//! may have `_FILE` behind it and name a file that has the value. An empty variable says nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portway_model::nearest;

use super::draft::{Draft, PeerDraft};
use super::error::SpecError;
use super::load::Surroundings;
use super::named;
use super::place::{Field, Place, Source, Warning};
use super::rules::Said;

/// Begins the name of each variable.
pub(super) const PREFIX: &str = "PORTWAY_MESH_";

/// Names the file of the network, behind [`PREFIX`].
const CONFIG: &str = "CONFIG";

/// What the environment says.
#[derive(Default)]
pub(super) struct Environment {
    /// The file of the network.
    pub(super) config: Option<PathBuf>,
    pub(super) draft: Draft,
    pub(super) rules: Vec<Said>,
    /// Whether anything was said.
    pub(super) said: bool,
}

/// Reads every variable with our prefix. One that nobody knows is warned of and no error: orchestrators make variables
/// from the names of services.
pub(super) fn read(around: &dyn Surroundings, warnings: &mut Vec<Warning>) -> Result<Environment, SpecError> {
    let mut environment = Environment::default();
    let mut peers: BTreeMap<u32, PeerDraft> = BTreeMap::new();
    let mut variables = around.variables();
    variables.retain(|(name, value)| name.starts_with(PREFIX) && !value.trim().is_empty());
    variables.sort();
    for (name, value) in variables {
        let place = Place::of(Source::Variable(name.clone()));
        let Some(word) = name.strip_prefix(PREFIX) else { continue };
        if word == CONFIG {
            environment.config = Some(PathBuf::from(value));
            continue;
        }
        let (word, field) = match word.strip_suffix("_FILE") {
            Some(word) => {
                let path = Path::new(&value);
                let text = around.file(path)?.text;
                (word, Field::new(Place::of(Source::File(path.to_owned())), text.trim()))
            }
            None => (word, Field::new(place.clone(), value.trim())),
        };
        if enter(&mut environment, &mut peers, word, &field)? {
            environment.said = true;
        } else if !is_of_a_service(word) {
            let meant = near(word).map(|word| format!(", did you mean {PREFIX}{word}?")).unwrap_or_default();
            warnings.push(Warning { place, message: format!("unknown variable{meant}") });
        }
    }
    environment.draft.peers = peers.into_values().collect();
    Ok(environment)
}

/// Enters what one variable says. `false` when nobody knows it.
fn enter(
    environment: &mut Environment,
    peers: &mut BTreeMap<u32, PeerDraft>,
    word: &str,
    field: &Field,
) -> Result<bool, SpecError> {
    if let Some((number, key)) = of_a_peer(word) {
        if !named::PEER.contains(&key.as_str()) {
            return Ok(false);
        }
        let peer = peers.entry(number).or_insert_with(|| PeerDraft::at(field.place.clone()));
        return named::peer(peer, &key, field.clone());
    }
    let key = word.to_ascii_lowercase();
    if word.chars().any(|c| c.is_ascii_lowercase()) {
        return Ok(false);
    }
    // A rule is an item; what else takes a list takes it as a whole.
    let is_items = matches!(key.as_str(), "ingress" | "egress" | "socks5" | "http_connect");
    let fields = if is_items { field.items() } else { vec![field.clone()] };
    let mut known = named::NETWORK.contains(&key.as_str());
    for field in fields {
        known &= named::network(&mut environment.draft, &mut environment.rules, &key, field)?;
    }
    Ok(known)
}

/// `PEER_1_ENDPOINT`: the first peer, `endpoint`.
fn of_a_peer(word: &str) -> Option<(u32, String)> {
    let (number, key) = word.strip_prefix("PEER_")?.split_once('_')?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
    let number = number.parse().ok().filter(|_| plain)?;
    key.bytes().all(|byte| !byte.is_ascii_lowercase()).then(|| (number, key.to_ascii_lowercase()))
}

/// What Kubernetes makes of a service that is called `portway-mesh`.
fn is_of_a_service(word: &str) -> bool {
    word == "SERVICE_HOST" || word == "PORT" || word.starts_with("SERVICE_PORT") || word.starts_with("PORT_")
}

fn near(word: &str) -> Option<String> {
    let peer = of_a_peer(word);
    let (begin, word, keys) = match &peer {
        Some((number, key)) => (format!("PEER_{number}_"), key.as_str(), named::PEER),
        None => (String::new(), word, named::NETWORK),
    };
    let found = nearest(word, keys.iter().copied().chain(["config"]))?;
    Some(format!("{begin}{}", found.to_ascii_uppercase()))
}

impl Environment {
    /// Whether more was said than rules.
    pub(super) fn names_a_network(&self) -> bool {
        let Draft { private_key, addresses, listen_port, mtu, dns, peers, .. } = &self.draft;
        let scalars = [private_key, listen_port, mtu];
        scalars.iter().any(|field| field.is_some())
            || !(addresses.is_empty() && dns.is_empty() && peers.is_empty())
    }

    /// Puts what the environment says over what a file says: a value takes the place of that of the file, a list too;
    /// peers are added.
    pub(super) fn over(self, file: &mut Draft) {
        let Draft {
            private_key,
            addresses,
            listen_port,
            mtu,
            udp_gso,
            dns,
            peers,
            proxies,
            proxy_user,
            proxy_password,
        } = self.draft;
        let scalars = [
            (&mut file.private_key, private_key),
            (&mut file.listen_port, listen_port),
            (&mut file.mtu, mtu),
            (&mut file.proxy_user, proxy_user),
            (&mut file.proxy_password, proxy_password),
            (&mut file.udp_gso, udp_gso),
        ];
        for (old, new) in scalars {
            if new.is_some() {
                *old = new;
            }
        }
        for (old, new) in [(&mut file.addresses, addresses), (&mut file.dns, dns)] {
            if !new.is_empty() {
                *old = new;
            }
        }
        file.peers.extend(peers);
        file.proxies.extend(proxies);
    }
}

#[cfg(test)]
mod tests;
