//! Which server, and what else the words before the command wish of everything that follows.
//!
//! They are the same for every command, and one process runs one command: they are noted once, before it begins.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

use clap::ValueEnum as _;
use portway_control::api::FailureKind;
use portway_incus::{Client, Limits};
use portway_sshgw::broker::{ServerPlaces, server_client};
use portway_sshgw::remotes::{self, At, LOCAL, Named, RemoteError, Remotes, RemotesError};

use super::stage::warn;
use crate::cli::compose::{AnsiArg, PlaceArgs, ProgressArg};
use crate::failure::{Outcome, Stop, chain, forbid_colour};

/// What is wished.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    /// Name of the server; none is the one on this host.
    remote: Option<String>,
    /// Pool of what names none.
    pub(super) pool: Option<String>,
    /// Steps at a time.
    pub(super) workers: Option<u16>,
    /// When colours and pictures that change are shown.
    pub(super) ansi: AnsiArg,
    /// How progress is shown.
    pub(super) progress: ProgressArg,
    /// What begins is said too.
    pub(super) debug: bool,
}

static WISHES: OnceLock<Wishes> = OnceLock::new();

/// What incus-compose calls the pool that it finds by itself.
const DETECT: &str = "detect";

/// Most steps at a time.
const WORKERS_MAX: u16 = 256;

/// Steps at a time as docker compose has them: -1 is as many as there can be.
fn parallel(said: Option<i16>, variable: Option<&str>) -> Outcome<Option<u16>> {
    let (name, number) = match (said, variable) {
        (Some(number), _) => ("--parallel", Some(number)),
        (None, Some(text)) => ("COMPOSE_PARALLEL_LIMIT", text.parse().ok()),
        (None, None) => return Ok(None),
    };
    match number {
        Some(-1) => Ok(Some(WORKERS_MAX)),
        Some(number @ 1..) => Ok(u16::try_from(number).ok().map(|number| number.min(WORKERS_MAX))),
        _ => Err(Stop::usage(format!("{name} is a number from 1 on, or -1 for any"))),
    }
}

/// Notes what is wished.
pub(super) fn wish(args: &PlaceArgs) -> Outcome {
    let said = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
    let workers = match (args.workers, said("INCUS_COMPOSE_WORKERS")) {
        (None, Some(text)) => {
            let number = text.parse().ok().filter(|number| (1..=256).contains(number));
            let wrong = || Stop::usage(format!("INCUS_COMPOSE_WORKERS: `{text}` is no number from 1 to 256"));
            Some(number.ok_or_else(wrong)?)
        }
        (workers, _) => workers,
    };
    let workers = match workers {
        None => parallel(args.parallel, said("COMPOSE_PARALLEL_LIMIT").as_deref())?,
        workers => workers,
    };
    let ansi = match (args.ansi, said("INCUS_COMPOSE_ANSI").or_else(|| said("COMPOSE_ANSI"))) {
        (Some(ansi), _) => ansi,
        (None, Some(text)) => AnsiArg::from_str(&text, true).unwrap_or_default(),
        (None, None) => AnsiArg::Auto,
    };
    if ansi == AnsiArg::Never {
        forbid_colour();
    }
    if args.image_cache.as_deref().is_some_and(|project| !project.is_empty()) {
        warn("--image-cache is not needed: projects share the server's images");
    }
    let pool = args.storage_pool.clone().or_else(|| said("INCUS_COMPOSE_STORAGE_POOL"));
    let debug = args.debug || args.trace || said("INCUS_COMPOSE_DEBUG").is_some_and(|text| is_yes(&text));
    let wishes = Wishes {
        remote: args.remote.clone().filter(|name| !name.is_empty()),
        pool: pool.filter(|pool| pool != DETECT),
        workers,
        ansi,
        progress: if debug { ProgressArg::Plain } else { args.progress.unwrap_or_default() },
        debug,
    };
    WISHES.get_or_init(|| wishes);
    Ok(())
}

/// Whether a variable says yes.
pub(super) fn is_yes(text: &str) -> bool {
    portway_incus::is_true(text)
}

/// What is wished.
pub(super) fn wishes() -> Wishes {
    WISHES.get().cloned().unwrap_or_default()
}

/// The name of the server, where one is named.
pub(super) fn name() -> Option<String> {
    let name = wishes().remote?;
    // As the client of Incus has it in front of names.
    Some(name.strip_suffix(':').unwrap_or(&name).to_owned())
}

/// How long an answer may take. A server that starts twenty instances at once lets some requests wait, and whoever sits
/// in front of `up` would rather wait too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server. Nothing is connected yet.
pub(super) fn client() -> Outcome<Client> {
    match named()? {
        Some((client, _)) => Ok(client),
        None => {
            let socket = Client::discover(|name| env::var(name).ok()).ok_or_else(|| {
                Stop::of(FailureKind::Unreachable, "there is no Incus server on this host").hint(
                    "its socket is taken from INCUS_SOCKET or INCUS_DIR, else looked for in the usual places",
                )
            })?;
            Ok(Client::with_limits(socket, Limits { request: PATIENCE, ..Limits::default() }))
        }
    }
}

/// Whether the server is on another host: paths and addresses are those of that one.
pub(super) fn is_far() -> Outcome<bool> {
    Ok(named()?.is_some_and(|(_, far)| far))
}

/// The server of that name, and whether it is spoken to over a network; `None` is the one on this host.
fn named() -> Outcome<Option<(Client, bool)>> {
    let Some(name) = name().filter(|name| name != LOCAL) else { return Ok(None) };
    let folder = remotes::folder(|name| env::var(name).ok());
    let known = match &folder {
        Some(folder) => Remotes::load(folder).map_err(|error| unread(&error))?,
        None => Remotes::default(),
    };
    match known.find(&name).map_err(|error| unknown(&error))? {
        Named::Own => return Ok(None),
        Named::At(At::Https(https)) => https.check().map_err(|error| {
            Stop::of(FailureKind::Missing, chain(&error)).hint("`incus remote add` makes what is needed")
        })?,
        Named::At(At::Socket(_)) => {}
    }
    let places = ServerPlaces { own: None, folder, default: name.clone() };
    server_client(&name, places).map(Some).map_err(|error| unknown(&error))
}

fn unread(error: &RemotesError) -> Stop {
    let kind = match error {
        RemotesError::File(_) => FailureKind::Refused,
        RemotesError::Syntax { .. } => FailureKind::Usage,
    };
    Stop::of(kind, chain(error))
}

fn unknown(error: &RemoteError) -> Stop {
    match error {
        RemoteError::Unknown(_) => {
            Stop::of(FailureKind::Missing, chain(error)).hint("`incus remote list` lists servers")
        }
        RemoteError::Unusable(..) => Stop::refused(chain(error)),
    }
}
