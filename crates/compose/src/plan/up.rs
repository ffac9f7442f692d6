//! The plan that brings a project up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Action, Plan, PlanError, Step};
use crate::difference::{Difference, Takes, Written, difference};
use crate::label;
use crate::lead;
use crate::observe::{Life, Observed, Seen};
use crate::order::{Dependencies, Order};
use crate::place::{self, facts};
use crate::ports;
use crate::render::{Facts, render};
use crate::want::{ComposeProject, Condition, Instance, Keys, Owner, Pull, Service};

mod ground;
mod surplus;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Up {
    /// Only these services, and what they depend on; all when empty.
    pub services: Vec<String>,
    /// Whether with what they depend on.
    pub dependencies: Dependencies,
    /// Which instances are made anew.
    pub recreate: Recreate,
    /// Whether what the named services depend on is made anew, whatever else is.
    pub recreate_dependencies: bool,
    /// What becomes of instances of services that are no longer in the files.
    pub orphans: Orphans,
    /// Whether anything is started.
    pub start: Start,
    /// Services that the files name and no profile enables: no orphans.
    pub disabled: BTreeSet<String>,
    /// Before force is used, instead of what each service says.
    pub grace: Option<Duration>,
}

/// Which instances are made anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recreate {
    /// Those that have to.
    #[default]
    Changed,
    /// All.
    All,
    /// None: what is there stays as it is.
    None,
}

/// What becomes of instances whose service is no longer in the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Orphans {
    /// They stay, and a note names them.
    #[default]
    Keep,
    /// They stay, and nothing is said.
    Ignore,
    /// They go.
    Remove,
}

/// Whether instances are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// They are.
    #[default]
    Yes,
    /// They are made, and no more.
    No,
    /// They are, and it is waited until they run, or are healthy.
    Wait,
}

/// The plan for `want` where `seen` is there.
///
/// # Errors
/// What cannot be, before anything is done.
pub fn up(want: &ComposeProject, seen: &Observed, options: &Up) -> Result<Plan, PlanError> {
    let want = &*ports::settle(want, seen)?;
    let mut plan = Plan::default();
    let order = order(want, &mut plan)?;
    let selected = selected(want, &order, options)?;
    let project = want.name.as_str();
    let service_of: BTreeMap<&str, &str> =
        want.instances().map(|(service, one)| (one.name.as_str(), service.name.as_str())).collect();
    let counts = |one: &Instance| {
        let there = seen.instances.get(&one.name);
        let ours = there.is_some_and(|there| label::are_of(&there.config, project, &one.name));
        ours || service_of.get(one.name.as_str()).is_some_and(|service| selected.contains(*service))
    };
    let facts = facts(want, seen, &counts)?;
    ports::check(want, seen, &counts)?;
    place::named(want, seen, &counts)?;
    let mut builder = Builder {
        want,
        seen,
        options,
        facts,
        selected,
        plan,
        base: Vec::new(),
        made: BTreeMap::new(),
        started: BTreeMap::new(),
        awaited: BTreeMap::new(),
        disturbed: BTreeSet::new(),
    };
    builder.project()?;
    builder.networks();
    builder.volumes()?;
    builder.surplus();
    builder.plan.notes.extend(seen.copies(project));
    for name in order.sorted() {
        if let Some(service) = want.services.get(name).filter(|_| builder.selected.contains(name)) {
            builder.service(service)?;
        }
    }
    if options.start == Start::Wait {
        builder.wait();
    }
    Ok(builder.plan)
}

/// The order of the services. What is not required and not there only makes a note.
fn order(want: &ComposeProject, plan: &mut Plan) -> Result<Order, PlanError> {
    let mut needs = BTreeMap::new();
    for service in want.services.values() {
        let mut of = BTreeSet::new();
        for (on, dependency) in &service.depends_on {
            let (service, on) = (service.name.clone(), on.clone());
            if want.services.contains_key(&on) {
                of.insert(on);
            } else if dependency.required {
                return Err(PlanError::NoDependency { service, on });
            } else {
                plan.notes.push(format!("service {service} goes without {on}, which is not there"));
            }
        }
        needs.insert(service.name.clone(), of);
    }
    let order = Order::new(needs);
    match order.cycle() {
        Some(path) => Err(PlanError::Cycle(path)),
        None => Ok(order),
    }
}

fn selected(want: &ComposeProject, order: &Order, options: &Up) -> Result<BTreeSet<String>, PlanError> {
    if let Some(unknown) = options.services.iter().find(|name| !want.services.contains_key(*name)) {
        return Err(PlanError::NoService(unknown.clone()));
    }
    Ok(order.select(&options.services, options.dependencies))
}

/// A plan while it is made.
struct Builder<'a> {
    want: &'a ComposeProject,
    seen: &'a Observed,
    options: &'a Up,
    facts: Facts<'a>,
    selected: BTreeSet<String>,
    plan: Plan,
    /// The step that makes the server's project, when there is one.
    base: Vec<usize>,
    /// Steps that make an image, a network or a volume, by kind and key.
    made: BTreeMap<(&'static str, &'a str), usize>,
    /// Steps that start a service.
    started: BTreeMap<&'a str, Vec<usize>>,
    awaited: BTreeMap<(&'a str, Condition), usize>,
    /// Services of which an instance that was there is made anew or restarted.
    disturbed: BTreeSet<&'a str>,
}

impl<'a> Builder<'a> {
    fn grace(&self, service: &Service) -> Duration {
        self.options.grace.unwrap_or(service.stop.grace)
    }

    fn service(&mut self, service: &'a Service) -> Result<(), PlanError> {
        let disturbed = service.depends_on.iter().any(|(on, dependency)| {
            dependency.restart && self.disturbed.contains(on.as_str()) && self.options.start != Start::No
        });
        for instance in &service.instances {
            self.instance(service, instance, disturbed)?;
        }
        Ok(())
    }

    fn instance(
        &mut self,
        service: &'a Service,
        instance: &'a Instance,
        disturbed: bool,
    ) -> Result<(), PlanError> {
        let there = self.seen.instances.get(&instance.name);
        if there.is_some_and(|there| !label::are_of(&there.config, &self.want.name, &instance.name)) {
            return Err(PlanError::Taken { what: format!("instance {}", instance.name) });
        }
        let rendered = render(service, instance, &self.facts);
        self.notes(service, instance, there.is_none());
        let Some(there) = there else {
            let needs = self.creation(service, instance)?;
            let step = self.plan.push(Action::Create(Box::new(rendered)), needs);
            return self.start(service, instance, vec![step]);
        };
        let image = self.seen.images.get(&instance.image).map(String::as_str);
        let named = &self.options.services;
        let is_dependency = !named.is_empty() && !named.contains(&service.name);
        let recreate = match self.options.recreate_dependencies && is_dependency {
            true => Recreate::All,
            false => self.options.recreate,
        };
        let difference = match recreate {
            // One that replaces another and was left half done is not what is there.
            Recreate::None if !there.is_beside() => None,
            Recreate::Changed | Recreate::None => difference(&rendered, there, image),
            Recreate::All => Some(Difference::recreate("as asked for")),
        };
        let takes = difference.as_ref().map(|difference| difference.takes);
        let stops = there.life != Life::Stopped && (takes >= Some(Takes::Restart) || disturbed);
        if stops || takes == Some(Takes::Recreate) {
            self.disturbed.insert(&service.name);
        }
        // What it is made of is there before it stops.
        let mut needs = match takes {
            Some(Takes::Recreate) => self.creation(service, instance)?,
            Some(_) => self.needs(instance),
            None => self.base.clone(),
        };
        let mut before = Vec::new();
        if takes == Some(Takes::Recreate) {
            // What cannot be made costs nobody the one that is there.
            needs = vec![self.plan.push(Action::Prepare(Box::new(rendered.clone())), needs)];
        }
        needs.extend(self.withdraw(instance, there, &needs));
        if stops {
            let (instance, grace) = (instance.name.clone(), self.grace(service));
            before.push(self.plan.push(Action::Stop { instance, grace }, needs.clone()));
        }
        if let Some(difference) = difference {
            before.extend(needs);
            let action = if difference.takes == Takes::Recreate {
                Action::Replace(Box::new(rendered))
            } else {
                Action::Change(Box::new(rendered), Box::new(difference))
            };
            before = vec![self.plan.push(action, before)];
        }
        if there.life == Life::Running && !stops {
            self.publish(instance, before);
            return Ok(());
        }
        self.start(service, instance, before)
    }

    /// What is to be said of an instance, each line once for all replicas.
    fn notes(&mut self, service: &Service, instance: &Instance, is_new: bool) {
        let led = lead::led(instance, &self.facts);
        let relayed = led.relayed.iter();
        let mut lines: Vec<String> = relayed
            .map(|(port, why)| format!("nat-proxy: {}", lead::line(&service.name, port, why)))
            .collect();
        for nic in instance.nics.iter().filter(|_| is_new) {
            let place = self.facts.networks.get(nic.network.as_str());
            if place.is_some_and(|place| place.network.owner == Owner::External) {
                let name = &nic.network;
                lines.push(format!(
                    "service {} is not found by its name in the network {name}, which is external: only by that of its instances",
                    service.name
                ));
            }
        }
        lines.retain(|line| !self.plan.notes.contains(line));
        self.plan.notes.extend(lines);
    }

    /// Steps that an instance is made after.
    fn creation(&mut self, service: &'a Service, instance: &'a Instance) -> Result<Vec<usize>, PlanError> {
        let mut needs = self.needs(instance);
        let image = service.image.as_str();
        if self.seen.images.contains_key(image) {
            return Ok(needs);
        }
        if self.want.images.get(image).is_some_and(|image| image.pull == Pull::Never) {
            return Err(PlanError::NoImage(image.to_owned()));
        }
        let known = self.made.get(&("image", image)).copied();
        let step = known
            .unwrap_or_else(|| self.plan.push(Action::Image { image: image.to_owned() }, self.base.clone()));
        self.made.insert(("image", image), step);
        needs.push(step);
        Ok(needs)
    }

    /// Steps that what an instance is attached to is made by.
    fn needs(&self, instance: &Instance) -> Vec<usize> {
        let networks = instance.nics.iter().map(|nic| ("network", nic.network.as_str()));
        let volumes = instance.mounts.iter().map(|mount| ("volume", mount.volume.as_str()));
        let made = networks.chain(volumes).filter_map(|key| self.made.get(&key));
        self.base.iter().chain(made).copied().collect()
    }

    fn start(
        &mut self,
        service: &'a Service,
        instance: &'a Instance,
        before: Vec<usize>,
    ) -> Result<(), PlanError> {
        if self.options.start == Start::No {
            return Ok(());
        }
        let mut step = Step {
            action: Action::Start {
                instance: instance.name.clone(),
                paused: self.is_held(instance, &before),
            },
            needs: if before.is_empty() { self.base.clone() } else { before },
            after: Vec::new(),
        };
        // Its networks may be about to learn its name.
        step.needs
            .extend(instance.nics.iter().filter_map(|nic| self.made.get(&("network", nic.network.as_str()))));
        for (on, dependency) in &service.depends_on {
            let Some(other) = self.want.services.get(on).filter(|_| self.selected.contains(on)) else {
                continue;
            };
            let steps = match dependency.condition {
                Condition::Started => self.started.get(on.as_str()).cloned().unwrap_or_default(),
                condition => vec![self.reached(service, other, condition)?],
            };
            if dependency.required { step.needs.extend(steps) } else { step.after.extend(steps) }
        }
        step.needs.sort_unstable();
        step.needs.dedup();
        let started = self.plan.add(step);
        self.started.entry(&service.name).or_default().push(started);
        self.publish(instance, vec![started]);
        Ok(())
    }

    /// Whether it is held and `before` does not end that.
    fn is_held(&self, instance: &Instance, before: &[usize]) -> bool {
        let held = self.seen.instances.get(&instance.name).is_some_and(|seen| seen.life == Life::Paused);
        let ends = |step: &usize| {
            matches!(
                self.plan.steps.get(*step).map(|step| &step.action),
                Some(Action::Create(_) | Action::Replace(_) | Action::Stop { .. })
            )
        };
        held && !before.iter().any(ends)
    }

    /// The step that waits for a service, once for all that need it.
    fn reached(
        &mut self,
        who: &Service,
        service: &'a Service,
        condition: Condition,
    ) -> Result<usize, PlanError> {
        if let Some(step) = self.awaited.get(&(service.name.as_str(), condition)) {
            return Ok(*step);
        }
        if condition == Condition::Healthy && service.health.is_none() {
            return Err(PlanError::NoHealth { service: who.name.clone(), on: service.name.clone() });
        }
        let action = Action::Await {
            service: service.name.clone(),
            condition,
            instances: service.instances.iter().map(|one| one.name.clone()).collect(),
            health: service.health.clone(),
        };
        let needs = self.started.get(service.name.as_str()).cloned().unwrap_or_default();
        let step = self.plan.push(action, needs);
        self.awaited.insert((&service.name, condition), step);
        Ok(step)
    }

    fn publish(&mut self, instance: &Instance, needs: Vec<usize>) {
        let nothing = BTreeMap::new();
        let there = self.seen.published.get(&instance.name).unwrap_or(&nothing);
        let set: BTreeMap<String, Keys> = instance
            .ports
            .iter()
            .filter(|(name, keys)| there.get(*name) != Some(keys))
            .map(|(name, keys)| (name.clone(), keys.clone()))
            .collect();
        if !set.is_empty() {
            let (instance, gone) = (instance.name.clone(), Vec::new());
            self.plan.push(Action::Publish { instance, set, gone }, needs);
        }
    }

    /// Withdraws the devices of Portway that are ours and no longer wanted, before the label forgets that they are.
    fn withdraw(&mut self, instance: &Instance, there: &Seen, needs: &[usize]) -> Option<usize> {
        let published = self.seen.published.get(&instance.name)?;
        let ours = Written::of(there).ports;
        let gone = ours.into_iter().filter(|name| !instance.ports.contains_key(name));
        let gone: Vec<String> = gone.filter(|name| published.contains_key(name)).collect();
        let (instance, set) = (instance.name.clone(), BTreeMap::new());
        let action = Action::Publish { instance, set, gone: gone.clone() };
        (!gone.is_empty()).then(|| self.plan.push(action, needs.to_vec()))
    }

    /// Waits for every service that was asked for.
    fn wait(&mut self) {
        let services = self.want.services.values().filter(|service| self.selected.contains(&service.name));
        for service in services.collect::<Vec<_>>() {
            let condition = if service.health.is_some() { Condition::Healthy } else { Condition::Started };
            // A service with health has one to be asked for.
            let _asked = self.reached(service, service, condition);
        }
    }
}
