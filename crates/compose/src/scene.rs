//! Projects and servers for tests of plans.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::label;
use crate::observe::{Life, Observed, Seen, SeenVolume};
use crate::plan::{Action, Plan};
use crate::render::{Rendered, beside, keys};
use crate::want::*;

/// A service of one replica with no more than an image, in the default network.
pub(crate) fn service(name: &str) -> Service {
    Service {
        name: name.to_owned(),
        image: "busybox".to_owned(),
        depends_on: BTreeMap::new(),
        health: None,
        restart: Restart::No,
        stop: Stopping::default(),
        instances: vec![instance(name, 1)],
    }
}

/// A replica.
pub(crate) fn instance(service: &str, index: u32) -> Instance {
    let nic = Nic { network: "default".to_owned(), ipv4: None, aliases: Vec::new(), keys: Keys::new() };
    Instance {
        name: format!("{service}-{index}"),
        index,
        image: "busybox".to_owned(),
        config: keys(&[("environment.A", "1")]),
        devices: BTreeMap::new(),
        nics: vec![nic],
        mounts: Vec::new(),
        root: Keys::new(),
        files: Vec::new(),
        addressing: Addressing::Inside,
        ports: BTreeMap::new(),
        open: BTreeMap::new(),
        leads: BTreeMap::new(),
    }
}

/// A network of the project.
pub(crate) fn network(name: &str) -> Network {
    Network {
        name: name.to_owned(),
        owner: Owner::Project,
        config: Keys::new(),
        range: None,
        reserved: BTreeSet::new(),
        is_internal: false,
        place: String::new(),
    }
}

/// How health is told.
pub(crate) fn health() -> Health {
    let second = Duration::from_secs(1);
    Health {
        test: vec!["true".to_owned()],
        tester: Tester::Guest,
        interval: second,
        timeout: second,
        retries: 3,
        start_period: Duration::ZERO,
        start_interval: second,
    }
}

/// A project of these services, and lines `a b condition`: the first depends on the second.
pub(crate) fn project(services: Vec<Service>, depends: &[(&str, &str, Condition)]) -> ComposeProject {
    let mut services: BTreeMap<String, Service> =
        services.into_iter().map(|service| (service.name.clone(), service)).collect();
    for (who, on, condition) in depends {
        let dependency = Dependency { condition: *condition, required: true, restart: false };
        services.get_mut(*who).expect("a service").depends_on.insert((*on).to_owned(), dependency);
    }
    let image = Image { source: ImageSource::Local("busybox".to_owned()), pull: Pull::Missing };
    let network = network("p-default");
    ComposeProject {
        name: "p".to_owned(),
        incus_project: "p".to_owned(),
        config: keys(&[("features.images", "false")]),
        images: [("busybox".to_owned(), image)].into(),
        networks: [("default".to_owned(), network)].into(),
        services,
        ..ComposeProject::default()
    }
}

/// A server with nothing but a pool and the image.
pub(crate) fn server() -> Observed {
    Observed {
        pool: "default".to_owned(),
        images: [("busybox".to_owned(), "f00".to_owned())].into(),
        ..Observed::default()
    }
}

/// The server after a plan: as if every step had worked.
pub(crate) fn after(mut seen: Observed, plan: &Plan) -> Observed {
    for step in &plan.steps {
        match step.action.clone() {
            Action::Project { set, .. } => seen.project.get_or_insert_default().extend(set),
            Action::Image { image } => drop(seen.images.insert(image, "f00".to_owned())),
            Action::Network { name, set, .. } => {
                let network = seen.networks.entry(name).or_default();
                network.managed = true;
                network.half = false;
                // The server chooses anew each time it is told to.
                let chosen = |key: &str| format!("fd42:{}::1/64 {key}", network.config.len());
                let set = set.into_iter().map(|(key, value)| {
                    let value = if value == "auto" { chosen(&key) } else { value };
                    (key, value)
                });
                let set: Keys = set.collect();
                network.config.extend(set);
            }
            Action::Volume { pool, name, config } => {
                seen.volumes.insert((pool, name), SeenVolume { config, used_by: Vec::new() });
            }
            Action::Create(one) => made(&mut seen, *one),
            Action::Prepare(one) => made(&mut seen, one.beside()),
            Action::Replace(one) => {
                let old = seen.instances.remove(&one.name).expect("an instance");
                assert_eq!(old.life, Life::Stopped, "{} runs", one.name);
                let mut new = seen.instances.remove(&beside(&one.name)).expect("the new one");
                new.config.extend(one.config);
                new.config.remove(label::BESIDE);
                new.devices = one.devices;
                seen.instances.insert(one.name, new);
            }
            Action::Change(one, difference) => {
                let there = seen.instances.get_mut(&one.name).expect("an instance");
                there.config.extend(difference.set);
                difference.unset.iter().for_each(|key| drop(there.config.remove(key)));
                there.devices.extend(difference.devices);
                difference.gone.iter().for_each(|name| drop(there.devices.remove(name)));
            }
            Action::Start { instance, .. } => {
                seen.instances.get_mut(&instance).expect("an instance").life = Life::Running;
            }
            Action::Stop { instance, .. } => {
                seen.instances.get_mut(&instance).expect("an instance").life = Life::Stopped;
            }
            Action::Hold { instance } => {
                seen.instances.get_mut(&instance).expect("an instance").life = Life::Paused;
            }
            Action::Remove { instance } => {
                let gone = seen.instances.remove(&instance).expect("an instance");
                assert_eq!(gone.life, Life::Stopped, "{instance} runs");
            }
            Action::Publish { instance, set, gone } => {
                let devices = seen.published.entry(instance).or_default();
                devices.extend(set);
                gone.iter().for_each(|name| drop(devices.remove(name)));
            }
            Action::Await { .. } => {}
            Action::RemoveNetwork { name } => drop(seen.networks.remove(&name)),
            Action::RemoveVolume { pool, name } => drop(seen.volumes.remove(&(pool, name))),
            Action::RemoveProfile { name: gone } | Action::RemoveImage { fingerprint: gone } => {
                seen.inhabitants.retain(|path| !path.contains(&gone));
            }
            Action::RemoveProject { .. } => seen.project = None,
        }
    }
    seen.published.retain(|_, devices| !devices.is_empty());
    // The server keeps no empty values.
    let configs = seen.instances.values_mut().map(|one| &mut one.config).chain(&mut seen.project);
    let configs = configs.chain(seen.networks.values_mut().map(|one| &mut one.config));
    let configs = configs.chain(seen.volumes.values_mut().map(|one| &mut one.config));
    configs.for_each(|config| config.retain(|_, value| !value.is_empty()));
    seen
}

fn made(seen: &mut Observed, one: Rendered) {
    let mut config = one.config;
    config.insert("volatile.base_image".to_owned(), seen.images[&one.image].clone());
    let made = Seen { config, devices: one.devices, ..Seen::default() };
    assert_eq!(seen.instances.insert(one.name, made), None, "made twice");
}

/// Whether the server holds anything of the project's.
pub(crate) fn traces(seen: &Observed) -> Vec<String> {
    let labelled = |config: &Keys| config.contains_key(label::PROJECT);
    let instances =
        seen.instances.iter().filter(|(_, one)| labelled(&one.config)).map(|(name, _)| name.clone());
    let networks =
        seen.networks.iter().filter(|(_, one)| labelled(&one.config)).map(|(name, _)| name.clone());
    let volumes =
        seen.volumes.iter().filter(|(_, one)| labelled(&one.config)).map(|((_, name), _)| name.clone());
    let project = seen.project.iter().map(|_| "project".to_owned());
    instances.chain(networks).chain(volumes).chain(project).collect()
}

/// A plan as lines, each with the numbers of the steps it waits for.
pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    let line = |(at, step): (usize, &crate::plan::Step)| {
        let mut before: Vec<usize> = step.needs.iter().chain(&step.after).copied().collect();
        before.sort_unstable();
        before.dedup();
        assert!(before.iter().all(|need| *need < at), "step {at} waits for a later one");
        let before: Vec<String> = before.iter().map(ToString::to_string).collect();
        if before.is_empty() {
            step.action.to_string()
        } else {
            format!("{} <- {}", step.action, before.join(" "))
        }
    };
    plan.steps.iter().enumerate().map(line).collect()
}
