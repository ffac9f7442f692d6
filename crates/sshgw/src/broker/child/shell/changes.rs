//! Lines that change something.

use std::time::Duration;

use portway_incus::{Client, Definition, IncusError, Operation, StateChange, is_true, status_code};

use super::Done;
use super::fence::{Fence, said};
use crate::audit::{Event, bounded};
use crate::broker::open::{ABSENT, Refusal};
use crate::broker::turns::Place as Turn;
use crate::broker::{lock, make};
use crate::create::Wanted;
use crate::policy::Action;
use crate::shell::{Change, ConfigOrder, Instance, SnapshotOrder};

/// How long a change may take beyond what it is given, and one that is given nothing.
const BEYOND: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a snapshot may take to be made or gone back to.
const COPYING: Duration = Duration::from_secs(30 * 60);

/// Keeps an instance from being deleted, and one that would be stopped for nothing from that.
const PROTECTED: &str = "security.protection.delete";

impl Fence<'_> {
    /// Has something become of instances, one after the other; what is wrong with one holds up no other.
    pub(super) async fn change(&self, change: Change, instances: &[Instance]) -> Done {
        let mut done = Done::default();
        for instance in instances {
            if let Err(refusal) = self.change_one(change, instance).await {
                failed(&mut done, instance, refusal);
            }
        }
        done
    }

    async fn change_one(&self, change: Change, instance: &Instance) -> Result<(), Refusal> {
        let (action, text, to, limit) = match change {
            Change::Start => (Action::Start, "starting", StateChange::Start, PATIENCE),
            Change::Stop { force: true, .. } => (Action::IncusShell, "stopping", StateChange::Kill, PATIENCE),
            Change::Stop { patience, .. } => {
                (Action::IncusShell, "stopping", StateChange::Stop { grace: patience }, patience + BEYOND)
            }
            Change::Restart { force: true, .. } => {
                (Action::Start, "restarting", StateChange::Reset, PATIENCE)
            }
            Change::Restart { patience, .. } => {
                (Action::Start, "restarting", StateChange::Restart { grace: patience }, patience + PATIENCE)
            }
            Change::Pause => (Action::IncusShell, "pausing", StateChange::Freeze, PATIENCE),
            Change::Resume => (Action::Start, "resuming", StateChange::Unfreeze, PATIENCE),
        };
        let (client, (_, project, name)) = self.at(action, instance)?;
        self.say.send_replace(format!("{text} {name}"));
        let operation = client.change_state(&project, &name, to).await;
        self.finished(&client, operation, limit).await
    }

    async fn finished(
        &self,
        client: &Client,
        operation: Result<Operation, IncusError>,
        limit: Duration,
    ) -> Result<(), Refusal> {
        let operation = operation.map_err(|error| said(&error))?;
        let told = |progress: &portway_incus::Progress| {
            if !progress.text.is_empty() {
                self.say.send_replace(bounded(&progress.text));
            }
        };
        client.finish(&operation, Some(limit), told).await.map(|_| ()).map_err(|error| said(&error))
    }

    /// Deletes instances, one after the other.
    pub(super) async fn delete(&self, instances: &[Instance], force: bool) -> Done {
        let mut done = Done::default();
        for instance in instances {
            if let Err(refusal) = self.delete_one(instance, force).await {
                failed(&mut done, instance, refusal);
            }
        }
        done
    }

    async fn delete_one(&self, instance: &Instance, force: bool) -> Result<(), Refusal> {
        let (client, place) = self.at(Action::Remove, instance)?;
        let (remote, project, name) = (&place.0, &place.1, &place.2);
        let broker = &self.child.broker;
        let _turn = broker.makers.turns.take(&place).await;
        let found = client.listing(project, name).await.map_err(|error| said(&error))?;
        let found = found.ok_or_else(|| absent(&place))?;
        if found.expanded_config.get(PROTECTED).is_some_and(|value| is_true(value)) {
            return Err(Refusal::new(ABSENT, format!("it is protected by {PROTECTED}")));
        }
        if found.status_code != status_code::STOPPED && !force {
            return Err(Refusal::new(ABSENT, "it is not stopped; stop it first, or say --force"));
        }
        self.say.send_replace(format!("deleting {name}"));
        let removed = make::remove(&client, &place).await.map_err(|error| said(&error));
        let failed = removed.as_ref().err().map(|refusal| bounded(&refusal.message));
        let (owner, why) = (self.line.grant.person.as_str(), "asked");
        let (remote, project, instance) = (remote.as_str(), project.as_str(), name.as_str());
        self.child.note(&Event::InstanceRemoved { owner, remote, project, instance, why, failed });
        removed
    }

    /// Makes an instance, as a login does that may.
    pub(super) async fn launch(&self, instance: &Instance, wanted: Wanted) -> Result<Done, Refusal> {
        let (client, place) = self.at(Action::Create, instance)?;
        let broker = &self.child.broker;
        if !broker.options.options.allow_create {
            let text = "no instances are made here: the gateway runs without --allow-create";
            return Err(Refusal::new(ABSENT, text));
        }
        let (_, project, name) = &place;
        if client.listing(project, name).await.map_err(|error| said(&error))?.is_some() {
            return Err(Refusal::new(ABSENT, format!("{name} is there already")));
        }
        let grant = self.grant_at(&place);
        let making = broker.judge.making().map_err(|_| Refusal::new(ABSENT, "the policy cannot be used"))?;
        if making.delete_on_disconnect {
            broker.house.enter(&grant);
            lock(&self.child.shells.guests).push(grant.clone());
        }
        self.child.make(&client, &grant, &wanted, self.say).await?;
        Ok(Done::said(format!("{name} is made and runs\n")))
    }

    /// Reads or sets keys of an instance.
    pub(super) async fn config(&self, instance: &Instance, what: ConfigOrder) -> Result<Done, Refusal> {
        let (client, place) = self.at(Action::IncusShell, instance)?;
        let (_, project, name) = &place;
        match what {
            ConfigOrder::Set(keys) => {
                client.set_keys(project, name, &keys).await.map_err(|error| said(&error))?;
                Ok(Done::default())
            }
            ConfigOrder::Get(key) => {
                let definition = self.definition(&client, &place).await?;
                let value = definition.config(&key).map(|value| format!("{value}\n"));
                Ok(Done::said(value.unwrap_or_default()))
            }
            ConfigOrder::Show { is_expanded } => self.show(&client, &place, is_expanded).await,
        }
    }

    async fn definition(&self, client: &Client, place: &Turn) -> Result<Definition, Refusal> {
        let found = client.definition(&place.1, &place.2).await.map_err(|error| said(&error))?;
        found.ok_or_else(|| absent(place))
    }

    /// Makes, lists and deletes snapshots of an instance, and brings it back to one.
    pub(super) async fn snapshot(&self, instance: &Instance, what: SnapshotOrder) -> Result<Done, Refusal> {
        let (client, place) = self.at(Action::IncusShell, instance)?;
        let (_, project, name) = &place;
        match what {
            SnapshotOrder::List(format) => return self.snapshots(&client, &place, format).await,
            SnapshotOrder::Create(snapshot) => {
                self.say.send_replace(format!("making a snapshot of {name}"));
                let operation = client.make_snapshot(project, name, snapshot.as_deref()).await;
                self.finished(&client, operation, COPYING).await?;
            }
            SnapshotOrder::Restore(snapshot) => {
                // An instance that runs is started again.
                self.may(Action::Start, &self.spot(&instance.place), Some(name))?;
                self.say.send_replace(format!("restoring {name}"));
                let operation = client.restore(project, name, &snapshot).await;
                self.finished(&client, operation, COPYING).await?;
            }
            SnapshotOrder::Delete(snapshot) => {
                let removed = client.remove_snapshot(project, name, &snapshot).await;
                if removed.map_err(|error| said(&error))?.is_none() {
                    return Err(Refusal::new(ABSENT, format!("{name} has no snapshot {snapshot}")));
                }
            }
        }
        Ok(Done::default())
    }
}

/// There is no such instance, for who may know.
pub(super) fn absent((_, project, name): &Turn) -> Refusal {
    Refusal::new(ABSENT, format!("there is no instance {name} in project {project}"))
}

/// Notes that one of several was not done.
fn failed(done: &mut Done, instance: &Instance, refusal: Refusal) {
    done.status = done.status.max(refusal.status);
    done.errors.push(format!("{}: {}", instance.name, refusal.message));
}
