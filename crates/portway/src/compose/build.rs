//! `build`, `push`, and what `up` builds before it plans.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _, Write as _};

use portway_compose::build::{self, Build, Config, Output};
use portway_compose::observe::has_images;
use portway_compose::order::{Dependencies, Order};
use portway_compose::want::{ComposeProject, Keys, Pull};

use super::builder::Workshop;
use super::stage::{Stage, server, warn};
use super::store::Store;
use super::up::{self, Granting};
use super::{enabling, known_services};
use crate::cli::compose::FileArgs;
use crate::cli::compose::images::{BuildArgs, BuildProgress, BuilderArg, PushArgs};
use crate::failure::{Outcome, Stop, printable};

/// What is built of the images that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Those that are not there, and those that are built each time.
    Missing,
    /// All.
    All,
    /// None.
    Never,
}

/// Runs `build`.
pub(super) fn run(files: &FileArgs, args: &BuildArgs) -> Outcome {
    let (stage, mut want) = wanted(files, &args.services)?;
    let granting = Granting { allow: args.allow, dry_run: false };
    up::grant(&stage, &mut want, granting)?;
    let services = selected(&want, &args.services, args.with_dependencies);
    let mut builds = of(&want, &services);
    if builds.is_empty() {
        warn("nothing is built: no service has `build`");
        return Ok(());
    }
    let said = variables(&args.build_args)?;
    for build in &mut builds {
        build.args.extend(said.clone());
        build.no_cache |= args.no_cache;
        build.pull |= args.pull;
        build.more.extend(args.memory.iter().map(|bytes| format!("--memory={bytes}")));
        build.more.extend(args.ssh.iter().map(|agent| format!("--ssh={agent}")));
    }
    let is_quiet = args.quiet || args.progress == BuildProgress::Quiet;
    let progress = match args.progress {
        BuildProgress::Auto | BuildProgress::Quiet => None,
        BuildProgress::Tty => Some("tty"),
        BuildProgress::Plain => Some("plain"),
    };
    let output = Output { is_quiet, progress };
    let workshop = Workshop::find(args.builder)?;
    make(&stage, &want, &workshop, &builds, &output)?;
    if args.push {
        for build in &builds {
            send(&stage, &want, &workshop, build, &output)?;
        }
    }
    Ok(())
}

/// Runs `push`.
pub(super) fn push(files: &FileArgs, args: &PushArgs) -> Outcome {
    let (stage, want) = wanted(files, &args.services)?;
    let builds = of(&want, &selected(&want, &args.services, args.include_deps));
    if builds.is_empty() {
        warn("nothing is sent: no service has `build`");
        return Ok(());
    }
    let workshop = Workshop::find(args.builder)?;
    let output = Output { is_quiet: args.quiet, progress: None };
    for build in &builds {
        match send(&stage, &want, &workshop, build, &output) {
            Err(Stop::Failed(failure)) if args.ignore_push_failures => warn(&failure.error),
            sent => sent?,
        }
    }
    Ok(())
}

/// What the files come to, and the server.
pub(super) fn wanted(files: &FileArgs, services: &[String]) -> Outcome<(Stage, ComposeProject)> {
    let project = enabling(files, services)?;
    known_services(&project, services)?;
    let stage = Stage::open()?;
    let dir = super::files::options(files)?.dir;
    let want = up::mapped(&stage, &project, dir)?;
    Ok((stage, want))
}

/// The services that a command line means.
pub(super) fn selected(want: &ComposeProject, named: &[String], with_dependencies: bool) -> BTreeSet<String> {
    Order::of_services(want).select(named, Dependencies::unless(!with_dependencies))
}

/// What is built for these services, each once.
fn of(want: &ComposeProject, services: &BTreeSet<String>) -> Vec<Build> {
    let images = services.iter().filter_map(|name| Some(&want.services.get(name)?.image));
    let images: BTreeSet<&String> = images.collect();
    images.into_iter().filter_map(|image| want.builds.get(image).cloned()).collect()
}

/// `NAME=VALUE`, each; a name alone has the value it has here, and is nothing without one.
fn variables(said: &[String]) -> Outcome<Keys> {
    let mut keys = Keys::new();
    for text in said {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(text).ok()),
        };
        if name.is_empty() {
            return Err(Stop::usage(format!("`{text}`: say NAME=VALUE")));
        }
        keys.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(keys)
}

/// The server's project that has the images of a project.
pub(super) fn place<'w>(stage: &Stage, want: &'w ComposeProject) -> Outcome<&'w str> {
    let own = stage.config_of(&want.incus_project)?;
    // Before there is one, what it will be.
    let config = own.as_ref().unwrap_or(&want.config);
    Ok(if has_images(Some(config)) { &want.incus_project } else { "default" })
}

/// What the images that are there and were built here say of what runs in them.
pub(super) fn known(stage: &Stage, want: &ComposeProject) -> Outcome<BTreeMap<String, Config>> {
    if want.builds.is_empty() {
        return Ok(BTreeMap::new());
    }
    let place = place(stage, want)?;
    let mut found = BTreeMap::new();
    for (name, build) in &want.builds {
        let image = stage.runtime.block_on(stage.client.image(place, &build.alias));
        let image = image.map_err(|error| server(&error))?;
        found.extend(
            image.and_then(|image| build::of_properties(&image.properties)).map(|own| (name.clone(), own)),
        );
    }
    Ok(found)
}

/// Builds what is needed for these services.
pub(super) fn bring(
    stage: &Stage,
    want: &ComposeProject,
    services: &BTreeSet<String>,
    (when, builder, is_quiet): (When, Option<BuilderArg>, bool),
) -> Outcome {
    let there = known(stage, want)?;
    let is_due = |build: &Build| {
        let image = want.images.get(&build.name);
        let each_time = image.is_some_and(|image| image.pull == Pull::Build);
        when == When::All || each_time || !there.contains_key(&build.name)
    };
    let due: Vec<Build> = of(want, services).into_iter().filter(is_due).collect();
    let Some(first) = due.first() else { return Ok(()) };
    if when == When::Never {
        return match due.iter().find(|build| !there.contains_key(&build.name)) {
            Some(build) => {
                let stop = Stop::refused(format!("image {} is not built", build.name));
                Err(stop.hint("leave out --no-build, or run `portway compose build`"))
            }
            None => Ok(()),
        };
    }
    let workshop = Workshop::find(builder).map_err(|stop| match stop {
        Stop::Failed(mut failure) => {
            failure.error = format!("image {} is not built: {}", first.name, failure.error);
            Stop::Failed(failure)
        }
        other => other,
    })?;
    make(stage, want, &workshop, &due, &Output { is_quiet, ..Output::default() })
}

fn make(
    stage: &Stage,
    want: &ComposeProject,
    workshop: &Workshop,
    builds: &[Build],
    output: &Output<'_>,
) -> Outcome {
    let place = place(stage, want)?;
    let store = Store { client: &stage.client, place, project: &want.name };
    for build in builds {
        tell(output, &format!("image {}  building", build.name));
        stage.runtime.block_on(workshop.build(store, build, output))?;
        tell(output, &format!("image {}  built", build.name));
    }
    Ok(())
}

fn send(
    stage: &Stage,
    want: &ComposeProject,
    workshop: &Workshop,
    build: &Build,
    output: &Output<'_>,
) -> Outcome {
    if !build.is_named {
        warn(&format!("image {} is not sent: the service says no `image`", build.name));
        return Ok(());
    }
    tell(output, &format!("image {}  sending", build.name));
    let store = Store { client: &stage.client, place: place(stage, want)?, project: &want.name };
    stage.runtime.block_on(workshop.push(store, build, output))?;
    tell(output, &format!("image {}  sent", build.name));
    Ok(())
}

/// A line on standard error.
pub(super) fn tell(output: &Output<'_>, line: &str) {
    if !output.is_quiet {
        // Nothing is left to do when standard error cannot be written.
        let _unheard = writeln!(io::stderr(), "{}", printable(line));
    }
}

/// Whether standard error is a terminal.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}
