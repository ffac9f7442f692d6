//! Other people's firewalls that stand in the way: a packet led to an instance passes the `forward` hook,
//! and there every table has its say. To accept it in ours would not help, because a packet that one table
//! drops is dropped, whatever another says. So they are looked for, and named.
//!
//! Only the chains of other tables are read, never their rules: what a rule lets through is not judged.

use std::collections::BTreeMap;
use std::fmt;

use portway_sys::netlink::Family as Netlink;

use crate::netlink::{Connection, FLAG_DUMP, NetlinkError, Writer};
use crate::nft::{Chain, FAMILY_INET, Hook, kind, read_chain};
use crate::spec::Family;

/// Address family of a table that may stop forwarded packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TableFamily {
    Inet,
    Ip,
    Ip6,
}

impl TableFamily {
    const fn of_number(number: u8) -> Option<Self> {
        match number {
            FAMILY_INET => Some(Self::Inet),
            2 => Some(Self::Ip),
            10 => Some(Self::Ip6),
            _ => None,
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

/// A chain that stops forwarded packets unless its rules let them through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    family: TableFamily,
    table: String,
    chain: String,
    owner: Option<&'static str>,
}

impl Obstacle {
    /// The program that made it, where its chains tell.
    #[must_use]
    pub const fn owner(&self) -> Option<&'static str> {
        self.owner
    }

    /// Whether packets of a family come to it.
    #[must_use]
    pub const fn concerns(&self, family: Family) -> bool {
        match (self.family, family) {
            (TableFamily::Inet, _) | (TableFamily::Ip, Family::V4) | (TableFamily::Ip6, Family::V6) => true,
            (TableFamily::Ip, Family::V6) | (TableFamily::Ip6, Family::V4) => false,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain, owner } = self;
        // Anybody's names, in a line of the log.
        let (table, chain) = (table.escape_debug(), chain.escape_debug());
        write!(
            f,
            "chain {chain} of table {family} {table} stops forwarded packets that its rules do not allow"
        )?;
        owner.map_or(Ok(()), |owner| write!(f, " ({owner})"))
    }
}

/// Whether this namespace passes packets of a family on, as far as one setting tells for all its interfaces; `None` where
/// it does not say.
#[must_use]
pub fn forwards(family: Family) -> Option<bool> {
    let path = match family {
        Family::V4 => "/proc/sys/net/ipv4/ip_forward",
        Family::V6 => "/proc/sys/net/ipv6/conf/all/forwarding",
    };
    std::fs::read_to_string(path).ok().map(|text| text.trim() != "0")
}

/// Chains by table.
type Tables = BTreeMap<(TableFamily, String), BTreeMap<String, Chain>>;

/// Every chain of this namespace that may stop what is led to an instance.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn forward_obstacles() -> Result<Vec<Obstacle>, NetlinkError> {
    let mut connection = Connection::open(Netlink::Netfilter)?;
    let mut request = Writer::default();
    request.netfilter(kind::GET_CHAIN, FLAG_DUMP, 0, 0, |_| {});
    let tables = connection.dump(&mut request, Tables::new, |tables, message| {
        if message.kind == kind::NEW_CHAIN
            && let Some(family) = TableFamily::of_number(message.family())
        {
            let seen = read_chain(message.attributes()?)?;
            tables.entry((family, seen.table)).or_default().insert(seen.name, seen.object);
        }
        Ok(())
    })?;
    Ok(obstacles(&tables))
}

fn obstacles(tables: &Tables) -> Vec<Obstacle> {
    let mut found = Vec::new();
    for ((family, table), chains) in tables {
        let owner = owner(table, chains);
        for (name, chain) in chains {
            let Some(hook) = chain.hook.filter(|hook| hook.number == Hook::FORWARD) else { continue };
            // firewalld accepts by its policy, and rejects by its last rule.
            if hook.drops || owner == Some("firewalld") {
                found.push(Obstacle { family: *family, table: table.clone(), chain: name.clone(), owner });
            }
        }
    }
    found
}

fn owner(table: &str, chains: &BTreeMap<String, Chain>) -> Option<&'static str> {
    let has = |stem: &str| chains.keys().any(|chain| chain.starts_with(stem));
    if table == "firewalld" {
        Some("firewalld")
    } else if has("DOCKER") || table.starts_with("docker-") {
        Some("Docker")
    } else if has("ufw-") || has("ufw6-") {
        Some("ufw")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::HookKind;

    fn chain(drops: bool) -> Chain {
        let hook = Hook { kind: HookKind::Filter, number: Hook::FORWARD, priority: 0, drops };
        Chain { hook: Some(hook), rules: Vec::new() }
    }

    fn said(family: TableFamily, table: &str, chains: &[(&str, Chain)]) -> Vec<String> {
        let chains = chains.iter().map(|(name, chain)| ((*name).to_owned(), chain.clone())).collect();
        let tables = Tables::from([((family, table.to_owned()), chains)]);
        obstacles(&tables).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_firewall_is_named() {
        let none = Chain::default;
        let docker = said(TableFamily::Ip, "filter", &[("FORWARD", chain(true)), ("DOCKER-USER", none())]);
        let rest = "stops forwarded packets that its rules do not allow";
        assert_eq!(docker, [format!("chain FORWARD of table ip filter {rest} (Docker)")]);
        let ufw =
            said(TableFamily::Ip6, "filter", &[("FORWARD", chain(true)), ("ufw6-before-forward", none())]);
        assert_eq!(ufw, [format!("chain FORWARD of table ip6 filter {rest} (ufw)")]);
        let firewalld = said(TableFamily::Inet, "firewalld", &[("filter_FORWARD", chain(false))]);
        assert_eq!(firewalld, [format!("chain filter_FORWARD of table inet firewalld {rest} (firewalld)")]);
        let own = said(TableFamily::Inet, "mine", &[("fwd", chain(true)), ("other", none())]);
        assert_eq!(own, [format!("chain fwd of table inet mine {rest}")]);
    }

    /// Fails when: what stops one family is said of the other.
    #[test]
    fn a_chain_concerns_the_families_of_its_table() {
        let concerned = |family| {
            let found = Obstacle { family, table: "t".into(), chain: "c".into(), owner: None };
            [Family::V4, Family::V6].map(|family| found.concerns(family))
        };
        assert_eq!(concerned(TableFamily::Inet), [true, true]);
        assert_eq!(concerned(TableFamily::Ip), [true, false]);
        assert_eq!(concerned(TableFamily::Ip6), [false, true]);
    }

    #[test]
    fn who_lets_everything_through_is_not() {
        assert!(said(TableFamily::Inet, "incus", &[("fwd.br0", chain(false))]).is_empty());
        let mut input = chain(true);
        input.hook = input.hook.map(|hook| Hook { number: 1, ..hook });
        assert!(said(TableFamily::Inet, "mine", &[("input", input)]).is_empty());
    }
}
