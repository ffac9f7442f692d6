//! What images run, as their registries tell it: the server tells entrypoint and command of an image as one, and neither its
//! stop signal nor how its health is told.
//!
//! The registry is asked by `skopeo`, as the server does itself: credentials, proxies and certificates are those of
//! whoever runs the command. What it has told is kept on the server's project, so that a registry that is away is in
//! nobody's way who needs nothing new of it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use portway_compose::build::{Config, inspected};
use portway_compose::label;
use portway_compose::map::{self, Asked, Setting};
use portway_compose::want::Keys;
use portway_composefile::Project;
use portway_composefile::tree::{Node, Value};
use portway_control::api::FailureKind;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::stage::{Stage, server, warn};
use crate::failure::{Outcome, Stop};

/// The program that asks. Incus needs it too.
const PROGRAM: &str = "skopeo";

/// Longest time of one question: a registry far away answers in seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest time of one that is not needed.
const SOON: Duration = Duration::from_secs(15);

/// Longest description of an image; the history in it makes some tens of kilobytes.
const BYTES: u64 = 4 << 20;

/// Longest complaint that is repeated.
const COMPLAINT_CHARS: usize = 400;

/// Which images a registry is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Those it was not asked about before.
    Missing,
    /// All.
    Always,
}

/// What runs in the images that the mapping asks for: as it was told before, else as their registries tell it now.
pub(super) fn told(
    stage: &Stage,
    project: &Project,
    setting: &Setting,
    ask: Ask,
) -> Outcome<BTreeMap<String, Config>> {
    let asked = map::asks(project, setting);
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known = known(stage, &map::server_project(project))?;
    let (mut told, mut silent) = (BTreeMap::new(), BTreeSet::new());
    for (image, Asked { full_name, is_needed }) in asked {
        if let Some(config) = known.get(&image).filter(|_| ask == Ask::Missing) {
            told.insert(image, config.clone());
            continue;
        }
        let registry = full_name.split('/').next().unwrap_or_default().to_owned();
        if !is_needed && silent.contains(&registry) {
            continue;
        }
        let limit = if is_needed { LIMIT } else { SOON };
        match stage.runtime.block_on(inspect(&image, &full_name, limit)) {
            Ok(config) => drop(told.insert(image, config)),
            Err(stop) if is_needed => return Err(stop),
            Err(stop) => {
                // What was told before is better than nothing.
                told.extend(known.get(&image).map(|config| (image.clone(), config.clone())));
                if let Stop::Failed(failure) = stop {
                    warn(&format!("{}: its stop signal and test of health are not known", failure.error));
                }
                silent.insert(registry);
            }
        }
    }
    Ok(told)
}

/// What an image runs; `None` when it is none of a registry, or the server runs none of these.
pub(super) fn program(stage: &Stage, image: &str) -> Outcome<Option<Vec<String>>> {
    let facts = stage.runtime.block_on(stage.client.server()).map_err(|error| server(&error))?;
    let Some(full_name) = map::registry_name(image).filter(|_| facts.has("instance_oci")) else {
        return Ok(None);
    };
    let Config { entrypoint, cmd, .. } = stage.runtime.block_on(inspect(image, &full_name, LIMIT))?;
    let words: Vec<String> = entrypoint.into_iter().chain(cmd).collect();
    Ok(Some(words).filter(|words| !words.is_empty()))
}

/// Notes it on the server's project.
pub(super) fn note(config: &mut Keys, told: &BTreeMap<String, Config>) {
    if let (false, Ok(text)) = (told.is_empty(), serde_json::to_string(told)) {
        config.insert(label::TOLD.to_owned(), text);
    }
}

/// What was told before.
fn known(stage: &Stage, own: &str) -> Outcome<BTreeMap<String, Config>> {
    let own = stage.config_of(own)?;
    let text = own.and_then(|own| own.get(label::TOLD).cloned()).unwrap_or_default();
    // What cannot be read is asked for again.
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// Asks a registry. What the server tells itself is left out.
async fn inspect(image: &str, full: &str, limit: Duration) -> Outcome<Config> {
    let mut command = Command::new(PROGRAM);
    // As it is: a test of health is Docker's, and no part of what skopeo reads (OCI image specification 1.1).
    command.args(["inspect", "--config", "--raw", "--"]).arg(format!("docker://{full}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|error| {
        Stop::refused(format!("image {image}: what it runs cannot be asked for: {PROGRAM}: {error}"))
            .hint(format!("install {PROGRAM}, or say `entrypoint` too"))
    })?;
    let failed = |why: &str| {
        let why: String = why.trim().chars().take(COMPLAINT_CHARS).collect();
        Stop::of(
            FailureKind::Refused,
            format!("image {image}: its registry does not tell what it runs: {why}"),
        )
        .hint("say `entrypoint` too, and nobody is asked")
    };
    let answer = tokio::time::timeout(limit, read(child)).await.map_err(|_| failed("no answer in time"))?;
    let (answer, complaint) = answer.map_err(|error| failed(&error.to_string()))?;
    let Some(answer) = answer else { return Err(failed(&complaint)) };
    let described = serde_json::from_slice(&answer).map_err(|error| failed(&error.to_string()))?;
    let inspected = inspected(&described).ok_or_else(|| failed("it is no description of an image"))?;
    let Config { entrypoint, cmd, stop_signal, health, .. } = inspected.config;
    Ok(Config { entrypoint, cmd, stop_signal, health, ..Config::default() })
}

/// Says images of registries by their digests, as `docker compose config --resolve-image-digests` does.
pub(super) fn pin(project: &mut Project) -> Outcome {
    let runtime = crate::session::runtime()?;
    let services = project.tree.get_mut("services").and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(|services| services.values_mut()) {
        let Some(node) = service.as_map_mut().and_then(|service| service.get_mut("image")) else { continue };
        let Some(image) = node.as_text().filter(|image| !image.is_empty() && !image.contains('@')) else {
            continue;
        };
        let Some(full) = map::registry_name(image) else {
            warn(&format!("image {image} is of no registry, and has no digest"));
            continue;
        };
        let digest = runtime.block_on(digest(image, &full))?;
        let short =
            image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name);
        node.value = Value::Text(format!("{short}@{digest}"));
    }
    Ok(())
}

/// Asks a registry for the digest of an image.
async fn digest(image: &str, full: &str) -> Outcome<String> {
    let mut command = Command::new(PROGRAM);
    command.args(["inspect", "--no-tags", "--format", "{{.Digest}}", "--"]).arg(format!("docker://{full}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |why: &str| {
        let why: String = why.trim().chars().take(COMPLAINT_CHARS).collect();
        Stop::refused(format!("image {image}: its registry does not tell its digest: {why}"))
    };
    let child = command
        .spawn()
        .map_err(|error| failed(&format!("{PROGRAM}: {error}")).hint(format!("install {PROGRAM}")))?;
    let answer = tokio::time::timeout(LIMIT, read(child)).await.map_err(|_| failed("no answer in time"))?;
    let (answer, complaint) = answer.map_err(|error| failed(&error.to_string()))?;
    let Some(answer) = answer else { return Err(failed(&complaint)) };
    let digest = String::from_utf8_lossy(&answer).trim().to_owned();
    let is_one = digest.split_once(':').is_some_and(|(kind, hash)| {
        kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && hash.len() >= 32
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if is_one { Ok(digest) } else { Err(failed("what it says is no digest")) }
}

/// What a program says, when it succeeds, and what it complains of.
async fn read(mut child: Child) -> std::io::Result<(Option<Vec<u8>>, String)> {
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let output = async {
        match output {
            Some(output) => output.take(BYTES).read_to_end(&mut said).await.map(drop),
            None => Ok(()),
        }
    };
    let errors = async {
        match errors {
            Some(errors) => errors.take(BYTES).read_to_end(&mut complaint).await.map(drop),
            None => Ok(()),
        }
    };
    tokio::try_join!(output, errors)?;
    let status = child.wait().await?;
    Ok((status.success().then_some(said), String::from_utf8_lossy(&complaint).into_owned()))
}
