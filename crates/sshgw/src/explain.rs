//! What a login says, as fields: `portway ssh explain`.
//!
//! The fields are an interface: programs read them. Defaults that hold without a server are filled in.

use std::fmt::Write as _;

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
    /// User of the host whose keys count.
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

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Create => "create",
            Self::Command => "command",
        }
    }
}

impl Created {
    /// What is said of a new instance, key by key.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let Self { image, memory, cpu, disk, nesting, privileged, vm, profiles } = self;
        let amount = |number: &Option<u32>, unit: &str| match number {
            Some(0) => Some("no limit".to_owned()),
            Some(number) => Some(format!("{number}{unit}")),
            None => None,
        };
        let flag = |given: bool| given.then(|| "yes".to_owned());
        let listed = (!profiles.is_empty()).then(|| profiles.join(", "));
        let all = [
            ("image", image.clone()),
            ("memory", amount(memory, " GiB")),
            ("cpu", amount(cpu, "")),
            ("disk", amount(disk, " GiB")),
            ("nesting", flag(*nesting)),
            ("privileged", flag(*privileged)),
            ("vm", flag(*vm)),
            ("profiles", listed),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

/// One `key: value` line for each field that is said, and the spelling that other programs leave alone.
#[must_use]
pub fn text(login: &Login, explained: &Explained) -> String {
    let mut text = String::new();
    let mut put = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{key}: {}", printable(value));
    };
    put("kind", explained.kind.as_str());
    if let Some(command) = explained.command {
        put("command", command);
    }
    if explained.persistent {
        put("persistent", &session_name(&login.wish).unwrap_or_else(|| "yes".to_owned()));
    }
    if explained.ephemeral {
        put("ephemeral", "yes");
    }
    let parts = [
        ("remote", &explained.remote),
        ("instance_user", &explained.instance_user),
        ("instance", &explained.instance),
        ("project", &explained.project),
    ];
    for (key, value) in parts {
        if let Some(value) = value {
            put(key, value);
        }
    }
    put("host_user", &explained.host_user);
    for (key, value) in explained.create.iter().flat_map(Created::pairs) {
        put(key, &value);
    }
    put("spelling", &login.to_string());
    for warning in &explained.warnings {
        put("warning", warning);
    }
    text
}

fn session_name(wish: &Wish) -> Option<String> {
    match wish {
        Wish::Session(session) => match &session.keep {
            Keep::Named(name) => Some(format!("yes, as {name}")),
            Keep::No | Keep::Shared => None,
        },
        Wish::Command(Command::Explain(wish)) => session_name(wish),
        Wish::Create(_) | Wish::Command(_) => None,
    }
}

/// A value on one line, of which no character moves the cursor or turns the text around.
pub(crate) fn printable(text: &str) -> String {
    let is_odd = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_odd(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
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
            host_user: wish.host_user().to_string(),
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
