//! The steps of a network before it opens ports: its name is taken, it becomes whom it is to be, and only then it reads
//! what others have had a hand in: records of an organization, and rules that were added while it last ran.
//!
//! [`rehearse`] takes the same steps and opens nothing: who runs a network finds out whether another one can take its place.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use portway_sys::process;

use super::home::{Door, Kept};
use super::serve::{serve, system};
use super::{HomeError, Notice, Options, ProxyError, room, start};
use crate::org::membership::Membership;
use crate::org::network;
use crate::spec::{Network, Peering, Place, PortRights, Rules, proxies};
use crate::with_causes;

/// A network that has its name, and is who it is to be.
pub struct Entered {
    options: Options,
    door: Option<Door>,
    files: u64,
    warnings: Vec<String>,
}

/// Runs a network until it is told to end, and then for as long as its connections last, or their time. `report` is
/// told how it goes.
///
/// # Errors
/// [`ProxyError`]; nothing is left behind.
pub fn run(options: Options, report: impl FnMut(Notice)) -> Result<(), ProxyError> {
    enter(options)?.run(report)
}

/// Takes the name, becomes whom it is to be, and reads what is kept of it. On the only thread there is.
///
/// # Errors
/// [`ProxyError`]; nothing is left behind.
pub fn enter(mut options: Options) -> Result<Entered, ProxyError> {
    let files = process::raise_nofile();
    // The name first: what another process of that name has kept is not for this one to read.
    let door = options.home.open()?;
    if let Some(trace) = &options.trace {
        trace.set_len(0).map_err(system("empty the trace"))?;
    }
    let (mut warnings, named) = settle(&mut options)?;
    // They are in a file now: that they are kept as well is no reason not to run.
    if named && let Err(error) = options.home.keep(Vec::from_iter(kept_of(&options.spec.rules))) {
        warnings.push(with_causes(&error));
    }
    Ok(Entered { options, door, files, warnings })
}

/// Whether it could be run, beside ports that somebody else has. On the only thread there is.
///
/// # Errors
/// [`ProxyError`].
pub fn rehearse(mut options: Options) -> Result<(), ProxyError> {
    settle(&mut options)?;
    start::choose(&options.spec.network, options.engine)?;
    Ok(())
}

impl Entered {
    /// What it is.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.options.spec.network
    }

    /// As [`run`].
    ///
    /// # Errors
    /// [`ProxyError`]; nothing is left behind.
    pub fn run(self, mut report: impl FnMut(Notice)) -> Result<(), ProxyError> {
        let Entered { options, door, files, warnings } = self;
        warnings.into_iter().for_each(|warning| report(Notice::Trouble(warning)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(room::THREADS)
            .build()
            .map_err(system("start the runtime"))?;
        let result = runtime.block_on(Box::pin(serve(options, door, files, report)));
        // A lookup that hangs is left behind.
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    }
}

/// What is said of it, and whether a rule that was kept stands in a file of the operator's too.
fn settle(options: &mut Options) -> Result<(Vec<String>, bool), ProxyError> {
    of_nobody_else(options)?;
    if let Some(confine) = options.confine {
        confine.enter(options)?;
    }
    let mut warnings = learn(options)?;
    options.spec.rules.allowed(PortRights::here())?;
    proxies::allowed(&options.spec.proxies, PortRights::here())?;
    let (rules, named) = with_kept(options, &mut warnings)?;
    options.spec.rules = rules;
    Ok((warnings, named))
}

/// Refuses the folder of an organization for a network that is another one: rules and keys there are not its own.
fn of_nobody_else(options: &Options) -> Result<(), ProxyError> {
    let dir = options.home.state_dir.as_ref().filter(|_| options.joined.is_none());
    let Some(dir) = dir else { return Ok(()) };
    if std::fs::symlink_metadata(dir.join("member.json")).is_ok_and(|found| found.size() > 0) {
        return Err(HomeError::Organization { name: options.home.name.clone(), path: dir.clone() }.into());
    }
    Ok(())
}

/// Reads the records of its organization, where nobody has yet.
fn learn(options: &mut Options) -> Result<Vec<String>, ProxyError> {
    let Some(joined) = &options.joined else { return Ok(Vec::new()) };
    if options.spec.network.peering != Peering::Unread {
        return Ok(Vec::new());
    }
    let known = Membership::load_in(&joined.dir, &joined.org);
    let known = known.map_err(|error| match &options.home.known_as {
        Some(dir) => error.in_folder(dir),
        None => error,
    })?;
    let network = network(&known, options.spec.network.listen_port);
    options.spec.network = network.ok_or_else(|| ProxyError::Revoked(joined.org.clone()))?;
    let mut warnings = Vec::new();
    options.spec.rules = options.spec.rules.within(&options.spec.network, &mut warnings)?;
    Ok(warnings.iter().map(|warning| format!("warning: {warning}")).collect())
}

/// The rules, and those that were added while it last ran. One that fits no more is set aside: it stays in its file, and
/// is tried at the next start.
fn with_kept(options: &mut Options, warnings: &mut Vec<String>) -> Result<(Rules, bool), ProxyError> {
    let mut rules = options.spec.rules.clone();
    let (network, mut named) = (&options.spec.network, false);
    let key = options.identity();
    for (direction, kept) in options.home.kept()? {
        let is_ours = kept.network.as_ref().is_none_or(|network| *network == key);
        let added = [(direction, kept.rule.clone(), Place::kept())];
        let judged = if is_ours {
            let changed = rules.changed(network, &added, &[]);
            let allowed = changed.and_then(|rules| rules.allowed(PortRights::here()).map(|()| rules));
            allowed.map_err(|error| error.to_string())
        } else {
            Err(format!("{direction} rule `{}` was added to another network", kept.rule))
        };
        match judged {
            Ok(changed) => {
                named |= changed.iter().count() == rules.iter().count();
                rules = changed;
            }
            Err(why) => {
                warnings.push(format!("a rule that was added by hand is set aside: {why}"));
                options.home.aside.push(kept);
            }
        }
    }
    options.home.key = Some(key);
    Ok((rules, named))
}

/// Those that were added while it ran.
pub(super) fn kept_of(rules: &Rules) -> impl Iterator<Item = Kept> {
    let kept = rules.iter().filter(|entry| entry.place == Place::kept());
    kept.map(|entry| Kept {
        direction: entry.rule.direction().to_string(),
        rule: entry.rule.to_string(),
        network: None,
    })
}
