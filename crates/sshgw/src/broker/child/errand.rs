//! Logins that ask something of the gateway itself: how a login is read, and that an instance be removed. What is asked is
//! the login's and was judged with it; a client adds no more than its yes.

use std::time::Duration;

use portway_incus::{Client, IncusError, Listed, StateChange, status_code};
use portway_proto::login::{Command, Dialect, Login, Wish};
use tokio::sync::watch;

use super::Child;
use crate::audit::{Event, bounded};
use crate::broker::grant::{Errand, Grant};
use crate::broker::open::{ABSENT, Order, Refusal, absent, failure};
use crate::broker::turns::{self, Place};
use crate::broker::{judge, lock, make};
use crate::explain::{self, Explained};
use crate::policy::Action;
use crate::wire::{Reply, What};

/// How long an instance may take to stop by itself.
const GRACE: Duration = Duration::from_secs(60);

/// Says that an instance is to be removed; the whole word.
const YES: &[u8] = b"yes";

impl Child {
    /// Does what a login asks for instead of a program.
    pub(super) async fn run_errand(
        &self,
        id: u64,
        channel: u32,
        grant: &Grant,
        errand: &Errand,
        order: &Order,
    ) {
        let done = match errand {
            Errand::Misread { why } => Err(Refusal::new(ABSENT, why)),
            _ if grant.options.command.is_some() => {
                Err(Refusal::new(ABSENT, "the key allows its own command alone"))
            }
            _ if order.what == What::Sftp => {
                Err(Refusal::new(ABSENT, "a command of the gateway has no files"))
            }
            Errand::Explain { login } => explained(login, self.broker.options.options.dialect),
            Errand::Remove { force } => self.remove((id, channel), grant, *force, order).await,
            Errand::Shell => match self.open_shell(id, channel, grant, order).await {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
        };
        lock(&self.ledger).refused(channel);
        let reply = done.unwrap_or_else(|refusal| {
            let reason = bounded(&refusal.message);
            self.note(&Event::NotStarted { grant, channel, reason: reason.clone() });
            Reply::Refused { status: refusal.status, message: reason }
        });
        self.say(id, reply, Vec::new()).await;
    }

    /// Removes the instance of a grant, where the policy allows it and somebody at a terminal says so.
    async fn remove(
        &self,
        (id, channel): (u64, u32),
        grant: &Grant,
        force: bool,
        order: &Order,
    ) -> Result<Reply, Refusal> {
        let decision = self.broker.judge.decide(grant, Action::Remove);
        let (project, name) = (grant.project.as_str(), grant.instance.as_str());
        if !decision.allowed {
            let text = format!("remove is not allowed at {name}: {}", decision.reason);
            return Err(Refusal::new(ABSENT, text));
        }
        let client = self.client(grant)?;
        let found = client.listing(project, name).await.map_err(|error| failure(name, &error))?;
        let found = found.ok_or_else(|| absent(project, name))?;
        if make::is_protected(&found) {
            let text = format!("{name} is not removed: it is protected (security.protection.delete)");
            return Err(Refusal::new(ABSENT, text));
        }
        if !force {
            if order.terminal.is_none() || !grant.options.pty {
                let text = format!(
                    "{name} is not removed without a yes: ask on a terminal (ssh -t), or /rm-f/{name}"
                );
                return Err(Refusal::new(ABSENT, text));
            }
            // A word that no question has come before is none.
            let asked = lock(&self.asked).take().filter(|(of, _)| *of == channel);
            match (asked, order.command.as_slice()) {
                (Some((_, which)), YES) if which == make::which(&found) => {}
                (Some(_), YES) => return Err(another(name)),
                (Some(_), _) => return Err(Refusal::new(ABSENT, format!("{name} is not removed"))),
                (None, _) => {
                    *lock(&self.asked) = Some((channel, make::which(&found)));
                    return Ok(Reply::Ask {
                        text: question(grant, &found, self.broker.house.others(&turns::place(grant))),
                    });
                }
            }
        }
        let place = turns::place(grant);
        if !force && found.status_code == status_code::FROZEN {
            let text = format!("{name} is frozen and cannot stop by itself; /rm-f/{name} ends it by force");
            return Err(Refusal::new(ABSENT, text));
        }
        let (_say, heard) = watch::channel(format!("removing {name}"));
        let removed = tokio::select! {
            removed = self.end(&client, &place, &found, force) => removed,
            () = self.tell(id, heard) => Ok(()),
        };
        let failed = removed.as_ref().err().map(|refusal| bounded(&refusal.message));
        let (owner, remote) = (grant.person.as_str(), grant.remote.as_str());
        let (instance, why) = (name, "asked");
        self.note(&Event::InstanceRemoved { owner, remote, project, instance, why, failed });
        removed?;
        Ok(Reply::Said { text: format!("{name} is removed\n") })
    }

    /// Stops it, by itself or by force, and deletes it.
    async fn end(&self, client: &Client, place: &Place, found: &Listed, force: bool) -> Result<(), Refusal> {
        let _turn = self.broker.makers.turns.take(place).await;
        let (_, project, name) = place;
        // Whoever had the turn before may have made another.
        let now = client.listing(project, name).await.map_err(|error| failure(name, &error))?;
        if now.as_ref().map(make::which) != Some(make::which(found)) {
            return Err(another(name));
        }
        if !force && found.status_code != status_code::STOPPED {
            let stopped = async {
                let operation =
                    client.change_state(project, name, StateChange::Stop { grace: GRACE }).await?;
                client.finish(&operation, Some(GRACE), |_| ()).await
            };
            stopped.await.map_err(|error| unable(name, "does not stop", &error))?;
        }
        make::remove(client, place).await.map_err(|error| unable(name, "is not removed", &error))
    }
}

fn another(name: &str) -> Refusal {
    Refusal::new(ABSENT, format!("{name} is another than it was: nothing is removed"))
}

fn unable(name: &str, what: &str, error: &IncusError) -> Refusal {
    let why = match error {
        IncusError::Operation { message, .. } | IncusError::Status { message, .. } => message.clone(),
        IncusError::TimedOut { .. } => {
            format!("not within {} s; /rm-f/{name} ends it by force", GRACE.as_secs())
        }
        other => judge::why(other),
    };
    Refusal::new(ABSENT, format!("{name} {what}: {why}"))
}

/// What is to be removed, and whether it is.
fn question(grant: &Grant, found: &Listed, others: usize) -> String {
    let (Grant { remote, project, instance, .. }, made) = (grant, found.created_at.as_str());
    let made = made.split('.').next().unwrap_or_default();
    let status = found.status.to_lowercase();
    let others = match others {
        0 => String::new(),
        1 => ", one session in it".to_owned(),
        many => format!(", {many} sessions in it"),
    };
    format!(
        "{instance} in project {project} of {remote}: {status}, made {made}{others}\nRemove it, with its snapshots? Type yes: "
    )
}

fn explained(login: &str, dialect: Dialect) -> Result<Reply, Refusal> {
    let login = Login::parse(login, dialect).map_err(|error| Refusal::new(ABSENT, error.to_string()))?;
    // What follows the word is what is explained.
    let login = match login {
        Login { wish: Wish::Command(Command::Explain(wish)), warnings } => Login { wish: *wish, warnings },
        other => other,
    };
    Ok(Reply::Said { text: explain::text(&login, &Explained::new(&login)) })
}
