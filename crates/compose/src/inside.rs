//! A program beside a service: in its surroundings, as far as they are known.

use std::collections::BTreeMap;
use std::io;

use portway_incus::{Client, Exec, ExecEnd, ExecSpec, FileContent, IncusError};
use portway_proto::service::{DIR, SPEC, Spec, User};
use serde::{Deserialize, Serialize};

use crate::want::Keys;

/// Longest file of users, or of what a service runs, that is read, bytes.
const FILE_MAX_BYTES: usize = 4 << 20;

/// Most of what is kept of what a small program says, bytes.
const SAID_BYTES: usize = 4 << 10;

/// What is run. What it does not say is as the service has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `USER[:GROUP]`, names or numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Folder it begins in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables besides those of the service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

/// Why a program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// The server refuses, or does not answer.
    #[error(transparent)]
    Server(#[from] IncusError),
    /// A user or a group that the instance does not have: a sentence.
    #[error("{0}")]
    User(String),
    /// The instance is gone.
    #[error("it is gone")]
    Gone,
    /// The connection to the program.
    #[error("it cannot be talked to")]
    Connection(#[source] io::Error),
}

/// What the server is asked to run. `config` is the instance's, profiles merged in.
///
/// # Errors
/// [`InsideError::Server`], [`InsideError::User`].
pub async fn spec(
    client: &Client,
    (project, instance): (&str, &str),
    config: &Keys,
    program: &Program,
) -> Result<ExecSpec, InsideError> {
    let own = told(client, (project, instance)).await?.unwrap_or_default();
    let user = program.user.clone().or_else(|| runs_as(&own, config)).unwrap_or_default();
    let (passwd, group) = if user.is_empty() {
        (None, None)
    } else {
        (
            text(client, (project, instance), "/etc/passwd").await?,
            text(client, (project, instance), "/etc/group").await?,
        )
    };
    let who = User::find(&passwd.unwrap_or_default(), &group.unwrap_or_default(), user.as_bytes(), &[])
        .map_err(InsideError::User)?;
    let entries = own.env.iter().filter_map(|entry| str::from_utf8(entry).ok()?.split_once('='));
    let mut environment: BTreeMap<String, String> =
        entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    environment.extend(program.environment.clone());
    let cwd = program.cwd.clone().or_else(|| String::from_utf8(own.cwd.clone()).ok());
    let cwd = cwd.filter(|cwd| !cwd.is_empty()).or_else(|| config.get("oci.cwd").cloned());
    Ok(ExecSpec {
        command: program.command.clone(),
        environment,
        user: who.uid,
        group: who.gid,
        cwd: cwd.filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| "/".to_owned()),
        terminal: None,
    })
}

/// Whom a service runs as, where that is known: `USER[:GROUP]`.
///
/// # Errors
/// When the server cannot read it.
pub async fn user(client: &Client, place: (&str, &str), config: &Keys) -> Result<Option<String>, IncusError> {
    Ok(runs_as(&told(client, place).await?.unwrap_or_default(), config))
}

fn runs_as(own: &Spec, config: &Keys) -> Option<String> {
    let said = String::from_utf8(own.user.clone()).ok().filter(|user| !user.is_empty());
    said.or_else(|| oci_user(config))
}

/// User and group that an image of a registry is run as.
fn oci_user(config: &Keys) -> Option<String> {
    let user = config.get("oci.uid")?;
    Some(format!("{user}:{}", config.get("oci.gid").map_or("0", String::as_str)))
}

/// What an instance's first process was told, when that is ours.
///
/// # Errors
/// When the server cannot read it.
pub async fn told(client: &Client, place: (&str, &str)) -> Result<Option<Spec>, IncusError> {
    let own = text(client, place, &format!("{DIR}/{SPEC}")).await?;
    Ok(own.and_then(|bytes| Spec::read(&bytes).ok()))
}

/// A file of the instance's, when it is a plain one.
async fn text(
    client: &Client,
    (project, instance): (&str, &str),
    path: &str,
) -> Result<Option<Vec<u8>>, IncusError> {
    let file = client.file(project, instance, path, FILE_MAX_BYTES).await?;
    Ok(file.and_then(|file| match file.content {
        FileContent::Plain(bytes) => Some(bytes.to_vec()),
        FileContent::Link(_) | FileContent::Directory => None,
    }))
}

/// Runs a program without input; its end, and the beginning of what it has said, errors last.
///
/// # Errors
/// [`InsideError`], any.
///
/// # Cancel safety
/// Dropped, the connections close, and the server kills the program.
pub async fn run(
    client: &Client,
    (project, instance): (&str, &str),
    spec: &ExecSpec,
) -> Result<(ExecEnd, String), InsideError> {
    let sockets = client.exec(project, instance, spec).await?.ok_or(InsideError::Gone)?;
    let mut exec = Exec::new(sockets).await.map_err(InsideError::Connection)?;
    // It may have ended.
    let _gone = exec.input.finish().await;
    end(exec).await.map_err(InsideError::Connection)
}

/// The end of a program, and the beginning of what it has said, errors last.
///
/// # Errors
/// When the connection is broken.
pub async fn end(started: Exec) -> io::Result<(ExecEnd, String)> {
    let Exec { mut control, input: _input, mut output, errors, outcome } = started;
    let (mut said, mut wrong) = (Vec::new(), Vec::new());
    let keep = |kept: &mut Vec<u8>, bytes: &[u8]| {
        let room = SAID_BYTES.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
    };
    let output = async {
        while let Some(bytes) = output.next().await {
            keep(&mut said, &bytes);
        }
    };
    let errors = async {
        if let Some(mut errors) = errors {
            while let Some(bytes) = errors.next().await {
                keep(&mut wrong, &bytes);
            }
        }
    };
    let ((), (), (), end) = tokio::join!(control.closed(), output, errors, outcome.wait());
    said.extend(wrong);
    Ok((end?, String::from_utf8_lossy(&said).into_owned()))
}

/// Whether a program has ended well; else what has become of it, with the last line that it said.
///
/// # Errors
/// A sentence that goes on where the program is named.
pub fn outcome(end: &ExecEnd, said: &str) -> Result<(), String> {
    match end {
        ExecEnd::Status(0) => Ok(()),
        ExecEnd::Status(code) => Err(match said.lines().rfind(|line| !line.trim().is_empty()) {
            Some(line) => format!("has ended with exit code {code}: {}", line.trim_end()),
            None => format!("has ended with exit code {code}"),
        }),
        ExecEnd::Failed(why) => Err(format!("cannot be run: {why}")),
    }
}
