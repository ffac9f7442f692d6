//! A file with every kind of port beside the key, and what the manual says of the cost.

use std::path::Path;

use serde_json::Value;

use crate::outside::Outside;
use crate::scene::Scene;

const FIXTURE: &str = include_str!("with-nat-proxy/compose.yaml");

/// The proxy devices of all instances, one on a line, with names for what is another at each run.
fn devices(scene: &Scene, names: &[(&str, &str)]) -> String {
    let mut lines = Vec::new();
    for service in ["alone", "dns", "fixed", "plain", "web"] {
        let one = scene.instance(&format!("{service}-1")).unwrap();
        for (name, device) in
            one["devices"].as_object().unwrap().iter().filter(|(_, one)| one["type"] == "proxy")
        {
            let keys = device.as_object().unwrap().iter().filter(|(key, _)| *key != "type");
            let keys = keys.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            lines.push(format!("{service} {name}: {}", keys.collect::<Vec<_>>().join(" ")));
        }
        let address = |device: &Value| device["ipv4.address"].as_str().map(str::to_owned);
        if let Some(address) = one["devices"].get("eth0").and_then(address) {
            lines.iter_mut().for_each(|line| *line = line.replace(&format!(":{address}:"), ":INSTANCE:"));
        }
    }
    let text = lines.join("\n");
    names.iter().fold(text, |text, (value, name)| text.replace(value, name))
}

/// The file `with-nat-proxy`: what can be led is, the rest is relayed with one line each, and nothing fails.
#[test]
fn ineligible_ports_warn_and_fall_back() {
    let Some(scene) = Scene::open("fixture") else { return };
    let outside = Outside::beside(scene.bed);
    let host = outside.host.to_string();
    let [_, _, high, low] = outside.host.octets();
    let subnet = format!("10.{}.{high}", 64 + low / 4);
    let mut text = FIXTURE.replace("HOST", &host).replace("SUBNET", &subnet);
    let mut names = vec![(host.clone(), "HOST".to_owned())];
    for (at, port) in [18080, 18081, 18053, 18082, 18083, 18084].into_iter().enumerate() {
        let own = outside.ports.one().unwrap().to_string();
        text = text.replace(&port.to_string(), &own);
        names.push((own, format!("PORT{at}")));
    }
    scene.write(&text);
    let up = scene.ok(&["up", "-d", "--proxy-engine", "incus"]);
    let pairs: Vec<(&str, &str)> =
        names.iter().map(|(value, name)| (value.as_str(), name.as_str())).collect();
    let said = up.err.lines().filter(|line| line.contains("is relayed")).map(|line| {
        let (_, said) = line.split_once("nat-proxy: service").unwrap();
        pairs.iter().fold(said.to_owned(), |text, (value, name)| text.replace(value, name))
    });
    let mut said: Vec<String> = said.collect();
    said.sort();
    insta::assert_snapshot!(format!("{}\n\n{}", said.join("\n"), devices(&scene, &pairs)));
}

/// Fails when the manual's figures are not those of the benchmark.
#[test]
fn the_manual_says_what_it_costs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    let (figures, manual) = (read("benchmarks.md"), read("compose.md"));
    // The ratio to no proxy at all is the second cell that begins with a number.
    let ratio = |section: &str, peer: &str| {
        let (_, rest) = figures.split_once(&format!("### {section}\n")).unwrap();
        let row = rest.lines().find(|line| line.starts_with(&format!("| {peer} |"))).unwrap();
        row.split('|').nth(3).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    for (peer, row) in [
        ("**Portway relay**", "| Portway's relay ("),
        ("**Portway NAT**", "| Portway with NAT |"),
        ("Incus proxy", "| Incus' proxy ("),
        ("Incus NAT", "| Incus with NAT |"),
    ] {
        let line = manual.lines().find(|line| line.starts_with(row)).unwrap();
        for section in ["New connections, 32 under way", "Round trips, 1 connection"] {
            let ratio = ratio(section, peer);
            assert!(line.contains(&format!("| {ratio} ")), "{section}, {peer}: {ratio} is not in {line}");
        }
    }
}
