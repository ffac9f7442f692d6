//! What a command that changes a project needs: the server, the daemon, the project, and a plan carried out.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use portway_compose::apply::{ApplyError, Hands};
use portway_compose::daemon::Daemon;
use portway_compose::engine::{self, Failure, Note, Report};
use portway_compose::label;
use portway_compose::lock::{self, LockError};
use portway_compose::look::{LookError, look, rest};
use portway_compose::observe::Observed;
use portway_compose::plan::{Action, Plan, PlanError};
use portway_compose::want::{ComposeProject, Keys};
use portway_control::api::FailureKind;
use portway_incus::{Client, IncusError, ResourceId, Shelf};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::health;
use super::remote;
use super::show::{Look, Show};
use crate::cli::compose::lifecycle::ChangeArgs;
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::Out;
use crate::session;

/// Longer than anybody waits.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The server and the daemon.
pub(super) struct Stage {
    /// The server.
    pub(super) client: Client,
    /// The daemon, when it answers.
    pub(super) portway: Option<Daemon>,
    /// The daemon that asks services for their health, when it answers.
    pub(super) watcher: Option<Daemon>,
    /// What everything runs on.
    pub(super) runtime: Runtime,
    /// How progress is shown.
    pub(super) look: Look,
    /// Longest time of a plan.
    pub(super) limit: Option<Duration>,
    /// Longest time that one service is waited for.
    pub(super) patience: Option<Duration>,
}

impl Stage {
    /// Finds the server. Does not connect.
    pub(super) fn open() -> Outcome<Stage> {
        let (client, runtime) = (remote::client()?, session::runtime()?);
        let (look, limit, patience) = (Look::default(), None, None);
        Ok(Stage { client, portway: None, watcher: None, runtime, look, limit, patience })
    }

    /// Looks for the daemon; whether it answers. It is beside the server, or there is none.
    pub(super) fn find_daemon(&mut self) -> Outcome<bool> {
        if remote::is_far()? {
            return Ok(false);
        }
        let client = portway_control::Client::new(session::paths()?.socket);
        match self.runtime.block_on(client.server()) {
            Ok(_) => {
                let beside = self.runtime.block_on(self.client.server()).map_err(|error| server(&error))?;
                self.portway = Some(Daemon::beside(&beside, client));
                Ok(true)
            }
            Err(error) if error.kind() == FailureKind::Unreachable => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks for the daemon where a service says how its health is told.
    pub(super) fn find_watcher(&mut self, want: &ComposeProject) {
        if want.services.values().any(|service| service.health.is_some()) {
            self.watcher = self.runtime.block_on(health::daemon(&self.client));
        }
    }

    /// The server's project that holds a Compose project, by its label.
    pub(super) fn incus_project(&mut self, compose: &str) -> Outcome<Option<String>> {
        let all =
            self.runtime.block_on(self.client.resources(&Shelf::Projects)).map_err(|error| server(&error))?;
        let own =
            all.into_iter().find(|one| one.config.get(label::PROJECT).is_some_and(|name| name == compose));
        let Some(own) = own else { return Ok(None) };
        if own.config.get(label::ENGINE).is_some_and(|engine| engine == "portway") {
            self.find_daemon()?;
        }
        Ok(Some(own.id.name().to_owned()))
    }

    /// What is there.
    pub(super) fn look(&self, project: &str, want: Option<&ComposeProject>) -> Outcome<Observed> {
        let seen = look(&self.client, project, want, self.portway.as_ref());
        self.runtime.block_on(seen).map_err(|error| look_failed(&error))
    }

    /// What single steps are carried out with, to end things and without an end to waiting.
    pub(super) fn hands<'a>(&'a self, project: &'a str) -> Hands<'a> {
        let (_, halt) = watch::channel(false);
        let (images, portway) = (Mutex::default(), self.portway.as_ref());
        let watcher = self.watcher.as_ref();
        Hands { client: &self.client, project, want: None, images, portway, watcher, halt }
    }

    /// Configuration of one of the server's projects; `None` when there is no such one.
    pub(super) fn config_of(&self, project: &str) -> Outcome<Option<Keys>> {
        let id = ResourceId::Project { name: project.to_owned() };
        let own = self.runtime.block_on(self.client.resource(&id)).map_err(|error| server(&error))?;
        Ok(own.map(|own| own.config))
    }

    /// Plans, and carries out what is planned: nothing when nothing is to be done, else locked and planned again, for
    /// what was there may have changed meanwhile.
    pub(super) fn change(
        &self,
        of: &Change<'_>,
        plan: &dyn Fn(&Observed) -> Result<Plan, PlanError>,
    ) -> Outcome<Observed> {
        let make = |seen: &Observed| plan(seen).map_err(|error| plan_failed(&error));
        self.runtime.block_on(rest(&self.client, of.project)).map_err(|error| server(&error))?;
        let seen = self.look(of.project, of.want)?;
        let first = make(&seen)?;
        if of.args.dry_run {
            notes(&first);
            let lines: String =
                first.steps.iter().map(|step| format!("{}\n", printable(&step.action.to_string()))).collect();
            Out::new().text(&lines)?;
            return Ok(seen);
        }
        if first.is_empty() {
            notes(&first);
            if !first.steps.is_empty() {
                self.carry_out(of, &first, &seen)?;
            }
            if seen.project.as_ref().is_some_and(lock::is_left) {
                // By whoever was killed after its last step.
                let cleared = self.runtime.block_on(lock::clear(&self.client, of.project));
                cleared.map_err(|error| lock_failed(&error))?;
            }
            return Ok(seen);
        }
        let lock = self.runtime.block_on(lock::take(&self.client, of.project, &of.config));
        let lock = lock.map_err(|error| lock_failed(&error))?;
        let done = self.look(of.project, of.want).and_then(|seen| {
            let second = make(&seen)?;
            notes(&second);
            self.carry_out(of, &second, &seen).map(|()| seen)
        });
        let released = self.runtime.block_on(lock.release(&self.client)).map_err(|error| lock_failed(&error));
        done.and_then(|seen| released.map(|()| seen))
    }

    fn carry_out(&self, of: &Change<'_>, plan: &Plan, seen: &Observed) -> Outcome {
        let (halt, halted) = watch::channel(false);
        let images = Mutex::new(seen.images.clone());
        let hands = Hands { want: of.want, images, halt: halted.clone(), ..self.hands(of.project) };
        let show = Show::new(plan, self.look);
        let mut late = false;
        let report = self.runtime.block_on(async {
            let mut work = pin!(engine::run(
                plan,
                usize::from(remote::wishes().workers.unwrap_or(of.args.parallel)),
                halted,
                async |action| match (action, self.patience) {
                    (Action::Await { .. }, Some(patience)) => {
                        let done = tokio::time::timeout(patience, hands.perform(action)).await;
                        let late = || Failure::Own(format!("not so after {} s", patience.as_secs()));
                        done.map_err(|_| late())?.map_err(|error| step_failed(&error))
                    }
                    _ => hands.perform(action).await.map_err(|error| step_failed(&error)),
                },
                |step, note: Note<'_>| show.tell(step, note),
            ));
            let mut stopped = pin!(interrupted(&halt));
            let mut limit = pin!(tokio::time::sleep(self.limit.unwrap_or(FOREVER)));
            loop {
                tokio::select! {
                    report = &mut work => return Ok(report),
                    stop = &mut stopped => return Err(stop),
                    () = &mut limit, if !late => {
                        late = true;
                        halt.send_replace(true);
                    }
                }
            }
        });
        show.end();
        let done = ended(plan, &report?);
        if late && done.is_err() {
            let seconds = self.limit.unwrap_or_default().as_secs();
            let stop = Stop::refused(format!("after {seconds} s not all services run or are healthy"));
            return Err(stop.hint("they go on starting; `ps` and `logs` tell how they are"));
        }
        done
    }
}

/// A change of a project.
pub(super) struct Change<'a> {
    /// The server's project.
    pub(super) project: &'a str,
    /// Its configuration, should it have to be made.
    pub(super) config: Keys,
    /// What is wanted; to end things nothing is.
    pub(super) want: Option<&'a ComposeProject>,
    /// How it is carried out.
    pub(super) args: &'a ChangeArgs,
}

/// The first signal to end halts, the second is the end.
async fn interrupted(halt: &watch::Sender<bool>) -> Stop {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return std::future::pending().await };
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    next().await;
    halt.send_replace(true);
    warn("stopping: what is under way is brought to its end; once more ends at once");
    next().await;
    Stop::refused("ended in the middle").hint("the same command goes on where this one was")
}

/// A failure of a step as the engine takes it.
pub(super) fn step_failed(error: &ApplyError) -> Failure {
    let why = chain(error);
    if error.is_lost() { Failure::Server(why) } else { Failure::Own(why) }
}

/// How a plan has ended as the end of a command.
pub(super) fn ended(plan: &Plan, report: &Report) -> Outcome {
    if report.is_whole() {
        return Ok(());
    }
    let name = |step: &usize| {
        let action = plan.steps.get(*step).map(|step| &step.action);
        action.map(|action| format!("{} {}", action.kind(), action.name())).unwrap_or_default()
    };
    let others = usize::from(report.lost.is_none());
    for (step, why) in report.failed.iter().skip(others) {
        warn(&format!("{}: {why}", name(step)));
    }
    let left = report.skipped.len();
    if let Some((step, why)) = &report.lost {
        let stop = Stop::of(FailureKind::Unreachable, format!("{}: {why}", name(step)));
        return Err(stop.hint(format!("{left} steps were not begun; the same command goes on from here")));
    }
    let stop = match report.failed.first() {
        Some((step, why)) => Stop::refused(format!("{}: {why}", name(step))),
        None => Stop::refused(format!("stopped before its end; {left} steps were not begun")),
    };
    Err(if left > 0 {
        stop.hint(format!("{left} steps were not begun; the same command goes on from here"))
    } else {
        stop
    })
}

fn notes(plan: &Plan) {
    plan.notes.iter().for_each(|note| warn(note));
}

/// A line on standard error.
pub(super) fn warn(text: &str) {
    // Nothing is left to do when standard error cannot be written.
    let _unheard = writeln!(io::stderr(), "warning: {}", printable(text));
}

/// A failure of the server as the end of a command.
pub(super) fn server(error: &IncusError) -> Stop {
    let kind = match error {
        IncusError::Unreachable { .. } | IncusError::TimedOut { .. } | IncusError::StreamEnded { .. } => {
            FailureKind::Unreachable
        }
        // What is said in the stead of a server elsewhere.
        IncusError::Status { code: 502, .. } => FailureKind::Unreachable,
        _ => FailureKind::Refused,
    };
    Stop::of(kind, chain(error))
}

pub(super) fn look_failed(error: &LookError) -> Stop {
    match error {
        LookError::Server(error) => server(error),
        LookError::Portway(error) => Stop::of(error.kind(), chain(error)),
        LookError::NoPool => Stop::refused(error.to_string()),
        LookError::UnknownPool(_) => Stop::of(FailureKind::Missing, error.to_string()),
        LookError::OtherPool { .. } => Stop::refused(error.to_string()),
    }
}

fn lock_failed(error: &LockError) -> Stop {
    match error {
        LockError::Server(error) => server(error),
        LockError::Held { .. } => {
            Stop::refused(error.to_string()).hint("nothing was changed; once that one has ended, try again")
        }
        LockError::Overtaken(_) => Stop::refused(error.to_string()),
    }
}

fn plan_failed(error: &PlanError) -> Stop {
    let kind = match error {
        PlanError::NoService(_) => FailureKind::Missing,
        PlanError::Cycle(_) | PlanError::NoDependency { .. } | PlanError::NoHealth { .. } => {
            FailureKind::Usage
        }
        PlanError::Missing { .. }
        | PlanError::Taken { .. }
        | PlanError::NoSubnet { .. }
        | PlanError::NoImage(_)
        | PlanError::Absent(_)
        | PlanError::NoAddress { .. }
        | PlanError::Address { .. }
        | PlanError::NoPort { .. }
        | PlanError::NotManaged { .. }
        | PlanError::Interface { .. }
        | PlanError::Name { .. }
        | PlanError::NoVolume { .. }
        | PlanError::Port { .. } => FailureKind::Refused,
    };
    let stop = Stop::of(kind, error.to_string());
    match error {
        PlanError::Interface { network } => stop.hint(format!(
            "an `up` that was killed while the server made it may have left it: `ip link delete {network}` there, or give the \
             network another `name`"
        )),
        PlanError::Absent(_) => stop.hint(
            "name a system image as images:alpine/edge, or an alias of the server (`incus image alias list`); an image of a registry is \
             had on Incus 7, or by `build` from it",
        ),
        PlanError::Name { .. } => stop.hint("give the service another `container_name`"),
        PlanError::NoVolume { name, pool, project } => stop.hint(format!(
            "copy it there: incus project create {project} -c features.images=false -c user.portway.project={project}, then \
             incus storage volume copy {pool}/{name} {pool}/{name} --target-project {project}"
        )),
        _ => stop,
    }
}

/// `SERVICE=NUMBER`, each.
pub(super) fn scale(texts: &[String]) -> Outcome<BTreeMap<String, u32>> {
    let one = |text: &String| {
        let (service, count) = text.split_once('=')?;
        Some((service.to_owned(), count.parse().ok()?))
    };
    texts
        .iter()
        .map(|text| one(text).ok_or_else(|| Stop::usage(format!("`{text}`: say SERVICE=NUMBER"))))
        .collect()
}
