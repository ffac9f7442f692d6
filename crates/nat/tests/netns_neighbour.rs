//! Whose an address is on a bridge: forgotten when it is believed to be another instance's.
//!
//! The topology is drawn in `publish/town.rs`.

mod publish;

use portway_nat::{InterfaceName, forget_neighbour};
use portway_testkit::is_root;
use publish::town::Town;

/// What is right, what nothing is known of, and what somebody has set for good stays; what was another instance's
/// goes. Both families.
///
/// Fails when: it goes whoever has it, or stays with another instance.
#[test]
fn only_what_is_wrong_is_forgotten() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let bridge = InterfaceName::new("br0").unwrap();
    let (own, other) = ("00:16:3e:00:00:0a", "00:16:3e:00:00:0b");
    for address in ["10.0.0.77", "fd00::77"] {
        let forget = |owner: &str| {
            let forgotten = || forget_neighbour(&bridge, address.parse().unwrap(), owner).unwrap();
            town.host.enter(forgotten).unwrap()
        };
        let set = |state: &str| {
            town.host.ip(&format!("neigh replace {address} lladdr {other} dev br0 nud {state}")).unwrap();
        };
        let known = || town.host.ip(&format!("neigh show to {address} nud all")).unwrap().contains(other);
        assert!(!forget(own), "nothing is known");
        for state in ["reachable", "stale"] {
            set(state);
            assert!(!forget(&other.to_uppercase()) && known(), "{state}, and right");
            assert!(forget(own) && !known(), "{state}, and wrong");
        }
        set("permanent");
        assert!(!forget(own) && known(), "set for good");
    }
    let none = InterfaceName::new("br9").unwrap();
    assert!(forget_neighbour(&none, "10.0.0.77".parse().unwrap(), own).is_err());
}
