//! Networks from the environment.

use super::super::memory::Memory;
use super::super::{Request, Spec, SpecError};

fn load(memory: &Memory) -> Result<Spec, SpecError> {
    Spec::load(&Request::default(), memory)
}

fn whole() -> Memory {
    Memory::default()
        .file("/run/secrets/key", "<KEY>\n")
        .variable("PORTWAY_MESH_PRIVATE_KEY_FILE", "/run/secrets/key")
        .variable("PORTWAY_MESH_ADDRESSES", "10.9.0.1/24 fd09::1/64")
        .variable("PORTWAY_MESH_LISTEN_PORT", "51820")
        .variable("PORTWAY_MESH_PEER_1_PUBLIC_KEY", "<PEER>")
        .variable("PORTWAY_MESH_PEER_1_ALLOWED_IPS", "10.9.0.2/32,fd09::2/128")
        .variable("PORTWAY_MESH_PEER_1_ENDPOINT", "b.example:51820")
        .variable("PORTWAY_MESH_PEER_10_PUBLIC_KEY", "<OTHER>")
        .variable("PORTWAY_MESH_INGRESS", "tcp:80:127.0.0.1:80,\n tcp:80:127.0.0.1:81")
        .variable("PORTWAY_MESH_EGRESS", "tcp:5432:10.9.0.2:5432")
        .variable("PORTWAY_MESH_MTU", "")
}

#[test]
fn a_network_may_be_all_variables() {
    let spec = load(&whole()).unwrap();
    assert_eq!(
        (spec.network.addresses.len(), spec.network.peers.len(), spec.rules.iter().count()),
        (2, 2, 3)
    );
    assert_eq!(spec.network.peers[0].allowed_ips.len(), 2);
    assert_eq!(spec.warnings, []);
}

#[test]
fn it_goes_over_the_file() {
    let text = "private_key = \"<SHARED>\"\naddresses = [\"10.9.0.9/24\"]\nmtu = 1300\n\
        ingress = [\"tcp:80:127.0.0.1:80\"]\n[[peers]]\npublic_key = \"<PEER>\"\nendpoint = \"a:1\"\n";
    let memory = Memory::default()
        .file("m.toml", text)
        .variable("PORTWAY_MESH_CONFIG", "m.toml")
        .variable("PORTWAY_MESH_PRIVATE_KEY", "<KEY>")
        .variable("PORTWAY_MESH_ADDRESSES", "10.9.0.1/24")
        .variable("PORTWAY_MESH_PEER_1_PUBLIC_KEY", "<OTHER>")
        .variable("PORTWAY_MESH_PEER_1_ENDPOINT", "b:1");
    let spec = load(&memory).unwrap();
    assert_eq!(*spec.network.private_key.reveal(), super::super::memory::KEY);
    assert_eq!(spec.network.addresses[0].to_string(), "10.9.0.1/24");
    assert_eq!(
        (spec.network.addresses.len(), spec.network.mtu.bytes(), spec.network.peers.len()),
        (1, 1300, 2)
    );
}

#[test]
fn every_refusal_names_its_variable() {
    let cases = [
        ("PORTWAY_MESH_MTU", "9", "PORTWAY_MESH_MTU: MTU `9` is not from 576 to 65475"),
        (
            "PORTWAY_MESH_PRIVATE_KEY",
            "<KEY>",
            "/run/secrets/key: private_key stands twice, first at PORTWAY_MESH_PRIVATE_KEY",
        ),
        ("PORTWAY_MESH_PEER_2_ENDPOINT", "a:1", "PORTWAY_MESH_PEER_2_ENDPOINT: peer without a public key"),
        ("PORTWAY_MESH_PEER_1_PRESHARED_KEY_FILE", "/none", "/none does not exist"),
        (
            "PORTWAY_MESH_EGRESS",
            "x",
            "PORTWAY_MESH_EGRESS: egress rule `x`: column 2: rule has 1 of at least 4 fields, expected protocol:[address:]port:destination:port",
        ),
    ];
    for (name, value, message) in cases {
        assert_eq!(load(&whole().variable(name, value)).unwrap_err().to_string(), message);
    }
    let nothing = load(&Memory::default()).unwrap_err();
    assert_eq!(nothing.to_string(), "--config: no network is named");
}

#[test]
fn unknown_variables_are_warned_of_but_for_those_of_a_service() {
    let memory = whole()
        .variable("PORTWAY_MESH_ADRESSES", "x")
        .variable("PORTWAY_MESH_PEER_1_END_POINT", "x")
        .variable("PORTWAY_MESH_PEER_0_ENDPOINT", "x")
        .variable("PORTWAY_MESH_mtu", "x")
        .variable("PORTWAY_MESH_SERVICE_HOST", "10.0.0.1")
        .variable("PORTWAY_MESH_PORT", "tcp://10.0.0.1:80")
        .variable("PORTWAY_MESH_PORT_80_TCP_ADDR", "10.0.0.1");
    let warnings: Vec<String> = load(&memory).unwrap().warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "PORTWAY_MESH_ADRESSES: unknown variable, did you mean PORTWAY_MESH_ADDRESSES?",
            "PORTWAY_MESH_PEER_0_ENDPOINT: unknown variable",
            "PORTWAY_MESH_PEER_1_END_POINT: unknown variable, did you mean PORTWAY_MESH_PEER_1_ENDPOINT?",
            "PORTWAY_MESH_mtu: unknown variable, did you mean PORTWAY_MESH_MTU?",
        ]
    );
}
