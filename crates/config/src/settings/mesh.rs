//! `[mesh.NAME]` of `portway.toml`: networks that the daemon is to run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use portway_model::{Direction, MeshRule};
use serde::Deserialize;
use toml::Spanned;

use super::{Fault, Settings};

/// Longest name of a network: it becomes a part of file names.
const NAME_MAX_BYTES: usize = 64;

/// `[mesh.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// `config`: the file of the network. Absolute.
    pub config: PathBuf,
    /// `ingress` and `egress`: rules beside those of the file.
    pub rules: Vec<MeshRule>,
    /// Where the name stands, bytes.
    at: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    config: Option<Spanned<PathBuf>>,
    #[serde(default)]
    ingress: Vec<Spanned<String>>,
    #[serde(default)]
    egress: Vec<Spanned<String>>,
}

pub(super) fn read(raw: BTreeMap<Spanned<String>, Raw>) -> Result<Vec<MeshSettings>, Fault> {
    raw.into_iter().map(|(name, raw)| network(name, raw)).collect()
}

fn network(name: Spanned<String>, raw: Raw) -> Result<MeshSettings, Fault> {
    let at = name.span().start;
    let fault = |message: String| Fault { at, message };
    let name = name.into_inner();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(plain) {
        let most = NAME_MAX_BYTES;
        return Err(fault(format!("a mesh is called by letters, digits, `-` and `_`, {most} at most")));
    }
    let Some(config) = raw.config else { return Err(fault(format!("mesh.{name} has no config"))) };
    if !config.get_ref().is_absolute() {
        let message = format!("mesh.{name}.config {} is not an absolute path", config.get_ref().display());
        return Err(Fault { at: config.span().start, message });
    }
    let mut rules = Vec::new();
    let mut seen = BTreeSet::new();
    let said = [(Direction::Ingress, raw.ingress), (Direction::Egress, raw.egress)];
    for (direction, text) in
        said.into_iter().flat_map(|(direction, texts)| texts.into_iter().map(move |text| (direction, text)))
    {
        let fault = |message: String| Fault {
            at: text.span().start,
            message: format!("{direction} rule of mesh.{name}: {message}"),
        };
        let rule = MeshRule::parse(direction, text.get_ref()).map_err(|error| fault(error.to_string()))?;
        if !seen.insert(format!("{direction} {rule}")) {
            return Err(fault("the same rule stands twice".to_owned()));
        }
        rules.push(rule);
    }
    Ok(MeshSettings { name, config: config.into_inner(), rules, at })
}

/// Refuses networks: nothing runs them.
pub(super) fn refused(settings: Settings) -> Result<Settings, Fault> {
    match settings.mesh.first() {
        Some(MeshSettings { name, at, .. }) => {
            Err(Fault { at: *at, message: format!("mesh.{name}: the daemon does not run a mesh yet") })
        }
        None => Ok(settings),
    }
}
