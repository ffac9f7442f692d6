use super::*;

/// Devices of one service with these ports.
fn devices(service: &str, engine: Engine) -> (Vec<String>, Vec<String>) {
    let text = format!("services:\n  web:\n    image: busybox\n    {service}\n");
    let setting = Setting { engine, ..old() };
    let want = mapped(&text, &setting);
    let mut lines = Vec::new();
    for (_, instance) in want.instances() {
        let devices = if engine == Engine::Incus { &instance.devices } else { &instance.ports };
        for (name, keys) in devices {
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            lines.push(format!("{} {name}: {}", instance.name, keys.join(" ")));
        }
    }
    (lines, want.warnings)
}

/// Every kind of port that works without a choice of its own.
const PORTS: &str = "ports: ['80:80', '127.0.0.1:8080:80', '[::1]:8081:80', '53:53/tcp', '53:53/udp', '10.0.0.1:53:53/udp', \
                     '9000-9001:7000-7001']";

/// Fails when a device of the server differs in one byte from what incus-compose makes of the same file.
#[test]
fn the_servers_own_devices() {
    let (lines, warnings) = devices(PORTS, Engine::Incus);
    assert!(warnings.is_empty(), "{warnings:?}");
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn devices_of_portway() {
    insta::assert_snapshot!(devices(PORTS, Engine::Portway).0.join("\n"));
}

/// Fails when NAT is asked for where it cannot be, or falls back without a word.
#[test]
fn nat_for_all_ports_of_a_service() {
    let ports = "ports: ['80:80', '127.0.0.1:81:80', {target: 80, published: 82, x-incus-compose: {nat: false}}, \
                 {target: 80, published: 83, x-portway: {nat: auto, limits.rate: 5}}]\n    x-incus: {nat-proxy: true}";
    let (lines, warnings) = devices(ports, Engine::Portway);
    insta::assert_snapshot!(format!("{}\n{}", lines.join("\n"), warnings.join("\n")));
    let (lines, warnings) = devices(ports, Engine::Incus);
    assert!(lines.iter().all(|line| !line.contains("nat=")), "{lines:?}");
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    let (lines, warnings) =
        devices("ports: ['80:80']\n    network_mode: none\n    x-incus: {nat-proxy: true}", Engine::Portway);
    assert!(!lines[0].contains("nat=") && warnings[0].ends_with("is relayed: no interface"), "{warnings:?}");
}

#[test]
fn a_range_has_a_port_for_each_replica() {
    let (lines, _) = devices("ports: ['8000-8001:80']\n    scale: 2", Engine::Incus);
    assert_eq!(
        lines,
        [
            "web-1 proxy-8000: connect=tcp:127.0.0.1:80 listen=tcp:0.0.0.0:8000 type=proxy",
            "web-2 proxy-8001: connect=tcp:127.0.0.1:80 listen=tcp:0.0.0.0:8001 type=proxy",
        ]
    );
}
