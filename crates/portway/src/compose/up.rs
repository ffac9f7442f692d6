//! `up`, `create`, `scale`: what the files say is brought about.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use portway_compose::apply::Hands;
use portway_compose::look::{bridges, strangers};
use portway_compose::map::{self, Engine, Setting};
use portway_compose::observe::Observed;
use portway_compose::order::{Dependencies, Order};
use portway_compose::plan::{Action, Orphans, Recreate, Start, Up, up as plan_up};
use portway_compose::want::{ComposeProject, Pull};
use portway_compose::{grant, label};
use portway_composefile::Project;
use portway_config::files::{self, Trust};
use portway_model::DeviceSpec;
use portway_sys::random;

use super::build::When;
use super::foreground::{self, Asked, Services, attend};
use super::lines::now;
use super::registry::{self, Ask};
use super::remote;
use super::stage::{Change, Stage, scale, server, warn};
use super::watch::Watching;
use super::{enabling, stop};
use crate::cli::compose::FileArgs;
use crate::cli::compose::lifecycle::{
    ChangeArgs, CreateArgs, EngineArg, MakeArgs, PullArg, ScaleArgs, UpArgs,
};
use crate::failure::{Outcome, Stop, chain, printable};

/// Longest file that a secret or a config is read from.
const FILE_BYTES: u64 = 16 << 20;

/// Runs `up`.
pub(super) fn up(files: &FileArgs, args: &UpArgs) -> Outcome {
    let options = Up {
        dependencies: Dependencies::unless(args.no_deps),
        start: match (args.no_start, args.wait) {
            (true, _) => Start::No,
            (false, true) => Start::Wait,
            (false, false) => Start::Yes,
        },
        grace: seconds(args.timeout),
        recreate_dependencies: args.always_recreate_deps,
        ..Up::default()
    };
    super::without_healthd(args.healthd.is_said());
    let project = project(files, &args.make, |known| foreground::check(&args.attend, known))?;
    let mut stage = Stage::open()?;
    stage.look.images = !args.quiet_pull;
    stage.limit = seconds(args.wait_timeout);
    stage.patience = seconds(args.dependency_timeout.filter(|seconds| *seconds > 0));
    if args.detach || args.wait || args.no_start || args.make.change.dry_run {
        return bring_about(&mut stage, files, &project, &args.make, options).map(|_| ());
    }
    let begin = now();
    // From here on: one that comes between two commands counts for the second.
    let mut asked = stage.runtime.block_on(async { Asked::new() })?;
    let watcher = if args.watch { Some(Watching::open(files, &project, &args.make)?) } else { None };
    let want = bring_about(&mut stage, files, &project, &args.make, options)?;
    let services = Services::of(&want, &project, &args.make.services, Dependencies::unless(args.no_deps));
    let watching = watcher.map(Watching::start);
    let how = (&args.attend, seconds(args.timeout), begin);
    attend(&stage, &want, &services, how, (&mut asked, watching.as_ref()))
}

fn seconds(said: Option<u32>) -> Option<Duration> {
    said.map(|seconds| Duration::from_secs(seconds.into()))
}

/// Runs `create`.
pub(super) fn create(files: &FileArgs, args: &CreateArgs) -> Outcome {
    let options = Up { start: Start::No, ..Up::default() };
    let project = project(files, &args.make, |_| Ok(()))?;
    let mut stage = Stage::open()?;
    stage.look.images = !args.quiet_pull;
    bring_about(&mut stage, files, &project, &args.make, options).map(|_| ())
}

/// Runs `scale`: what is there stays as it is.
pub(super) fn rescale(files: &FileArgs, args: &ScaleArgs) -> Outcome {
    let change = ChangeArgs { dry_run: args.change.dry_run, parallel: args.change.parallel };
    let make = MakeArgs {
        no_recreate: true,
        scale: args.scale.clone(),
        ..MakeArgs::plain(scale(&args.scale)?.into_keys().collect(), change)
    };
    let project = project(files, &make, |_| Ok(()))?;
    let mut stage = Stage::open()?;
    let options = Up { dependencies: Dependencies::unless(args.no_deps), ..Up::default() };
    bring_about(&mut stage, files, &project, &make, options).map(|_| ())
}

/// The project of the files, in which the services are that are named. `check` is told which there are.
fn project(
    files: &FileArgs,
    make: &MakeArgs,
    check: impl FnOnce(&dyn Fn(&str) -> bool) -> Outcome,
) -> Outcome<Project> {
    // A service that no profile enables is enabled by its name; the others are looked at too, for theirs stay.
    let project = enabling(files, &make.services)?;
    super::known_services(&project, scale(&make.scale)?.keys().chain(&make.services))?;
    check(&|name: &str| project.services().any(|(key, _)| key == name))?;
    Ok(project)
}

/// Makes what `project` says, and gives it in the server's words.
pub(super) fn bring_about(
    stage: &mut Stage,
    files: &FileArgs,
    project: &Project,
    make: &MakeArgs,
    mut options: Up,
) -> Outcome<ComposeProject> {
    let scale = scale(&make.scale)?;
    let dir = super::files::options(files)?.dir;
    options.services = make.services.clone();
    let (mut want, engine) = allowed(stage, project, make, (scale, dir), &options)?;
    options.disabled = project.disabled.clone();
    options.orphans = match (make.remove_orphans, ignores_orphans()) {
        (true, true) => {
            return Err(Stop::usage(
                "COMPOSE_IGNORE_ORPHANS and --remove-orphans say the opposite of each other",
            ));
        }
        (true, false) => Orphans::Remove,
        (false, true) => Orphans::Ignore,
        (false, false) => Orphans::Keep,
    };
    options.recreate = match (make.force_recreate, make.no_recreate) {
        (true, _) => Recreate::All,
        (_, true) => Recreate::None,
        _ => Recreate::Changed,
    };
    bring(stage, &mut want, (make, engine), &options)?;
    Ok(want)
}

/// Whether instances of services that are no longer in the files are nobody's business.
fn ignores_orphans() -> bool {
    std::env::var("COMPOSE_IGNORE_ORPHANS").is_ok_and(|text| remote::is_yes(&text))
}

/// What is wanted of this server, once it is allowed and its images are built, and what carries its ports.
pub(super) fn allowed(
    stage: &mut Stage,
    project: &Project,
    make: &MakeArgs,
    (scale, dir): (BTreeMap<String, u32>, PathBuf),
    options: &Up,
) -> Outcome<(ComposeProject, &'static str)> {
    let mut setting = settled(stage, project, make, (scale, dir))?;
    let mut want = wanted(project, &setting)?;
    want.warnings.iter().for_each(|line| warn(line));
    let strange = stage.runtime.block_on(strangers(&stage.client, &want)).map_err(|error| server(&error))?;
    want.privileges.extend(strange);
    let granting = Granting { allow: make.allow, dry_run: make.change.dry_run };
    grant(stage, &mut want, granting)?;
    if !make.change.dry_run && !want.builds.is_empty() {
        built(stage, &want, make, options)?;
        // What runs in the images is known now; all else is as it was granted.
        setting.built = super::build::known(stage, &want)?;
        let granted = want.config.remove(label::GRANTED);
        want = wanted(project, &setting)?;
        want.config.extend(granted.map(|granted| (label::GRANTED.to_owned(), granted)));
    }
    stage.find_watcher(&want);
    let engine = if setting.engine == Engine::Incus { "incus" } else { "portway" };
    Ok((want, engine))
}

/// Brings about what is wanted, once its images can be had.
pub(super) fn bring(
    stage: &Stage,
    want: &mut ComposeProject,
    (make, engine): (&MakeArgs, &str),
    options: &Up,
) -> Outcome {
    for image in want.images.values_mut() {
        image.pull = match make.pull {
            Some(PullArg::Always) => Pull::Always,
            Some(PullArg::Missing) => Pull::Missing,
            Some(PullArg::Never) => Pull::Never,
            Some(PullArg::Policy) | None => image.pull,
        };
    }
    want.config.insert(label::ENGINE.to_owned(), engine.to_owned());
    want.config.extend(remote::wishes().pool.map(|pool| (label::POOL.to_owned(), pool)));
    want.config.insert(label::SEAL.to_owned(), seal()?);
    let mut config = want.config.clone();
    config.insert(label::PROJECT.to_owned(), want.name.clone());
    if !make.change.dry_run {
        fetch(stage, want)?;
    }
    let change = Change { project: &want.incus_project, config, want: Some(want), args: &make.change };
    let unwatched = want.services.values().find(|service| service.health.is_some());
    let unwatched = unwatched.filter(|_| stage.watcher.is_none() && matches!(remote::is_far(), Ok(false)));
    let plan = |seen: &Observed| {
        let mut plan = plan_up(want, seen, options)?.with_images_of(want, seen)?;
        if let Some(service) = unwatched.filter(|_| !plan.is_empty()) {
            plan.notes.push(format!(
                "no daemon of Portway answers: once this has ended nobody asks {} for its health",
                service.name
            ));
        }
        Ok(plan)
    };
    stage.change(&change, &plan).map(|_| ())
}

/// What the hashes of a new project are made with.
fn seal() -> Outcome<String> {
    Ok(format!("{:032x}", u128::from_be_bytes(chance()?)))
}

/// Bytes that nobody can guess.
pub(super) fn chance<const COUNT: usize>() -> Outcome<[u8; COUNT]> {
    random::bytes().map_err(|error| Stop::refused(format!("cannot read /dev/urandom: {error}")))
}

/// What the mapping of a project depends on: the server, and what is on this host.
fn setting(stage: &Stage, project: &Project, dir: PathBuf) -> Outcome<Setting> {
    let facts = stage.runtime.block_on(stage.client.server()).map_err(|error| server(&error))?;
    let bridges = stage.runtime.block_on(bridges(&stage.client, &project.name));
    let own = stage.config_of(&map::server_project(project))?;
    let named = map::paths(project, &dir).into_iter();
    let mut real: BTreeMap<PathBuf, PathBuf> =
        named.filter_map(|path| Some((path.clone(), super::files::real(&path)?))).collect();
    if remote::is_far()? {
        // They are paths of the server's host, and nothing here tells where they lead.
        map::binds(project).iter().for_each(|path| drop(real.remove(path)));
    }
    let graphics = match map::counts_graphics(project) {
        true => stage.runtime.block_on(stage.client.graphics()).map_err(|error| server(&error))?,
        false => Vec::new(),
    };
    Ok(Setting {
        graphics,
        extensions: facts.api_extensions.into_iter().collect(),
        files: contents(project, &real)?,
        program: portway_guestbin::program(&facts.architecture).ok(),
        architecture: facts.architecture,
        is_restricted: own.is_some_and(|own| map::is_restricted(&own)),
        real,
        dir,
        bridges: bridges.map_err(|error| server(&error))?,
        ..Setting::default()
    })
}

/// What the project comes to on this server, whatever carries its ports: enough to know its images.
pub(super) fn mapped(stage: &Stage, project: &Project, dir: PathBuf) -> Outcome<ComposeProject> {
    let mut setting = setting(stage, project, dir)?;
    setting.told = registry::told(stage, project, &setting, Ask::Missing)?;
    // What runs in an image that is to be built anew is not asked about: it may be what is wrong with it.
    map::map(project, &setting).map_err(stop)
}

/// What the mapping depends on, what carries ports and what is known of images that are built here included. Of those that
/// are to be built anew nothing is.
fn settled(
    stage: &mut Stage,
    project: &Project,
    make: &MakeArgs,
    (scale, dir): (BTreeMap<String, u32>, PathBuf),
) -> Outcome<Setting> {
    let mut setting = Setting { scale, ..setting(stage, project, dir)? };
    let ask = if matches!(make.pull, Some(PullArg::Always)) { Ask::Always } else { Ask::Missing };
    setting.told = registry::told(stage, project, &setting, ask)?;
    let first = map::map(project, &setting).map_err(stop)?;
    setting.engine = engine(stage, &first, make)?;
    setting.built = super::build::known(stage, &first)?;
    if !(make.change.dry_run || make.no_build) {
        let is_kept =
            |name: &String| !make.build && first.images.get(name).is_none_or(|one| one.pull != Pull::Build);
        setting.built.retain(|name, _| is_kept(name));
    }
    Ok(setting)
}

/// What the project comes to.
fn wanted(project: &Project, setting: &Setting) -> Outcome<ComposeProject> {
    let mut want = map::map(project, setting).map_err(stop)?;
    registry::note(&mut want.config, &setting.told);
    if setting.engine == Engine::Incus {
        return Ok(want);
    }
    for instance in want.services.values_mut().flat_map(|service| &mut service.instances) {
        for (name, keys) in &mut instance.ports {
            // An instance made anew has the ports of the one before it.
            keys.entry("follow".to_owned()).or_insert_with(|| "name".to_owned());
            let spec = DeviceSpec::from_keys(std::mem::take(keys));
            let spec = spec.map_err(|error| {
                Stop::usage(format!("port {name} of {}: {}", instance.name, chain(&error)))
            })?;
            *keys = spec.to_keys();
        }
    }
    Ok(want)
}

/// What carries ports: what was decided at the first `up`, what is asked for, else whether a daemon answers.
fn engine(stage: &mut Stage, want: &ComposeProject, make: &MakeArgs) -> Outcome<Engine> {
    let said = stage.config_of(&want.incus_project)?.and_then(|own| own.get(label::ENGINE).cloned());
    let known = match said.as_deref() {
        Some("portway") => Some(Engine::Portway),
        Some(_) => Some(Engine::Incus),
        None => None,
    };
    let asked = make.proxy_engine.map(|engine| match engine {
        EngineArg::Portway => Engine::Portway,
        EngineArg::Incus => Engine::Incus,
    });
    if let (Some(known), Some(asked)) = (known, asked)
        && known != asked
    {
        return Err(Stop::refused("the project's ports are carried by the other engine")
            .hint("take the project down first"));
    }
    let publishes = want.instances().any(|(_, one)| !one.ports.is_empty());
    if remote::is_far()? {
        return match known.or(asked) {
            Some(Engine::Portway) => {
                let what = "ports that are devices of Portway belong to a daemon beside the server";
                Err(Stop::refused(what)
                    .hint("run this there, or say --proxy-engine incus before the first up"))
            }
            _ => Ok(Engine::Incus),
        };
    }
    match known.or(asked) {
        Some(Engine::Incus) => Ok(Engine::Incus),
        Some(Engine::Portway) => {
            if !stage.find_daemon()? && publishes {
                return Err(Stop::of(
                    portway_control::api::FailureKind::Unreachable,
                    "the project's ports are devices of Portway, and no daemon answers",
                )
                .hint("start `portway daemon`, or take the project down and say --proxy-engine incus"));
            }
            Ok(Engine::Portway)
        }
        None if !publishes => Ok(if stage.find_daemon()? { Engine::Portway } else { Engine::Incus }),
        None if stage.find_daemon()? => Ok(Engine::Portway),
        None => {
            warn("no daemon of Portway answers: ports are proxy devices of Incus from here on");
            Ok(Engine::Incus)
        }
    }
}

/// Files of secrets and configs, read from where they were found to lead.
fn contents(project: &Project, real: &BTreeMap<PathBuf, PathBuf>) -> Outcome<BTreeMap<PathBuf, Vec<u8>>> {
    let read = |path: PathBuf| match files::read(real.get(&path).unwrap_or(&path), FILE_BYTES, Trust::Named) {
        Ok(bytes) => Ok((path, bytes)),
        Err(error) => Err(Stop::of(portway_control::api::FailureKind::Missing, chain(&error))),
    };
    map::reads(project).into_iter().map(read).collect()
}

/// Builds the images that these services need.
fn built(stage: &Stage, want: &ComposeProject, make: &MakeArgs, options: &Up) -> Outcome {
    let services = Order::of_services(want).select(&make.services, options.dependencies);
    let when = match (make.build, make.no_build) {
        (true, _) => When::All,
        (_, true) => When::Never,
        _ => When::Missing,
    };
    super::build::bring(stage, want, &services, (when, make.builder, make.quiet_build))
}

/// How privileges are granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granting {
    /// All of them are.
    pub(super) allow: bool,
    /// Nothing is done anyhow.
    pub(super) dry_run: bool,
}

/// Asks for what the files want beyond their own instances, once.
pub(super) fn grant(stage: &Stage, want: &mut ComposeProject, granting: Granting) -> Outcome {
    if want.privileges.is_empty() {
        return Ok(());
    }
    let own = stage.config_of(&want.incus_project)?;
    let mut granted = own.as_ref().map(grant::granted).unwrap_or_default();
    let asked = want.privileges.iter().map(|one| (format!("{}: {}", one.service, one.what), &one.place));
    let open: Vec<(String, &String)> = asked.filter(|(what, _)| !granted.contains(what)).collect();
    if !open.is_empty() && !granting.allow && !granting.dry_run {
        let mut err = io::stderr().lock();
        for (what, place) in &open {
            // Nothing is left to do when standard error cannot be written.
            let _unheard = writeln!(err, "{}", printable(&format!("{place}: {what}")));
        }
        drop(err);
        if !agreed(open.len())? {
            return Err(Stop::refused(format!(
                "the files ask for {} privileges that were not granted",
                open.len()
            ))
            .hint("read them, then say --allow"));
        }
    }
    granted.extend(open.into_iter().map(|(what, _)| what));
    if let Ok(text) = serde_json::to_string(&granted) {
        want.config.insert(label::GRANTED.to_owned(), text);
    }
    Ok(())
}

/// The answer of whoever sits at the terminal; nobody there is a no.
fn agreed(count: usize) -> Outcome<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(false);
    }
    let mut err = io::stderr().lock();
    let _unheard = write!(err, "grant the {count} above? [y/N] ").and_then(|()| err.flush());
    drop(err);
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|error| Stop::refused(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Fetches the images that are fetched each time.
fn fetch(stage: &Stage, want: &ComposeProject) -> Outcome {
    let always: Vec<&String> = want
        .images
        .iter()
        .filter(|(_, image)| image.pull == Pull::Always && image.source.remote().is_some())
        .map(|(name, _)| name)
        .collect();
    let hands = Hands { want: Some(want), ..stage.hands("default") };
    for name in always {
        let action = Action::Image { image: name.clone() };
        let fetched = stage.runtime.block_on(hands.perform(&action));
        fetched.map_err(|error| Stop::refused(format!("image {name}: {}", chain(&error))))?;
    }
    Ok(())
}
