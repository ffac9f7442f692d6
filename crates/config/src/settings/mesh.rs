//! `[mesh.NAME]` of `portway.toml`: networks that the daemon runs.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::path::PathBuf;

use portway_model::{Direction, MeshRule};
use serde::Deserialize;
use toml::Spanned;

use super::Fault;

/// Longest name of a network or an organization: it becomes a part of file names.
const NAME_MAX_BYTES: usize = 40;

/// `[mesh.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// What network it is.
    pub source: MeshSource,
    /// `ingress` and `egress`: rules beside those of the file.
    pub rules: Vec<MeshRule>,
    /// `engine`: where its TCP and UDP live.
    pub engine: MeshEngine,
    /// `balance`: how several rules of one port share its connections.
    pub balance: MeshBalance,
    /// `drain`: seconds that connections may go on when it is ended.
    pub drain: Option<u32>,
}

/// What network it is: one of the two has to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshSource {
    /// `config`: that of a file. Absolute.
    Config(PathBuf),
    /// `org`: an organization that root has joined.
    Org {
        /// Its name.
        name: String,
        /// `listen_port`: UDP port that peers send to.
        listen_port: Option<NonZeroU16>,
    },
}

/// `engine`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeshEngine {
    /// The best that can be had.
    #[default]
    Auto,
    /// The kernel's.
    Kernel,
    /// smoltcp's.
    Smoltcp,
}

/// `balance`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MeshBalance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest connections.
    LeastConnections,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    config: Option<Spanned<PathBuf>>,
    org: Option<Spanned<String>>,
    listen_port: Option<Spanned<NonZeroU16>>,
    #[serde(default)]
    ingress: Vec<Spanned<String>>,
    #[serde(default)]
    egress: Vec<Spanned<String>>,
    #[serde(default)]
    engine: MeshEngine,
    #[serde(default)]
    balance: MeshBalance,
    drain: Option<u32>,
}

pub(super) fn read(raw: BTreeMap<Spanned<String>, Raw>) -> Result<Vec<MeshSettings>, Fault> {
    let mut at = BTreeMap::new();
    let mut networks = Vec::new();
    for (name, raw) in raw {
        at.insert(name.get_ref().clone(), name.span().start);
        networks.push(network(&name, raw)?);
    }
    apart(&networks, &at)?;
    Ok(networks)
}

/// Refuses networks that would keep what they know in one folder: that of an organization has its name.
fn apart(networks: &[MeshSettings], at: &BTreeMap<String, usize>) -> Result<(), Fault> {
    let mut folders: BTreeMap<&str, &str> = BTreeMap::new();
    for MeshSettings { name, source, .. } in networks {
        let folder = match source {
            MeshSource::Config(_) => name,
            MeshSource::Org { name: org, .. } => org,
        };
        if let Some(other) = folders.insert(folder, name) {
            let at = at.get(name).copied().unwrap_or(0);
            let message =
                format!("mesh.{other} and mesh.{name} would keep what they know in one folder, {folder}");
            return Err(Fault { at, message });
        }
    }
    Ok(())
}

/// Whether a text may be the name of a network.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !text.is_empty() && text.len() <= NAME_MAX_BYTES && text.chars().all(plain)
}

fn network(name: &Spanned<String>, raw: Raw) -> Result<MeshSettings, Fault> {
    let (at, name) = (name.span().start, name.get_ref());
    if !is_name(name) {
        let most = NAME_MAX_BYTES;
        let message = format!("a mesh is called by letters, digits, `-` and `_`, {most} at most");
        return Err(Fault { at, message });
    }
    Ok(MeshSettings {
        source: source(name, at, raw.config, raw.org, raw.listen_port)?,
        rules: rules(name, raw.ingress, raw.egress)?,
        name: name.clone(),
        engine: raw.engine,
        balance: raw.balance,
        drain: raw.drain,
    })
}

fn source(
    name: &str,
    at: usize,
    config: Option<Spanned<PathBuf>>,
    org: Option<Spanned<String>>,
    port: Option<Spanned<NonZeroU16>>,
) -> Result<MeshSource, Fault> {
    match (config, org) {
        (Some(config), None) => {
            if let Some(port) = port {
                let message = format!("mesh.{name}.listen_port is for an organization; the file has its own");
                return Err(Fault { at: port.span().start, message });
            }
            if !config.get_ref().is_absolute() {
                let path = config.get_ref().display();
                let message = format!("mesh.{name}.config {path} is not an absolute path");
                return Err(Fault { at: config.span().start, message });
            }
            Ok(MeshSource::Config(config.into_inner()))
        }
        (None, Some(org)) if is_name(org.get_ref()) => {
            let listen_port = port.map(Spanned::into_inner);
            Ok(MeshSource::Org { name: org.into_inner(), listen_port })
        }
        (None, Some(org)) => {
            let message = format!("mesh.{name}.org is not the name of an organization");
            Err(Fault { at: org.span().start, message })
        }
        (Some(_), Some(org)) => {
            let message = format!("mesh.{name} has a config and an org: it is one network");
            Err(Fault { at: org.span().start, message })
        }
        (None, None) => Err(Fault { at, message: format!("mesh.{name} has neither config nor org") }),
    }
}

fn rules(
    name: &str,
    ingress: Vec<Spanned<String>>,
    egress: Vec<Spanned<String>>,
) -> Result<Vec<MeshRule>, Fault> {
    let (mut rules, mut seen) = (Vec::new(), BTreeSet::new());
    let said = [(Direction::Ingress, ingress), (Direction::Egress, egress)];
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
    Ok(rules)
}
