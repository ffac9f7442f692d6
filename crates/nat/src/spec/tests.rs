use super::*;
use portway_model::Port;
use proptest::prelude::*;

fn ports(first: u16, last: u16) -> PortRange {
    PortRange::new(Port::new(first).unwrap(), Port::new(last).unwrap()).unwrap()
}

fn make(
    listen: Listen,
    listen_ports: PortRange,
    target: &str,
    target_ports: PortRange,
) -> Result<Publication, PublicationError> {
    Publication::new("d", Transport::Tcp, (listen, listen_ports), (target.parse().unwrap(), target_ports))
}

fn at(ip: &str) -> Listen {
    Listen::Address(ip.parse().unwrap())
}

#[test]
fn addresses_that_are_nobodys_are_refused() {
    let one = ports(80, 80);
    for ip in ["127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255"] {
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(make(Listen::Address(ip), one, "10.0.0.2", one), Err(PublicationError::Listen(ip)));
        let refused = make(at("192.0.2.1"), one, &ip.to_string(), one);
        assert_eq!(refused, Err(PublicationError::Target(ip)));
    }
    for ip in ["::1", "::", "ff02::1", "fe80::1", "::ffff:10.0.0.1"] {
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(make(Listen::Address(ip), one, "fd00::2", one), Err(PublicationError::Listen(ip)));
        let refused = make(Listen::Every(Family::V6), one, &ip.to_string(), one);
        assert_eq!(refused, Err(PublicationError::Target(ip)));
    }
}

#[test]
fn families_and_counts_must_fit() {
    let error = make(Listen::Every(Family::V6), ports(80, 80), "10.0.0.2", ports(80, 80)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "NAT leads from IPv4 to IPv4 and from IPv6 to IPv6 only, and the target is 10.0.0.2"
    );
    let error = make(at("192.0.2.1"), ports(80, 89), "10.0.0.2", ports(80, 81)).unwrap_err();
    assert_eq!(error.to_string(), "10 ports lead to 2: as many are needed, or one");
    make(at("192.0.2.1"), ports(80, 80), "10.0.0.2", ports(80, 81)).unwrap_err();
}

#[test]
fn a_port_leads_to_its_own() {
    let range = make(at("192.0.2.1"), ports(80, 89), "10.0.0.2", ports(8080, 8089)).unwrap();
    assert_eq!([79, 80, 89, 90].map(|port| range.target_port(port)), [None, Some(8080), Some(8089), None]);
    let to_one = make(at("192.0.2.1"), ports(80, 89), "10.0.0.2", ports(8080, 8080)).unwrap();
    assert_eq!([80, 89, 90].map(|port| to_one.target_port(port)), [Some(8080), Some(8080), None]);
}

#[test]
fn two_on_one_port_are_named() {
    let publication = |listen, listen_ports| make(listen, listen_ports, "10.0.0.2", ports(80, 80)).unwrap();
    let want = |publications| Want { publications, ..Want::default() };
    let both =
        want(vec![publication(at("192.0.2.1"), ports(80, 89)), publication(at("192.0.2.1"), ports(89, 90))]);
    assert_eq!(
        both.check().unwrap_err().to_string(),
        "d (tcp:192.0.2.1:80-89) and d (tcp:192.0.2.1:89-90) share a port"
    );
    let apart = want(vec![
        publication(at("192.0.2.1"), ports(80, 89)),
        publication(at("192.0.2.2"), ports(80, 89)),
        publication(Listen::Every(Family::V4), ports(1, 65_535)),
    ]);
    let checked = apart.check().unwrap();
    let found = |ip: &str, port| {
        let found = checked.find(Transport::Tcp, ip.parse().unwrap(), port);
        found.map(Publication::listen)
    };
    assert_eq!(found("192.0.2.1", 85), Some(at("192.0.2.1")));
    assert_eq!(found("192.0.2.1", 90), Some(Listen::Every(Family::V4)));
    assert_eq!(found("127.0.0.1", 85), None);
    assert_eq!(found("2001:db8::1", 85), None);
    assert_eq!(checked.find(Transport::Udp, "192.0.2.1".parse().unwrap(), 85).map(Publication::listen), None);
}

#[test]
fn interface_names_are_the_kernels() {
    for name in ["", ".", "..", "a/b", "a b", "sixteen-letters-", "a:1", "a\n"] {
        assert_eq!(InterfaceName::new(name), None, "{name:?}");
    }
    assert_eq!(InterfaceName::new("incusbr0").unwrap().padded(), b"incusbr0\0\0\0\0\0\0\0\0");
}

proptest! {
    /// What is found for a port is what a plain search finds, and two that overlap are never accepted.
    #[test]
    fn finding_agrees_with_a_search(
        ranges in prop::collection::vec((1_u16..60, 0_u16..8), 0..12),
        port in 0_u16..70,
    ) {
        let publications: Vec<Publication> = ranges
            .iter()
            .map(|(first, more)| {
                make(at("192.0.2.1"), ports(*first, first + more), "10.0.0.2", ports(80, 80)).unwrap()
            })
            .collect();
        let covers = |publication: &Publication, port| publication.target_port(port).is_some();
        let overlap = (0..70).any(|port| publications.iter().filter(|one| covers(one, port)).count() > 1);
        let want = Want { publications: publications.clone(), ..Want::default() };
        match want.check() {
            Err(_) => prop_assert!(overlap),
            Ok(checked) => {
                prop_assert!(!overlap);
                let found = checked.find(Transport::Tcp, "192.0.2.1".parse().unwrap(), port);
                let searched = publications.iter().find(|one| covers(one, port));
                prop_assert_eq!(found, searched);
            }
        }
    }
}
