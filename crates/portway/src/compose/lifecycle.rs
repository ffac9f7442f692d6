//! `down`, `start`, `stop`, `restart`, `kill`, `pause`, `unpause`, `rm`, `wait`: what is there, by its labels.
//!
//! The files only say which project is meant. One that is nowhere has nothing to be done for it.

use std::time::Duration;

use portway_compose::apply::exit_code;
use portway_compose::observe::{Life, Observed, has_images};
use portway_compose::plan::{self, Down, Hold, Images, Networks, Plan, Reach, Select, Volumes};
use portway_compose::want::Keys;
use portway_control::api::FailureKind;

use super::found::{self, Detail};
use super::inside;
use super::rmi;
use super::stage::{Change, Stage, server};
use crate::cli::compose::FileArgs;
use crate::cli::compose::lifecycle::{
    ChangeArgs, DownArgs, RestartArgs, RmArgs, RmiArg, ServiceArgs, StartArgs, StopArgs, WaitArgs,
};
use crate::cli::compose::run::KillArgs;
use crate::failure::{Outcome, Stop};
use crate::output::Out;
use crate::session;

/// SIGKILL, on every architecture that Incus runs on.
const KILL: i32 = 9;

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// Runs `down`.
pub(super) fn down(files: &FileArgs, args: &DownArgs) -> Outcome {
    super::without_healthd(args.healthd.is_said());
    let (stage, name, project) = open(files)?;
    let which = match (args.rmi, args.images) {
        (Some(which), _) => Some(which),
        (None, true) => Some(RmiArg::All),
        (None, false) => None,
    };
    // Down twice, or of what was never up: nothing to be done but for images, and no failure.
    let mut again = None;
    let seen = match &project {
        Some(project) => {
            let select = Select {
                project: name.clone(),
                services: args.services.clone(),
                grace: seconds(args.timeout),
                one_offs: true,
            };
            let options = Down {
                select,
                volumes: if args.volumes || args.project { Volumes::Remove } else { Volumes::Keep },
                networks: if args.no_networks { Networks::Keep } else { Networks::Remove },
                reach: if args.project { Reach::All } else { Reach::Ours },
                images: if which.is_some() { Images::Later } else { Images::Keep },
                project: Some(project.clone()),
            };
            let change = Change { project, config: Keys::new(), want: None, args: &args.change };
            let seen = stage.change(&change, &|seen| Ok(plan::down(seen, &options)))?;
            // What its images have kept goes after them.
            let kept = has_images(seen.project.as_ref()) && !args.change.dry_run;
            again = kept.then(|| (change, Down { images: Images::Keep, ..options.clone() }));
            seen
        }
        None => Observed::default(),
    };
    let Some(which) = which else { return Ok(()) };
    rmi::run(&stage, (&name, project.as_deref()), &seen, which, args)?;
    match again {
        Some((change, options)) => stage.change(&change, &|seen| Ok(plan::down(seen, &options))).map(|_| ()),
        None => Ok(()),
    }
}

/// Runs `start`.
pub(super) fn start(files: &FileArgs, args: &StartArgs) -> Outcome {
    let (mut stage, name, project) = open(files)?;
    stage.limit = seconds(args.timeout);
    let select = Select { project: name, ..select(&args.of, None) };
    carry_out(&stage, project, &args.of.change, &|seen| {
        plan::start(seen, &with(args.of.with_deps, &select, seen))
    })
}

/// Runs `stop`.
pub(super) fn stop(files: &FileArgs, args: &StopArgs) -> Outcome {
    let select = select(&args.of, seconds(args.timeout));
    change(files, &args.of.change, select, &|seen, select, _| {
        plan::stop(seen, &with(args.of.with_deps, select, seen))
    })
}

/// Runs `restart`.
pub(super) fn restart(files: &FileArgs, args: &RestartArgs) -> Outcome {
    let args = &args.stop;
    let select = select(&args.of, seconds(args.timeout));
    change(files, &args.of.change, select, &|seen, select, _| {
        plan::restart(seen, &with(args.of.with_deps, select, seen))
    })
}

/// Runs `kill`. What ends everything is done by the server; any other signal is sent inside.
pub(super) fn kill(files: &FileArgs, args: &KillArgs) -> Outcome {
    let number = inside::signal_number(&args.signal)?;
    if number == KILL {
        let select = select(&args.of, Some(Duration::ZERO));
        change(files, &args.of.change, select, &|seen, select, _| plan::stop(seen, select))?;
        return if args.remove_orphans { remove_orphans(files, &args.of.change) } else { Ok(()) };
    }
    let name = found::name(files)?;
    let client = found::client()?;
    session::runtime()?.block_on(async {
        let found = found::replicas(&client, &name, &args.of.services, Detail::Listed).await?;
        for replica in found.iter().filter(|one| one.runs() && !one.is_one_off()) {
            if args.of.change.dry_run {
                Out::new().line(&format!("signal {number} to instance {}", replica.name()))?;
            } else {
                inside::signal(&client, replica, number).await?;
            }
        }
        Ok::<(), Stop>(())
    })?;
    if args.remove_orphans { remove_orphans(files, &args.of.change) } else { Ok(()) }
}

/// Removes instances of services that are no longer in the files.
pub(super) fn remove_orphans(files: &FileArgs, args: &ChangeArgs) -> Outcome {
    let known = super::quiet(files)?;
    let is_known =
        |name: &str| known.services().any(|(service, _)| service == name) || known.disabled.contains(name);
    let (stage, name, project) = open(files)?;
    carry_out(&stage, project, args, &|seen| {
        let ours = seen.ours(&name).filter_map(|(_, one)| one.service());
        let services: Vec<String> = ours.filter(|service| !is_known(service)).map(str::to_owned).collect();
        if services.is_empty() {
            return Plan::default();
        }
        plan::remove(seen, &Select { project: name.clone(), services, ..Select::default() }, true)
    })
}

/// Runs `pause` and `unpause`.
pub(super) fn hold(files: &FileArgs, args: &ServiceArgs, hold: Hold) -> Outcome {
    change(files, &args.change, select(args, None), &|seen, select, _| plan::hold(seen, select, hold))
}

/// Runs `rm`.
pub(super) fn remove(files: &FileArgs, args: &RmArgs) -> Outcome {
    change(files, &args.of.change, select(&args.of, None), &|seen, select, _| match args.volumes {
        true => plan::remove_with_volumes(seen, select, args.stop),
        false => plan::remove(seen, select, args.stop),
    })
}

/// Runs `wait`.
pub(super) fn wait(files: &FileArgs, args: &WaitArgs) -> Outcome {
    let (stage, name, project) = open(files)?;
    let waited = ended(&stage, &name, project.as_deref(), args);
    // Its end is what was waited for; what could not be waited for leaves everything as it is.
    if let (true, Some(project), Ok(()) | Err(Stop::Status(_))) = (args.down_project, &project, &waited) {
        let select = Select { project: name, one_offs: true, ..Select::default() };
        let options = Down { select, project: Some(project.clone()), ..Down::default() };
        let args = ChangeArgs::default();
        let change = Change { project, config: Keys::new(), want: None, args: &args };
        stage.change(&change, &|seen| Ok(plan::down(seen, &options)))?;
    }
    waited
}

/// Waits for the end of one, and prints its exit code.
fn ended(stage: &Stage, name: &str, project: Option<&str>, args: &WaitArgs) -> Outcome {
    let project = project.ok_or_else(|| nowhere(name))?;
    let mut out = Out::new();
    loop {
        let seen = stage.look(project, None)?;
        let mut ours = meant(&seen, name, &args.services)?;
        if let Some((instance, _)) = ours.find(|(_, life)| *life == Life::Stopped) {
            let code = stage.runtime.block_on(exit_code(&stage.client, project, &instance));
            return match code.map_err(|error| server(&error))? {
                Some(code) => {
                    out.line(&code.to_string())?;
                    // As docker compose does.
                    if code == 0 { Ok(()) } else { Err(Stop::Status(u8::try_from(code).unwrap_or(1))) }
                }
                None => Err(Stop::refused(format!("nothing tells the exit code of {instance}"))),
            };
        }
        std::thread::sleep(LOOK);
    }
}

/// Instances of these services, and what they do.
fn meant(
    seen: &Observed,
    name: &str,
    services: &[String],
) -> Outcome<impl Iterator<Item = (String, Life)> + use<>> {
    let of = |service: &String| seen.listed(name).any(|(_, one)| one.service() == Some(service));
    if let Some(none) = services.iter().find(|service| !of(service)) {
        return Err(Stop::of(FailureKind::Missing, format!("service {none} has no instance")));
    }
    let ours = seen
        .listed(name)
        .filter(|(_, one)| one.service().is_some_and(|own| services.iter().any(|s| s == own)));
    Ok(ours.map(|(name, one)| (name.clone(), one.life)).collect::<Vec<_>>().into_iter())
}

/// The same, with what it depends on when that is asked for.
pub(super) fn with(dependencies: bool, select: &Select, seen: &Observed) -> Select {
    let select = select.clone();
    if dependencies { select.with_dependencies(seen) } else { select }
}

fn nowhere(name: &str) -> Stop {
    Stop::of(FailureKind::Missing, format!("project {name} is not there"))
}

fn select(args: &ServiceArgs, grace: Option<Duration>) -> Select {
    Select { services: args.services.clone(), grace, ..Select::default() }
}

fn seconds(timeout: Option<u32>) -> Option<Duration> {
    timeout.map(|seconds| Duration::from_secs(seconds.into()))
}

/// The server, the name of the project that the files or the command line say, and where it is.
pub(super) fn open(files: &FileArgs) -> Outcome<(Stage, String, Option<String>)> {
    let name = match &files.project_name {
        Some(name) => name.clone(),
        None => super::quiet(files)?.name,
    };
    let mut stage = Stage::open()?;
    let project = stage.incus_project(&name)?;
    Ok((stage, name, project))
}

/// Plans from what is there, and carries it out.
fn change(
    files: &FileArgs,
    args: &ChangeArgs,
    mut select: Select,
    plan: &dyn Fn(&Observed, &Select, &str) -> Plan,
) -> Outcome {
    let (stage, name, project) = open(files)?;
    let own = project.clone().unwrap_or_default();
    select.project = name;
    carry_out(&stage, project, args, &|seen| plan(seen, &select, &own))
}

fn carry_out(
    stage: &Stage,
    project: Option<String>,
    args: &ChangeArgs,
    plan: &dyn Fn(&Observed) -> Plan,
) -> Outcome {
    // Down twice, or of what was never up: nothing to be done, and no failure.
    let Some(project) = project else { return Ok(()) };
    let change = Change { project: &project, config: Keys::new(), want: None, args };
    stage.change(&change, &|seen| Ok(plan(seen))).map(|_| ())
}
