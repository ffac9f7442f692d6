//! Plans that end things: stop, remove, down. They need no file: what is there says by its labels what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portway_incus::User;

use super::{Action, Plan, Step};
use crate::label;
use crate::observe::{Life, Observed, Seen};
use crate::order::Order;

/// How long an instance has before force is used, when nothing says it: as Compose has it.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// What goes down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Down {
    /// Which instances.
    pub select: Select,
    /// What becomes of volumes.
    pub volumes: Volumes,
    /// What becomes of networks.
    pub networks: Networks,
    /// Whether what others have made in the server's project goes too.
    pub reach: Reach,
    /// What becomes of images that are the server's project's own.
    pub images: Images,
    /// Whether the server's project goes when it is empty.
    pub project: Option<String>,
}

/// Instances that are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Select {
    /// Name of the Compose project.
    pub project: String,
    /// Only these services; all when empty.
    pub services: Vec<String>,
    /// Before force is used, instead of what each service says.
    pub grace: Option<Duration>,
    /// Whether those that `run` made are meant too.
    pub one_offs: bool,
}

/// Whether instances are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// They are.
    On,
    /// They go on.
    Off,
}

/// What becomes of volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Volumes {
    /// They stay.
    #[default]
    Keep,
    /// Those that were made for the project go.
    Remove,
}

/// What becomes of networks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Networks {
    /// Those that were made for the project go.
    #[default]
    Remove,
    /// They stay.
    Keep,
}

/// What becomes of images that are the server's project's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Images {
    /// They stay, and the project with them; with [`Reach::All`] they go.
    #[default]
    Keep,
    /// Whoever has asked for the plan removes some of them after it, and asks again.
    Later,
}

/// How far a plan reaches in the server's project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// To what was made for the Compose project.
    #[default]
    Ours,
    /// To all that is in it.
    All,
}

impl Select {
    /// With the services that those which are meant depend on, by their labels.
    #[must_use]
    pub fn with_dependencies(mut self, seen: &Observed) -> Select {
        let mut open = self.services.clone();
        while let Some(name) = open.pop() {
            let own = seen.ours(&self.project).filter(|(_, one)| one.service() == Some(&name));
            for on in own.flat_map(|(_, one)| one.depends()) {
                if !self.services.iter().any(|known| known == on) {
                    self.services.push(on.to_owned());
                    open.push(on.to_owned());
                }
            }
        }
        self
    }

    fn means(&self, seen: &Seen) -> bool {
        let service = seen.service().unwrap_or_default();
        let named = self.services.is_empty() || self.services.iter().any(|name| name == service);
        named && (self.one_offs || !(seen.is_one_off() || seen.is_beside()))
    }

    /// How long an instance has.
    fn grace(&self, seen: &Seen) -> Duration {
        self.grace.or(seen.grace()).unwrap_or(GRACE)
    }

    /// The instances, with the order of their services.
    fn of<'a>(&'a self, seen: &'a Observed) -> (Vec<(&'a String, &'a Seen)>, Order) {
        let instances: Vec<_> = seen.ours(&self.project).filter(|(_, one)| self.means(one)).collect();
        let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (_, one) in &instances {
            let service = one.service().unwrap_or_default().to_owned();
            needs.entry(service).or_default().extend(one.depends().map(str::to_owned));
        }
        (instances, Order::new(needs).reversed())
    }
}

/// Stops instances: who depends on others first.
#[must_use]
pub fn stop(seen: &Observed, select: &Select) -> Plan {
    let mut plan = Plan::default();
    stops(&mut plan, seen, select);
    plan
}

/// Adds the stops; steps by instance.
fn stops(plan: &mut Plan, seen: &Observed, select: &Select) -> BTreeMap<String, usize> {
    let (instances, order) = select.of(seen);
    let mut by_service: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut steps = BTreeMap::new();
    for service in listed(&order, &instances) {
        let after: Vec<usize> = order
            .of(service)
            .flat_map(|before| by_service.get(before).into_iter().flatten())
            .copied()
            .collect();
        let of_service = instances.iter().filter(|(_, one)| one.service().unwrap_or_default() == service);
        for (name, one) in of_service.filter(|(_, one)| one.life != Life::Stopped) {
            let action = Action::Stop { instance: (*name).clone(), grace: select.grace(one) };
            let step = plan.add(Step { action, needs: Vec::new(), after: after.clone() });
            by_service.entry(service).or_default().push(step);
            steps.insert((*name).clone(), step);
        }
        // What stands still passes on what it would have waited for.
        by_service.entry(service).or_insert(after);
    }
    steps
}

/// Starts what does not run: who is depended on first.
#[must_use]
pub fn start(seen: &Observed, select: &Select) -> Plan {
    let mut plan = Plan::default();
    starts(&mut plan, seen, select, &BTreeMap::new());
    plan
}

/// Stops all of it, then starts all of it.
#[must_use]
pub fn restart(seen: &Observed, select: &Select) -> Plan {
    let mut plan = Plan::default();
    let stopped = stops(&mut plan, seen, select);
    starts(&mut plan, seen, select, &stopped);
    plan
}

/// Holds what runs, or lets go on what is held.
#[must_use]
pub fn hold(seen: &Observed, select: &Select, hold: Hold) -> Plan {
    let mut plan = Plan::default();
    for (name, one) in select.of(seen).0 {
        let instance = name.clone();
        match (hold, one.life) {
            (Hold::On, Life::Running) => drop(plan.push(Action::Hold { instance }, Vec::new())),
            (Hold::Off, Life::Paused) => {
                plan.push(Action::Start { instance, paused: true }, Vec::new());
            }
            _ => {}
        }
    }
    plan
}

/// Adds the starts of what is stopped, and of what `stopped` says is stopped by then.
fn starts(plan: &mut Plan, seen: &Observed, select: &Select, stopped: &BTreeMap<String, usize>) {
    let (instances, order) = select.of(seen);
    let order = order.reversed();
    let mut by_service: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let all: Vec<usize> = stopped.values().copied().collect();
    for service in listed(&order, &instances) {
        let needs: Vec<usize> =
            order.of(service).flat_map(|on| by_service.get(on).into_iter().flatten()).copied().collect();
        let of_service = instances.iter().filter(|(_, one)| one.service().unwrap_or_default() == service);
        for (name, one) in of_service {
            let held = one.life == Life::Paused && !stopped.contains_key(*name);
            if one.life != Life::Stopped && !held && !stopped.contains_key(*name) {
                continue;
            }
            let action = Action::Start { instance: (*name).clone(), paused: held };
            let step = plan.add(Step { action, needs: needs.clone(), after: all.clone() });
            by_service.entry(service).or_default().push(step);
        }
        by_service.entry(service).or_insert(needs);
    }
}

/// The services of instances in their order. Labels are anybody's to write: those that lead round come last.
fn listed<'a>(order: &'a Order, instances: &[(&'a String, &'a Seen)]) -> Vec<&'a str> {
    let mut all = order.sorted();
    let mut rest: BTreeSet<&str> =
        instances.iter().map(|(_, one)| one.service().unwrap_or_default()).collect();
    rest.retain(|name| !all.contains(name));
    all.extend(rest);
    all
}

/// Removes instances: those that do not run, or all of them when `running`, which stops them first.
#[must_use]
pub fn remove(seen: &Observed, select: &Select, running: bool) -> Plan {
    let mut plan = Plan::default();
    let stops = if running { stops(&mut plan, seen, select) } else { BTreeMap::new() };
    for (name, one) in select.of(seen).0 {
        if running || one.life == Life::Stopped {
            let needs = stops.get(name).copied().into_iter().collect();
            let step = plan.push(Action::Remove { instance: name.clone() }, needs);
            unpublish(&mut plan, seen, name, vec![step]);
        }
    }
    plan
}

/// The same, and the volumes without a name that only those have.
#[must_use]
pub fn remove_with_volumes(seen: &Observed, select: &Select, running: bool) -> Plan {
    let mut plan = remove(seen, select, running);
    let gone: Vec<(String, usize)> = plan
        .steps
        .iter()
        .enumerate()
        .filter_map(|(at, step)| match &step.action {
            Action::Remove { instance } => Some((instance.clone(), at)),
            _ => None,
        })
        .collect();
    for ((pool, name), _) in
        seen.our_volumes(&select.project).filter(|((_, name), _)| label::is_nameless(name))
    {
        let mounts = |one: &Seen| one.devices.values().any(|device| device.get("source") == Some(name));
        let users: Vec<&String> =
            seen.instances.iter().filter(|(_, one)| mounts(one)).map(|(instance, _)| instance).collect();
        let needs: Vec<usize> =
            gone.iter().filter(|(instance, _)| users.contains(&instance)).map(|(_, at)| *at).collect();
        if !users.is_empty() && needs.len() == users.len() {
            plan.push(Action::RemoveVolume { pool: pool.clone(), name: name.clone() }, needs);
        }
    }
    plan
}

/// Takes everything down that was made for the project.
#[must_use]
pub fn down(seen: &Observed, options: &Down) -> Plan {
    let select = &options.select;
    let mut plan = remove(seen, select, true);
    if !select.services.is_empty() {
        return plan;
    }
    let mut going: BTreeSet<String> = select.of(seen).0.into_iter().map(|(name, _)| name.clone()).collect();
    let ours = seen.project.as_ref().and_then(|keys| keys.get(label::PROJECT)) == Some(&select.project);
    let whole = options.reach == Reach::All && ours;
    if whole {
        for (name, one) in seen.instances.iter().filter(|(name, _)| !going.contains(*name)) {
            let step = remove_one(&mut plan, name, one, select.grace(one), Vec::new());
            unpublish(&mut plan, seen, name, vec![step]);
        }
        going.extend(seen.instances.keys().cloned());
    } else {
        plan.notes.extend(seen.copies(&select.project));
    }
    let all: Vec<usize> = (0..plan.steps.len()).collect();
    let project = options.project.as_deref().unwrap_or_default();
    let (mut left, mut kept) = (Vec::new(), false);
    for (name, network) in seen.our_networks(&select.project) {
        if options.networks == Networks::Keep {
            kept = true;
            continue;
        }
        let others = network.used_by.iter().filter(|path| !is_one_of(path, project, &going));
        let others: Vec<&str> = others.map(String::as_str).collect();
        if others.is_empty() {
            let action = Action::RemoveNetwork { name: name.clone() };
            left.push(plan.add(Step { action, needs: all.clone(), after: Vec::new() }));
        } else {
            plan.notes.push(format!("network {name} stays: it is used by {}", others.join(", ")));
            kept = true;
        }
    }
    let ours_too = seen.our_volumes(&select.project);
    let volumes: Vec<_> = if whole { seen.volumes.iter().collect() } else { ours_too.collect() };
    // What was cut short between a network and its access list.
    let is_there = |name: &String| seen.networks.get(name).is_some_and(|network| network.managed);
    for name in seen.fenced.iter().filter(|name| !is_there(name)) {
        left.push(plan.push(Action::RemoveNetwork { name: name.clone() }, all.clone()));
    }
    if options.volumes == Volumes::Remove {
        for ((pool, name), _) in &volumes {
            let action = Action::RemoveVolume { pool: pool.clone(), name: name.clone() };
            left.push(plan.push(action, all.clone()));
        }
    }
    // The next one finds by the server's project what is to be done yet.
    let stays = kept
        || (options.volumes == Volumes::Keep && !volumes.is_empty())
        || seen.instances.keys().any(|name| !going.contains(name))
        || seen.volumes.len() > volumes.len();
    let kept_by_nothing = !stays;
    let others = others(&mut plan, seen, options, whole, (&all, &mut left));
    let stays = stays || !others.is_empty();
    let is_later = |user: &User| options.images == Images::Later && matches!(user, User::Image(_));
    let told: Vec<String> = others.iter().filter(|user| !is_later(user)).map(ToString::to_string).collect();
    if ours && kept_by_nothing && !told.is_empty() {
        let hint = if whole { "" } else { " (--project removes it with them)" };
        plan.notes.push(format!("the server's project {project} stays: it holds {}{hint}", told.join(", ")));
    }
    if let Some(name) = options.project.as_ref().filter(|_| ours && !stays) {
        let needs = all.into_iter().chain(left).collect();
        plan.push(Action::RemoveProject { name: name.clone() }, needs);
    }
    plan
}

/// Removes what else there is in the server's project, beside the instances and volumes that were seen, with the whole of
/// it; what stays.
fn others(
    plan: &mut Plan,
    seen: &Observed,
    options: &Down,
    whole: bool,
    (all, left): (&[usize], &mut Vec<usize>),
) -> Vec<User> {
    let mut stay = Vec::new();
    for path in &seen.inhabitants {
        let user = User::of(path);
        let action = match user.clone() {
            User::Instance(_) => continue,
            User::Volume { pool, name } if seen.volumes.contains_key(&(pool.clone(), name.clone())) => {
                continue;
            }
            // One of blocks.
            User::Volume { pool, name } if whole && options.volumes == Volumes::Remove => {
                Action::RemoveVolume { pool, name }
            }
            User::Profile(name) if whole => Action::RemoveProfile { name },
            User::Image(fingerprint) if whole => Action::RemoveImage { fingerprint },
            User::Volume { .. } | User::Profile(_) | User::Image(_) | User::Other(_) => {
                stay.push(user);
                continue;
            }
        };
        left.push(plan.push(action, all.to_vec()));
    }
    stay
}

/// Whether a path of the server's names one of these instances of that project.
fn is_one_of(path: &str, project: &str, names: &BTreeSet<String>) -> bool {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let of = query.split('&').find_map(|pair| pair.strip_prefix("project=")).unwrap_or("default");
    let name = path.strip_prefix("/1.0/instances/");
    of == project && name.is_some_and(|name| names.contains(name))
}

/// Stops and removes one instance; the step of its removal.
pub(super) fn remove_one(
    plan: &mut Plan,
    name: &str,
    seen: &Seen,
    grace: Duration,
    after: Vec<usize>,
) -> usize {
    let instance = name.to_owned();
    let mut needs = Vec::new();
    if seen.life != Life::Stopped {
        let action = Action::Stop { instance: instance.clone(), grace };
        needs.push(plan.add(Step { action, needs: Vec::new(), after: after.clone() }));
    }
    plan.add(Step { action: Action::Remove { instance }, needs, after })
}

/// Removes the devices that Portway has for an instance.
pub(super) fn unpublish(plan: &mut Plan, seen: &Observed, name: &str, needs: Vec<usize>) {
    let gone: Vec<String> =
        seen.published.get(name).into_iter().flatten().map(|(name, _)| name.clone()).collect();
    if !gone.is_empty() {
        let action = Action::Publish { instance: name.to_owned(), set: BTreeMap::new(), gone };
        plan.push(action, needs);
    }
}
