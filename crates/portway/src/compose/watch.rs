//! `watch`, and `up --watch`: what has changed here goes into the instances.
//!
//! Events say where to look, looks say what has changed ([`tree`]), and what has changed is brought about a moment after the
//! last event: files are copied as `cp` copies them, services restarted, images built and instances made anew. What cannot
//! be done yet stays to be done: an instance that is away gets its files when it is back.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use portway_compose::grant;
use portway_compose::inside::{self, Program};
use portway_compose::order::Dependencies;
use portway_compose::plan::{self, Select};
use portway_compose::want::{ComposeProject, Keys};
use portway_composefile::Project;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cp;
use super::foreground::Asked;
use super::found::{self, Detail, Replica};
use super::show::say;
use super::stage::{Change, Stage, server, warn};
use super::up::{self, Granting};
use crate::cli::compose::FileArgs;
use crate::cli::compose::lifecycle::{ChangeArgs, MakeArgs};
use crate::cli::compose::run::WatchArgs;
use crate::failure::{Outcome, Stop, chain};

mod events;
mod ignore;
mod rules;
mod sync;
mod tree;

use events::{Events, Where};
use rules::{Action, Rule};
use sync::Inside;
use tree::{Changes, Reach, Tree, View};

/// After so long without an event what has changed is brought about; after the longer time also while there are some.
const QUIET: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries of what could not be brought about.
const AGAIN: Duration = Duration::from_secs(2);

/// Exit status after a signal to end, as docker compose has it.
const INTERRUPTED: u8 = 130;

/// Runs `watch`.
pub(super) fn run(files: &FileArgs, args: &WatchArgs) -> Outcome {
    let project = super::enabling(files, &args.services)?;
    super::known_services(&project, &args.services)?;
    let mut stage = Stage::open()?;
    let mut asked = stage.runtime.block_on(async { Asked::new() })?;
    let make = MakeArgs {
        build: true,
        allow: args.allow,
        builder: args.builder,
        ..MakeArgs::plain(args.services.clone(), ChangeArgs::default())
    };
    let mut watcher = Watcher::open(&stage, (files, &project), &make, args.quiet)?;
    if args.no_up {
        stage.incus_project(&project.name)?;
    } else {
        up::bring_about(&mut stage, files, &project, &make, plan::Up::default())?;
    }
    watcher.tell(&stage)?;
    watcher.run(&mut stage, &mut Halt::Asked(&mut asked))?;
    Err(Stop::Status(INTERRUPTED))
}

/// What ends the watching.
pub(super) enum Halt<'h> {
    /// A signal to this process.
    Asked(&'h mut Asked),
    /// Somebody who sets it, or goes.
    Set(watch::Receiver<bool>),
}

impl Halt<'_> {
    async fn come(&mut self) {
        match self {
            Halt::Asked(asked) => asked.next().await,
            Halt::Set(set) => {
                let _gone = set.wait_for(|set| *set).await;
            }
        }
    }
}

/// One rule, and what is to be done for it.
struct Watched {
    rule: Rule,
    tree: Tree,
    pending: Changes,
}

/// What is watched.
pub(super) struct Watcher {
    files: FileArgs,
    /// Name of the Compose project.
    name: String,
    make: MakeArgs,
    quiet: bool,
    events: Events,
    watched: Vec<Watched>,
    /// What was told of what cannot be done yet.
    told: BTreeSet<String>,
    /// The server's project, and what its files have been allowed.
    granted: Option<(String, BTreeSet<String>)>,
}

impl Watcher {
    /// Begins to watch what the services of `make` say. What changes from here on is brought about by [`Watcher::run`].
    pub(super) fn open(
        stage: &Stage,
        (files, project): (&FileArgs, &Project),
        make: &MakeArgs,
        quiet: bool,
    ) -> Outcome<Self> {
        let rules = rules::of(project, &make.services)?;
        let dir = super::files::options(files)?.dir;
        let privileges = rules::privileges(&rules, &dir);
        let mut granted = None;
        if !privileges.is_empty() {
            let mut want = ComposeProject { privileges, ..up::mapped(stage, project, dir)? };
            up::grant(stage, &mut want, Granting { allow: make.allow, dry_run: false })?;
            granted = Some((want.incus_project, grant::granted(&want.config)));
        }
        let events = stage.runtime.block_on(async { Events::new() });
        let events = events.map_err(|error| Stop::refused(format!("cannot watch: {}", chain(&error))))?;
        let watched = rules
            .into_iter()
            .map(|rule| Watched { tree: Tree::new(rule.root.clone()), rule, pending: Changes::default() })
            .collect();
        let mut own = Self {
            files: files.clone(),
            name: project.name.clone(),
            make: make.clone(),
            quiet,
            events,
            watched,
            told: BTreeSet::new(),
            granted,
        };
        own.look(&Where::Everywhere)?;
        // All of it is new, and none of it has changed.
        own.watched.iter_mut().for_each(|one| one.pending = Changes::default());
        Ok(own)
    }

    /// Says what is watched, once there is a project, and keeps on it what its files have been allowed.
    pub(super) fn tell(&self, stage: &Stage) -> Outcome {
        if let Some((project, granted)) = &self.granted {
            let kept = stage.runtime.block_on(grant::keep(&stage.client, project, granted));
            kept.map_err(|error| server(&error))?;
        }
        self.watched.iter().for_each(|one| say(&one.rule.told()));
        Ok(())
    }

    /// Until it is halted.
    pub(super) fn run(&mut self, stage: &mut Stage, halt: &mut Halt<'_>) -> Outcome {
        loop {
            let is_pending = self.watched.iter().any(|one| !one.pending.is_empty());
            let mut places = Where::none();
            let events = &mut self.events;
            let goes_on = stage.runtime.block_on(async {
                tokio::select! {
                    () = halt.come() => Ok(false),
                    came = wait(events, &mut places, is_pending) => came.map(|()| true),
                }
            });
            let failed = |error: io::Error| Stop::refused(format!("cannot watch: {}", chain(&error)));
            if !goes_on.map_err(failed)? {
                return Ok(());
            }
            // A tree that cannot be looked at now is looked at with the next event.
            if !places.is_none()
                && let Err(Stop::Failed(failure)) = self.look(&places)
            {
                warn(&failure.error);
            }
            let services: BTreeSet<String> = self
                .watched
                .iter()
                .filter(|one| !one.pending.is_empty())
                .map(|one| one.rule.service.clone())
                .collect();
            for service in services {
                let done = self.bring(stage, &service, halt)?;
                if !done {
                    return Ok(());
                }
            }
        }
    }

    /// Looks for changes there.
    fn look(&mut self, places: &Where) -> Outcome {
        let events = &mut self.events;
        for Watched { rule, tree, pending } in &mut self.watched {
            let root = tree.root().to_owned();
            if let Some(above) = root.parent().filter(|_| *places == Where::Everywhere) {
                let failed =
                    |error: io::Error| Stop::refused(format!("{}: {}", above.display(), chain(&error)));
                events.watch(above).map_err(failed)?;
            }
            let mut view = View {
                is_ignored: &|path: &Path| rule.ignores(path),
                looks_into_ignored: rule.takes_back(),
                folder: &mut |folder: &Path| events.watch(folder),
            };
            for (at, reach) in looks(&root, places) {
                pending.then(tree.look(&at, reach, &mut view)?);
            }
        }
        Ok(())
    }

    /// Does what is to be done for a service; whether to go on.
    fn bring(&mut self, stage: &mut Stage, service: &str, halt: &mut Halt<'_>) -> Outcome<bool> {
        let of = |one: &&mut Watched| one.rule.service == service;
        let has = |one: &Watched, is: fn(Action) -> bool| {
            one.rule.service == service && is(one.rule.action) && one.pending_counts()
        };
        if self.watched.iter().any(|one| has(one, |action| action == Action::Rebuild)) {
            let is_done = match self.rebuild(stage, service) {
                Ok(()) => true,
                Err(Stop::Failed(failure)) => {
                    warn(&format!("{service} is not made anew: {}", failure.error));
                    false
                }
                Err(stop) => return Err(stop),
            };
            // A build that fails is tried again when something has changed.
            for one in self.watched.iter_mut().filter(of) {
                if is_done || one.rule.action == Action::Rebuild {
                    one.pending = Changes::default();
                }
            }
        }
        let copied = stage.runtime.block_on(async {
            tokio::select! {
                () = halt.come() => None,
                copied = self.copy(stage, service) => Some(copied),
            }
        });
        let Some(copied) = copied else { return Ok(false) };
        if let Err(why) = copied {
            // It is said once, until it is done.
            if self.told.insert(service.to_owned()) {
                warn(&format!("{service} does not get its files yet: {why}"));
            }
            return Ok(true);
        }
        self.told.remove(service);
        if self.watched.iter().any(|one| has(one, Action::restarts))
            && let Err(Stop::Failed(failure)) = self.restart(stage, service)
        {
            warn(&format!("{service} is not restarted: {}", failure.error));
        }
        self.watched.iter_mut().filter(of).for_each(|one| one.pending = Changes::default());
        Ok(true)
    }

    /// Copies what has changed into all instances of a service.
    async fn copy(&self, stage: &Stage, service: &str) -> Result<(), String> {
        let own: Vec<&Watched> = self
            .watched
            .iter()
            .filter(|one| one.rule.service == service && one.rule.action.copies() && one.pending_counts())
            .collect();
        if own.is_empty() {
            return Ok(());
        }
        let services = [service.to_owned()];
        let found = found::replicas(&stage.client, &self.name, &services, Detail::Listed).await;
        let found: Vec<Replica> = match found {
            Ok(found) => found.into_iter().filter(|one| !one.is_one_off()).collect(),
            Err(Stop::Failed(failure)) => return Err(failure.error),
            Err(_) => Vec::new(),
        };
        if found.is_empty() {
            return Err("it has no instance".to_owned());
        }
        if let Some(away) = found.iter().find(|one| !one.runs()) {
            return Err(format!("{} does not run", away.name()));
        }
        for replica in &found {
            let mut sftp = match cp::open(&stage.client, replica).await {
                Ok(sftp) => sftp,
                Err(Stop::Failed(failure)) => return Err(failure.error),
                Err(_) => return Err(format!("{} cannot be reached", replica.name())),
            };
            for one in &own {
                let mut inside = Inside { sftp: &mut sftp, rule: &one.rule, folders: BTreeSet::new() };
                inside.bring(&one.pending).await.map_err(|error| chain(&error))?;
            }
        }
        let (changed, gone) = own.iter().fold((0, 0), |(changed, gone), one| {
            (changed + one.count(&one.pending.changed), gone + one.count(&one.pending.gone))
        });
        say(&format!("{service}: {changed} copied, {gone} removed"));
        for program in own.iter().filter_map(|one| one.rule.exec.as_ref()) {
            for replica in &found {
                if let Err(why) = ran(stage, replica, program).await {
                    warn(&format!("{}: {} {why}", replica.name(), program.command.join(" ")));
                }
            }
        }
        Ok(())
    }

    fn rebuild(&self, stage: &mut Stage, service: &str) -> Outcome {
        say(&format!("{service}: building anew"));
        stage.look.images = !self.quiet;
        let make = MakeArgs {
            build: true,
            allow: self.make.allow,
            builder: self.make.builder,
            scale: self.make.scale.clone(),
            quiet_build: self.quiet,
            ..MakeArgs::plain(vec![service.to_owned()], ChangeArgs::default())
        };
        // The files may have changed too: what is built is what they say.
        let project = super::enabling(&self.files, &self.make.services)?;
        let options = plan::Up { dependencies: Dependencies::Without, ..plan::Up::default() };
        up::bring_about(stage, &self.files, &project, &make, options)?;
        say(&format!("{service}: made anew"));
        Ok(())
    }

    fn restart(&self, stage: &mut Stage, service: &str) -> Outcome {
        let Some(project) = stage.incus_project(&self.name)? else { return Ok(()) };
        let select =
            Select { project: self.name.clone(), services: vec![service.to_owned()], ..Select::default() };
        let args = ChangeArgs::default();
        let change = Change { project: &project, config: Keys::new(), want: None, args: &args };
        stage.change(&change, &|seen| Ok(plan::restart(seen, &select)))?;
        say(&format!("{service}: restarted"));
        Ok(())
    }
}

/// Runs a program beside the service; why it has failed, if it has.
async fn ran(stage: &Stage, replica: &Replica, program: &Program) -> Result<(), String> {
    let config = &replica.listed.expanded_config;
    let ran = async {
        let spec = inside::spec(&stage.client, replica.place(), config, program).await?;
        inside::run(&stage.client, replica.place(), &spec).await
    };
    let (end, said) = ran.await.map_err(|error| format!("cannot be run: {}", chain(&error)))?;
    inside::outcome(&end, &said)
}

/// A watcher beside something else, on a thread of its own.
pub(super) struct Watching {
    halt: watch::Sender<bool>,
    /// Turns true, or has nobody left who could turn it, when it has ended.
    ended: watch::Receiver<bool>,
}

impl Watching {
    /// What is watched from here on, for [`Watching::start`].
    pub(super) fn open(files: &FileArgs, project: &Project, make: &MakeArgs) -> Outcome<(Stage, Watcher)> {
        let stage = Stage::open()?;
        let watcher = Watcher::open(&stage, (files, project), make, false)?;
        Ok((stage, watcher))
    }

    /// Begins to bring changes into the instances.
    pub(super) fn start((mut stage, mut watcher): (Stage, Watcher)) -> Self {
        let (halt, halted) = watch::channel(false);
        let (over, ended) = watch::channel(false);
        if let Err(Stop::Failed(failure)) = watcher.tell(&stage) {
            warn(&failure.error);
        }
        std::thread::spawn(move || {
            let done = stage
                .incus_project(&watcher.name)
                .and_then(|_| watcher.run(&mut stage, &mut Halt::Set(halted)));
            if let Err(Stop::Failed(failure)) = done {
                warn(&format!("nothing is watched any more: {}", failure.error));
            }
            over.send_replace(true);
        });
        Self { halt, ended }
    }

    /// Ends it: what it is at is brought to its end first, but for somebody in haste.
    pub(super) async fn end(&self, mut haste: watch::Receiver<bool>) {
        self.halt.send_replace(true);
        let mut ended = self.ended.clone();
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            Ok(_) = haste.wait_for(|haste| *haste) => {}
        }
    }
}

impl Watched {
    fn count(&self, paths: &BTreeSet<std::path::PathBuf>) -> usize {
        paths.iter().filter(|path| self.rule.counts(path)).count()
    }

    /// Whether anything has changed that the rule is about.
    fn pending_counts(&self) -> bool {
        self.count(&self.pending.changed) + self.count(&self.pending.gone) > 0
    }
}

/// Until something has changed and a moment has passed, or until it is time to try again.
async fn wait(events: &mut Events, places: &mut Where, is_pending: bool) -> io::Result<()> {
    if is_pending {
        match tokio::time::timeout(AGAIN, events.next(places)).await {
            Ok(came) => came?,
            Err(_) => return Ok(()),
        }
    } else {
        events.next(places).await?;
    }
    let latest = Instant::now() + PATIENCE;
    loop {
        let until = (Instant::now() + QUIET).min(latest);
        match tokio::time::timeout_at(until, events.next(places)).await {
            Ok(came) => came?,
            Err(_) => return Ok(()),
        }
        if Instant::now() >= latest {
            return Ok(());
        }
    }
}

/// Where a tree is looked at, and how far.
fn looks(root: &Path, places: &Where) -> Vec<(std::path::PathBuf, Reach)> {
    let Where::Folders(folders) = places else { return vec![(Path::new("").to_owned(), Reach::All)] };
    let above = root.parent().filter(|above| folders.contains(*above));
    let mut all: Vec<_> = above.map(|_| (Path::new("").to_owned(), Reach::Folder)).into_iter().collect();
    let below = folders.iter().filter_map(|folder| folder.strip_prefix(root).ok());
    all.extend(below.map(|path| (path.to_owned(), Reach::Folder)));
    all
}
