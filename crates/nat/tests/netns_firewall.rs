//! Other people's firewalls in the way of what is published.

mod publish;

use portway_nat::forward_obstacles;
use portway_testkit::is_root;
use publish::town::{Answerer, PATIENCE, QUIET, Town, ask_tcp};
use publish::{publication, want};

/// What another table drops is dropped, whatever ours would say, and the table is named.
#[test]
fn a_firewall_that_stops_forwarded_packets_is_named() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let _one = Answerer::start(&town.one, "one", 8080);
    town.apply(&want(vec![publication("web", "tcp", "192.0.2.1 80", "10.0.0.2 8080")]));
    let named = || -> Vec<String> {
        let found = town.host.enter(|| forward_obstacles().unwrap()).unwrap();
        found.iter().map(ToString::to_string).collect()
    };
    assert!(named().is_empty());
    assert!(ask_tcp(&town.client, "192.0.2.1:80", PATIENCE).is_some());
    // Accepted in one table, before and after, and dropped in another.
    let accepting = |name: &str, priority: &str| {
        format!(
            "table inet {name} {{ chain c {{ type filter hook forward priority {priority}; accept; }}; }};"
        )
    };
    let dropping = "table ip filter { chain DOCKER-USER { }; \
                    chain FORWARD { type filter hook forward priority 0; policy drop; }; };";
    let rules = [accepting("early", "-300"), dropping.to_owned(), accepting("late", "300")].concat();
    town.host.nft(&rules).unwrap();
    assert_eq!(ask_tcp(&town.client, "192.0.2.1:80", QUIET), None);
    let rest = "stops forwarded packets that its rules do not allow";
    assert_eq!(named(), [format!("chain FORWARD of table ip filter {rest} (Docker)")]);
}
