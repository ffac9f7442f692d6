//! What a login says, before anything of it is proven.

use portway_proto::login::{Command, HostUser, Login, Wish};

use super::{Judge, Reason};
use crate::broker::grant::Errand;
use crate::broker::keep;
use crate::create::Wanted;
use crate::policy::Target;
use crate::shell::USUAL_PROJECT;

/// A login that is understood.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) place: Target,
    pub(super) host_user: String,
    /// Of a session that stays.
    pub(super) keep: Option<String>,
    pub(super) create: Option<Wanted>,
    pub(super) errand: Option<Errand>,
}

impl Judge {
    /// What a login says.
    pub(super) fn claim(&self, login: &str) -> Result<Claim, Reason> {
        let parsed = Login::parse(login, self.options.dialect);
        let parsed = parsed.map_err(|error| {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            Reason::Login(format!("{error}{hint}"))
        })?;
        let (mut errand, mut keep) = (None, None);
        let (place, host_user, create) = match parsed.wish {
            Wish::Session(session) => {
                keep = keep::name(&session.keep).map_err(Reason::Wish)?;
                (session.place, session.host_user, None)
            }
            Wish::Create(create) => {
                let wanted = Wanted::from(&create);
                (create.place, create.host_user, Some(wanted))
            }
            Wish::Command(Command::Shell { host_user }) => return Ok(self.shell(&host_user)),
            Wish::Command(Command::Remove { place, force, host_user }) => {
                errand = Some(Errand::Remove { force });
                (place, host_user, None)
            }
            Wish::Command(Command::Explain(wish)) => {
                errand = Some(Errand::Explain { login: login.to_owned() });
                // A command is not explained by another.
                let place = wish.place().cloned().ok_or(Reason::Wish("that command"))?;
                // Whoever it would be.
                (place, wish.host_user().clone(), None)
            }
        };
        let target = Target {
            remote: self.servers.name(place.remote.as_ref().map(|remote| remote.as_str())),
            project: place.project.to_string(),
            instance: place.instance.to_string(),
            instance_user: place.instance_user.as_str().to_owned(),
        };
        Ok(Claim { place: target, host_user: host_user.as_str().to_owned(), keep, create, errand })
    }

    /// The same where somebody proves a key: what cannot be understood is told to whom it names.
    pub(super) fn claim_or_told(&self, login: &str) -> Claim {
        self.claim(login).unwrap_or_else(|reason| {
            let named = login.rsplit_once('~').and_then(|(_, name)| name.parse::<HostUser>().ok());
            let place = Target {
                remote: self.servers.name(None),
                project: String::new(),
                instance: String::new(),
                instance_user: String::new(),
            };
            Claim {
                place,
                host_user: named.unwrap_or_default().as_str().to_owned(),
                keep: None,
                create: None,
                errand: Some(Errand::Misread { why: reason.to_string() }),
            }
        })
    }

    /// Of the login that asks for the shell of Incus commands, which is at no instance.
    fn shell(&self, host_user: &HostUser) -> Claim {
        let place = Target {
            remote: self.servers.name(None),
            project: USUAL_PROJECT.to_owned(),
            instance: String::new(),
            instance_user: String::new(),
        };
        let host_user = host_user.as_str().to_owned();
        Claim { place, host_user, keep: None, create: None, errand: Some(Errand::Shell) }
    }
}

impl Claim {
    /// Why it leads nowhere, if it does.
    pub(super) fn misread(&self) -> Option<Reason> {
        let why = self.errand.as_ref().and_then(Errand::misread)?;
        Some(Reason::Misread(why.to_owned()))
    }

    /// The person who is the user inside.
    pub(super) fn inside(&self) -> String {
        let Target { remote, project, instance, instance_user } = &self.place;
        format!("instance:{remote}/{project}/{instance}/{instance_user}")
    }

    pub(super) fn not_inside(&self) -> Reason {
        let Target { instance, instance_user, .. } = &self.place;
        Reason::Inside { user: instance_user.clone(), instance: instance.clone() }
    }
}
