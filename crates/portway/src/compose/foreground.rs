//! `up` in the foreground: what services say, until they have ended.
//!
//! The first signal to end stops the services in their order, the second at once, the third only ends this process. What
//! was made stays.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use portway_compose::engine;
use portway_compose::look::look;
use portway_compose::order::{Dependencies, Order};
use portway_compose::plan::{self, Select};
use portway_compose::want::ComposeProject;
use portway_composefile::Project;
use portway_composefile::tree::{Node, Value};
use portway_proto::service::Stamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::all_known;
use super::follow::{Followed, Following, Told, Until, follow};
use super::found::{self, Detail, Replica};
use super::health::{self, HealthChange, HealthEvents};
use super::lines::{Names, Show as Lines, Style};
use super::show::{Look, Show, say};
use super::stage::{Stage, ended, look_failed, step_failed};
use super::watch::Watching;
use crate::cli::compose::run::AttendArgs;
use crate::failure::{Outcome, Stop, chain};

/// Steps of a stop at a time.
const WORKERS: usize = 32;

/// How long what was stopped may take to be seen as such.
const LAST: Duration = Duration::from_secs(15);

/// Exit status after a signal to end, as docker compose has it: 128 and SIGINT.
const INTERRUPTED: u8 = 130;

/// Signals to end, from when this was made.
pub(super) struct Asked {
    interrupt: Signal,
    terminate: Signal,
}

impl Asked {
    /// Needs a runtime.
    pub(super) fn new() -> Outcome<Asked> {
        let failed = |error: io::Error| Stop::refused(format!("cannot take signals: {}", chain(&error)));
        Ok(Asked {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Services of an `up`.
pub(super) struct Services {
    /// Those that were named, all when none was.
    named: BTreeSet<String>,
    /// And what they depend on.
    all: BTreeSet<String>,
    /// Those that the files do not want to be shown (`attach: false`).
    quiet: BTreeSet<String>,
}

impl Services {
    pub(super) fn of(
        want: &ComposeProject,
        project: &Project,
        named: &[String],
        dependencies: Dependencies,
    ) -> Services {
        let is_quiet = |node: &Node| node.at("attach").is_some_and(|node| node.value == Value::Bool(false));
        let quiet = project.services().filter(|(_, node)| is_quiet(node)).map(|(name, _)| name.clone());
        let order = Order::of_services(want);
        let all = order.select(named, dependencies);
        Services { named: order.select(named, Dependencies::Without), all, quiet: quiet.collect() }
    }

    /// Whether what a service says is shown.
    fn shows(&self, args: &AttendArgs, service: &str) -> bool {
        let own = if !args.attach.is_empty() {
            args.attach.iter().any(|name| name == service)
        } else if self.quiet.contains(service) {
            false
        } else if args.attach_dependencies {
            self.all.contains(service)
        } else {
            self.named.contains(service)
        };
        own && !args.no_attach.iter().any(|name| name == service)
    }
}

/// Fails for services that `args` name and that are not there.
pub(super) fn check(args: &AttendArgs, known: impl Fn(&str) -> bool) -> Outcome {
    all_known(args.attach.iter().chain(&args.no_attach).chain(&args.exit_code_from), known)
}

/// Shows what the services of a project that is up say from `begin` on, until they have ended.
pub(super) fn attend(
    stage: &Stage,
    want: &ComposeProject,
    services: &Services,
    (args, grace, begin): (&AttendArgs, Option<Duration>, Stamp),
    (asked, watching): (&mut Asked, Option<&Watching>),
) -> Outcome {
    stage.runtime.block_on(async {
        let mut replicas = found::replicas(&stage.client, &want.name, &[], Detail::Listed).await?;
        replicas.retain(|one| services.all.contains(&one.service) && !one.is_one_off());
        let names = Names::of(args.no_log_prefix, args.no_color);
        let lines = Lines::new(&replicas, Style { names, timestamps: args.timestamps });
        let ends = replicas.iter().map(|one| End::of(one, services));
        let mut attended = Attended {
            args,
            shown: replicas.iter().map(|one| services.shows(args, &one.service)).collect(),
            ends: ends.collect(),
            lines,
            first: None,
            unheard: None,
            watching,
            healths: HealthEvents::open(&stage.client).await,
        };
        let shown = replicas.iter().filter(|one| services.shows(args, &one.service)).map(Replica::name);
        say(&format!("attached to {}", shown.collect::<Vec<_>>().join(", ")));
        let followed = replicas.into_iter().enumerate();
        let followed =
            followed.map(|(of, replica)| Followed { of, replica, last: begin, console: Vec::new() });
        // One whose files are watched may be restarted or made anew at any time.
        let until = if watching.is_some() { Until::Halted } else { Until::Ended };
        let following = follow(stage.client.clone(), followed.collect(), until);
        let select = Select {
            project: want.name.clone(),
            services: services.all.iter().cloned().collect(),
            grace,
            one_offs: false,
        };
        attended.watch(stage, (&want.incus_project, &select), following, asked).await
    })
}

/// How an instance has ended.
struct End {
    name: String,
    service: String,
    /// Whether its end is waited for.
    counts: bool,
    /// Its end, and what tells its exit code.
    ended: Option<Option<i32>>,
}

impl End {
    fn of(replica: &Replica, services: &Services) -> End {
        End {
            name: replica.name().to_owned(),
            service: replica.service.clone(),
            counts: services.named.contains(&replica.service),
            ended: None,
        }
    }
}

struct Attended<'a> {
    args: &'a AttendArgs,
    lines: Lines,
    shown: Vec<bool>,
    ends: Vec<End>,
    /// The first that has ended, or failed, where that ends all.
    first: Option<usize>,
    /// Why output cannot be written.
    unheard: Option<Stop>,
    /// Who brings changes into the instances meanwhile.
    watching: Option<&'a Watching>,
    /// Who tells of their health.
    healths: Option<HealthEvents>,
}

/// Why services are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Somebody has asked for it.
    Asked,
    /// One of them has ended.
    Ended,
}

type Stopping<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

impl Attended<'_> {
    async fn watch(
        &mut self,
        stage: &Stage,
        (project, select): (&str, &Select),
        mut following: Following,
        asked: &mut Asked,
    ) -> Outcome {
        let (kill, killed) = watch::channel(false);
        let mut why: Option<Why> = None;
        let mut stopping: Option<Stopping<'_>> = None;
        let mut stopped: Option<Outcome> = None;
        loop {
            let is_killed = *kill.borrow();
            let done = async {
                match &mut stopping {
                    Some(stopping) => stopping.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = health::next(&mut self.healths) => self.change(project, &change),
                told = following.next() => match told? {
                    Some(told) => self.take(told),
                    None => break,
                },
                done = done => {
                    stopping = None;
                    stopped = Some(done);
                }
                () = asked.next() => match (why, is_killed) {
                    (None, _) => {
                        why = Some(Why::Asked);
                        say("stopping the services; once more ends them at once");
                    }
                    (Some(_), false) => drop(kill.send_replace(true)),
                    (Some(_), true) => return Err(Stop::Status(INTERRUPTED)),
                },
                () = tokio::time::sleep(LAST), if stopped.is_some() => break,
            }
            if why.is_none() && (self.first.is_some() || self.unheard.is_some()) {
                why = Some(Why::Ended);
                say("stopping the services");
            }
            if why.is_some() && stopping.is_none() && stopped.is_none() {
                following.nothing_again();
                let watching = self.watching;
                let killed = killed.clone();
                stopping = Some(Box::pin(async move {
                    if let Some(watching) = watching {
                        watching.end(killed.clone()).await;
                    }
                    stop(stage, project, select, killed).await
                }));
            }
            if why.is_none()
                && self.watching.is_none()
                && self.ends.iter().all(|end| end.ended.is_some() || !end.counts)
            {
                break;
            }
        }
        drop(stopping);
        stopped.unwrap_or(Ok(()))?;
        if let Some(stop) = self.unheard.take() {
            return Err(stop);
        }
        self.status(why == Some(Why::Asked))
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Line(line) => {
                if self.unheard.is_none() && self.shown.get(line.of) == Some(&true) {
                    self.unheard = self.lines.print(&line).err();
                }
            }
            Told::Ended { of, code } => {
                let Some(end) = self.ends.get_mut(of) else { return };
                end.ended = Some(code);
                if let Err(stop) = self.lines.flush_of(of) {
                    self.unheard.get_or_insert(stop);
                }
                let how = code.map(|code| format!(" with exit code {code}")).unwrap_or_default();
                say(&format!("{} has ended{how}", end.name));
                let any = self.args.abort_on_container_exit || self.args.exit_code_from.is_some();
                let failed = self.args.abort_on_container_failure && code != Some(0);
                if any || failed {
                    self.first.get_or_insert(of);
                }
            }
        }
    }

    /// Says what has become of the health of a service.
    fn change(&self, project: &str, change: &HealthChange) {
        if change.project == project && self.ends.iter().any(|end| end.name == change.instance) {
            say(&format!("{} is {}", change.instance, change.word));
        }
    }

    /// What the command ends with.
    fn status(&self, asked: bool) -> Outcome {
        let of = match &self.args.exit_code_from {
            Some(service) => self.ends.iter().find(|end| end.service == *service && end.ended.is_some()),
            None if asked => return Err(Stop::Status(INTERRUPTED)),
            None => match self.first {
                Some(first) => self.ends.get(first),
                None => return Ok(()),
            },
        };
        let code = of.and_then(|end| Some((end, end.ended?)));
        match code {
            Some((_, Some(0))) => Ok(()),
            Some((_, Some(code))) => Err(Stop::Status(u8::try_from(code).unwrap_or(1))),
            Some((end, None)) => Err(Stop::refused(format!("nothing tells the exit code of {}", end.name))),
            None if asked => Err(Stop::Status(INTERRUPTED)),
            None => Err(Stop::refused("the service of the exit code has not ended")),
        }
    }
}

/// How instances are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    /// Who depends on others first.
    InOrder,
    /// By force, all of them.
    AtOnce,
}

/// Stops the instances in their order, and all at once when `killed` turns true.
async fn stop(stage: &Stage, project: &str, select: &Select, mut killed: watch::Receiver<bool>) -> Outcome {
    tokio::select! {
        done = Box::pin(steps(stage, project, select, Haste::InOrder)) => done,
        Ok(_) = killed.wait_for(|killed| *killed) => {
            let select = Select { grace: Some(Duration::ZERO), ..select.clone() };
            Box::pin(steps(stage, project, &select, Haste::AtOnce)).await
        }
    }
}

/// Not locked: whoever has asked for the end of services gets it, also while another command changes the project.
async fn steps(stage: &Stage, project: &str, select: &Select, haste: Haste) -> Outcome {
    let seen = look(&stage.client, project, None, stage.portway.as_ref()).await;
    let mut plan = plan::stop(&seen.map_err(|error| look_failed(&error))?, select);
    if haste == Haste::AtOnce {
        plan.steps.iter_mut().for_each(|step| step.after.clear());
    }
    let hands = stage.hands(project);
    // A picture that changes cannot stand among what services say.
    let show = Show::new(&plan, Look { progress: stage.look.progress.plain(), ..stage.look });
    let report = engine::run(
        &plan,
        WORKERS,
        hands.halt.clone(),
        async |action| hands.perform(action).await.map_err(|error| step_failed(&error)),
        |step, note| show.tell(step, note),
    )
    .await;
    ended(&plan, &report)
}
