//! Programs that a service runs at turns of its life: `post_start` and `pre_stop`.

use portway_composefile::Fault;
use portway_composefile::tree::{Node, Value};
use serde::{Deserialize, Serialize};

use crate::inside::Program;
use crate::label;
use crate::map::{refused, text};
use crate::want::Keys;

/// All of a service, each in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// After each start that a command brings about; a first process that starts the service again runs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_start: Vec<Program>,
    /// Before it is asked to stop; not where it is stopped by force at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pre_stop: Vec<Program>,
}

impl Hooks {
    /// Those that an instance is labelled with; none where nobody could read them.
    pub(crate) fn of(config: &Keys) -> Self {
        config.get(label::HOOKS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Labels an instance with them.
    pub(crate) fn label(&self, config: &mut Keys) {
        if *self != Self::default() {
            config.insert(label::HOOKS.to_owned(), serde_json::to_string(self).unwrap_or_default());
        }
    }
}

/// One of them as the files say it, without `privileged`.
///
/// # Errors
/// What is wrong, with its place.
pub fn program(node: &Node, path: &str) -> Result<Program, Fault> {
    let command: Vec<String> = node
        .items("command")
        .iter()
        .map(|word| text(word, &format!("{path}.command")))
        .collect::<Result<_, _>>()?;
    if command.first().is_none_or(String::is_empty) {
        return Err(refused(node, &format!("{path}.command"), "nothing is said to run"));
    }
    let one = |key: &str| -> Result<Option<String>, Fault> {
        let said = node.at(key).map(|node| text(node, &format!("{path}.{key}"))).transpose()?;
        Ok(said.filter(|said| !said.is_empty()))
    };
    let cwd = one("working_dir")?;
    if let (Some(said), Some(_)) = (node.at("working_dir"), cwd.as_ref().filter(|cwd| !cwd.starts_with('/')))
    {
        return Err(refused(said, &format!("{path}.working_dir"), "must be an absolute path"));
    }
    let mut program = Program { command, user: one("user")?, cwd, ..Program::default() };
    for (name, value) in node.members("environment").filter(|(_, value)| value.value != Value::Null) {
        let path = format!("{path}.environment.{name}");
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(refused(value, &path, "is no name of a variable"));
        }
        program.environment.insert(name.clone(), text(value, &path)?);
    }
    Ok(program)
}
