//! Names at the server.

use portway_composefile::Fault;
use portway_composefile::tree::Node;
use sha2::{Digest as _, Sha256};

use super::{Bridges, refused};

/// Longest name of an interface of Linux.
const BRIDGE_MAX: usize = 15;

/// Longest name that incus-compose leaves as it is, and so whoever looks for one finds it.
const NETWORK_MAX: usize = 13;

/// Names that are tried for a bridge.
const TRIES: u32 = 100;

/// Longest name of an instance or a device.
const NAME_MAX: usize = 63;

/// `text` with nothing in it but lower case letters, digits and `-`. Two texts may become one: who makes names of it
/// looks for that.
pub(super) fn slug(text: &str) -> String {
    let dash = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let slug: String = text.chars().map(dash).collect();
    slug.trim_matches('-').to_owned()
}

/// Name of a replica, or of a service's only one.
pub(super) fn instance(text: &str, node: &Node, path: &str) -> Result<String, Fault> {
    let name: String = text.chars().map(|c| if matches!(c, '_' | '.') { '-' } else { c }).collect();
    let legal = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.ends_with('-')
        && !name.bytes().all(|byte| byte.is_ascii_digit());
    if legal && name.len() <= NAME_MAX {
        return Ok(name);
    }
    let shown: String = name.chars().take(70).collect();
    let what = format!("`{shown}` is no name of an instance: at most {NAME_MAX} letters, digits and `-`");
    Err(refused(node, path, what))
}

/// Name of the bridge of a network. No two networks of any projects have the same.
pub(super) fn bridge(project: &str, key: &str) -> String {
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let name = format!("{project}-{key}");
    if plain(project) && plain(key) && name.len() <= NETWORK_MAX {
        return name;
    }
    format!("pw-{}", short(&[project, key], 10))
}

/// The name of a network's bridge on a server: the one it has, else the usual one, else one that no interface has.
pub(super) fn bridge_of(project: &str, key: &str, bridges: &Bridges) -> String {
    if let Some(own) = bridges.own.get(key) {
        return own.clone();
    }
    let usual = bridge(project, key);
    let others = (1..TRIES).map(|number| format!("pw-{}", short(&[project, key, &number.to_string()], 10)));
    let mut names = std::iter::once(usual.clone()).chain(others);
    names.find(|name| !bridges.strays.contains(name)).unwrap_or(usual)
}

/// Whether `text` can be the name of a bridge.
pub(super) fn is_bridge(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    (2..=BRIDGE_MAX).contains(&text.len()) && first && text.chars().all(legal)
}

/// Whether `text` can be the name of a volume.
pub(super) fn is_volume(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(legal)
}

/// `PREFIX-slug`, or a hash where that would be too long.
pub(super) fn device(prefix: &str, text: &str) -> String {
    let name = format!("{prefix}-{}", slug(text));
    if name.len() <= NAME_MAX && !name.ends_with('-') {
        name
    } else {
        format!("{prefix}-{}", short(&[text], 32))
    }
}

/// Letters and digits that stand for `parts`.
pub(super) fn short(parts: &[&str], length: usize) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // A NUL stands in no name: what is joined is one thing only.
    let hash = Sha256::digest(parts.join("\0"));
    let letter = |byte: &u8| LETTERS.get(usize::from(byte % 32)).copied().map_or('a', char::from);
    hash.iter().map(letter).take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when an interface that was left behind keeps a project from coming up, or a network moves.
    #[test]
    fn a_bridge_goes_round_what_is_in_its_way() {
        let mut bridges = Bridges::default();
        let of = |bridges: &Bridges| bridge_of("shop", "default", bridges);
        assert_eq!(of(&bridges), "shop-default");
        bridges.strays.insert("shop-default".to_owned());
        let second = of(&bridges);
        assert!(second.starts_with("pw-") && is_bridge(&second), "{second}");
        bridges.strays.insert(second.clone());
        let third = of(&bridges);
        assert!(third != second && is_bridge(&third), "{third}");
        bridges.own.insert("default".to_owned(), second.clone());
        assert_eq!(of(&bridges), second, "it stays where it is");
    }

    #[test]
    fn bridges_of_different_networks_differ() {
        assert_eq!(bridge("shop", "default"), "shop-default");
        let names = [
            bridge("a-b", "c"),
            bridge("a", "b-c"),
            bridge("a_b", "c"),
            bridge("a", "b_c"),
            bridge("project", "default"),
        ];
        for (at, name) in names.iter().enumerate() {
            assert!(is_bridge(name), "{name}");
            assert!(!names.iter().skip(at + 1).any(|other| other == name), "{name}");
        }
    }

    #[test]
    fn devices_are_called_after_what_they_are() {
        assert_eq!(device("bind", "/srv/My Data/"), "bind-srv-my-data");
        assert!(device("bind", "/").starts_with("bind-") && device("bind", &"x".repeat(200)).len() <= 63);
    }
}
