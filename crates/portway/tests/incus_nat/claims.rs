//! Addresses that a container has given itself, without a lease: the last choice, and only its own.

use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use portway_testkit::{ContainerSpec, Server, wait_for};
use serde_json::Value;

use crate::scene::{Scene, seen_by_tcp};

/// A container whose interface has a name that its init does not ask for leases on.
fn without_lease() -> ContainerSpec {
    let keys = [("type", "nic"), ("network", "br0"), ("name", "lan0")];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ContainerSpec { devices: [("eth0".to_owned(), keys.into())].into(), ..ContainerSpec::default() }
}

/// Addresses of the bed's subnet that nobody has, and no other test takes while this one runs.
pub(crate) fn free(scene: &Scene, count: usize) -> Vec<IpAddr> {
    let bed = scene.rig.bed().incus();
    let leases = bed.get("/1.0/networks/br0/leases").unwrap();
    let taken: Vec<IpAddr> = leases
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|lease| lease["address"].as_str()?.parse().ok())
        .collect();
    let network = bed.get("/1.0/networks/br0").unwrap();
    let gateway = network["config"]["ipv4.address"].as_str().unwrap().to_owned();
    let (stem, _) = gateway.rsplit_once('.').unwrap();
    let candidates = (10..200).rev().map(|last| format!("{stem}.{last}").parse().unwrap());
    candidates.filter(|ip| !taken.contains(ip) && is_ours(scene, *ip)).take(count).collect()
}

/// Claims an address for this process, by a name that only one can have in the bed's namespace.
fn is_ours(scene: &Scene, ip: IpAddr) -> bool {
    let claim = scene.rig.host().network().enter(|| {
        let name = SocketAddr::from_abstract_name(format!("testkit-address-{ip}"))?;
        UnixListener::bind_addr(&name)
    });
    // Given back with the process.
    claim.is_ok_and(|result| result.map(std::mem::forget).is_ok())
}

fn is_led_to(scene: &Scene, ip: IpAddr) -> Option<Value> {
    let device = scene.device("web");
    let reason = device["mode_reason"].as_str()?.to_owned();
    (device["mode"] == "nat" && reason.contains(&format!("to {ip} (eth0 in br0, configured inside)")))
        .then_some(device)
}

/// Among addresses of others, of no network and of the network itself, its own free one is led to; without it
/// nothing is. A free one that two containers say they have is nobody's. Another one is followed.
///
/// Fails when: what a container says is not compared with what others have, lease, or say themselves; or is
/// believed outside the network.
#[test]
fn only_a_free_address_of_its_own_is_led_to() {
    let Some(scene) = Scene::made_as(Server::Incus6, "natclaim", &without_lease()) else { return };
    let rig = &scene.rig;
    let port = rig.ports.one().unwrap();
    let neighbour = rig.bed().container("natvictim").unwrap();
    let victim = neighbour.address(false).unwrap();
    let free = free(&scene, 2);
    let [first, second] = [free[0], free[1]];
    for address in [first, second] {
        scene.forget_neighbour(address);
    }
    let (stem, _) =
        first.to_string().rsplit_once('.').map(|(stem, last)| (stem.to_owned(), last.to_owned())).unwrap();
    // Else the first address of a subnet takes the others along when it goes.
    rig.container
        .sh("ip link set lan0 up; echo 1 >/proc/sys/net/ipv4/conf/lan0/promote_secondaries")
        .unwrap();
    for claim in [
        format!("{victim}/24"),
        format!("{stem}.1/24"),
        format!("{stem}.0/24"),
        "192.0.2.9/24".into(),
        "127.9.9.9/8".into(),
    ] {
        rig.container.sh(&format!("ip addr add {claim} dev lan0")).unwrap();
    }
    let keys = [format!("listen=tcp:0.0.0.0:{port}"), "connect=tcp:0.0.0.0:7".into(), "nat=true".to_owned()];
    rig.add("web", &keys.each_ref().map(String::as_str)).unwrap();
    let device = scene.device("web");
    assert_eq!((&device["mode"], &device["state"]), (&"relay".into(), &"degraded".into()), "{device}");
    rig.container.sh(&format!("ip addr add {first}/24 dev lan0")).unwrap();
    wait_for("its own address", || is_led_to(&scene, first)).unwrap();
    // It answers for itself only with its own address as source.
    for claim in [format!("{victim}/24"), format!("{stem}.1/24"), format!("{stem}.0/24")] {
        rig.container.sh(&format!("ip addr del {claim} dev lan0")).unwrap();
    }
    rig.container.sh(&format!("ip route replace default via {stem}.1")).unwrap();
    scene.serve();
    let target = std::net::SocketAddr::new(scene.hosts[0], port);
    let reached = || (seen_by_tcp(&scene.client, target) == Some(scene.clients[0])).then_some(());
    wait_for("the service", reached).unwrap();
    // Another one says that it is its own.
    neighbour.sh(&format!("ip addr add {first}/24 dev eth0")).unwrap();
    wait_for("a claim of two", || (scene.device("web")["mode"] == "relay").then_some(())).unwrap();
    rig.container.sh(&format!("ip addr del {first}/24 dev lan0; ip addr add {victim}/24 dev lan0; ip addr add {second}/24 dev lan0")).unwrap();
    wait_for("another address", || is_led_to(&scene, second)).unwrap();
    rig.container.sh(&format!("ip addr del {second}/24 dev lan0")).unwrap();
    wait_for("its end", || (scene.device("web")["mode"] == "relay").then_some(())).unwrap();
    assert!(!scene.tables().contains(&victim.to_string()), "{}", scene.tables());
}

/// A container of another project has a lease of the same bridge, and does not say so: the address is its own all the
/// same.
///
/// Fails when: only the leases of the instance's own project are asked for.
#[test]
fn what_is_leased_in_another_project_is_not_free() {
    let Some(scene) = Scene::made_as(Server::Incus6, "natlent", &without_lease()) else { return };
    let rig = &scene.rig;
    let project = rig.bed().project("natlent").unwrap();
    let spec = ContainerSpec::default().in_project(project.name());
    let other = rig.bed().launch("natlessee", &spec).unwrap();
    let leased = other.address(false).unwrap();
    // Its client for leases would take the address again when it renews.
    other.sh("killall udhcpc; ip addr flush dev eth0").unwrap();
    let free = free(&scene, 1)[0];
    scene.forget_neighbour(free);
    rig.container.sh(&format!("ip link set lan0 up; ip addr add {leased}/24 dev lan0")).unwrap();
    let keys = [
        format!("listen=tcp:0.0.0.0:{}", rig.ports.one().unwrap()),
        "connect=tcp:0.0.0.0:7".into(),
        "nat=auto".to_owned(),
    ];
    rig.add("web", &keys.each_ref().map(String::as_str)).unwrap();
    let device = scene.device("web");
    assert_eq!(device["mode"], "relay", "{device}");
    rig.container.sh(&format!("ip addr add {free}/24 dev lan0")).unwrap();
    wait_for("a free address", || is_led_to(&scene, free)).unwrap();
    assert!(!scene.tables().contains(&leased.to_string()), "{}", scene.tables());
    drop(other);
}

/// Two containers swap their addresses: each is reached at its new one as soon as it is led there, though the host
/// has learned them from the other.
///
/// Fails when: the host is left to find out by itself, which takes it seconds.
#[test]
fn who_has_an_address_now_is_asked() {
    let Some(scene) = Scene::made_as(Server::Incus6, "natswap", &without_lease()) else { return };
    let rig = &scene.rig;
    let port = rig.ports.one().unwrap();
    let other = rig.bed().launch("natswapped", &without_lease()).unwrap();
    let free = free(&scene, 2);
    let [first, second] = [free[0], free[1]];
    let (stem, _) =
        first.to_string().rsplit_once('.').map(|(stem, last)| (stem.to_owned(), last.to_owned())).unwrap();
    let takes = |container: &portway_testkit::Container<'_>, ip: IpAddr| {
        let script = format!(
            "ip link set lan0 up; ip addr flush dev lan0; ip addr add {ip}/24 dev lan0; ip route replace default via {stem}.1"
        );
        container.sh(&script).unwrap();
    };
    for address in [first, second] {
        scene.forget_neighbour(address);
    }
    takes(&rig.container, first);
    takes(&other, second);
    scene.serve();
    let keys = [format!("listen=tcp:0.0.0.0:{port}"), "connect=tcp:0.0.0.0:7".into(), "nat=true".to_owned()];
    rig.add("web", &keys.each_ref().map(String::as_str)).unwrap();
    wait_for("its own address", || is_led_to(&scene, first)).unwrap();
    let target = std::net::SocketAddr::new(scene.hosts[0], port);
    let reached = || (seen_by_tcp(&scene.client, target) == Some(scene.clients[0])).then_some(());
    wait_for("the service", reached).unwrap();
    // As the host has it after it has talked with the other one.
    let hardware = other.read().unwrap()["config"]["volatile.eth0.hwaddr"].as_str().unwrap().to_owned();
    takes(&other, first);
    takes(&rig.container, second);
    rig.host()
        .network()
        .ip(&format!("neigh replace {second} lladdr {hardware} dev br0 nud reachable"))
        .unwrap();
    wait_for("its new address", || is_led_to(&scene, second)).unwrap();
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]), "at the first try");
}
