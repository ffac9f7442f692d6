//! Networks: which addresses are given, who is found by which name, and what is refused before anything is made.

use super::*;
use crate::observe::{Observed, SeenNetwork};
use crate::plan::{PlanError, Up, up};
use crate::scene::{after, server};

fn refused(text: &str, seen: &Observed) -> PlanError {
    up(&mapped(text, &old()), seen, &Up::default()).map(|_| ()).expect_err("no plan")
}

/// Addresses of the first interfaces, by instance.
fn addresses(text: &str) -> Vec<String> {
    let want = mapped(text, &old());
    let plan = up(&want, &server(), &Up::default()).expect("a plan");
    let seen = after(server(), &plan);
    seen.instances
        .iter()
        .map(|(name, one)| format!("{name} {}", one.devices["eth0"]["ipv4.address"]))
        .collect()
}

fn network(pool: &str) -> String {
    format!(
        "services: {{a: {{image: busybox, scale: 3}}}}\nnetworks: {{default: {{ipam: {{config: [{{{pool}}}]}}}}}}\n"
    )
}

/// Fails when instances get other addresses than those of the range, or one that is somebody else's.
#[test]
fn addresses_are_of_the_range_and_never_reserved_ones() {
    assert_eq!(
        addresses(&network(
            "subnet: 10.8.0.0/24, ip_range: 10.8.0.64/29, aux_addresses: {router: 10.8.0.66}"
        )),
        ["a-1 10.8.0.65", "a-2 10.8.0.67", "a-3 10.8.0.68"]
    );
    assert_eq!(
        addresses(&network("subnet: 10.8.0.0/24, aux_addresses: {x: 10.8.0.2, y: 10.8.0.4, z: 'fd00::1'}")),
        ["a-1 10.8.0.3", "a-2 10.8.0.5", "a-3 10.8.0.6"]
    );
    let few = network("subnet: 10.8.0.0/24, ip_range: 10.8.0.64/30");
    assert!(matches!(refused(&few, &server()), PlanError::NoAddress { .. }));
    let taken = "services: {a: {image: busybox, networks: {default: {ipv4_address: 10.8.0.9}}}}\n\
                 networks: {default: {ipam: {config: [{subnet: 10.8.0.0/24, aux_addresses: {router: 10.8.0.9}}]}}}\n";
    assert!(refused(taken, &server()).to_string().contains("it is one of aux_addresses"));
    let outside = fault(&network("subnet: 10.8.0.0/24, ip_range: 10.9.0.0/25"), &old());
    assert!(outside.contains("the range 10.9.0.0/25 is not in 10.8.0.0/24"), "{outside}");
    let wrong = fault(&network("subnet: 10.8.0.0/24, aux_addresses: {router: here}"), &old());
    assert!(wrong.contains("config[0].aux_addresses.router: `here` is no address"), "{wrong}");
}

/// Fails when a service that is in two networks does not find those that are in the second one only.
#[test]
fn who_is_in_two_networks_finds_both() {
    let text = "services:\n\
                \x20 web: {image: busybox, networks: [front, back]}\n\
                \x20 db: {image: busybox, networks: {back: {aliases: [database]}}}\n\
                \x20 edge: {image: busybox, networks: [front]}\n\
                \x20 far: {image: busybox, networks: [other]}\n\
                networks: {front: , back: {internal: true}, other: }\n";
    let want = mapped(text, &old());
    let plan = up(&want, &server(), &Up::default()).expect("a plan");
    let seen = after(server(), &plan);
    let names = |network: &str| seen.networks[network].config["raw.dnsmasq"].clone();
    let db = &seen.instances["db-1"].devices["eth0"]["ipv4.address"];
    let front = names("shop-front");
    assert!(front.contains(&format!("database,database.incus,{db}")), "{front}");
    assert!(front.contains("host-record=edge-1,") && !front.contains("far-1"), "{front}");
    let back = names("shop-back");
    assert!(back.starts_with("dhcp-option=3\nno-resolv\nhost-record=db-1,"), "{back}");
    assert!(!names("shop-other").contains("web-1"));
}

/// Fails when an external network is joined that cannot be, or under a name that is taken there.
#[test]
fn external_networks_are_judged_before_anything_is_made() {
    let text = "services: {web: {image: busybox}}\nnetworks: {default: {external: true, name: lan}}\n";
    assert!(matches!(refused(text, &server()), PlanError::Missing { .. }));
    let mut seen = server();
    seen.networks.insert("lan".to_owned(), SeenNetwork::default());
    assert_eq!(
        refused(text, &seen).to_string(),
        "network lan is no network of the server's, only an interface of its host"
    );
    let used_by = ["/1.0/instances/web-1?project=blog", "/1.0/profiles/default"].map(str::to_owned).to_vec();
    let config = pairs(&[("ipv4.address", "10.5.0.1/24")]);
    let lan = SeenNetwork { managed: true, config, used_by, ..SeenNetwork::default() };
    seen.networks.insert("lan".to_owned(), lan);
    assert_eq!(
        refused(text, &seen).to_string(),
        "instance web-1 cannot be in network lan: web-1 of the server's project blog has that name there"
    );
    seen.networks.get_mut("lan").expect("it").used_by[0] = "/1.0/instances/web-1?project=shop".to_owned();
    let plan = up(&mapped(text, &old()), &seen, &Up::default()).expect("a plan");
    assert!(
        plan.notes[0].starts_with("service web is not found by its name in the network default"),
        "{:?}",
        plan.notes
    );
    let again = up(&mapped(text, &old()), &after(seen, &plan), &Up::default()).expect("a plan");
    assert!(again.notes.is_empty(), "said once: {:?}", again.notes);
}

#[test]
fn an_external_volume_is_in_the_projects_own_place() {
    let text =
        "services: {a: {image: busybox, volumes: ['data:/data']}}\nvolumes: {data: {external: true}}\n";
    assert_eq!(
        refused(text, &server()).to_string(),
        "volume data is said to be external, and is not in the server's project shop"
    );
}
