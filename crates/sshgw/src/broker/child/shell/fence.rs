//! Who may do what of a line: the policy, asked anew for each instance and each project that the line is about.

use portway_incus::{Client, IncusError, ResourceId};
use tokio::sync::watch;

use super::{Child, Done, FAILED, Line};
use crate::broker::grant::Grant;
use crate::broker::open::{ABSENT, Refusal};
use crate::broker::turns::Place as Turn;
use crate::policy::{Action, Reason, Scope};
use crate::shell::{self, Instance, Names, Order, Place};

/// Somebody's line, and what he may.
pub(super) struct Fence<'l> {
    pub(super) child: &'l Child,
    pub(super) line: &'l Line,
    /// What is being done.
    pub(super) say: &'l watch::Sender<String>,
}

/// A place where every part is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) remote: String,
    pub(super) project: String,
}

/// What a server says, for people.
pub(super) fn said(error: &IncusError) -> Refusal {
    match error {
        IncusError::Status { message, .. } | IncusError::Operation { message, .. } => {
            Refusal::new(ABSENT, message.clone())
        }
        IncusError::Denied { .. } => Refusal::new(FAILED, "the server turns the gateway away"),
        IncusError::TimedOut { .. } => Refusal::new(ABSENT, "the server is not done with it in time"),
        IncusError::Forgotten { .. } => Refusal::new(ABSENT, "the server has forgotten what became of it"),
        IncusError::TooLarge { .. } => Refusal::new(ABSENT, "the answer is too long"),
        // Paths of the host are none of a user's business.
        _ => Refusal::new(FAILED, "the server does not answer"),
    }
}

impl<'l> Fence<'l> {
    pub(super) fn new(child: &'l Child, line: &'l Line, say: &'l watch::Sender<String>) -> Self {
        Self { child, line, say }
    }

    /// Does what is asked for.
    pub(super) async fn run(&self, order: Order) -> Done {
        let done = match order {
            Order::Help(words) => match shell::help(&words) {
                Some(text) => Ok(Done::said(text)),
                None => Err(Refusal::new(super::USAGE, format!("there is no `{}`", words.join(" ")))),
            },
            Order::Exit => Ok(Done { ends: true, ..Done::default() }),
            Order::Switch(project) => self.switch(project).await,
            Order::Change(change, instances) => Ok(self.change(change, &instances).await),
            Order::Delete { instances, force } => Ok(self.delete(&instances, force).await),
            Order::Launch(instance, wanted) => self.launch(&instance, wanted).await,
            Order::Config(instance, what) => self.config(&instance, what).await,
            Order::Snapshot(instance, what) => self.snapshot(&instance, what).await,
            Order::List { place, everywhere, patterns, format } => {
                self.list(&place, everywhere, &patterns, format).await
            }
            Order::Info(instance) => self.info(&instance).await,
            Order::Images(place, format) => self.images(&place, format).await,
            Order::Networks(place, format) => self.networks(&place, format).await,
            Order::Projects(remote, format) => self.projects(remote, format).await,
            Order::Version(remote) => self.version(remote).await,
        };
        done.unwrap_or_else(Done::from)
    }

    /// What is meant by a place of which parts may be left out.
    pub(super) fn spot(&self, place: &Place) -> Spot {
        let project = place.project.clone().unwrap_or_else(|| self.line.project.clone());
        Spot { remote: self.remote(place.remote.as_deref()), project }
    }

    pub(super) fn remote(&self, named: Option<&str>) -> String {
        named
            .map_or_else(|| self.line.grant.remote.clone(), |name| self.child.broker.servers.name(Some(name)))
    }

    /// Whether an action may be done to an instance, or, without one, to what belongs to the project itself.
    pub(super) fn may(&self, action: Action, spot: &Spot, instance: Option<&str>) -> Result<(), Refusal> {
        let scope = Scope { remote: &spot.remote, project: &spot.project, instance };
        let judge = &self.child.broker.judge;
        for action in [Action::IncusShell, action] {
            let decision = judge.decide_whole(&self.line.grant, action, &scope);
            // Who starts what he may stop needs no more than that nobody denies it.
            let is_denied = match action {
                Action::Start => !decision.allowed && decision.reason != Reason::NoRule,
                _ => !decision.allowed,
            };
            if is_denied {
                let at = instance.map(|name| format!("{name} in ")).unwrap_or_default();
                let of = if spot.remote == crate::remotes::LOCAL {
                    String::new()
                } else {
                    format!(" of {}", spot.remote)
                };
                let text = format!(
                    "{action} is not allowed at {at}project {}{of}: {}",
                    spot.project, decision.reason
                );
                return Err(Refusal::new(ABSENT, text));
            }
        }
        Ok(())
    }

    pub(super) fn sees(&self, spot: &Spot, instance: &str) -> bool {
        self.may(Action::IncusShell, spot, Some(instance)).is_ok()
    }

    /// Whether there may be something for him in a project, or on a server.
    pub(super) fn reaches(&self, remote: &str, project: Option<&str>) -> Result<(), Refusal> {
        if self.child.broker.judge.reaches(&self.line.grant, remote, project) {
            return Ok(());
        }
        let at = project.map_or_else(|| format!("server {remote}"), |project| format!("project {project}"));
        Err(Refusal::new(ABSENT, format!("incus-shell is allowed nowhere in {at}")))
    }

    pub(super) fn client(&self, remote: &str) -> Result<Client, Refusal> {
        self.child.broker.servers.client(remote).map_err(|error| Refusal::of_server(&error))
    }

    /// An instance that he may do something to: the way to its server, and where it is.
    pub(super) fn at(&self, action: Action, instance: &Instance) -> Result<(Client, Turn), Refusal> {
        let spot = self.spot(&instance.place);
        self.may(action, &spot, Some(&instance.name))?;
        Ok((self.client(&spot.remote)?, (spot.remote, spot.project, instance.name.clone())))
    }

    /// The grant of a login that would lead there.
    pub(super) fn grant_at(&self, (remote, project, name): &Turn) -> Grant {
        Grant {
            remote: remote.clone(),
            project: project.clone(),
            instance: name.clone(),
            instance_user: "root".to_owned(),
            errand: None,
            ..self.line.grant.clone()
        }
    }

    async fn switch(&self, project: String) -> Result<Done, Refusal> {
        let remote = self.remote(None);
        self.reaches(&remote, Some(&project))?;
        let id = ResourceId::Project { name: project.clone() };
        let found = self.client(&remote)?.resource(&id).await.map_err(|error| said(&error))?;
        if found.is_none() {
            return Err(Refusal::new(ABSENT, format!("there is no project {project}")));
        }
        Ok(Done { project: Some(project), ..Done::default() })
    }

    /// What may follow a text: where it begins, and the words.
    pub(super) async fn complete(&self, text: &str) -> Option<(usize, Vec<String>)> {
        let expected = shell::expected(text)?;
        let place = Place { remote: expected.remote.clone(), project: expected.project.clone() };
        let spot = self.spot(&place);
        let names = match &expected.names {
            None => Vec::new(),
            Some(Names::Projects) => self.project_names(&spot.remote).await.ok()?,
            Some(Names::Instances) => {
                let client = self.client(&spot.remote).ok()?;
                self.reaches(&spot.remote, Some(&spot.project)).ok()?;
                let listed = client.list(&spot.project).await.ok()?;
                let names = listed.into_iter().map(|listed| listed.definition.name);
                names.filter(|name| self.sees(&spot, name)).collect()
            }
            Some(Names::Snapshots(name)) => {
                let instance = Instance { place, name: name.clone() };
                let (client, (_, project, name)) = self.at(Action::IncusShell, &instance).ok()?;
                let found = client.snapshots(&project, &name).await.ok()??;
                found.into_iter().map(|snapshot| snapshot.name).collect()
            }
        };
        Some((expected.start, shell::candidates(&expected, names)))
    }
}
