//! What instances say and how they end, until they have ended for good.
//!
//! Of one whose first process is not Portway's what it has said is told when it has ended, all at once.
//!
//! One that the server starts again has not ended. What an instance does is told by a look at all of them after each
//! event, and now and then without one, for events can be lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use portway_compose::apply::exit_code;
use portway_incus::{Client, is_true, status_code};
use portway_proto::service::{Source, Stamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::found::Replica;
use super::inside::is_ours;
use super::lines::{Line, console_lines, rest, tail};
use crate::failure::{Outcome, Stop};

/// Most lines that wait to be printed.
const WAITING: usize = 256;

/// Between two looks without an event.
const LOOK: Duration = Duration::from_secs(2);

/// Between two looks at what refuses to be looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// After so long of nothing but errors an instance cannot be followed.
const BLIND: Duration = Duration::from_secs(60);

/// So long a program inside an instance that has ended may take to be seen as ended.
const DEAF: Duration = Duration::from_secs(2);

/// Until then the server has started one again that it is to start again: it takes it 0.7 s.
const AGAIN: Duration = Duration::from_secs(5);

/// An instance to be followed.
pub(super) struct Followed {
    /// Its number in the list.
    pub(super) of: usize,
    pub(super) replica: Replica,
    /// Lines that are not later are known.
    pub(super) last: Stamp,
    /// The last bytes of its console that are known.
    pub(super) console: Vec<u8>,
}

/// What is told of an instance.
pub(super) enum Told {
    Line(Line),
    /// It has ended, with this exit code where something tells it.
    Ended {
        of: usize,
        code: Option<i32>,
    },
}

impl From<Line> for Told {
    fn from(line: Line) -> Told {
        Told::Line(line)
    }
}

/// States by instance; those that are gone are not in it.
type States = BTreeMap<String, u16>;

/// Instances that are followed. Drop ends it.
pub(super) struct Following {
    told: mpsc::Receiver<Told>,
    tasks: JoinSet<Outcome>,
    /// Turns true when nothing is started again any more.
    last_time: watch::Sender<bool>,
}

/// How long an instance is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// It has ended for good.
    Ended,
    /// Nothing is started again any more: whoever has ended or gone may come again.
    Halted,
}

/// Follows instances. Needs a runtime.
pub(super) fn follow(client: Client, all: Vec<Followed>, until: Until) -> Following {
    let (send, told) = mpsc::channel(WAITING);
    let (last_time, no_more) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut places: BTreeMap<String, watch::Sender<States>> = BTreeMap::new();
    for followed in all {
        let project = followed.replica.project().to_owned();
        let states = places.entry(project).or_insert_with(|| watch::channel(States::new()).0);
        states.send_modify(|states| {
            let listed = &followed.replica.listed;
            states.insert(followed.replica.name().to_owned(), listed.status_code);
        });
        let life = Life {
            client: client.clone(),
            settles: listed_again(&followed.replica),
            states: states.subscribe(),
            no_more: no_more.clone(),
            until,
            to: send.clone(),
        };
        tasks.spawn(life.follow(followed));
    }
    for (project, states) in places {
        let client = client.clone();
        tasks.spawn(async move {
            look(&client, &project, states).await;
            Ok(())
        });
    }
    Following { told, tasks, last_time }
}

/// Whether the server starts it again when it ends.
fn listed_again(replica: &Replica) -> bool {
    replica.listed.expanded_config.get("boot.autorestart").is_some_and(|text| is_true(text))
}

impl Following {
    /// What is told next; `None` when all have ended. Cancel safe.
    ///
    /// # Errors
    /// When one cannot be followed.
    pub(super) async fn next(&mut self) -> Outcome<Option<Told>> {
        loop {
            tokio::select! {
                biased;
                told = self.told.recv() => match told {
                    Some(told) => return Ok(Some(told)),
                    None => return self.end().await,
                },
                Some(ended) = self.tasks.join_next() => fault(ended)?,
            }
        }
    }

    async fn end(&mut self) -> Outcome<Option<Told>> {
        while let Some(ended) = self.tasks.join_next().await {
            fault(ended)?;
        }
        Ok(None)
    }

    /// What ends from here on is not waited for to be started again.
    pub(super) fn nothing_again(&self) {
        self.last_time.send_replace(true);
    }
}

fn fault(ended: Result<Outcome, tokio::task::JoinError>) -> Outcome {
    ended.unwrap_or_else(|error| Err(Stop::refused(format!("cannot follow: {error}"))))
}

/// Keeps the states of a server's project until nobody wants them.
async fn look(client: &Client, project: &str, to: watch::Sender<States>) {
    let mut events = client.events().await.ok();
    loop {
        if let Ok(listed) = client.list(project).await {
            let states = listed.into_iter().map(|one| (one.definition.name, one.status_code)).collect();
            to.send_if_modified(|before| {
                let differs = *before != states;
                *before = states;
                differs
            });
        }
        let event = async {
            match &mut events {
                Some(stream) => loop {
                    match stream.next().await {
                        Ok(event) if event.project == project => return true,
                        Ok(_) => {}
                        Err(_) => return false,
                    }
                },
                None => std::future::pending().await,
            }
        };
        let goes_on = tokio::select! {
            goes_on = event => goes_on,
            () = tokio::time::sleep(LOOK) => true,
            () = to.closed() => return,
        };
        if !goes_on {
            events = None;
        }
        if events.is_none() {
            tokio::time::sleep(PAUSE).await;
            events = client.events().await.ok();
        }
    }
}

/// One instance that is followed.
struct Life {
    client: Client,
    settles: bool,
    states: watch::Receiver<States>,
    no_more: watch::Receiver<bool>,
    until: Until,
    to: mpsc::Sender<Told>,
}

/// What was said already.
struct Known {
    last: Stamp,
    console: Vec<u8>,
}

impl Life {
    async fn follow(mut self, followed: Followed) -> Outcome {
        let Followed { of, replica, last, console } = followed;
        let mut known = Known { last, console };
        loop {
            self.one_life(of, &replica, &mut known).await?;
            let code = exit_code(&self.client, replica.project(), replica.name()).await;
            // Nobody may be left to be told.
            let _unheard = self.to.send(Told::Ended { of, code: code.ok().flatten() }).await;
            if self.until == Until::Ended || self.to.is_closed() || !self.is_back(&replica).await {
                return Ok(());
            }
            // It may be another one of the same name.
            known.console = Vec::new();
        }
    }

    /// Until it has ended, and is not started again by the server.
    async fn one_life(&mut self, of: usize, replica: &Replica, known: &mut Known) -> Outcome {
        let mut blind: Option<Instant> = None;
        loop {
            match self.state(replica) {
                Some(status_code::RUNNING) => {
                    match self.run(of, replica, known).await {
                        Ok(()) => blind = None,
                        Err(stop) if blind.get_or_insert_with(Instant::now).elapsed() > BLIND => {
                            return Err(stop);
                        }
                        // It is about to start, or to end.
                        Err(_) => {}
                    }
                    self.change(PAUSE).await;
                }
                None => break,
                Some(status_code::STOPPED | status_code::ERROR) => {
                    self.left(of, replica, known).await?;
                    if !self.comes_again(replica).await {
                        break;
                    }
                }
                Some(_) => self.change(LOOK).await,
            }
            if self.to.is_closed() {
                break;
            }
        }
        Ok(())
    }

    /// Waits until one that has ended runs again; whether it does.
    async fn is_back(&mut self, replica: &Replica) -> bool {
        let name = replica.name();
        let runs = |states: &States| states.get(name).is_some_and(|state| *state == status_code::RUNNING);
        let mut no_more = self.no_more.clone();
        tokio::select! {
            came = self.states.wait_for(runs) => came.is_ok(),
            _ = no_more.wait_for(|no_more| *no_more) => false,
            () = self.to.closed() => false,
        }
    }

    fn state(&mut self, replica: &Replica) -> Option<u16> {
        self.states.borrow_and_update().get(replica.name()).copied()
    }

    /// Until something changes, or for so long.
    async fn change(&mut self, limit: Duration) {
        let changed = tokio::time::timeout(limit, self.states.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            // Whoever looks has ended, and nothing will change.
            tokio::time::sleep(limit).await;
        }
    }

    /// Sends what it says while it runs.
    async fn run(&mut self, of: usize, replica: &Replica, known: &mut Known) -> Outcome {
        if is_ours(&self.client, replica).await? {
            let said = tail(&self.client, of, replica, &mut known.last, &self.to);
            return tokio::select! {
                said = said => said,
                () = ended(self.states.clone(), replica.name()) => Ok(()),
            };
        }
        // Not asked for while it runs: what one is told of a console nobody else is told again.
        while self.state(replica) == Some(status_code::RUNNING) && !self.to.is_closed() {
            self.change(LOOK).await;
        }
        Ok(())
    }

    /// Sends what one that has ended has said and nobody has heard.
    async fn left(&mut self, of: usize, replica: &Replica, known: &mut Known) -> Outcome {
        let ours = is_ours(&self.client, replica).await.unwrap_or(false);
        if !ours {
            let console = self.client.console(replica.project(), replica.name()).await.ok().flatten();
            let console = console.unwrap_or_default();
            let new = after(&console, &known.console);
            self.send(console_lines(of, new)).await;
            // A new start begins it anew.
            known.console = Vec::new();
            return Ok(());
        }
        let (lines, _) = rest(&self.client, of, replica).await?;
        let new: Vec<Line> =
            lines.into_iter().filter(|line| line.at > known.last && line.source != Source::Own).collect();
        known.last = new.last().map_or(known.last, |line| line.at);
        self.send(new).await;
        Ok(())
    }

    async fn send(&self, lines: Vec<Line>) {
        for line in lines {
            if self.to.send(Told::Line(line)).await.is_err() {
                return;
            }
        }
    }

    /// Whether one that has ended is started again.
    async fn comes_again(&mut self, replica: &Replica) -> bool {
        if !self.settles {
            return self.state(replica).is_some_and(|state| state == status_code::RUNNING);
        }
        let name = replica.name();
        let runs = |states: &States| states.get(name).is_some_and(|state| *state == status_code::RUNNING);
        let mut no_more = self.no_more.clone();
        tokio::select! {
            came = tokio::time::timeout(AGAIN, self.states.wait_for(runs)) => matches!(came, Ok(Ok(_))),
            _ = no_more.wait_for(|no_more| *no_more) => false,
        }
    }
}

/// Until an instance has been seen as ended for a while. A program inside it may have no end for those who listen to
/// it: a server now and then leaves its streams open when the instance goes.
async fn ended(mut states: watch::Receiver<States>, name: &str) {
    let is_over = |states: &States| {
        matches!(states.get(name), None | Some(&(status_code::STOPPED | status_code::ERROR)))
    };
    if states.wait_for(is_over).await.is_err() {
        // Nobody looks any more.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(DEAF).await;
}

/// What follows in a console after what is known.
fn after<'c>(console: &'c [u8], known: &[u8]) -> &'c [u8] {
    if known.is_empty() {
        return console;
    }
    let at = console.windows(known.len()).rposition(|window| window == known);
    at.and_then(|at| console.get(at + known.len()..)).unwrap_or(console)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_goes_on_after_what_is_known() {
        assert_eq!(after(b"a\nb\na\nc\n", b"a\n"), b"c\n");
        assert_eq!(after(b"a\nb\n", b"a\nb\n"), b"");
        assert_eq!(after(b"new\n", b"old\n"), b"new\n", "it has begun anew");
        assert_eq!(after(b"x", b""), b"x");
    }
}
