//! Rules within their network.

use super::super::memory::{Memory, PEER};
use super::*;
use crate::spec::{Request, Spec, SpecError};

const NETWORK: &str = "[Interface]\nPrivateKey = <KEY>\nAddress = 10.9.0.1/24\nListenPort = 51820\n\
    [Peer]\nPublicKey = <PEER>\nAllowedIPs = 10.9.0.0/24, fd09::/64\n";

fn load(ingress: &[&str], egress: &[&str]) -> Result<Spec, SpecError> {
    let texts = |rules: &[&str]| rules.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (ingress, egress) = (texts(ingress), texts(egress));
    let request = Request {
        config: Some("w.conf".as_ref()),
        ingress: ingress.as_slice(),
        egress: egress.as_slice(),
        ..Request::default()
    };
    Spec::load(&request, &Memory::default().file("w.conf", NETWORK))
}

fn refusal(ingress: &[&str], egress: &[&str]) -> String {
    load(ingress, egress).unwrap_err().to_string()
}

#[test]
fn rules_of_one_port_are_balanced_in_their_order() {
    let spec = load(&["tcp:80:a:1", "udp:80:a:1", "TCP:80:b:2"], &["tcp:80:10.9.0.2:80"]).unwrap();
    let shape: Vec<(String, Vec<String>)> = spec
        .rules
        .listeners()
        .iter()
        .map(|listener| {
            let rules = listener.rules.iter().map(|entry| entry.rule.to_string()).collect();
            (format!("{} {}", listener.listen.direction, listener.listen), rules)
        })
        .collect();
    let wanted: [(&str, &[&str]); 3] = [
        ("ingress tcp:80", &["tcp:80:a:1", "tcp:80:b:2"]),
        ("ingress udp:80", &["udp:80:a:1"]),
        ("egress tcp:80", &["tcp:80:10.9.0.2:80"]),
    ];
    for ((listen, rules), (wanted_listen, wanted_rules)) in shape.iter().zip(wanted) {
        assert_eq!(
            (listen.as_str(), rules.as_slice()),
            (wanted_listen, wanted_rules.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice())
        );
    }
    assert_eq!(spec.rules.iter().count(), 4);
}

/// Fails when: a rule that was added by hand stays by hand though the file names it, or one of the file is taken for one that
/// was added.
#[test]
fn what_the_file_names_is_the_files() {
    let Spec { network, rules, .. } = load(&["tcp:80:a:1"], &[]).unwrap();
    let with = |rules: &Rules, text: &str, place: Place| {
        rules.changed(&network, &[(Direction::Ingress, text.to_owned(), place)], &[]).unwrap()
    };
    let places = |rules: &Rules| rules.iter().map(|entry| entry.place.to_string()).collect::<Vec<_>>();
    let added = with(&with(&rules, "tcp:81:a:1", Place::kept()), "tcp:80:a:1", Place::kept());
    assert_eq!(places(&added), ["--ingress", "added while it ran"]);
    let named = with(&added, "tcp:81:a:1", Place::configured());
    assert_eq!(places(&named), ["--ingress", "portway.toml"]);
    assert_eq!(places(&with(&named, "tcp:81:a:1", Place::kept())), ["--ingress", "portway.toml"]);
}

#[test]
fn a_rule_has_the_same_id_wherever_it_was_said() {
    let ids = |spec: Spec| spec.rules.iter().map(|entry| entry.id.to_string()).collect::<Vec<_>>();
    let one = ids(load(&["TCP:0080:LOCALHOST:80"], &["udp:53:10.9.0.2:53"]).unwrap());
    assert_eq!(one, ids(load(&["tcp:80:localhost:80"], &["udp:53:10.9.0.2:53"]).unwrap()));
    // They are written into files and scripts of users.
    assert_eq!(one, ["04ed279946a3", "229462bd381e"]);
}

#[test]
fn what_stands_twice_is_refused_unless_two_hands_wrote_it() {
    let message = refusal(&["tcp:80:a:1", "tcp:080:A:1"], &[]);
    assert_eq!(message, "--ingress: ingress rule `tcp:080:A:1`: the same rule stands at --ingress");
    let memory =
        Memory::default().file("w.conf", NETWORK).variable("PORTWAY_MESH_INGRESS", "tcp:80:a:1, tcp:80:b:1");
    let ingress = ["tcp:80:a:1".to_owned()];
    let request = Request { config: Some("w.conf".as_ref()), ingress: &ingress, ..Request::default() };
    let spec = Spec::load(&request, &memory).unwrap();
    let places: Vec<String> = spec.rules.iter().map(|entry| entry.place.to_string()).collect();
    assert_eq!(places, ["PORTWAY_MESH_INGRESS", "PORTWAY_MESH_INGRESS"]);
}

#[test]
fn what_cannot_work_in_this_network_is_refused() {
    let cases: [(&[&str], &[&str], &str); 11] = [
        (
            &["tcp:10.9.0.7:80:a:1"],
            &[],
            "ingress rule `tcp:10.9.0.7:80:a:1`: 10.9.0.7 is no address of this node in the network",
        ),
        (
            &["tcp:[::]:80:a:1"],
            &[],
            "ingress rule `tcp:[::]:80:a:1`: this node has no IPv6 address in the network",
        ),
        (
            &["tcp:80:10.9.0.1:1"],
            &[],
            "ingress rule `tcp:80:10.9.0.1:1`: 10.9.0.1 is this node's address in the network, an ingress rule dials on the host",
        ),
        (
            &[],
            &["tcp:10.9.0.1:80:a:1"],
            "egress rule `tcp:10.9.0.1:80:a:1`: 10.9.0.1 is this node's address in the network, an egress rule listens on the host",
        ),
        (
            &[],
            &["tcp:80:10.8.0.1:1"],
            "egress rule `tcp:80:10.8.0.1:1`: no peer has 10.8.0.1 in its allowed IPs",
        ),
        (
            &[],
            &["tcp:80:[fd09::2]:1"],
            "egress rule `tcp:80:[fd09::2]:1`: this node has no IPv6 address in the network to dial from",
        ),
        (
            &[],
            &["udp:51820:10.9.0.2:1"],
            "egress rule `udp:51820:10.9.0.2:1`: UDP port 51820 is where peers send to",
        ),
        (
            &[],
            &["tcp:80:localhost:1"],
            "egress rule `tcp:80:localhost:1`: column 8: destination `localhost` is not in the network: an egress rule dials through the tunnel",
        ),
        (
            &[],
            &["tcp:80:10.9.0.2:1", "tcp:127.0.0.1:80:10.9.0.2:1"],
            "egress rule `tcp:127.0.0.1:80:10.9.0.2:1`: tcp:127.0.0.1:80 is in the way of tcp:80, which is listened on at --egress",
        ),
        (
            &[],
            &["tcp:127.0.0.1:80:10.9.0.2:1", "tcp:0.0.0.0:80:10.9.0.2:1"],
            "egress rule `tcp:127.0.0.1:80:10.9.0.2:1`: tcp:127.0.0.1:80 is in the way of tcp:0.0.0.0:80, which is listened on at --egress",
        ),
        (
            &["tcp:0.0.0.0:80:a:1", "tcp:80:a:1"],
            &[],
            "ingress rule `tcp:0.0.0.0:80:a:1`: tcp:0.0.0.0:80 is in the way of tcp:80, which is listened on at --ingress",
        ),
    ];
    for (ingress, egress, message) in cases {
        let flag = if egress.is_empty() { "--ingress" } else { "--egress" };
        assert_eq!(refusal(ingress, egress), format!("{flag}: {message}"));
    }
}

#[test]
fn what_works_is_taken() {
    let spec = load(
        &["tcp:10.9.0.1:80:a:1", "tcp:0.0.0.0:81:[fd00::1]:1", "udp:51820:127.0.0.1:1", "tcp:443:10.9.0.2:1"],
        &[
            "tcp:80:10.9.0.1:80",
            "tcp:127.0.0.1:81:db.mesh:1",
            "tcp:[::1]:81:10.9.0.2:1",
            "tcp:51820:10.9.0.2:1",
        ],
    )
    .unwrap();
    let [warning] = spec.warnings.as_slice() else { panic!("{:?}", spec.warnings) };
    let wanted = "--ingress: ingress rule `tcp:443:10.9.0.2:1`: 10.9.0.2 belongs to a peer, and an ingress rule dials on the host";
    assert_eq!(warning.to_string(), wanted);
    assert_eq!(spec.network.peer_of("10.9.0.2".parse().unwrap()).unwrap().public_key.to_string(), PEER);
}

#[test]
fn low_ports_of_the_host_need_a_privilege() {
    let rules = load(&["tcp:443:a:1"], &["tcp:1024:10.9.0.2:1", "udp:53:10.9.0.2:53"]).unwrap().rules;
    let error = rules.allowed(PortRights { first_free: 1024, privileged: false }).unwrap_err();
    assert_eq!(error.to_string(), "--egress: cannot listen on udp:53: ports below 1024 need a privilege");
    assert!(error.hint().unwrap().starts_with("listen on a port from 1024, lower"));
    assert!(!error.is_malformed());
    assert!(rules.allowed(PortRights { first_free: 1024, privileged: true }).is_ok());
    assert!(rules.allowed(PortRights { first_free: 53, privileged: false }).is_ok());
}

#[test]
fn a_rule_in_a_message_is_cut_and_cannot_steer_a_terminal() {
    let message = refusal(&["tcp:80:\u{1b}a:1"], &[]);
    assert!(message.starts_with("--ingress: ingress rule `tcp:80:\\u{1b}a:1`: column 8:"), "{message}");
    assert!(refusal(&[&"x".repeat(100_000)], &[]).len() < 400);
}

/// Fails when: a port sends its header by chance, by whichever rule is asked first.
#[test]
fn rules_of_one_port_send_one_header() {
    let load = |egress: &[&str]| {
        let text = "private_key = \"<KEY>\"\naddresses = [\"10.9.0.1/24\"]\n[[peers]]\npublic_key = \"<PEER>\"\n\
                    allowed_ips = [\"10.9.0.0/24\"]\nendpoint = \"a:1\"\n";
        let egress: Vec<String> = egress.iter().map(|text| (*text).to_owned()).collect();
        let request = Request { config: Some("n.toml".as_ref()), egress: &egress, ..Request::default() };
        Spec::load(&request, &Memory::default().file("n.toml", text)).map_err(|error| error.to_string())
    };
    let with = "tcp:80:10.9.0.2:80+proxy_protocol=v2";
    assert!(load(&[with, "tcp:80:10.9.0.3:80+proxy_protocol=v2", "tcp:81:10.9.0.2:80"]).is_ok());
    assert_eq!(
        load(&[with, "tcp:80:10.9.0.3:80"]).unwrap_err(),
        "--egress: egress rule `tcp:80:10.9.0.3:80`: rules of one port send the same PROXY header or none, and the \
         one at --egress differs"
    );
}
