//! What is to be done: steps, and which of them come before which.
//!
//! Pure: from what is wanted and what is there. A plan says everything that would be done; nothing else is.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::difference::{Difference, Takes};
use crate::observe::{Observed, has_images};
use crate::render::Rendered;
use crate::want::{ComposeProject, Condition, Health, ImageSource, Keys};

mod down;
mod up;

pub use down::{
    Down, Hold, Images, Networks, Reach, Select, Volumes, down, hold, remove, remove_with_volumes, restart,
    start, stop,
};
pub use up::{Orphans, Recreate, Start, Up, up};

/// Steps and what is to be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps. Each needs only steps that stand before it.
    pub steps: Vec<Step>,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// Steps that must have succeeded.
    pub needs: Vec<usize>,
    /// Steps that must have ended, however.
    pub after: Vec<usize>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Makes the server's project, or gives it its keys.
    Project {
        /// Name.
        name: String,
        /// Keys to set.
        set: Keys,
        /// Whether it is there.
        there: bool,
    },
    /// Sees to it that an image is there.
    Image {
        /// What the file calls it.
        image: String,
    },
    /// Makes a network, or gives it its keys.
    Network {
        /// Name.
        name: String,
        /// Keys to set.
        set: Keys,
        /// Whether it is there.
        there: bool,
    },
    /// Makes a volume.
    Volume {
        /// Pool.
        pool: String,
        /// Name.
        name: String,
        /// Configuration.
        config: Keys,
    },
    /// Makes an instance and writes its files.
    Create(Box<Rendered>),
    /// Makes an instance beside the one that it is to replace.
    Prepare(Box<Rendered>),
    /// Removes the one that is replaced, which does not run, and gives the new one its name, its files, and what only one
    /// can have.
    Replace(Box<Rendered>),
    /// Changes one.
    Change(Box<Rendered>, Box<Difference>),
    /// Starts one.
    Start {
        /// Name.
        instance: String,
        /// Whether it is held and goes on.
        paused: bool,
    },
    /// Waits for all replicas of a service.
    Await {
        /// Service.
        service: String,
        /// What for.
        condition: Condition,
        /// Its instances.
        instances: Vec<String>,
        /// How its health is told.
        health: Option<Health>,
    },
    /// Makes the devices of Portway what they should be.
    Publish {
        /// Instance.
        instance: String,
        /// Devices to add, or to make anew.
        set: BTreeMap<String, Keys>,
        /// Devices to remove.
        gone: Vec<String>,
    },
    /// Stops an instance.
    Stop {
        /// Name.
        instance: String,
        /// Before force is used.
        grace: Duration,
    },
    /// Holds an instance: its processes stand still.
    Hold {
        /// Name.
        instance: String,
    },
    /// Removes an instance that does not run.
    Remove {
        /// Name.
        instance: String,
    },
    /// Removes a network.
    RemoveNetwork {
        /// Name.
        name: String,
    },
    /// Removes a volume.
    RemoveVolume {
        /// Pool.
        pool: String,
        /// Name.
        name: String,
    },
    /// Removes a profile of the server's project.
    RemoveProfile {
        /// Name.
        name: String,
    },
    /// Removes an image of the server's project.
    RemoveImage {
        /// Its fingerprint.
        fingerprint: String,
    },
    /// Removes the server's project, if nothing is left in it.
    RemoveProject {
        /// Name.
        name: String,
    },
}

/// Why there is no plan. Nothing has been done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Somebody else's, and not there.
    #[error("{what} is said to be external, and is not there")]
    Missing {
        /// Kind and name.
        what: String,
    },
    /// There, and not ours.
    #[error("{what} is there and was not made for this project")]
    Taken {
        /// Kind and name.
        what: String,
    },
    /// Services that need each other.
    #[error("services depend on each other: {}", .0.join(" -> "))]
    Cycle(Vec<String>),
    /// A service that is not in the files.
    #[error("there is no service `{0}`")]
    NoService(String),
    /// A service needs one that is not in the files.
    #[error("service {service} depends on {on}, which is not there")]
    NoDependency {
        /// Service.
        service: String,
        /// What it needs.
        on: String,
    },
    /// Its health is to be waited for, and nothing tells it.
    #[error("service {service} waits for the health of {on}, which has no healthcheck")]
    NoHealth {
        /// Service.
        service: String,
        /// What it waits for.
        on: String,
    },
    /// All of 10.0.0.0/8 above the half is in use.
    #[error("no subnet is free for network {network}")]
    NoSubnet {
        /// Name.
        network: String,
    },
    /// An image of the server's own that it does not have.
    #[error("image {0} is not on the server")]
    Absent(String),
    /// An image that is not to be fetched.
    #[error("image {0} is not on the server, and is not to be fetched")]
    NoImage(String),
    /// More instances than addresses.
    #[error("network {network} has no address left")]
    NoAddress {
        /// Name.
        network: String,
    },
    /// An address that cannot be given.
    #[error("address {what} cannot be had: {why}")]
    Address {
        /// Address and instance.
        what: String,
        /// Why.
        why: String,
    },
    /// As many instances as ports.
    #[error("{instance} finds no port of the host free from {first} to {last}")]
    NoPort {
        /// Instance.
        instance: String,
        /// The first that it may have.
        first: u16,
        /// The last.
        last: u16,
    },
    /// An interface of the server's host.
    #[error("network {network} is no network of the server's, only an interface of its host")]
    NotManaged {
        /// Name.
        network: String,
    },
    /// The name of a network is that of an interface of the server's host.
    #[error("network {network} cannot be made: the server's host has an interface of that name")]
    Interface {
        /// Name.
        network: String,
    },
    /// Names of instances are one for each network.
    #[error("instance {instance} cannot be in network {network}: {other} has that name there")]
    Name {
        /// Instance.
        instance: String,
        /// Network.
        network: String,
        /// Who has it.
        other: String,
    },
    /// A volume is not where the project's instances could use it.
    #[error("volume {name} is said to be external, and is not in the server's project {project}")]
    NoVolume {
        /// Name.
        name: String,
        /// Pool.
        pool: String,
        /// The server's project.
        project: String,
    },
    /// Two that publish one port.
    #[error("{one} and {other} both publish {port}")]
    Port {
        /// Instance.
        one: String,
        /// Instance.
        other: String,
        /// Protocol, address and port.
        port: String,
    },
}

impl Plan {
    /// The same, where it misses no image that nobody can fetch or build. A project that has images of its own until it is
    /// ours does not show those that it will have.
    ///
    /// # Errors
    /// [`PlanError::Absent`].
    pub fn with_images_of(self, want: &ComposeProject, seen: &Observed) -> Result<Plan, PlanError> {
        if has_images(seen.project.as_ref()) {
            return Ok(self);
        }
        let is_own = |name: &&String| {
            want.images.get(*name).is_some_and(|image| matches!(image.source, ImageSource::Local(_)))
        };
        let mut fetched = self.steps.iter().filter_map(|step| match &step.action {
            Action::Image { image } => Some(image),
            _ => None,
        });
        match fetched.find(is_own).cloned() {
            Some(image) => Err(PlanError::Absent(image)),
            None => Ok(self),
        }
    }

    /// Adds a step and says which it is.
    fn push(&mut self, action: Action, needs: Vec<usize>) -> usize {
        self.add(Step { action, needs, after: Vec::new() })
    }

    fn add(&mut self, step: Step) -> usize {
        self.steps.push(step);
        self.steps.len() - 1
    }

    /// Whether nothing changes. Waiting is no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.action, Action::Await { .. }))
    }
}

impl Action {
    /// Kind of what is concerned, as progress and reports say it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Action::Project { .. } | Action::RemoveProject { .. } => "project",
            Action::Image { .. } | Action::RemoveImage { .. } => "image",
            Action::RemoveProfile { .. } => "profile",
            Action::Network { .. } | Action::RemoveNetwork { .. } => "network",
            Action::Volume { .. } | Action::RemoveVolume { .. } => "volume",
            Action::Await { .. } => "service",
            Action::Publish { .. } => "ports",
            Action::Create(_)
            | Action::Prepare(_)
            | Action::Replace(_)
            | Action::Change(..)
            | Action::Start { .. }
            | Action::Stop { .. }
            | Action::Hold { .. }
            | Action::Remove { .. } => "instance",
        }
    }

    /// Name of what is concerned.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Action::Project { name, .. }
            | Action::Network { name, .. }
            | Action::Volume { name, .. }
            | Action::RemoveNetwork { name }
            | Action::RemoveVolume { name, .. }
            | Action::RemoveProfile { name }
            | Action::RemoveProject { name } => name,
            Action::Image { image } => image,
            Action::RemoveImage { fingerprint } => fingerprint,
            Action::Create(one) | Action::Prepare(one) | Action::Replace(one) | Action::Change(one, _) => {
                &one.name
            }
            Action::Start { instance, .. }
            | Action::Publish { instance, .. }
            | Action::Stop { instance, .. }
            | Action::Hold { instance }
            | Action::Remove { instance } => instance,
            Action::Await { service, .. } => service,
        }
    }

    /// What is done to it: while it is done, and after.
    #[must_use]
    pub fn verbs(&self) -> (&'static str, &'static str) {
        match self {
            Action::Project { there: false, .. }
            | Action::Network { there: false, .. }
            | Action::Volume { .. }
            | Action::Create(_) => ("creating", "created"),
            Action::Prepare(_) => ("making a new one", "new one made"),
            Action::Replace(_) => ("replacing", "replaced"),
            Action::Project { .. } | Action::Network { .. } | Action::Change(..) => ("changing", "changed"),
            Action::Image { .. } => ("fetching", "there"),
            Action::Start { paused: false, .. } => ("starting", "started"),
            Action::Start { .. } => ("resuming", "running"),
            Action::Await { condition: Condition::Started, .. } => ("waiting", "running"),
            Action::Await { condition: Condition::Healthy, .. } => ("waiting", "healthy"),
            Action::Await { condition: Condition::Completed, .. } => ("waiting", "completed"),
            Action::Publish { .. } => ("publishing", "published"),
            Action::Stop { .. } => ("stopping", "stopped"),
            Action::Hold { .. } => ("holding", "held"),
            Action::Remove { .. }
            | Action::RemoveNetwork { .. }
            | Action::RemoveVolume { .. }
            | Action::RemoveProfile { .. }
            | Action::RemoveImage { .. }
            | Action::RemoveProject { .. } => ("removing", "removed"),
        }
    }
}

impl fmt::Display for Action {
    /// As `--dry-run` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Action::Project { there: false, .. }
            | Action::Network { there: false, .. }
            | Action::Volume { .. }
            | Action::Create(_) => "create",
            Action::Prepare(_) => "prepare",
            Action::Replace(_) => "replace",
            Action::Project { .. } | Action::Network { .. } | Action::Change(..) => "change",
            Action::Image { .. } => "fetch",
            Action::Start { paused: false, .. } => "start",
            Action::Start { .. } => "resume",
            Action::Await { .. } => "await",
            Action::Publish { .. } => "publish",
            Action::Stop { .. } => "stop",
            Action::Hold { .. } => "hold",
            Action::Remove { .. }
            | Action::RemoveNetwork { .. }
            | Action::RemoveVolume { .. }
            | Action::RemoveProfile { .. }
            | Action::RemoveImage { .. }
            | Action::RemoveProject { .. } => "remove",
        };
        write!(f, "{word} {} {}", self.kind(), self.name())?;
        match self {
            Action::Change(_, difference) => {
                let how = if difference.takes == Takes::Live { "live" } else { "at its restart" };
                let what = difference.reasons.join(", ");
                if what.is_empty() { write!(f, " ({how})") } else { write!(f, " ({how}: {what})") }
            }
            Action::Await { .. } => write!(f, " ({})", self.verbs().1),
            Action::Publish { set, gone, .. } => {
                let names = set.keys().cloned().chain(gone.iter().map(|name| format!("not {name}")));
                write!(f, " ({})", names.collect::<Vec<_>>().join(", "))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
