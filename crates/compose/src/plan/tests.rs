//! What is planned where what is there.

use super::*;
use crate::label;
use crate::observe::{Life, Observed, Seen, SeenNetwork};
use crate::render::keys;
use crate::scene::{after, health, instance, lines, project, server, service, traces};
use crate::want::{ComposeProject, Mount, Owner, Restart, Volume};

fn planned(want: &ComposeProject, seen: &Observed, options: &Up) -> Plan {
    up(want, seen, options).expect("a plan")
}

/// The server with `want` up on it.
fn with(want: &ComposeProject) -> Observed {
    let plan = planned(want, &server(), &Up::default());
    after(server(), &plan)
}

fn scaled(name: &str, count: u32) -> crate::want::Service {
    let mut one = service(name);
    one.instances = (1..=count).map(|index| instance(name, index)).collect();
    one
}

fn chain() -> ComposeProject {
    let mut db = service("db");
    db.health = Some(health());
    let services = vec![service("web"), db, service("migrate"), service("other")];
    let depends = [
        ("web", "db", Condition::Healthy),
        ("web", "migrate", Condition::Completed),
        ("migrate", "db", Condition::Started),
    ];
    project(services, &depends)
}

#[test]
fn the_first_up_makes_all_of_it_in_order() {
    let plan = planned(&chain(), &server(), &Up::default());
    assert_eq!(
        lines(&plan),
        [
            "create project p",
            "create network p-default <- 0",
            "create instance db-1 <- 0 1",
            "start instance db-1 <- 1 2",
            "create instance migrate-1 <- 0 1",
            "start instance migrate-1 <- 1 3 4",
            "create instance other-1 <- 0 1",
            "start instance other-1 <- 1 6",
            "create instance web-1 <- 0 1",
            "await service db (healthy) <- 3",
            "await service migrate (completed) <- 5",
            "start instance web-1 <- 1 8 9 10",
        ]
    );
}

/// Fails when a plan depends on anything that a plan changes.
#[test]
fn up_again_does_nothing() {
    let want = chain();
    let plan = planned(&want, &with(&want), &Up::default());
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
}

/// Spec of the resumption: whatever part of the first plan was carried out, the second ends where the first would have.
#[test]
fn a_plan_cut_short_anywhere_is_taken_up_again() {
    let want = chain();
    let whole = planned(&want, &server(), &Up::default());
    let end = after(server(), &whole);
    for cut in 0..whole.steps.len() {
        let part = Plan { steps: whole.steps[..cut].to_vec(), notes: Vec::new() };
        let there = after(server(), &part);
        let rest = planned(&want, &there, &Up::default());
        assert_eq!(after(there, &rest), end, "cut at {cut}: {:?}", lines(&rest));
    }
}

/// A change of keys makes no bridge: it is made anew, and keeps its addresses.
#[test]
fn a_network_that_was_interrupted_is_made() {
    let want = chain();
    let mut seen = with(&want);
    let network = seen.networks.get_mut("p-default").expect("a network");
    network.half = true;
    let address = network.config["ipv4.address"].clone();
    let plan = planned(&want, &seen, &Up::default());
    let Some(Action::Network { set, there, .. }) = plan.steps.first().map(|step| &step.action) else {
        panic!("{:?}", lines(&plan))
    };
    assert_eq!((set["ipv4.address"].as_str(), *there), (address.as_str(), false));
    assert_eq!(planned(&want, &after(seen, &plan), &Up::default()).steps, []);
}

/// What an image says of an application container the server writes once, when it makes it.
#[test]
fn what_is_no_longer_said_is_as_the_image_has_it() {
    let mut want = project(vec![service("web")], &[]);
    let mut seen = with(&want);
    let web = &mut want.services.get_mut("web").expect("web").instances[0];
    web.config.clear();
    let plan = planned(&want, &seen, &Up::default());
    assert_eq!(lines(&plan)[1], "change instance web-1 (at its restart: environment.A) <- 0");
    let there = seen.instances.get_mut("web-1").expect("an instance");
    there.config.insert("volatile.container.oci".to_owned(), "true".to_owned());
    let plan = planned(&want, &seen, &Up::default());
    assert_eq!(lines(&plan)[1..3], ["stop instance web-1 <- 0", "replace instance web-1 <- 0 1"]);
}

#[test]
fn one_service_changes_and_the_others_do_not_notice() {
    let mut want = chain();
    let seen = with(&want);
    want.services.get_mut("web").expect("web").instances[0].config = keys(&[("environment.A", "2")]);
    let plan = planned(&want, &seen, &Up::default());
    let names: Vec<&str> = plan.steps.iter().map(|step| step.action.name()).collect();
    // Waiting changes nothing.
    assert_eq!(names, ["web-1", "web-1", "db", "migrate", "web-1"], "{:?}", lines(&plan));
    assert!(planned(&want, &after(seen, &plan), &Up::default()).steps.is_empty());
}

#[test]
fn what_a_change_takes_decides_what_is_done() {
    let first = project(vec![service("web")], &[]);
    let seen = with(&first);
    let plan = |change: &dyn Fn(&mut crate::want::Instance)| {
        let mut want = first.clone();
        change(&mut want.services.get_mut("web").expect("web").instances[0]);
        let plan = planned(&want, &seen, &Up::default());
        let again = planned(&want, &after(seen.clone(), &plan), &Up::default());
        assert!(again.steps.is_empty(), "{:?}", lines(&again));
        lines(&plan)
    };
    let limit = plan(&|one| drop(one.config.insert("limits.cpu".to_owned(), "2".to_owned())));
    assert_eq!(limit, ["change instance web-1 (live: limits.cpu)"]);
    let gone = plan(&|one| drop(one.config.remove("environment.A")));
    assert_eq!(
        gone,
        [
            "stop instance web-1",
            "change instance web-1 (at its restart: environment.A) <- 0",
            "start instance web-1 <- 1"
        ]
    );
    let proxy = keys(&[("type", "proxy"), ("listen", "tcp:0.0.0.0:80"), ("connect", "tcp:127.0.0.1:80")]);
    let port = plan(&|one| drop(one.devices.insert("proxy-80".to_owned(), proxy.clone())));
    assert_eq!(port, ["change instance web-1 (live: device proxy-80)"]);
    let mount = |one: &mut crate::want::Instance| {
        let (device, volume) = ("vol-data".to_owned(), "data".to_owned());
        one.mounts = vec![Mount { device, volume, path: "/data".to_owned(), keys: keys(&[]) }];
    };
    let anew = plan(&mount);
    assert_eq!(
        anew,
        [
            "prepare instance web-1",
            "stop instance web-1 <- 0",
            "replace instance web-1 <- 0 1",
            "start instance web-1 <- 2"
        ]
    );
}

/// Fails when the old one goes before the new one is there, or what was left by a kill between any two changes of the
/// server's is in the way, or stays.
#[test]
fn an_instance_is_replaced_whatever_is_cut_short() {
    let want = project(vec![service("web")], &[]);
    let mut seen = with(&want);
    seen.images.insert("busybox".to_owned(), "f01".to_owned());
    let plan = planned(&want, &seen, &Up::default());
    let end = after(seen.clone(), &plan);
    assert_eq!(end.instances["web-1"].base_image(), Some("f01"));
    let again = |there: Observed| {
        let rest = planned(&want, &there, &Up::default());
        assert!(rest.notes.is_empty(), "{:?}", rest.notes);
        assert_eq!(after(there, &rest), end, "{:?}", lines(&rest));
    };
    let new = crate::render::beside("web-1");
    let mut between = Vec::new();
    for cut in 0..=plan.steps.len() {
        let part = Plan { steps: plan.steps[..cut].to_vec(), notes: Vec::new() };
        between.push(after(seen.clone(), &part));
    }
    // Within the replacement: the old one is gone, then the new one has its name and not yet what only one can have.
    let mut gone = between[2].clone();
    assert!(gone.instances.remove("web-1").is_some());
    let mut renamed = gone.clone();
    let one = renamed.instances.remove(&new).expect("the new one");
    renamed.instances.insert("web-1".to_owned(), one);
    between.extend([gone, renamed]);
    for there in between {
        let select = Select { project: "p".to_owned(), ..Select::default() };
        let started = after(there.clone(), &start(&there, &select));
        assert!(started.instances.iter().all(|(_, one)| !one.is_beside() || one.life == Life::Stopped));
        let options = Down {
            select: Select { one_offs: true, ..select },
            project: Some("p".to_owned()),
            ..Down::default()
        };
        let left = down(&there, &options);
        assert!(left.notes.is_empty() && traces(&after(there.clone(), &left)).is_empty(), "{:?}", left.notes);
        again(there);
    }
}

/// Fails when an image is fetched that is not to be, or what is there needs it.
#[test]
fn an_image_that_is_not_to_be_fetched_has_to_be_there() {
    let mut want = project(vec![service("web")], &[]);
    let there = with(&want);
    want.images.get_mut("busybox").expect("it").pull = crate::want::Pull::Never;
    let without = |mut seen: Observed| {
        seen.images.clear();
        up(&want, &seen, &Up::default()).map(|plan| plan.steps.len())
    };
    assert_eq!(without(server()), Err(PlanError::NoImage("busybox".to_owned())));
    assert_eq!(without(there.clone()), Ok(0));
    want.services.get_mut("web").expect("web").instances[0].config = keys(&[("environment.A", "2")]);
    let mut seen = there;
    seen.images.clear();
    let plan = planned(&want, &seen, &Up::default());
    assert!(plan.steps.iter().all(|step| step.action.kind() == "instance"), "{:?}", lines(&plan));
}

/// Fails when another version of the first process stops a service, or is not put in place where none runs.
#[test]
fn a_new_first_process_comes_with_the_next_start() {
    let mut want = project(vec![service("web")], &[]);
    let one = &mut want.services.get_mut("web").expect("web").instances[0];
    let content = b"arg=x\0".to_vec();
    one.files =
        vec![crate::want::File { path: "/.portway/service".into(), uid: 0, gid: 0, mode: 0o400, content }];
    want.program = crate::want::Program::new(b"old");
    let seen = with(&want);
    let old = seen.instances["web-1"].config[label::GUEST].clone();
    want.program = crate::want::Program::new(b"new");
    assert!(planned(&want, &seen, &Up::default()).steps.is_empty());
    let new = |there: &Observed, want: &ComposeProject| {
        let plan = planned(want, there, &Up::default());
        let then = after(there.clone(), &plan);
        (lines(&plan), then.instances["web-1"].config[label::GUEST] != old)
    };
    let mut stopped = seen.clone();
    stopped.instances.get_mut("web-1").expect("web").life = Life::Stopped;
    let steps = ["change instance web-1 (live)", "start instance web-1 <- 0"];
    assert_eq!(new(&stopped, &want), (steps.map(str::to_owned).to_vec(), true));
    let mut changed = want.clone();
    changed.services.get_mut("web").expect("web").instances[0].config = keys(&[("environment.A", "2")]);
    let (steps, is_new) = new(&seen, &changed);
    assert!(steps.len() == 3 && is_new, "{steps:?}");
}

/// Fails when who sees a label can try secrets until one fits it, or a project's hashes change by themselves.
#[test]
fn hashes_of_secrets_are_made_with_the_projects_seal() {
    let sealed = |seal: &str| {
        let mut want = project(vec![service("web")], &[]);
        let one = &mut want.services.get_mut("web").expect("web").instances[0];
        let content = b"1234".to_vec();
        one.files = vec![crate::want::File { path: "/s".into(), uid: 0, gid: 0, mode: 0o400, content }];
        want.config.insert(label::SEAL.to_owned(), seal.to_owned());
        want
    };
    let (seen, other) = (with(&sealed("a")), with(&sealed("b")));
    for key in [label::HASH, label::FILES] {
        assert_ne!(seen.instances["web-1"].config[key], other.instances["web-1"].config[key], "{key}");
    }
    let again = planned(&sealed("b"), &seen, &Up::default());
    assert!(again.steps.is_empty(), "{:?}", lines(&again));
}

#[test]
fn what_somebody_has_set_by_hand_stays() {
    let want = project(vec![service("web")], &[]);
    let mut seen = with(&want);
    let web = seen.instances.get_mut("web-1").expect("web");
    web.config.insert("limits.memory".to_owned(), "1GiB".to_owned());
    web.devices.insert("mine".to_owned(), keys(&[("type", "disk")]));
    assert!(planned(&want, &seen, &Up::default()).steps.is_empty());
}

#[test]
fn another_image_of_the_name_makes_it_anew_and_none_at_all_does_not_matter() {
    let want = project(vec![service("web")], &[]);
    let mut seen = with(&want);
    seen.images.clear();
    assert!(planned(&want, &seen, &Up::default()).steps.is_empty(), "the registry is not needed");
    seen.images.insert("busybox".to_owned(), "f01".to_owned());
    let plan = planned(&want, &seen, &Up::default());
    assert_eq!(lines(&plan)[2], "replace instance web-1 <- 0 1");
    let kept = Up { recreate: Recreate::None, ..Up::default() };
    assert!(planned(&want, &seen, &kept).steps.is_empty());
    let all = Up { recreate: Recreate::All, ..Up::default() };
    assert_eq!(planned(&want, &with(&want), &all).steps.len(), 4);
}

#[test]
fn fewer_replicas_take_the_highest_number_first() {
    let seen = with(&project(vec![scaled("web", 11), service("db")], &[]));
    let want = project(vec![scaled("web", 8), service("db")], &[]);
    let plan = planned(&want, &seen, &Up::default());
    let removals: Vec<&str> = plan
        .steps
        .iter()
        .filter(|step| matches!(step.action, Action::Remove { .. }))
        .map(|step| step.action.name())
        .collect();
    assert_eq!(removals, ["web-11", "web-10", "web-9"]);
    // The names of what has gone go too.
    assert_eq!(lines(&plan)[0], "change network p-default");
    let more = planned(&project(vec![scaled("web", 3), service("db")], &[]), &server(), &Up::default());
    assert_eq!(more.steps.iter().filter(|step| matches!(step.action, Action::Create(_))).count(), 4);
}

#[test]
fn orphans_are_told_by_their_label_and_strangers_are_left_alone() {
    let mut seen = with(&project(vec![service("web"), service("old"), service("off")], &[]));
    seen.instances.insert("stranger".to_owned(), Seen { life: Life::Running, ..Seen::default() });
    let want = project(vec![service("web")], &[]);
    let options = Up { disabled: ["off".to_owned()].into(), ..Up::default() };
    let plan = planned(&want, &seen, &options);
    assert!(plan.notes[0].contains("stay: old-1 ("), "{:?}", plan.notes);
    assert!(!plan.steps.iter().any(|step| step.action.kind() == "instance"), "{:?}", lines(&plan));
    let plan = planned(&want, &seen, &Up { orphans: Orphans::Remove, ..options });
    let names: Vec<&str> = plan.steps.iter().map(|step| step.action.name()).collect();
    assert_eq!(names, ["p-default", "old-1", "old-1"]);
}

/// Fails when what stays without being named, by the files or by whoever calls, cannot be found by its neighbours.
#[test]
fn who_stays_keeps_its_names() {
    let mut off = service("off");
    off.instances[0].nics[0].aliases = vec!["alias".to_owned()];
    let want = project(vec![service("web"), service("db"), off, service("old")], &[]);
    let seen = with(&want);
    let before = &seen.networks["p-default"].config["raw.dnsmasq"];
    assert!(before.contains("alias") && before.contains("host-record=old-1"), "{before}");
    let want = project(vec![service("web"), service("db")], &[]);
    let options = Up { disabled: ["off".to_owned()].into(), services: vec!["web".into()], ..Up::default() };
    let plan = planned(&want, &seen, &options);
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
    let plan = planned(&want, &seen, &Up { orphans: Orphans::Remove, ..options.clone() });
    let then = after(seen.clone(), &plan);
    let names = &then.networks["p-default"].config["raw.dnsmasq"];
    assert!(names.contains("alias") && names.contains("db.incus") && !names.contains("old"), "{names}");
    // What is not said any more is said again, as far as labels tell it.
    let mut lost = seen;
    lost.networks.get_mut("p-default").expect("it").config.remove("raw.dnsmasq");
    let then = after(lost.clone(), &planned(&want, &lost, &options));
    let names = &then.networks["p-default"].config["raw.dnsmasq"];
    assert!(names.contains("host-record=off-1,off-1.incus,off,off.incus,10."), "{names}");
}

/// Fails when labels that were copied make a backup somebody's to remove.
#[test]
fn a_copy_is_nobodys() {
    let mut want = project(vec![service("db")], &[]);
    let one = &mut want.services.get_mut("db").expect("db").instances[0];
    one.mounts = vec![Mount { device: "v".into(), volume: "v".into(), path: "/v".into(), keys: keys(&[]) }];
    let volume = Volume { name: "vol-v".into(), pool: None, owner: Owner::Project, config: keys(&[]) };
    want.volumes.insert("v".to_owned(), volume);
    let mut seen = with(&want);
    let copy = seen.instances["db-1"].clone();
    seen.instances.insert("a-backup".to_owned(), copy);
    let pool = "default".to_owned();
    let copy = seen.volumes[&(pool.clone(), "vol-v".to_owned())].clone();
    seen.volumes.insert((pool, "vol-backup".to_owned()), copy);
    let all = Up { orphans: Orphans::Remove, ..Up::default() };
    let notes = [
        "instance a-backup was copied or renamed from db-1 and is left alone",
        "volume vol-backup was copied or renamed from vol-v and is left alone",
    ];
    let plan = planned(&want, &seen, &all);
    assert_eq!((lines(&plan), &plan.notes[..]), (Vec::new(), &notes.map(str::to_owned)[..]));
    let select = Select { project: "p".to_owned(), ..Select::default() };
    let options = Down { select, volumes: Volumes::Remove, project: Some("p".to_owned()), ..Down::default() };
    let plan = down(&seen, &options);
    assert_eq!(plan.notes, notes);
    let left = after(seen, &plan);
    assert!(left.project.is_some());
    assert_eq!(left.instances.into_keys().collect::<Vec<_>>(), ["a-backup"]);
    assert_eq!(left.volumes.into_keys().map(|(_, name)| name).collect::<Vec<_>>(), ["vol-backup"]);
    // Nor does a copy stand for a replica of its name.
    let mut seen = with(&project(vec![service("db")], &[]));
    let copy = seen.instances["db-1"].clone();
    seen.instances.insert("db-2".to_owned(), copy);
    let more = up(&project(vec![scaled("db", 2)], &[]), &seen, &Up::default());
    assert_eq!(more, Err(PlanError::Taken { what: "instance db-2".to_owned() }));
}

/// Fails when the time a service has is forgotten with the files.
#[test]
fn an_orphan_has_the_time_its_service_had() {
    let mut old = service("old");
    old.stop.grace = Duration::from_secs(300);
    let seen = with(&project(vec![service("web"), old], &[]));
    let want = project(vec![service("web")], &[]);
    let grace = |options: Up| {
        let plan = planned(&want, &seen, &Up { orphans: Orphans::Remove, ..options });
        let mut stops = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Stop { grace, .. } => Some(grace.as_secs()),
            _ => None,
        });
        stops.next()
    };
    assert_eq!(grace(Up::default()), Some(300));
    let said = Some(Duration::from_secs(1));
    assert_eq!(grace(Up { grace: said, ..Up::default() }), Some(1));
}

#[test]
fn naming_a_service_brings_all_it_needs() {
    let plan = planned(&chain(), &server(), &Up { services: vec!["web".to_owned()], ..Up::default() });
    let text = lines(&plan).join("\n");
    assert!(text.contains("db-1") && text.contains("migrate-1") && !text.contains("other-1"), "{text}");
    let alone = Up {
        services: vec!["web".to_owned()],
        dependencies: crate::order::Dependencies::Without,
        ..Up::default()
    };
    let text = lines(&planned(&chain(), &server(), &alone)).join("\n");
    assert!(!text.contains("db-1") && !text.contains("await"), "{text}");
    let unknown = Up { services: vec!["wep".to_owned()], ..Up::default() };
    assert_eq!(up(&chain(), &server(), &unknown), Err(PlanError::NoService("wep".to_owned())));
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let refused = |want: &ComposeProject, seen: &Observed| {
        up(want, seen, &Up::default()).expect_err("refused").to_string()
    };
    let ring = project(
        vec![service("a"), service("b"), service("c")],
        &[("a", "b", Condition::Started), ("b", "c", Condition::Started), ("c", "b", Condition::Started)],
    );
    assert_eq!(refused(&ring, &server()), "services depend on each other: b -> c -> b");
    let mut want = project(vec![service("a"), service("b")], &[("a", "b", Condition::Healthy)]);
    assert!(refused(&want, &server()).ends_with("b, which has no healthcheck"));
    want = project(vec![service("a")], &[]);
    want.networks.get_mut("default").expect("it").owner = Owner::External;
    assert_eq!(refused(&want, &server()), "network p-default is said to be external, and is not there");
    want = project(vec![service("a")], &[]);
    let mut seen = server();
    seen.networks.insert("p-default".to_owned(), SeenNetwork::default());
    let stray = "network p-default cannot be made: the server's host has an interface of that name";
    assert_eq!(refused(&want, &seen), stray, "what a killed command may leave");
    seen.networks.insert("p-default".to_owned(), SeenNetwork { managed: true, ..SeenNetwork::default() });
    assert_eq!(refused(&want, &seen), "network p-default is there and was not made for this project");
    seen = server();
    seen.instances.insert("a-1".to_owned(), Seen::default());
    assert_eq!(refused(&want, &seen), "instance a-1 is there and was not made for this project");
    seen = server();
    let label = |of: &str| Some(keys(&[(label::PROJECT, of)]));
    seen.project = label("p_");
    assert_eq!(refused(&want, &seen), "the server's project p is there and was not made for this project");
    seen.project = Some(keys(&[("features.images", "true")]));
    seen.inhabitants = vec!["/1.0/instances/mine?project=p".to_owned()];
    assert_eq!(refused(&want, &seen), "the server's project p is there and was not made for this project");
    seen.project = label("p");
    assert!(up(&want, &seen, &Up::default()).is_ok(), "ours");
    (seen.project, seen.inhabitants) = (Some(keys(&[])), Vec::new());
    assert_eq!(lines(&planned(&want, &seen, &Up::default()))[0], "change project p", "nobody's");
    let port = |address: &str| keys(&[("listen", address), ("connect", "tcp:127.0.0.1:80")]);
    want = project(vec![scaled("a", 2)], &[]);
    for one in &mut want.services.get_mut("a").expect("a").instances {
        one.ports.insert("p80".to_owned(), port("tcp:0.0.0.0:80"));
    }
    assert_eq!(refused(&want, &server()), "a-1 and a-2 both publish tcp:0.0.0.0:80");
    want = project(vec![service("a")], &[]);
    let one = &mut want.services.get_mut("a").expect("a").instances[0];
    one.mounts = vec![Mount { device: "v".into(), volume: "v".into(), path: "/v".into(), keys: keys(&[]) }];
    let volume = Volume { name: "vol-v".into(), pool: None, owner: Owner::External, config: keys(&[]) };
    want.volumes.insert("v".to_owned(), volume);
    assert_eq!(
        refused(&want, &server()),
        "volume vol-v is said to be external, and is not in the server's project p"
    );
}

#[test]
fn a_dependency_that_is_made_anew_restarts_who_asked_for_it() {
    let mut want = project(vec![service("web"), service("db"), service("other")], &[]);
    for (who, restart) in [("web", true), ("other", false)] {
        let dependency = crate::want::Dependency { condition: Condition::Started, required: true, restart };
        want.services.get_mut(who).expect("it").depends_on.insert("db".to_owned(), dependency);
    }
    let seen = with(&want);
    want.services.get_mut("db").expect("db").instances[0].config = keys(&[("environment.A", "2")]);
    let plan = planned(&want, &seen, &Up::default());
    assert_eq!(
        lines(&plan),
        [
            "stop instance db-1",
            "change instance db-1 (at its restart: environment.A) <- 0",
            "start instance db-1 <- 1",
            "stop instance web-1",
            "start instance web-1 <- 2 3",
        ]
    );
}

#[test]
fn what_is_not_required_is_waited_for_and_not_needed() {
    let mut want = project(vec![service("web"), service("db")], &[("web", "db", Condition::Started)]);
    want.services.get_mut("web").expect("web").depends_on.get_mut("db").expect("db").required = false;
    let plan = planned(&want, &server(), &Up::default());
    let start = plan.steps.last().expect("steps");
    assert_eq!((start.action.name(), start.after.len()), ("web-1", 1));
    want.services.remove("db");
    assert!(planned(&want, &server(), &Up::default()).notes[0].contains("goes without db"));
}

#[test]
fn down_leaves_nothing_and_stops_who_depends_first() {
    let mut want = chain();
    want.services.get_mut("db").expect("db").restart = Restart::Always;
    let mut seen = with(&want);
    seen.published.insert("web-1".to_owned(), [("p".to_owned(), keys(&[]))].into());
    let select = Select { project: "p".to_owned(), ..Select::default() };
    let options = Down { select, volumes: Volumes::Remove, project: Some("p".to_owned()), ..Down::default() };
    let plan = down(&seen, &options);
    assert_eq!(
        lines(&plan)[..4],
        [
            "stop instance other-1",
            "stop instance web-1",
            "stop instance migrate-1 <- 1",
            "stop instance db-1 <- 1 2"
        ]
    );
    let gone = after(seen, &plan);
    assert_eq!((traces(&gone), gone.published.len()), (Vec::new(), 0));
    assert!(down(&gone, &options).steps.is_empty(), "twice is nothing");
}

/// Fails when the access list of a network stays whose removal was cut short before it, or keeps nobody's project.
#[test]
fn down_takes_the_list_of_a_network_that_is_gone() {
    let mut seen = with(&project(vec![service("web")], &[]));
    seen.instances.clear();
    seen.fenced = ["p-default", "p-gone"].map(str::to_owned).into();
    let select = Select { project: "p".to_owned(), ..Select::default() };
    let options = Down { select, project: Some("p".to_owned()), ..Down::default() };
    let expected = ["remove network p-default", "remove network p-gone", "remove project p <- 0 1"];
    assert_eq!(lines(&down(&seen, &options)), expected);
}

#[test]
fn down_leaves_what_others_use() {
    let want = project(vec![service("web")], &[]);
    let mut seen = with(&want);
    let users = ["/1.0/instances/web-1?project=p", "/1.0/instances/web-1?project=other"];
    seen.networks.get_mut("p-default").expect("it").used_by = users.map(str::to_owned).to_vec();
    let select = Select { project: "p".to_owned(), ..Select::default() };
    let plan = down(
        &seen,
        &Down { select, volumes: Volumes::Keep, project: Some("p".to_owned()), ..Down::default() },
    );
    assert_eq!(plan.notes, ["network p-default stays: it is used by /1.0/instances/web-1?project=other"]);
    let kinds: Vec<&str> = plan.steps.iter().map(|step| step.action.kind()).collect();
    assert_eq!(kinds, ["instance", "instance"], "without the project the next one finds no network");
}

/// Fails when networks that are to stay go, or are not found by the next `down`.
#[test]
fn down_without_networks_leaves_the_way_to_them() {
    let seen = with(&project(vec![service("web")], &[]));
    let select = Select { project: "p".to_owned(), ..Select::default() };
    let options = Down { select, networks: Networks::Keep, project: Some("p".to_owned()), ..Down::default() };
    let left = after(seen.clone(), &down(&seen, &options));
    assert!(left.project.is_some() && left.networks.contains_key("p-default"));
    let again = Down { networks: Networks::Remove, ..options };
    assert_eq!(traces(&after(left.clone(), &down(&left, &again))), Vec::<String>::new());
}

/// Fails when the whole of a project of ours is not all that is in it, or when one of somebody else is taken for ours.
#[test]
fn the_whole_project_is_what_strangers_have_made_too() {
    let mut seen = with(&project(vec![service("web")], &[]));
    let mut strange = seen.instances["web-1"].clone();
    strange.config.clear();
    seen.instances.insert("strange".to_owned(), strange);
    let select = Select { project: "p".to_owned(), ..Select::default() };
    let options = Down {
        select,
        volumes: Volumes::Remove,
        reach: Reach::All,
        project: Some("p".to_owned()),
        ..Down::default()
    };
    assert_eq!(traces(&after(seen.clone(), &down(&seen, &options))), Vec::<String>::new());
    seen.project = Some(keys(&[]));
    let left = after(seen.clone(), &down(&seen, &options));
    assert!(left.project.is_some() && left.instances.contains_key("strange"));
}

/// Fails when: a project that holds what does not go is to be removed all the same, or it is not said why it stays.
#[test]
fn what_keeps_a_project_is_named_or_goes_with_the_whole_of_it() {
    let mut seen = with(&project(vec![service("web")], &[]));
    let paths = ["profiles/mine", "images/0123456789abcdef", "instances/web-1"];
    seen.inhabitants = paths.map(|path| format!("/1.0/{path}?project=p")).to_vec();
    let select = Select { project: "p".to_owned(), ..Select::default() };
    let ours = Down { select, volumes: Volumes::Remove, project: Some("p".to_owned()), ..Down::default() };
    let plan = down(&seen, &ours);
    assert_eq!(
        plan.notes,
        [
            "the server's project p stays: it holds profile mine, image 0123456789ab (--project removes it with them)"
        ]
    );
    let left = after(seen.clone(), &plan);
    assert!(left.project.is_some() && left.instances.is_empty() && left.networks.is_empty());
    let later = down(&seen, &Down { images: Images::Later, ..ours.clone() });
    assert!(later.notes[0].ends_with("it holds profile mine (--project removes it with them)"), "{later:?}");

    let whole = Down { reach: Reach::All, ..ours };
    let plan = down(&seen, &whole);
    assert!(plan.notes.is_empty(), "{:?}", plan.notes);
    let gone = after(seen.clone(), &plan);
    assert_eq!((traces(&gone), gone.inhabitants.len()), (Vec::new(), 1), "the instance's path is no step's");
    seen.inhabitants.push("/1.0/storage-pools/default/buckets/b?project=p".to_owned());
    let plan = down(&seen, &whole);
    assert_eq!(
        plan.notes,
        ["the server's project p stays: it holds /1.0/storage-pools/default/buckets/b?project=p"]
    );
    assert!(after(seen, &plan).project.is_some());
}

/// Fails when what a service depends on is not found by its labels, over several services too.
#[test]
fn dependencies_are_told_by_labels() {
    let seen = with(&chain());
    let select = Select { project: "p".to_owned(), services: vec!["web".to_owned()], ..Select::default() };
    let mut found = select.with_dependencies(&seen).services;
    found.sort();
    assert_eq!(found, ["db", "migrate", "web"]);
}

#[test]
fn what_is_held_goes_on() {
    let want = project(vec![service("web")], &[]);
    let mut seen = with(&want);
    seen.instances.get_mut("web-1").expect("web").life = Life::Paused;
    assert_eq!(lines(&planned(&want, &seen, &Up::default())), ["resume instance web-1"]);
}

#[test]
fn addresses_stay_and_names_lead_to_them() {
    let want = project(vec![scaled("web", 2)], &[]);
    let seen = with(&want);
    let names = seen.networks["p-default"].config["raw.dnsmasq"].clone();
    let address = seen.instances["web-2"].devices["eth0"]["ipv4.address"].clone();
    assert!(names.contains(&format!("host-record=web-2,web-2.incus,web,web.incus,{address}")), "{names}");
    let more = project(vec![scaled("web", 3), service("a")], &[]);
    let then = after(seen.clone(), &planned(&more, &seen, &Up::default()));
    assert_eq!(then.instances["web-2"].devices, seen.instances["web-2"].devices);
    let mut all: Vec<&str> =
        then.instances.values().map(|one| one.devices["eth0"]["ipv4.address"].as_str()).collect();
    all.dedup();
    assert_eq!(all.len(), 4);
}

/// Fails when each up has the server choose another prefix.
#[test]
fn an_address_that_the_server_chooses_is_chosen_once() {
    let mut want = project(vec![service("web")], &[]);
    let network = want.networks.get_mut("default").expect("default");
    network.config = keys(&[("ipv4.address", "auto"), ("ipv6.address", "auto")]);
    let seen = with(&want);
    let subnet = &seen.networks["p-default"].config["ipv4.address"];
    assert!(crate::address::Subnet::parse(subnet).is_some(), "{subnet}");
    assert!(seen.instances["web-1"].devices["eth0"].contains_key("ipv4.address"));
    let plan = planned(&want, &seen, &Up::default());
    assert!(plan.steps.is_empty(), "{:?}", lines(&plan));
    let mut none = seen.clone();
    none.networks.get_mut("p-default").expect("it").config.insert("ipv6.address".into(), "none".into());
    assert_eq!(lines(&planned(&want, &none, &Up::default())), ["change network p-default"]);
}

#[test]
fn ports_of_portway_are_published_after_the_start() {
    let mut want = project(vec![service("web")], &[]);
    let keys = keys(&[("listen", "tcp:0.0.0.0:80"), ("connect", "tcp:127.0.0.1:80")]);
    want.services.get_mut("web").expect("web").instances[0].ports.insert("p".to_owned(), keys);
    let plan = planned(&want, &server(), &Up::default());
    assert_eq!(lines(&plan).last().map(String::as_str), Some("publish ports web-1 (p) <- 3"));
    let seen = after(server(), &plan);
    assert!(planned(&want, &seen, &Up::default()).steps.is_empty());
    want.services.get_mut("web").expect("web").instances[0].ports.clear();
    let plan = planned(&want, &seen, &Up::default());
    // The label forgets it when it is gone, and not before.
    assert_eq!(lines(&plan)[..2], ["publish ports web-1 (not p)", "change instance web-1 (live) <- 0"]);
    assert!(planned(&want, &after(seen.clone(), &plan), &Up::default()).steps.is_empty());
    assert_eq!(seen.instances["web-1"].label(label::SERVICE), Some("web"));
}

/// Fails when a device of Portway that somebody has added is withdrawn by the next up.
#[test]
fn ports_that_somebody_has_published_by_hand_stay() {
    let mut want = project(vec![service("web")], &[]);
    let listen = |port: &str| keys(&[("listen", port), ("connect", "tcp:127.0.0.1:80")]);
    let ports = |want: &mut ComposeProject, ports: &[(&str, &str)]| {
        let one = &mut want.services.get_mut("web").expect("web").instances[0];
        one.ports = ports.iter().map(|(name, port)| ((*name).to_owned(), listen(port))).collect();
    };
    ports(&mut want, &[("p", "tcp:0.0.0.0:80")]);
    let mut seen = with(&want);
    let published = seen.published.get_mut("web-1").expect("web-1");
    published.insert("debug".to_owned(), listen("tcp:0.0.0.0:81"));
    assert!(planned(&want, &seen, &Up::default()).steps.is_empty());
    ports(&mut want, &[]);
    want.services.get_mut("web").expect("web").instances[0].image = "other".to_owned();
    let plan = planned(&want, &seen, &Up { start: Start::No, ..Up::default() });
    let left = |plan: &Plan| {
        let mut seen = seen.clone();
        seen.images.insert("other".to_owned(), "f01".to_owned());
        after(seen, plan).published["web-1"].keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(left(&plan), ["debug"], "{:?}", lines(&plan));
    // Cut short after any step, the next up withdraws what this one has not.
    for cut in 0..plan.steps.len() {
        let part = Plan { steps: plan.steps[..cut].to_vec(), notes: Vec::new() };
        let mut there = seen.clone();
        there.images.insert("other".to_owned(), "f01".to_owned());
        let there = after(there, &part);
        let rest = planned(&want, &there, &Up::default());
        assert_eq!(after(there, &rest).published["web-1"].len(), 1, "cut at {cut}");
    }
}

#[test]
fn a_restart_stops_all_and_starts_all_in_order() {
    let want = project(vec![service("web"), service("db")], &[("web", "db", Condition::Started)]);
    let seen = with(&want);
    let select = Select { project: "p".to_owned(), ..Select::default() };
    assert_eq!(
        lines(&restart(&seen, &select)),
        [
            "stop instance web-1",
            "stop instance db-1 <- 0",
            "start instance db-1 <- 0 1",
            "start instance web-1 <- 0 1 2"
        ]
    );
    let held = after(seen.clone(), &hold(&seen, &select, Hold::On));
    assert_eq!(lines(&hold(&held, &select, Hold::Off)), ["resume instance db-1", "resume instance web-1"]);
    let stopped = after(seen.clone(), &stop(&seen, &select));
    assert_eq!(lines(&start(&stopped, &select)), ["start instance db-1", "start instance web-1 <- 0"]);
    assert!(start(&seen, &select).steps.is_empty());
}
