//! `run`: a program in an instance of its own, made as a service says.
//!
//! The instance is there before its program and after it: its own first process only waits, and the program is run beside
//! it, for what it reads and how it ends would be lost otherwise. In the background the program is the first process.

use std::collections::BTreeMap;
use std::time::Duration;

use portway_compose::label;
use portway_compose::look::look;
use portway_compose::order::{Dependencies, Order};
use portway_compose::plan::{Action, Recreate, Up};
use portway_compose::want::ComposeProject;
use portway_composefile::tree::{Map, Node, Value};
use portway_composefile::{Project, Source, load};
use portway_incus::{ExecEnd, status_code};
use serde_json::json;

use super::exec;
use super::files::Disk;
use super::found::{self, Detail};
use super::known_services;
use super::registry;
use super::stage::{Stage, look_failed, server};
use super::up::{allowed, bring, chance};
use crate::cli::compose::FileArgs;
use crate::cli::compose::inside::ExecArgs;
use crate::cli::compose::lifecycle::{ChangeArgs, MakeArgs};
use crate::cli::compose::run::RunArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::output::Out;

/// What waits until the program has ended: sixty-eight years.
const WAITS: [&str; 2] = ["sleep", "2147483647"];

/// Runs it, and ends with the program's status.
pub(super) fn run(files: &FileArgs, args: &RunArgs) -> Outcome {
    if args.detach && args.rm && (args.service_ports || !args.publish.is_empty()) {
        return Err(Stop::usage("--rm in the background is only for an instance that publishes nothing"));
    }
    let (mut project, dir) = project(files, args)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => format!("{}-run-{:08x}", args.service, u32::from_be_bytes(chance()?)),
    };
    let image = image_of(&project, &args.service);
    let mut program = amend(&mut project, args, &name)?;
    let mut stage = Stage::open()?;
    if program.is_empty() {
        // What its image runs.
        let known = image.map(|image| registry::program(&stage, &image)).transpose()?;
        let unknown = || Stop::usage(format!("service {} says no command: say one", args.service));
        program = known.flatten().ok_or_else(unknown)?;
    }
    stage.look.images = !args.quiet_pull;
    let make = make(args);
    let scale = BTreeMap::from([(args.service.clone(), 1)]);
    let dependencies = Dependencies::unless(args.no_deps);
    let built = Up { dependencies, ..Up::default() };
    let (mut want, engine) = allowed(&mut stage, &project, &make, (scale, dir), &built)?;
    let name = single_out(&mut want, args)?;
    let kept = &want.services;
    let others = project.services().map(|(name, _)| name).filter(|name| !kept.contains_key(*name));
    let options = Up {
        services: vec![name.clone()],
        dependencies,
        recreate: Recreate::None,
        disabled: others.chain(&project.disabled).cloned().collect(),
        ..Up::default()
    };
    if args.remove_orphans {
        super::lifecycle::remove_orphans(files, &make.change)?;
    }
    let made = bring(&stage, &mut want, (&make, engine), &options);
    if args.detach {
        made?;
        if args.rm {
            stage.runtime.block_on(vanish(&stage, &want.incus_project, &name))?;
        }
        return Out::new().line(&name);
    }
    let ended = made.and_then(|()| converse(&stage, &want, args, (&name, program)));
    // Whatever has happened, it does not go on.
    let cleared = stage.runtime.block_on(clear(&stage, &want.incus_project, &name, args.rm));
    stage.runtime.shutdown_background();
    match (ended, cleared) {
        (Err(stop), _) | (_, Err(stop)) => Err(stop),
        (Ok(ExecEnd::Status(0)), _) => Ok(()),
        (Ok(ExecEnd::Status(status)), _) => Err(Stop::Status(status)),
        (Ok(ExecEnd::Failed(why)), _) => Err(Stop::refused(format!("the program could not be run: {why}"))),
    }
}

/// The project of the files with what the command line says laid over it, and its folder.
fn project(files: &FileArgs, args: &RunArgs) -> Outcome<(Project, std::path::PathBuf)> {
    let mut options = super::files::options(files)?;
    options.enabled = vec![args.service.clone()];
    let plain = load(&options, &Disk).map_err(super::stop)?;
    known_services(&plain, [&args.service])?;
    if let Some(over) = overlay(args) {
        options.sources.push(Source::Text(over));
    }
    Ok((super::read(&options)?, options.dir))
}

/// What the command line says in short forms, as a file laid over the others.
fn overlay(args: &RunArgs) -> Option<String> {
    let lists = [
        ("environment", "", &args.env),
        ("labels", "", &args.labels),
        ("ports", if args.service_ports { "" } else { "!override " }, &args.publish),
        ("volumes", "", &args.volumes),
        ("cap_add", "", &args.cap_add),
        ("cap_drop", "", &args.cap_drop),
    ];
    let said: Vec<String> = lists
        .into_iter()
        .filter(|(_, _, items)| !items.is_empty())
        .map(|(key, tag, items)| {
            // They are no templates: the shell has filled in what there was.
            let items: Vec<String> = items.iter().map(|item| item.replace('$', "$$")).collect();
            format!("{}: {tag}{}", json!(key), json!(items))
        })
        .collect();
    (!said.is_empty()).then(|| format!("services: {{{}: {{{}}}}}", json!(args.service), said.join(", ")))
}

/// Makes the service what the instance is to be, and gives the program that is run in it; none where that is its image's.
fn amend(project: &mut Project, args: &RunArgs, name: &str) -> Outcome<Vec<String>> {
    let services = project.tree.get_mut("services").and_then(Node::as_map_mut);
    let node = services.and_then(|services| services.get_mut(&args.service));
    let place = node.as_ref().map(|node| node.place.clone());
    let (Some(service), Some(place)) = (node.and_then(Node::as_map_mut), place) else {
        return Err(Stop::usage(format!("service {} is not described", args.service)));
    };
    let text = |text: &str| Node::text(text, &place);
    let list =
        |words: &[String]| Node::new(Value::List(words.iter().map(|word| text(word)).collect()), &place);
    service.insert("container_name".to_owned(), text(name));
    service.insert("restart".to_owned(), text("no"));
    if let Some(deploy) = service.get_mut("deploy").and_then(Node::as_map_mut) {
        deploy.remove("restart_policy");
    }
    if !args.service_ports && args.publish.is_empty() {
        service.remove("ports");
    }
    for (key, said) in [("user", &args.user), ("working_dir", &args.workdir)] {
        if let Some(said) = said {
            service.insert(key.to_owned(), text(said));
        }
    }
    if let Some(entrypoint) = &args.entrypoint {
        let words: Vec<String> = entrypoint.split_whitespace().map(str::to_owned).collect();
        service.insert("entrypoint".to_owned(), list(&words));
        service.remove("command");
    }
    if !args.command.is_empty() {
        service.insert("command".to_owned(), list(&args.command));
    }
    let program: Vec<String> = ["entrypoint", "command"].iter().flat_map(|key| words(service, key)).collect();
    if !args.detach {
        service.remove("command");
        service.insert("entrypoint".to_owned(), list(&WAITS.map(str::to_owned)));
    }
    Ok(program)
}

/// The image of a service that is not built here.
fn image_of(project: &Project, service: &str) -> Option<String> {
    let (_, node) = project.services().find(|(name, _)| *name == service)?;
    node.text_at("image").filter(|image| node.at("build").is_none() && !image.is_empty()).map(str::to_owned)
}

fn words(service: &Map, key: &str) -> Vec<String> {
    let items = service.get(key).and_then(Node::as_list).unwrap_or_default();
    items.iter().filter_map(Node::as_text).map(str::to_owned).collect()
}

/// Leaves the instance, as a service called like it, and what it depends on. Its name.
fn single_out(want: &mut ComposeProject, args: &RunArgs) -> Outcome<String> {
    let gone = || Stop::refused(format!("service {} comes to no instance", args.service));
    let mut service = want.services.remove(&args.service).ok_or_else(gone)?;
    let one = service.instances.first_mut().ok_or_else(gone)?;
    one.config.remove(label::HOOKS);
    one.config.insert(label::ONE_OFF.to_owned(), args.service.clone());
    let name = one.name.clone();
    service.name.clone_from(&name);
    if args.no_deps {
        service.depends_on.clear();
    }
    let needed = Order::of_services(want).closure(service.depends_on.keys().map(String::as_str));
    want.services.retain(|name, _| needed.contains(name));
    want.services.insert(name.clone(), service);
    Ok(name)
}

fn make(args: &RunArgs) -> MakeArgs {
    MakeArgs {
        no_recreate: true,
        proxy_engine: args.proxy_engine,
        allow: args.allow,
        build: args.build,
        remove_orphans: args.remove_orphans,
        ..MakeArgs::plain(vec![args.service.clone()], ChangeArgs::default())
    }
}

/// Runs the program to its end, with our input and output as its own.
fn converse(
    stage: &Stage,
    want: &ComposeProject,
    args: &RunArgs,
    (name, command): (&str, Vec<String>),
) -> Outcome<ExecEnd> {
    stage.runtime.block_on(async {
        let service = [args.service.clone()];
        let found = found::replicas(&stage.client, &want.name, &service, Detail::Listed).await?;
        let replica = found.into_iter().find(|replica| replica.name() == name);
        let replica = replica.ok_or_else(|| Stop::refused(format!("the instance {name} is gone")))?;
        let said = ExecArgs {
            detach: false,
            dry_run: false,
            group: None,
            interactive: true,
            tty: true,
            no_input: !args.interactive,
            env: Vec::new(),
            index: None,
            no_tty: args.no_tty,
            user: args.user.clone(),
            workdir: args.workdir.clone(),
            service: args.service.clone(),
            command,
        };
        exec::attend(&stage.client, &replica, &said).await
    })
}

/// Ends the instance, and removes it when that is wanted.
async fn clear(stage: &Stage, project: &str, name: &str, remove: bool) -> Outcome {
    let hands = stage.hands(project);
    let failed = |error: portway_compose::apply::ApplyError| {
        Stop::refused(format!("instance {name}: {}", chain(&error)))
    };
    let seen = look(&stage.client, project, None, stage.portway.as_ref()).await;
    let seen = seen.map_err(|error| look_failed(&error))?;
    if !seen.instances.contains_key(name) {
        return Ok(());
    }
    let instance = name.to_owned();
    let stop = Action::Stop { instance: instance.clone(), grace: Duration::ZERO };
    hands.perform(&stop).await.map_err(failed)?;
    if !remove {
        return Ok(());
    }
    let gone: Vec<String> =
        seen.published.get(name).into_iter().flatten().map(|(name, _)| name.clone()).collect();
    if !gone.is_empty() {
        let withdraw = Action::Publish { instance: instance.clone(), set: BTreeMap::new(), gone };
        hands.perform(&withdraw).await.map_err(failed)?;
    }
    hands.perform(&Action::Remove { instance }).await.map_err(failed)
}

/// Makes the server remove the instance when it has ended.
async fn vanish(stage: &Stage, project: &str, name: &str) -> Outcome {
    let failed = |error: portway_incus::IncusError| server(&error);
    loop {
        let Some(mut definition) = stage.client.definition(project, name).await.map_err(failed)? else {
            return Ok(());
        };
        definition.set_ephemeral();
        match stage.client.replace(&definition).await {
            Err(error) if error.is_outdated() => {}
            done => break done.map_err(failed)?,
        }
    }
    // It may have ended before.
    let state = stage.client.state(project, name).await.ok().flatten();
    if state.is_some_and(|state| state.status_code == status_code::STOPPED) {
        clear(stage, project, name, true).await?;
    }
    Ok(())
}
