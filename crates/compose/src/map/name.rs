//! Names at the server.

use portway_composefile::Fault;
use portway_composefile::tree::Node;
use sha2::{Digest as _, Sha256};

use super::refused;

/// Longest name of an interface of Linux.
const BRIDGE_MAX: usize = 15;

/// Longest name that incus-compose leaves as it is, and so whoever looks for one finds it.
const NETWORK_MAX: usize = 13;

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
