//! Proxy devices of Incus with `nat=true`: their rules take what comes before any socket gets it.

use std::net::{IpAddr, UdpSocket};

use portway_testkit::{Bed, Container, ContainerSpec, wait_for};
use serde_json::{Value, json};

use crate::scene::{INSIDE, Scene, seen_on};

/// A running container, in a project, with a reserved address, which Incus wants of a device with `nat=true`.
pub(crate) fn reserved<'b>(bed: &'b Bed, project: Option<&str>, number: u16) -> (Container<'b>, IpAddr) {
    let network = bed.incus().get("/1.0/networks/br0").unwrap();
    let gateway = network["config"]["ipv4.address"].as_str().unwrap().to_owned();
    let (stem, _) = gateway.rsplit_once('.').unwrap();
    // One that a container has by lease would be nobody's.
    let leases = bed.incus().get("/1.0/networks/br0/leases").unwrap().to_string();
    let candidates = (0..90).map(|step| format!("{stem}.{}", 110 + (number + step) % 90));
    for address in candidates.filter(|address| !leases.contains(&format!("\"{address}\""))) {
        let keys = [("type", "nic"), ("network", "br0"), ("name", "eth0"), ("ipv4.address", &address)];
        let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let spec = ContainerSpec {
            devices: [("eth0".to_owned(), keys.into())].into(),
            project: project.map(str::to_owned),
            ..ContainerSpec::default()
        };
        // One that somebody else has reserved is refused.
        if let Ok(container) = bed.launch("natrival", &spec) {
            return (container, address.parse().unwrap());
        }
    }
    panic!("no address can be reserved");
}

/// Has Incus give a container a device, or take it away.
pub(crate) fn set_device(container: &Container<'_>, bed: &Bed, name: &str, device: Option<Value>) {
    let mut now = container.read().unwrap();
    let mut devices = now["devices"].take();
    match device {
        Some(device) => devices[name] = device,
        None => drop(devices.as_object_mut().unwrap().remove(name)),
    }
    let wanted =
        json!({"config": now["config"].take(), "profiles": now["profiles"].take(), "devices": devices});
    let target = format!("/1.0/instances/{}?project={}", container.name(), container.project());
    bed.incus().change("PUT", &target, Some(&wanted)).unwrap();
}

/// A device of Incus that leads a port of the host to the container's service.
pub(crate) fn led_by_incus(listen: &str, port: u16, to: IpAddr) -> Value {
    json!({"type": "proxy", "nat": "true", "listen": format!("tcp:{listen}:{port}"), "connect": format!("tcp:{to}:{INSIDE}")})
}

/// By `add`, `set` and `apply`, of another instance and of another project; and one that comes later is shown
/// on ours until it goes.
///
/// Fails when: one of the three does not ask, other projects are left out, or nobody looks later.
#[test]
fn a_port_that_incus_leads_is_refused_or_shown() {
    let Some(scene) = Scene::start("natours") else { return };
    let (rig, bed) = (&scene.rig, scene.rig.bed());
    let [port, other, free] = [(); 3].map(|()| rig.ports.one().unwrap());
    // Incus 6.0 takes no wildcard with nat=true.
    let host = scene.hosts[0].to_string();
    let (rival, own) = reserved(bed, None, port);
    set_device(&rival, bed, "theirs", Some(led_by_incus(&host, port, own)));
    let project = bed.project("natproject").unwrap();
    let (elsewhere, address) = reserved(bed, Some(project.name()), other);
    set_device(&elsewhere, bed, "theirs", Some(led_by_incus(&host, other, address)));
    let says = |output: std::process::Output, text: &str| {
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(text), "{text}: {error}");
    };
    let connect = "connect=tcp:0.0.0.0:7";
    let said = format!("the proxy device theirs of incus:default/{} has nat=true", rival.name());
    for listen in [format!("0.0.0.0:{port}"), format!("{}:{port}", scene.hosts[0]), format!("[::]:{port}")] {
        says(rig.device("add", &["web", &format!("listen=tcp:{listen}"), connect]).unwrap(), &said);
    }
    assert!(rig.daemon.devices().unwrap().is_empty());
    rig.add("web", &[&format!("listen=tcp:0.0.0.0:{free}"), connect, "nat=true"]).unwrap();
    let said =
        format!("the proxy device theirs of incus:{}/{} has nat=true", project.name(), elsewhere.name());
    says(rig.device("set", &["web", &format!("listen=tcp:0.0.0.0:{other}")]).unwrap(), &said);
    let file = rig.path("devices.yaml");
    let text = format!(
        "devices: [{{instance: \"{}\", name: web, listen: \"tcp:[::]:{other}\", connect: \"tcp:[::]:7\"}}]",
        rig.reference()
    );
    std::fs::write(&file, text).unwrap();
    says(rig.daemon.cli(&["apply", "-f", file.to_str().unwrap()]).unwrap(), &said);
    scene.wait_until_led("web");
    // Later, and it goes again.
    set_device(&rival, bed, "theirs", Some(led_by_incus(&host, free, own)));
    let shown = || {
        let device = scene.device("web");
        let reason = device["reason"].as_str()?.to_owned();
        (device["state"] == "degraded" && reason.contains("the proxy device theirs of incus:default/"))
            .then_some(())
    };
    wait_for("the rival to be shown", shown).unwrap();
    set_device(&rival, bed, "theirs", None);
    rig.daemon.wait_for_state("web", "active").unwrap();
    drop(elsewhere);
}

/// A client of a device of Incus' that never stops asking: when that goes, and ours is at its port, he is ours. When it is
/// taken over, and goes then, nobody answers him any more.
///
/// Fails when: entries that Incus' rules have made outlive the rules.
#[test]
fn a_client_that_incus_has_led_does_not_stick() {
    let Some(scene) = Scene::start("natsticks") else { return };
    scene.serve();
    let (rig, bed) = (&scene.rig, scene.rig.bed());
    let port = rig.ports.one().unwrap();
    let (rival, own) = reserved(bed, None, port);
    let service = rival.site().unwrap().run(|| UdpSocket::bind(("0.0.0.0", INSIDE))).unwrap().unwrap();
    let theirs: IpAddr = "203.0.113.9".parse().unwrap();
    std::thread::spawn(move || {
        while let Ok((_, peer)) = service.recv_from(&mut [0; 64]) {
            let _ = service.send_to(theirs.to_string().as_bytes(), peer);
        }
    });
    let device = json!({
        "type": "proxy", "nat": "true",
        "listen": format!("udp:{}:{port}", scene.hosts[0]), "connect": format!("udp:{own}:{INSIDE}"),
    });
    let target = scene.publish("web", "udp", port);
    set_device(&rival, bed, "dns", Some(device.clone()));
    rig.daemon.wait_for_state("web", "degraded").unwrap();
    let ask = || scene.client.run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
    let client = ask();
    let answers = |client: &UdpSocket, expected: Option<IpAddr>| {
        let mut last = None;
        let answered = || {
            last = seen_on(client, target);
            (last == expected).then_some(())
        };
        wait_for(&format!("an answer: {expected:?}"), answered)
            .unwrap_or_else(|why| panic!("{why}: {last:?}"));
    };
    answers(&client, Some(theirs));
    set_device(&rival, bed, "dns", None);
    answers(&client, Some(scene.clients[0]));

    rig.device_ok("remove", &["web"]).unwrap();
    answers(&client, None);
    set_device(&rival, bed, "dns", Some(device));
    // Incus leaves those alone who asked while nobody was there.
    let client = ask();
    answers(&client, Some(theirs));
    let name = rival.name();
    for words in [vec!["device", "import", name], vec!["device", "remove", name, "dns"]] {
        let output = rig.daemon.cli(&words).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let _ = client.send_to(b"who", target);
    }
    answers(&client, None);
}
