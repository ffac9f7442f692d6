//! Instances of other projects than the default one.

use portway_testkit::{Addr, Behaviour, ContainerSpec, DaemonSpec, Rig, Service};

use crate::PORTWAY;
use crate::expect::{MISSING, local, says, wait_until_heard};

/// Two containers of one name in two projects have devices of one name, told apart everywhere; the
/// project is said before the name or by `--project`, and must not be said twice differently.
///
/// Fails when: the project is left out of a key, a request to the server, or an event.
#[test]
fn two_of_one_name() {
    let Some(bed) = portway_testkit::bed() else { return };
    let (blue, red) = (bed.project("blue").unwrap(), bed.project("red").unwrap());
    let daemon = DaemonSpec::new(PORTWAY).on(bed).start().unwrap();
    let ports = portway_testkit::Ports::claim(bed.netns()).unwrap();
    let name = format!("c-{}", std::process::id());
    let mut services = Vec::new();
    // On one bridge the server refuses a second one of that name.
    let containers = [&blue, &red].map(|project| {
        let spec = ContainerSpec::default().in_project(project.name()).with_macvlan();
        bed.launch_exactly(&name, &spec).unwrap()
    });
    let mut at = Vec::new();
    for (container, flag) in containers.iter().zip([false, true]) {
        let port = ports.one().unwrap();
        let listen = format!("listen=tcp:127.0.0.1:{port}");
        let full = format!("{}/{name}", container.project());
        let project = format!("--project={}", container.project());
        let reference: &[&str] = if flag { &[&name, &project] } else { &[&full] };
        let args = [&["device", "add"], reference, &["web", &listen, "connect=tcp:127.0.0.1:80"]].concat();
        let output = daemon.cli(&args).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (site, behaviour) = (container.site().unwrap(), Behaviour::Say(container.project().to_owned()));
        services.push(Service::start(&site, &Addr::Tcp(local(80)), behaviour).unwrap());
        at.push((port, container.project()));
    }
    let host = portway_testkit::Site::netns(bed.netns());
    for (port, project) in &at {
        assert_eq!(crate::expect::heard(&host, *port).as_deref(), Some(*project));
    }
    let mut names: Vec<String> = daemon
        .devices()
        .unwrap()
        .iter()
        .map(|device| device["instance"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, [format!("incus:{}/{name}", blue.name()), format!("incus:{}/{name}", red.name())]);

    // A restart of one is no business of the other.
    containers[1].restart().unwrap();
    let red_key = format!("{}/{name}", red.name());
    let output = daemon.cli(&["device", "remove", &red_key, "web"]).unwrap();
    assert!(output.status.success());
    assert_eq!(crate::expect::heard(&host, at[0].0).as_deref(), Some(blue.name()));
    says(
        &daemon.cli(&["device", "remove", &name, "web"]).unwrap(),
        MISSING,
        &[&format!("incus:default/{name}")],
    );
    let contradiction = ["device", "remove", &red_key, "web", "--project", blue.name()];
    says(&daemon.cli(&contradiction).unwrap(), crate::expect::USAGE, &[red.name(), blue.name()]);
    drop(services);
}

/// Stop, start and rename in a project are followed as in the default one.
///
/// Fails when: events are subscribed for the default project only.
#[test]
fn is_followed_like_the_default_one() {
    let Some(bed) = portway_testkit::bed() else { return };
    let project = bed.project("green").unwrap();
    let spec = ContainerSpec::default().in_project(project.name());
    let Some(mut rig) = Rig::launch(DaemonSpec::new(PORTWAY), "pr", &spec).unwrap() else { return };
    let port = rig.ports.one().unwrap();
    let full = format!("{}/{}", project.name(), rig.container.name());
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    rig.daemon.add(&full, "web", &[&listen, "connect=tcp:127.0.0.1:80"]).unwrap();
    rig.container.kill().unwrap();
    rig.daemon.wait_for_state("web", "waiting").unwrap();
    let new = format!("{}-new", rig.container.name());
    rig.container.rename(&new).unwrap();
    rig.container.start().unwrap();
    rig.daemon.wait_for_state("web", "active").unwrap();
    let _service = crate::expect::say(&rig, 80, "renamed");
    wait_until_heard(&rig, port, "renamed");
    let seen = rig.daemon.device("web").unwrap()["instance"].as_str().unwrap().to_owned();
    assert_eq!(seen, format!("incus:{}/{new}", project.name()));
}
