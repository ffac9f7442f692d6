//! Pairs: each file is one that is taken, and both belong together.

use super::super::Spec;
use super::super::memory::Memory;
use super::*;

fn pair(nodes: [&str; 2], network: &str, service: Option<&str>) -> Result<[Spec; 2], PairError> {
    let made = make(&nodes.map(str::to_owned), network, service)?;
    Ok(made.map(|Made { name, text }| {
        let path = format!("{name}.toml");
        Memory::default().file(&path, &text).load(&path).unwrap()
    }))
}

#[test]
fn both_files_belong_together() {
    for (network, service) in
        [("10.77.0.0/24", None), ("fd77::/64", Some("tcp:8080")), ("10.0.0.0/30", Some("UDP:53"))]
    {
        let [one, two] = pair(["a=a.example:7", "b"], network, service).unwrap();
        for (own, peer) in [(&one, &two), (&two, &one)] {
            let [known] = own.network.peers.as_slice() else { panic!("one peer") };
            assert_eq!(known.public_key, peer.network.private_key.public());
            let [block] = known.allowed_ips.as_slice() else { panic!("one block") };
            assert_eq!(block.ip(), peer.network.addresses[0].ip);
            assert_eq!(own.warnings, []);
        }
        assert_eq!(one.network.peers[0].preshared_key, two.network.peers[0].preshared_key);
        assert_eq!(
            one.network.listen_port,
            two.network.peers[0].endpoint.as_ref().map(|endpoint| endpoint.port)
        );
        assert_eq!(two.network.listen_port, None);
        assert!(two.network.peers[0].keepalive.is_some() && one.network.peers[0].keepalive.is_none());
        let count = |spec: &Spec| spec.rules.iter().count();
        let wanted = usize::from(service.is_some());
        assert_eq!((count(&one), count(&two)), (wanted, wanted));
    }
}

#[test]
fn every_refusal_says_what() {
    let cases: [([&str; 2], &str, Option<&str>, &str); 12] = [
        (
            ["a", "b"],
            "10.0.0.0/24",
            None,
            "neither node has a host: one of them has to be reached by the other, as in a=HOST",
        ),
        (["a=h", "a"], "10.0.0.0/24", None, "both nodes are called `a`"),
        (
            ["../a=h", "b"],
            "10.0.0.0/24",
            None,
            "node name `../a` is not made of letters, digits, `-` and `_`",
        ),
        (["=h", "b"], "10.0.0.0/24", None, "node name `` is not made of letters, digits, `-` and `_`"),
        (["a=h:0", "b"], "10.0.0.0/24", None, "node a: `h:0` is not HOST or HOST:PORT"),
        (["a=::1", "b"], "10.0.0.0/24", None, "node a: `::1` is not HOST or HOST:PORT"),
        (["a=", "b"], "10.0.0.0/24", None, "node a: `` is not HOST or HOST:PORT"),
        (["a=h", "b"], "10.0.0.1/24", None, "`10.0.0.1/24` is not a block of addresses with room for two"),
        (["a=h", "b"], "10.0.0.0/31", None, "`10.0.0.0/31` is not a block of addresses with room for two"),
        (["a=h", "b"], "127.0.0.0/8", None, "`127.0.0.0/8` is not a block of addresses with room for two"),
        (["a=h", "b"], "10.0.0.0/24", Some("tcp"), "service `tcp` is not tcp:PORT or udp:PORT"),
        (["a=h", "b"], "10.0.0.0/24", Some("tcp:0"), "service `tcp:0` is not tcp:PORT or udp:PORT"),
    ];
    for (nodes, network, service, message) in cases {
        assert_eq!(pair(nodes, network, service).unwrap_err().to_string(), message);
    }
}
