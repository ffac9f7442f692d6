//! An instance for a login that may make it: looked for, made, started and waited for, once for all who ask.

use std::sync::atomic::Ordering;
use std::time::Duration;

use portway_incus::{Client, Listed};
use tokio::sync::watch;

use super::Child;
use crate::audit::{Event, bounded};
use crate::broker::account::{self, Found};
use crate::broker::grant::Grant;
use crate::broker::marks::{Marks, now};
use crate::broker::open::{ABSENT, Refusal, failure};
use crate::broker::turns::{self, Place};
use crate::broker::{judge, lock, make};
use crate::create::{CreateConfig, Plan, Wanted};
use crate::policy::Action;
use crate::wire::Reply;

/// How often a client is told, at most, and the session that it is to wait on.
const TOLD: Duration = Duration::from_millis(500);
const BEAT: Duration = Duration::from_secs(15);

/// How long the user of a login may take to come into a new instance: of one with cloud-init, and of any other.
const CLOUD_INIT: Duration = Duration::from_secs(120);
const USER: Duration = Duration::from_secs(10);

/// How long the first start may take: of a virtual machine, until its agent answers.
const FIRST_START: Duration = Duration::from_secs(300);

/// What tells that an instance has cloud-init.
const CLOUD: &str = "/etc/cloud";

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

impl Child {
    /// Has the instance be there, if the login is one that may make it. What it waits for is said as the answer to
    /// question `id`.
    pub(super) async fn made(&self, id: u64, client: &Client, grant: &Grant) -> Result<(), Refusal> {
        let Some(wanted) = &grant.create else { return Ok(()) };
        // What has gone since is not made once more on this connection.
        if self.is_made.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.broker.options.options.allow_create {
            let text = "no instances are made here: the gateway runs without --allow-create";
            return Err(Refusal::new(ABSENT, text));
        }
        let (say, heard) = watch::channel(String::new());
        let made = tokio::select! {
            made = self.make(client, grant, wanted, &say) => made,
            () = self.tell(id, heard) => Ok(()),
        };
        if made.is_ok() && !self.is_made.swap(true, Ordering::Relaxed) {
            let record = lock(&self.record).take();
            if let Some(record) = record {
                self.identify(record).await;
            }
        }
        made
    }

    /// Says what is being done, for ever.
    pub(super) async fn tell(&self, id: u64, mut heard: watch::Receiver<String>) {
        // What is begun with is said at once.
        if !heard.borrow().is_empty() {
            heard.mark_changed();
        }
        loop {
            let text = match tokio::time::timeout(BEAT, heard.changed()).await {
                Ok(Ok(())) => heard.borrow_and_update().clone(),
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => String::new(),
            };
            self.say(id, Reply::Progress { text: bounded(&text) }, Vec::new()).await;
            tokio::time::sleep(TOLD).await;
        }
    }

    /// Looks for the instance of a grant, makes it where it is not there, and starts it.
    pub(super) async fn make(
        &self,
        client: &Client,
        grant: &Grant,
        wanted: &Wanted,
        say: &watch::Sender<String>,
    ) -> Result<(), Refusal> {
        let place = turns::place(grant);
        let name = &grant.instance;
        // Whoever asks while it is made waits here, and finds it.
        let turn = self.broker.makers.turns.take(&place).await;
        let looked =
            async { client.listing(&grant.project, name).await.map_err(|error| failure(name, &error)) };
        let there = match looked.await? {
            Some(there) => there,
            None => {
                let made = self.make_new(client, grant, wanted, &place, say).await?;
                let gone = || Refusal::new(ABSENT, format!("instance {name} has gone while it was made"));
                let there = client.listing(&grant.project, name).await;
                let there = there.map_err(|error| failure(name, &error))?.ok_or_else(gone)?;
                if made {
                    self.start_new(client, grant, &place, say).await?;
                }
                there
            }
        };
        let Some(marks) = Marks::read(&there.definition, &self.broker.house.gateway) else { return Ok(()) };
        if marks.owner == grant.person && is_unused(&there) {
            // Of a gateway that has ended in the middle, or of another that is about to start it.
            self.broker.starts.start_within(client, grant, make::PATIENCE).await?;
        }
        drop(turn);
        self.await_user(client, grant, &marks, say).await
    }

    /// Makes it, if this person may. `false`: somebody else was faster.
    async fn make_new(
        &self,
        client: &Client,
        grant: &Grant,
        wanted: &Wanted,
        place: &Place,
        say: &watch::Sender<String>,
    ) -> Result<bool, Refusal> {
        let broker = &self.broker;
        if grant.options.command.is_some() {
            let text =
                format!("there is no instance {}, and the key allows its own command alone", grant.instance);
            return Err(Refusal::new(ABSENT, text));
        }
        let mut actions = vec![Action::Create];
        // Whoever is root there is root of the host.
        actions.extend(Some(Action::IncusShell).filter(|_| wanted.privileged && !wanted.vm));
        for action in actions {
            let decision = match action {
                // A place is no bound for it.
                Action::IncusShell => broker.judge.decide_everywhere(grant, action),
                _ => broker.judge.decide(grant, action),
            };
            if !decision.allowed {
                let name = &grant.instance;
                let what = match action {
                    Action::Create => {
                        format!("there is no instance {name}, and {action} is not allowed there")
                    }
                    _ => format!("a privileged container needs {action}, which is not allowed"),
                };
                return Err(Refusal::new(ABSENT, format!("{what}: {}", decision.reason)));
            }
        }
        let making = broker.judge.making().map_err(|_| Refusal::new(ABSENT, "the policy cannot be used"))?;
        let config = CreateConfig::load(&broker.options.create).map_err(|error| {
            tracing::error!(error = judge::why(&error), "no instance can be made");
            Refusal::new(ABSENT, "create-config.yaml of the gateway cannot be used: its log says why")
        })?;
        let plan = config.plan(wanted).map_err(|error| Refusal::new(ABSENT, error.to_string()))?;
        broker.house.note(&place.0);
        let owner = (grant.person.as_str(), broker.house.gateway.as_str());
        let _entry = broker.makers.enter(client, place, owner, making.instances_max).await?;
        let marks = Marks::new(owner.0, &making).keys(owner.1, place);
        // Its images are read by the gateway's own certificate: for who may make something there.
        let may_fetch = |server: &str| {
            let there = Grant {
                remote: broker.servers.name(Some(server)),
                project: "default".to_owned(),
                ..grant.clone()
            };
            broker.judge.decide(&there, Action::Create).allowed
        };
        let from = (&*broker.servers, &may_fetch as &(dyn Fn(&str) -> bool + Sync));
        let made = make::make(client, from, place, &plan, marks, say).await;
        if !matches!(made, Ok(false)) {
            self.note_made(grant, &plan, made.as_ref().err());
        }
        broker.house.note(&place.0);
        made
    }

    fn note_made(&self, grant: &Grant, plan: &Plan, failed: Option<&Refusal>) {
        let failed = failed.map(|refusal| bounded(&refusal.message));
        self.note(&Event::InstanceMade { grant, image: &plan.image, failed });
    }

    /// Starts what was just made; what does not start is not left.
    async fn start_new(
        &self,
        client: &Client,
        grant: &Grant,
        place: &Place,
        say: &watch::Sender<String>,
    ) -> Result<(), Refusal> {
        say.send_replace(format!("starting {}", grant.instance));
        let started = self.broker.starts.start_within(client, grant, FIRST_START).await;
        let refusal = match started {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.is_stopped => {
                Refusal::new(ABSENT, format!("instance {} has stopped again", grant.instance))
            }
            Err(refusal) => refusal,
        };
        let left = make::remove(client, place).await.err().map(|error| judge::why(&error));
        if let Some(error) = left {
            tracing::error!(instance = grant.instance, error, "what does not start is not removed");
        }
        Err(Refusal::new(ABSENT, refusal.message))
    }

    /// Waits for a user whom the instance makes for itself when it starts for the first time.
    async fn await_user(
        &self,
        client: &Client,
        grant: &Grant,
        marks: &Marks,
        say: &watch::Sender<String>,
    ) -> Result<(), Refusal> {
        let (project, name, user) = (&grant.project, &grant.instance, &grant.instance_user);
        let age = now().saturating_sub(marks.made);
        if user == "root" || age >= CLOUD_INIT {
            return Ok(());
        }
        let patience = match client.file(project, name, CLOUD, 64 << 10).await {
            Ok(Some(_)) => CLOUD_INIT,
            _ => USER,
        };
        let mut left = patience.saturating_sub(age);
        loop {
            match account::find(client, project, name, user).await {
                Ok(Found::NoUser) => {}
                // It is there, or what is wrong is told by whoever looks next.
                Ok(Found::Account(_) | Found::NoInstance) => return Ok(()),
                Err(_) => {}
            }
            if left.is_zero() {
                return Ok(());
            }
            let user = user.escape_default();
            say.send_if_modified(|text| {
                let waits = format!("waiting for user {user} in {name}");
                let is_new = *text != waits;
                *text = waits;
                is_new
            });
            tokio::time::sleep(LOOK).await;
            left = left.saturating_sub(LOOK);
        }
    }
}

/// Whether it has never run.
fn is_unused(there: &Listed) -> bool {
    // The servers have the first second of 1970, or of the year 1.
    there.last_used_at.starts_with("1970-") || there.last_used_at.starts_with("0001-")
}
