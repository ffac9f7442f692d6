//! What images run, as their registries tell it: the server tells entrypoint and command of an image as one.
//!
//! The registry is asked by `skopeo`, as the server does itself: credentials, proxies and certificates are those of
//! whoever runs the command. What it has told is kept on the server's project, so that a registry that is away is in
//! nobody's way who needs nothing new of it.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use portway_compose::label;
use portway_compose::map::{self, Setting};
use portway_compose::want::Keys;
use portway_composefile::Project;
use portway_composefile::tree::{Node, Value};
use portway_control::api::FailureKind;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::stage::{Stage, warn};
use crate::failure::{Outcome, Stop};

/// The program that asks. Incus needs it too.
const PROGRAM: &str = "skopeo";

/// Longest time of one question: a registry far away answers in seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest description of an image; the history in it makes some tens of kilobytes.
const BYTES: u64 = 4 << 20;

/// Longest complaint that is repeated.
const COMPLAINT_CHARS: usize = 400;

/// Description of an image (OCI image specification 1.1, "Image Configuration"), the part that is needed.
#[derive(Deserialize)]
struct Described {
    #[serde(default)]
    config: Option<Runs>,
}

#[derive(Deserialize)]
struct Runs {
    #[serde(default, rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
}

/// Which images a registry is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Those it was not asked about before.
    Missing,
    /// All.
    Always,
}

/// Entrypoints of the images that the mapping asks for: as they were told before, else as their registries tell them now.
pub(super) fn entrypoints(
    stage: &Stage,
    project: &Project,
    setting: &Setting,
    ask: Ask,
) -> Outcome<BTreeMap<String, Vec<String>>> {
    let asked = map::asks(project, setting);
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known = known(stage, &map::server_project(project))?;
    let mut told = BTreeMap::new();
    for (image, full) in asked {
        let entrypoint = match known.get(&image).filter(|_| ask == Ask::Missing) {
            Some(entrypoint) => entrypoint.clone(),
            None => stage.runtime.block_on(inspect(&image, &full))?,
        };
        told.insert(image, entrypoint);
    }
    Ok(told)
}

/// Notes them on the server's project.
pub(super) fn note(config: &mut Keys, told: &BTreeMap<String, Vec<String>>) {
    if let (false, Ok(text)) = (told.is_empty(), serde_json::to_string(told)) {
        config.insert(label::ENTRYPOINTS.to_owned(), text);
    }
}

/// What was told before.
fn known(stage: &Stage, own: &str) -> Outcome<BTreeMap<String, Vec<String>>> {
    let own = stage.config_of(own)?;
    let text = own.and_then(|own| own.get(label::ENTRYPOINTS).cloned()).unwrap_or_default();
    // What cannot be read is asked for again.
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// Asks a registry.
async fn inspect(image: &str, full: &str) -> Outcome<Vec<String>> {
    let mut command = Command::new(PROGRAM);
    command.args(["inspect", "--config", "--"]).arg(format!("docker://{full}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().map_err(|error| {
        Stop::refused(format!(
            "image {image}: what it runs a `command` with cannot be asked for: {PROGRAM}: {error}"
        ))
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
    let answer = tokio::time::timeout(LIMIT, read(child)).await.map_err(|_| failed("no answer in time"))?;
    let (answer, complaint) = answer.map_err(|error| failed(&error.to_string()))?;
    let Some(answer) = answer else { return Err(failed(&complaint)) };
    let described: Described = serde_json::from_slice(&answer).map_err(|error| failed(&error.to_string()))?;
    Ok(described.config.and_then(|config| config.entrypoint).unwrap_or_default())
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
