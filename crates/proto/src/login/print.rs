//! One spelling of every login, that shells, scp, rsync and URLs leave alone.

use std::fmt;

use super::percent::{Dots, encode};
use super::{Command, Create, CreateOptions, HostUser, InstanceUser, Keep, Place, Session, Wish};
use portway_model::ProjectName;

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(session) => session.fmt(f),
            Self::Create(create) => create.fmt(f),
            Self::Command(command) => command.fmt(f),
        }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A host user may hold an `@`, which is the sign where no other is.
        let place = PlaceText { place: &self.place, host_user: self.host_user.as_str() };
        match &self.keep {
            Keep::No => {
                // A leading `%` is a sign: what stands first without one stays as it is.
                let text = place.to_string();
                match (text.strip_prefix('%'), place.first().chars().next()) {
                    (Some(_), Some(c)) => {
                        let code_len = 3 * c.len_utf8();
                        write!(f, "{c}{}", text.get(code_len..).unwrap_or_default())?;
                    }
                    _ => f.write_str(&text)?,
                }
            }
            Keep::Shared => write!(f, "keep={place}")?,
            Keep::Named(name) => write!(f, "keep={name},{place}")?,
        }
        write_host_user(f, &self.host_user)
    }
}

impl fmt::Display for Create {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ephemeral { "tmp=" } else { "new=" })?;
        PlaceText { place: &self.place, host_user: "" }.fmt(f)?;
        self.options.fmt(f)?;
        write_host_user(f, &self.host_user)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cmd={}", self.as_str())?;
        match self {
            Self::Shell { host_user } => write_host_user(f, host_user),
            Self::Remove { place, host_user, .. } => {
                write!(f, ",{}", PlaceText { place, host_user: host_user.as_str() })?;
                write_host_user(f, host_user)
            }
            Self::Explain(wish) => write!(f, ",{wish}"),
        }
    }
}

/// A place as it is printed, with what is printed behind it.
struct PlaceText<'a> {
    place: &'a Place,
    host_user: &'a str,
}

impl PlaceText<'_> {
    fn shows_user(&self) -> bool {
        let Place { remote, instance_user, instance, project } = self.place;
        let has_at =
            [instance.as_str(), project.as_str(), self.host_user].iter().any(|part| part.contains('@'));
        // With a remote the user shows that `%3A` is a sign, whatever dots the remote's name has.
        remote.is_some() || has_at || *instance_user != InstanceUser::default()
    }

    /// The part that stands first.
    fn first(&self) -> &str {
        let Place { remote, instance_user, instance, .. } = self.place;
        match remote {
            Some(remote) => remote.as_str(),
            None if self.shows_user() => instance_user.as_str(),
            None => instance.as_str(),
        }
    }
}

impl fmt::Display for PlaceText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { remote, instance_user, instance, project } = self.place;
        if let Some(remote) = remote {
            write!(f, "{}%3A", encode(remote.as_str(), Dots::Stay))?;
        }
        if self.shows_user() {
            write!(f, "{}@", encode(instance_user.as_str(), Dots::Stay))?;
        }
        f.write_str(&encode(instance.as_str(), Dots::Encode))?;
        if *project != ProjectName::default() {
            write!(f, ".{}", encode(project.as_str(), Dots::Stay))?;
        }
        Ok(())
    }
}

fn write_host_user(f: &mut fmt::Formatter<'_>, user: &HostUser) -> fmt::Result {
    if *user == HostUser::default() {
        return Ok(());
    }
    write!(f, "~{}", encode(user.as_str(), Dots::Stay))
}

impl fmt::Display for CreateOptions {
    /// Every option with the `+` before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, memory_gib, cpu_count, disk_gib, nesting, privileged, vm, profiles } = self;
        if let Some(image) = image {
            write!(f, "+{}", encode(image, Dots::Stay))?;
        }
        for (letter, number) in [('m', memory_gib), ('c', cpu_count), ('d', disk_gib)] {
            if let Some(number) = number {
                write!(f, "+{letter}{number}")?;
            }
        }
        for (word, given) in [("nest", nesting), ("priv", privileged), ("vm", vm)] {
            if *given {
                write!(f, "+{word}")?;
            }
        }
        for profile in profiles {
            write!(f, "+%{}", encode(profile, Dots::Stay))?;
        }
        Ok(())
    }
}
