//! The rules of one network, together: which of them share a port, which are in each other's way, and which lead where
//! nothing can be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use portway_model::{Direction, Host, MeshRule, RuleListen, Transport};
use sha2::{Digest as _, Sha256};

use super::error::SpecError;
use super::network::{Network, Peering};
use super::place::{Field, Place, Warning};

/// What a rule is called in commands: the same for the same rule, wherever it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId([u8; 6]);

impl RuleId {
    /// The id of a rule: the beginning of the SHA-256 of its direction and text.
    #[must_use]
    pub fn of(rule: &MeshRule) -> RuleId {
        RuleId::of_text(&format!("{} {rule}", rule.direction()))
    }

    /// The id of what is no rule and is counted as one.
    pub(crate) fn of_text(text: &str) -> RuleId {
        let digest = Sha256::digest(text);
        let mut id = [0; 6];
        id.iter_mut().zip(digest.as_slice()).for_each(|(to, from)| *to = *from);
        RuleId(id)
    }

    /// The id as a number.
    pub(crate) fn number(self) -> u64 {
        self.0.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The id of a number.
    pub(crate) fn of_number(number: u64) -> RuleId {
        let [_, _, id @ ..] = number.to_be_bytes();
        RuleId(id)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A rule, what it is called, and where it was said first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEntry {
    /// What it is called.
    pub id: RuleId,
    /// The rule.
    pub rule: MeshRule,
    /// Where it was said first.
    pub place: Place,
}

/// One port and its rules, at least one: connections are balanced between them, the first one takes the first rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub listen: RuleListen,
    /// Its rules in order, each once.
    pub rules: Vec<RuleEntry>,
}

/// All rules of a network. No two listeners are in each other's way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Listener>);

/// Which ports this process may listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRights {
    /// The first port that anybody may have: `net.ipv4.ip_unprivileged_port_start`.
    pub first_free: u16,
    /// Whether the process may have those below it (`CAP_NET_BIND_SERVICE`).
    pub privileged: bool,
}

/// What has been said of rules so far.
pub(super) struct Said {
    pub(super) direction: Direction,
    pub(super) field: Field,
}

impl Rules {
    /// Reads what was said and checks it against its network.
    pub(super) fn build(
        said: &[Said],
        network: &Network,
        warnings: &mut Vec<Warning>,
    ) -> Result<Rules, SpecError> {
        let mut listeners: Vec<Listener> = Vec::new();
        let mut index: BTreeMap<RuleListen, usize> = BTreeMap::new();
        let mut seen: BTreeMap<RuleId, Place> = BTreeMap::new();
        for Said { direction, field } in said {
            let rule = MeshRule::parse(*direction, &field.text)
                .map_err(|error| wrong(*direction, field, error.to_string()))?;
            let id = RuleId::of(&rule);
            if let Some(first) = seen.get(&id) {
                if first.same_hand(&field.place) {
                    return Err(wrong(*direction, field, format!("the same rule stands at {first}")));
                }
                continue;
            }
            seen.insert(id, field.place.clone());
            fits(&rule, network).map_err(|message| wrong(*direction, field, message))?;
            if let Some(message) = doubt(&rule, network) {
                let message = describe(*direction, field, &message);
                warnings.push(Warning { place: field.place.clone(), message });
            }
            let entry = RuleEntry { id, rule, place: field.place.clone() };
            let listen = entry.rule.listen();
            match index.get(&listen).and_then(|at| listeners.get_mut(*at)) {
                Some(listener) => {
                    one_header(listener, &entry).map_err(|message| wrong(*direction, field, message))?;
                    listener.rules.push(entry);
                }
                None => {
                    index.insert(listen, listeners.len());
                    listeners.push(Listener { listen, rules: vec![entry] });
                }
            }
        }
        conflicts(&listeners, &index)?;
        Ok(Rules(listeners))
    }

    /// These rules without those in `remove` and with those in `add`, each with who said it while the network runs. One
    /// that is there stays as it is; but one that was added by hand is the file's once that names it.
    ///
    /// # Errors
    /// As for those of a file.
    pub fn changed(
        &self,
        network: &Network,
        add: &[(Direction, String, Place)],
        remove: &[RuleId],
    ) -> Result<Rules, SpecError> {
        let mut said = Vec::new();
        for entry in self.iter().filter(|entry| !remove.contains(&entry.id)) {
            let field = Field::new(entry.place.clone(), &entry.rule.to_string());
            said.push(Said { direction: entry.rule.direction(), field });
        }
        let mut ids: Vec<RuleId> =
            self.iter().map(|entry| entry.id).filter(|id| !remove.contains(id)).collect();
        for (direction, text, place) in add {
            let field = Field::new(place.clone(), text);
            let rule = MeshRule::parse(*direction, text)
                .map_err(|error| wrong(*direction, &field, error.to_string()))?;
            let id = RuleId::of(&rule);
            match ids.iter().position(|other| *other == id) {
                None => {
                    ids.push(id);
                    said.push(Said { direction: *direction, field });
                }
                Some(at) => {
                    let there = said.get_mut(at).filter(|there| there.field.place == Place::kept());
                    if let Some(there) = there.filter(|_| *place == Place::configured()) {
                        there.field.place = place.clone();
                    }
                }
            }
        }
        Rules::build(&said, network, &mut Vec::new())
    }

    /// The same rules, checked against their network once its records were read.
    ///
    /// # Errors
    /// As for those of a file.
    pub(crate) fn within(&self, network: &Network, warnings: &mut Vec<Warning>) -> Result<Rules, SpecError> {
        let said = |entry: &RuleEntry| Said {
            direction: entry.rule.direction(),
            field: Field::new(entry.place.clone(), &entry.rule.to_string()),
        };
        let said: Vec<Said> = self.iter().map(said).collect();
        Rules::build(&said, network, warnings)
    }

    /// Every port with its rules, in the order they were said.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.0
    }

    /// Every rule.
    pub fn iter(&self) -> impl Iterator<Item = &RuleEntry> {
        self.0.iter().flat_map(|listener| &listener.rules)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that a process with these rights may listen where egress rules want it. Ingress rules listen in the
    /// network, where every port is free.
    ///
    /// # Errors
    /// [`SpecError::Privilege`], of the first rule.
    pub fn allowed(&self, rights: PortRights) -> Result<(), SpecError> {
        let refused = |listener: &&Listener| {
            listener.listen.direction == Direction::Egress
                && !rights.privileged
                && listener.listen.port.get() < rights.first_free
        };
        let Some(listener) = self.0.iter().find(refused) else { return Ok(()) };
        let Some(first) = listener.rules.first() else { return Ok(()) };
        Err(SpecError::Privilege {
            place: first.place.clone(),
            listen: listener.listen.to_string(),
            first_free: rights.first_free,
        })
    }
}

/// The worker writes the header of a port, whichever rule its connection takes.
fn one_header(listener: &Listener, entry: &RuleEntry) -> Result<(), String> {
    match listener.rules.first() {
        Some(first) if first.rule.proxy_protocol() != entry.rule.proxy_protocol() => Err(format!(
            "rules of one port send the same PROXY header or none, and the one at {} differs",
            first.place
        )),
        _ => Ok(()),
    }
}

fn describe(direction: Direction, field: &Field, message: &str) -> String {
    /// Most characters of a rule that a message repeats.
    const SHOWN: usize = 80;
    let mut shown: String = field.text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if field.text.chars().nth(SHOWN).is_some() {
        shown.push('\u{2026}');
    }
    format!("{direction} rule `{shown}`: {message}")
}

fn wrong(direction: Direction, field: &Field, message: impl AsRef<str>) -> SpecError {
    SpecError::wrong(&field.place, describe(direction, field, message.as_ref()))
}

/// Listeners of one port of which one has every address of a family, or of both, and another has one of them.
fn conflicts(listeners: &[Listener], index: &BTreeMap<RuleListen, usize>) -> Result<(), SpecError> {
    for listener in listeners {
        let Some(address) = listener.listen.address else { continue };
        let every = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        for wider in [None, Some(every)] {
            let other = RuleListen { address: wider, ..listener.listen };
            let Some(other) = index.get(&other).and_then(|at| listeners.get(*at)) else { continue };
            let (Some(one), Some(two)) = (listener.rules.first(), other.rules.first()) else { continue };
            if listener.listen.conflicts(&other.listen) {
                let message = format!(
                    "{} rule `{}`: {} is in the way of {}, which is listened on at {}",
                    listener.listen.direction, one.rule, listener.listen, other.listen, two.place
                );
                return Err(SpecError::wrong(&one.place, message));
            }
        }
    }
    Ok(())
}

/// Why a rule cannot work in this network.
fn fits(rule: &MeshRule, network: &Network) -> Result<(), String> {
    let listen = rule.listen();
    let own = |ip: IpAddr| network.addresses.iter().any(|address| address.ip == ip);
    let has_family = |ip: IpAddr| network.addresses.iter().any(|own| own.ip.is_ipv4() == ip.is_ipv4());
    match (listen.direction, listen.address) {
        _ if network.peering == Peering::Unread => {}
        (Direction::Ingress, Some(ip)) if ip.is_unspecified() && !has_family(ip) => {
            return Err(format!("this node has no {} address in the network", family(ip)));
        }
        (Direction::Ingress, Some(ip)) if !ip.is_unspecified() && !own(ip) => {
            return Err(format!("{ip} is no address of this node in the network"));
        }
        (Direction::Egress, Some(ip)) if own(ip) => {
            return Err(format!(
                "{ip} is this node's address in the network, an egress rule listens on the host"
            ));
        }
        (Direction::Ingress | Direction::Egress, _) => {}
    }
    let outer = network.listen_port == Some(listen.port);
    if outer && listen.direction == Direction::Egress && listen.transport == Transport::Udp {
        return Err(format!("UDP port {} is where peers send to", listen.port));
    }
    if network.peering == Peering::Unread {
        return Ok(());
    }
    let Host::Ip(host) = rule.destination() else { return Ok(()) };
    let ip = host.ip();
    match listen.direction {
        Direction::Ingress if own(ip) => {
            Err(format!("{ip} is this node's address in the network, an ingress rule dials on the host"))
        }
        Direction::Ingress => Ok(()),
        Direction::Egress if own(ip) => Ok(()),
        Direction::Egress if !has_family(ip) => {
            Err(format!("this node has no {} address in the network to dial from", family(ip)))
        }
        Direction::Egress if network.peering == Peering::Fixed && network.peer_of(ip).is_none() => {
            Err(format!("no peer has {ip} in its allowed IPs"))
        }
        Direction::Egress => Ok(()),
    }
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// What most likely is the wrong direction.
fn doubt(rule: &MeshRule, network: &Network) -> Option<String> {
    let Host::Ip(host) = rule.destination() else { return None };
    if network.peering == Peering::Unread {
        return None;
    }
    let ip = host.ip();
    if rule.direction() == Direction::Egress {
        let own = network.addresses.iter().any(|address| address.ip == ip);
        return (!own && network.peer_of(ip).is_none()).then(|| format!("no member has {ip} yet"));
    }
    let inside = network.peers.iter().flat_map(|peer| &peer.allowed_ips);
    let inside = inside.into_iter().any(|block| !block.is_everybody() && block.contains(ip));
    inside.then(|| format!("{ip} belongs to a peer, and an ingress rule dials on the host"))
}

#[cfg(test)]
mod tests;
