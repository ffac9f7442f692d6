//! What a login says, as fields: `portway ssh explain`.
//!
//! The fields are an interface: programs read them. Defaults that hold without a server are filled in.

use portway_proto::login::{Command, Keep, Login, Wish};
use serde::Serialize;

/// One login, understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// What is wanted.
    pub kind: Kind,
    /// The session outlives its connection.
    pub persistent: bool,
    /// The instance goes when it stops.
    pub ephemeral: bool,
    /// Server; `null` is the gateway's default one.
    pub remote: Option<String>,
    /// User inside the instance.
    pub instance_user: Option<String>,
    /// Instance.
    pub instance: Option<String>,
    /// Its project.
    pub project: Option<String>,
    /// User of the host whose keys count; with a command the gateway's own.
    pub host_user: String,
    /// What a new instance is made of.
    pub create: Option<Created>,
    /// Command of the gateway.
    pub command: Option<&'static str>,
    /// What its writer may have meant otherwise.
    pub warnings: Vec<String>,
}

/// Kind of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A session in an instance.
    Session,
    /// A session in an instance that is made if it is not there.
    Create,
    /// A command of the gateway.
    Command,
}

/// What a new instance is made of. `null` and an empty list are up to the gateway's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Created {
    /// Alias of the image.
    pub image: Option<String>,
    /// Memory, GiB; 0 is no limit.
    pub memory: Option<u32>,
    /// Processors; 0 is no limit.
    pub cpu: Option<u32>,
    /// Root disk, GiB; 0 is no limit.
    pub disk: Option<u32>,
    /// Containers can run in it.
    pub nesting: bool,
    /// Its root is the host's.
    pub privileged: bool,
    /// A virtual machine.
    pub vm: bool,
    /// Profiles, in the order in which they apply.
    pub profiles: Vec<String>,
}

impl Explained {
    /// The fields of a login.
    #[must_use]
    pub fn new(login: &Login) -> Self {
        let mut fields = Self::of_wish(&login.wish);
        fields.warnings = login.warnings.iter().map(ToString::to_string).collect();
        fields
    }

    fn of_wish(wish: &Wish) -> Self {
        let place = wish.place();
        let mut fields = Self {
            kind: Kind::Session,
            persistent: false,
            ephemeral: false,
            remote: place.and_then(|place| place.remote.as_ref()).map(ToString::to_string),
            instance_user: place.map(|place| place.instance_user.to_string()),
            instance: place.map(|place| place.instance.to_string()),
            project: place.map(|place| place.project.to_string()),
            host_user: wish.host_user().cloned().unwrap_or_default().to_string(),
            create: None,
            command: None,
            warnings: Vec::new(),
        };
        match wish {
            Wish::Session(session) => fields.persistent = session.keep != Keep::No,
            Wish::Create(create) => {
                let options = &create.options;
                fields.kind = Kind::Create;
                fields.ephemeral = create.ephemeral;
                fields.create = Some(Created {
                    image: options.image.clone(),
                    memory: options.memory_gib,
                    cpu: options.cpu_count,
                    disk: options.disk_gib,
                    nesting: options.nesting,
                    privileged: options.privileged,
                    vm: options.vm,
                    profiles: options.profiles.clone(),
                });
            }
            Wish::Command(command) => {
                // What is explained shows its own fields.
                if let Command::Explain(wish) = command {
                    fields = Self::of_wish(wish);
                }
                fields.kind = Kind::Command;
                fields.command = Some(command.as_str());
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use portway_proto::login::Dialect;

    use super::*;

    fn json(text: &str) -> serde_json::Value {
        let login = Login::parse(text, Dialect::Auto).unwrap();
        serde_json::to_value(Explained::new(&login)).unwrap()
    }

    /// Fails when: a field is left out, renamed, or holds what another should.
    #[test]
    fn every_kind_has_its_fields() {
        insta::assert_json_snapshot!([
            json("c1"),
            json("%r:u@c1.p1~adm"),
            json("~t1+alpine/edge+m2+c1+d0+n+p+vm+%web,db"),
            json("/shell"),
            json("/rm-f/c1.p1"),
            json("/explain/+t1+debian/12~adm"),
        ]);
    }
}
