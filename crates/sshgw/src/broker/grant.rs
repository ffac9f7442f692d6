//! What somebody who has logged in may do.

use serde::{Deserialize, Serialize, Serializer};

use crate::auth::grant as keys;
use crate::create::Wanted;
use crate::policy::{Person, Target};
use crate::remotes::LOCAL;

/// Made once, when a login is proven, and never changed after that. What the policy says of it is asked anew for each
/// program: a rule that is taken away counts at once.
///
/// Every field that was not there from the first version on has a default: records of sessions outlive a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// User of the host, or `instance:REMOTE/PROJECT/NAME/USER` for somebody who is only that user there.
    pub(crate) person: String,
    /// SHA-256 fingerprint of the key that was proven; empty where none was.
    pub(crate) key: String,
    /// Project of the instance.
    pub(crate) project: String,
    /// The instance.
    pub(crate) instance: String,
    /// User inside.
    pub(crate) instance_user: String,
    /// Server of the instance.
    #[serde(default = "default_remote")]
    pub(crate) remote: String,
    /// Methods that have proven it, in their order, `publickey,keyboard-interactive`.
    #[serde(default)]
    pub(crate) proof: String,
    /// Id of a user of the host.
    #[serde(default)]
    pub(crate) uid: Option<u32>,
    /// Names of his groups.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
    /// Principals of his certificate.
    #[serde(default)]
    pub(crate) principals: Vec<String>,
    /// The person is the user inside, and nobody on the host.
    #[serde(default)]
    pub(crate) is_inside: bool,
    /// What the key allows: a forced command, terminals, forwards.
    #[serde(default)]
    pub(crate) options: keys::Grant,
    /// Name of the session that stays, which the login asks for.
    #[serde(default)]
    pub(crate) keep: Option<String>,
    /// What the instance is made of when it is not there; `None`: it is not made.
    #[serde(default)]
    pub(crate) create: Option<Wanted>,
    /// What the gateway itself is asked for instead of a program.
    #[serde(default)]
    pub(crate) errand: Option<Errand>,
}

/// What a gateway does for somebody besides programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Errand {
    /// Says how a login is read.
    Explain {
        /// As the client says it.
        login: String,
    },
    /// The shell of Incus commands. Then there is no instance, and its name is empty.
    Shell,
    /// Removes the instance.
    Remove {
        /// Without a question, also when it runs.
        force: bool,
    },
    /// Says why the login is not understood, to whoever has proven the key of the person whom it names.
    Misread {
        /// One line.
        why: String,
    },
}

/// The server of sessions of a time that knew no other.
fn default_remote() -> String {
    LOCAL.to_owned()
}

impl Errand {
    /// Why the login leads nowhere, if that is what it says.
    pub(crate) fn misread(&self) -> Option<&str> {
        match self {
            Self::Misread { why } => Some(why),
            Self::Explain { .. } | Self::Remove { .. } | Self::Shell => None,
        }
    }
}

impl Grant {
    /// Why the login leads nowhere, if it does.
    pub(crate) fn misread(&self) -> Option<&str> {
        self.errand.as_ref().and_then(Errand::misread)
    }

    /// Who it is, as the policy knows people.
    pub(crate) fn policy_person(&self) -> Person {
        if self.is_inside {
            return Person::Instance(self.place());
        }
        Person::Host {
            user: self.person.clone(),
            groups: self.groups.clone(),
            key: Some(self.key.clone()).filter(|key| !key.is_empty()),
            principals: self.principals.clone(),
        }
    }

    /// Where the login leads.
    pub(crate) fn place(&self) -> Target {
        Target {
            remote: self.remote.clone(),
            project: self.project.clone(),
            instance: self.instance.clone(),
            instance_user: self.instance_user.clone(),
        }
    }

    /// What a line of the audit log says of it.
    pub(crate) fn identity<S: Serializer>(grant: &&Self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Identity<'a> {
            person: &'a str,
            key: &'a str,
            proof: &'a str,
            remote: &'a str,
            project: &'a str,
            instance: &'a str,
            instance_user: &'a str,
        }
        let Self { person, key, proof, remote, project, instance, instance_user, .. } = grant;
        Identity { person, key, proof, remote, project, instance, instance_user }.serialize(serializer)
    }
}

#[cfg(test)]
impl Grant {
    /// As the first version wrote one.
    pub(crate) fn of_root() -> Self {
        let text =
            r#"{"person":"root","key":"SHA256:x","project":"p","instance":"c1","instance_user":"bob"}"#;
        serde_json::from_str(text).expect("a grant")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: the record of a session of the first version cannot be read, or reads as less or more than it was.
    #[test]
    fn an_old_record_is_read() {
        let grant = Grant::of_root();
        assert_eq!(grant.options, keys::Grant::default());
        assert!(!grant.is_inside && grant.keep.is_none() && grant.remote == "local" && grant.uid.is_none());
        let place = grant.place();
        let allowed = crate::policy::Policy::default().decide(
            &grant.policy_person(),
            crate::policy::Action::Shell,
            Some(&place),
        );
        assert!(allowed.allowed);
    }
}
