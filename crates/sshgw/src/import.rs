//! An installation of ssh2incus as settings of ours: what it is set to, and what is otherwise here.
//!
//! Pure: files come in as texts and go out as texts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::audit::bounded;
use crate::options::{FLAGS, Flag, Options, OptionsError, Shape, Values, ValuesError};

/// Flags that mean nothing here, or belong to a single run.
const DROPPED: &[&str] = &[
    "master",
    "web",
    "web-listen",
    "web-auth",
    "pprof",
    "pprof-listen",
    "dump",
    "dump-create",
    "help",
    "version",
];

/// What an installation consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// `/etc/default/ssh2incus`.
    pub defaults: Option<String>,
    /// `config.yaml`, of 0.8 and later.
    pub config: Option<String>,
    /// Whether there is a `create-config.yaml`, and what of it is read otherwise than it is written.
    pub create: Option<Vec<String>>,
}

/// What it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The table `[ssh]` of `portway.toml`.
    pub table: String,
    /// What is otherwise here, one line each.
    pub differences: Vec<String>,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// `ARGS=` holds what ssh2incus would not take.
    #[error("ARGS: {0}")]
    Args(#[source] ValuesError),
    /// `config.yaml` is no table of flags.
    #[error("config.yaml: {0}")]
    Config(String),
    /// A value means nothing.
    #[error(transparent)]
    Options(#[from] OptionsError),
}

/// A value in `config.yaml`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Switch(bool),
    Number(i64),
    Text(String),
    List(Vec<String>),
    Other(IgnoredAny),
}

/// Translates an installation.
///
/// # Errors
/// [`ImportError`]: nothing of it is used then.
pub fn import(found: &Found) -> Result<Imported, ImportError> {
    let args = found.defaults.as_deref().and_then(args).unwrap_or_default();
    let args = Values::from_line(&args).map_err(ImportError::Args)?;
    let (config, unknown) = config(found.config.as_deref().unwrap_or_default())?;
    let values = args.over(config);
    // Said by ssh2incus in another way, or not meant for us.
    let without = |name: &str| DROPPED.contains(&name);
    Options::new(&values)?;
    let mut table = "[ssh]\n".to_owned();
    let mut differences = Vec::new();
    for flag in FLAGS.iter().filter(|flag| values.has(flag.long)) {
        if !flag.note.is_empty() {
            differences.push(format!("{}: {}", flag.long, flag.note));
        }
        if without(flag.long) {
            continue;
        }
        let line = match flag.shape {
            Shape::Switch => format!("{} = {}\n", flag.long, values.is_on(flag.long)?),
            Shape::Value => {
                format!("{} = {}\n", flag.long, toml::Value::String(values.text(flag.long).to_owned()))
            }
        };
        table.push_str(&line);
    }
    if !values.has("idle-timeout") {
        let old =
            "connections that are idle for 180s end there and stay here; set it to \"180s\" for the same";
        differences.push(format!("idle-timeout: {old}"));
    }
    let keys =
        "clients will ask about a new host key; add it to known_hosts, or set host-key for the host's own";
    differences.push(format!("host keys: the gateway has one of its own: {keys}"));
    let keys = "lines with options (command=, from=, ...) are ignored there and count here";
    differences.push(format!("authorized_keys: {keys}"));
    differences.extend(
        unknown.iter().map(|name| format!("config.yaml: {name} is not taken over: no such setting is known")),
    );
    let create = found.create.iter().flatten();
    differences.extend(create.map(|warning| format!("create-config.yaml: {warning}")));
    Ok(Imported { table, differences })
}

/// The last `ARGS=` of a file for systemd, without its quotes.
fn args(text: &str) -> Option<String> {
    let value = text.lines().filter_map(|line| line.trim().strip_prefix("ARGS=")).next_back()?.trim();
    let within = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    Some(match (within('"'), within('\'')) {
        (Some(text), _) => text.replace("\\\"", "\""),
        (None, Some(text)) => text.to_owned(),
        (None, None) => value.to_owned(),
    })
}

/// Settings of a file, and the names of those that are none.
fn config(text: &str) -> Result<(Values, Vec<String>), ImportError> {
    if text.trim().is_empty() {
        return Ok((Values::default(), Vec::new()));
    }
    let options = serde_saphyr::options! { with_snippet: false };
    let pairs: BTreeMap<String, Option<Scalar>> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ImportError::Config(error.without_snippet().to_string().replace('\n', ", ")))?;
    let (mut given, mut unknown) = (Vec::new(), Vec::new());
    for (name, value) in pairs {
        // Of another version of it, or of none.
        if Flag::find(&name).is_none() {
            unknown.push(format!("`{}`", bounded(&name).escape_debug()));
            continue;
        }
        let text = match value {
            None => continue,
            Some(Scalar::Switch(on)) => on.to_string(),
            Some(Scalar::Number(number)) => number.to_string(),
            Some(Scalar::Text(text)) => text,
            Some(Scalar::List(texts)) => texts.join(","),
            Some(Scalar::Other(IgnoredAny)) => {
                return Err(ImportError::Config(format!("{name} is no value")));
            }
        };
        given.push((name, text));
    }
    let values = Values::from_pairs(given).map_err(|error| ImportError::Config(error.to_string()))?;
    Ok((values, unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(defaults: &str, config: &str) -> Result<Imported, String> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let found =
            Found { defaults: text(defaults), config: text(config), create: Some(vec!["a".to_owned()]) };
        import(&found).map_err(|error| error.to_string())
    }

    /// Fails when a setting is lost, a file wins over an argument, or what is different is kept quiet.
    #[test]
    fn an_installation_is_settings() {
        let old = imported("# as packaged\nARGS=-m\n", "").unwrap();
        assert_eq!(old.table, "[ssh]\n");
        let new = imported(
            "ARGS=\"-m -W -l :2022 -g \\\"adm,wheel\\\"\"\n",
            "# 0.10\nlisten: \":22\"\nremote: ''\nsocket: /run/i.sock\ngroups:\n  - a\nidle-timeout: 10m\ndebug: true\n",
        )
        .unwrap();
        assert!(
            new.table.starts_with("[ssh]\nlisten = \":2022\"\nsocket = \"/run/i.sock\"\n"),
            "{}",
            new.table
        );
        assert!(new.table.contains("groups = \"adm,wheel\"\n") && new.table.contains("debug = true\n"));
        assert!(!new.table.contains("web") && !new.table.contains("master"), "{}", new.table);
        let differs =
            |text: &Imported, word: &str| text.differences.iter().any(|line| line.starts_with(word));
        assert!(
            differs(&old, "idle-timeout") && differs(&old, "host keys") && differs(&old, "create-config")
        );
        assert!(differs(&new, "web") && differs(&new, "master"), "{:?}", new.differences);
        toml::from_str::<toml::Table>(&new.table).expect("settings that can be read");
    }

    /// Fails when a setting that is not known here is the end of all others, or is not named.
    #[test]
    fn what_is_not_known_is_named() {
        let config = "listen: ':22'\nport: 22\n\"new\\nthing\": {a: [b]}\nempty-one:\n";
        let imported = imported("", config).unwrap();
        assert_eq!(imported.table, "[ssh]\nlisten = \":22\"\n");
        let told: Vec<&str> =
            imported.differences.iter().filter_map(|line| line.strip_prefix("config.yaml: ")).collect();
        let of = |name: &str| format!("{name} is not taken over: no such setting is known");
        assert_eq!(told, [of("`empty-one`"), of("`new\\nthing`"), of("`port`")]);
    }

    /// Fails when what cannot be read is taken for nothing.
    #[test]
    fn what_cannot_be_read_is_told() {
        assert_eq!(imported("ARGS=-m --lisen :22", "").unwrap_err(), "ARGS: unknown flag `--lisen`");
        assert_eq!(imported("", "groups: {a: b}").unwrap_err(), "config.yaml: groups is no value");
        assert!(imported("", "- a\n").unwrap_err().starts_with("config.yaml: "));
        assert!(imported("ARGS=-l nowhere", "").unwrap_err().starts_with("listen: "));
    }
}
