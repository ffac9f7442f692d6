//! `portway top` on a terminal: looks at the daemon, keys and signals to the model, the model to the screen.

use std::time::{Duration, Instant};

use crossterm::event::Event;
use portway_control::{Client, ClientError};
use portway_model::{DeviceKey, InstanceKey};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use super::keys::{Action, action};
use super::model::{Look, Model};
use super::screen::{self, Screen};
use super::view;
use crate::failure::{Outcome, Stop, chain};

/// Most connections of a device that are asked for: more than fit on a screen, and no load for the daemon.
const CONNECTIONS: u32 = 500;

/// Pause before a daemon that is away is tried again.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Pause before the second look, which is the first with rates.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// `SIGTSTP` and `SIGCONT` of signal(7).
const STOPPED: i32 = nix::libc::SIGTSTP;
const CONTINUED: i32 = nix::libc::SIGCONT;

/// A look, or why there is none.
type Answer = Result<Look, String>;

/// Signals that end it, and those that stop and continue it.
struct Signals {
    terminated: Signal,
    hung_up: Signal,
    stopped: Signal,
    continued: Signal,
}

impl Signals {
    fn new() -> Outcome<Signals> {
        let of = |kind| signal(kind).map_err(|error| Stop::refused(format!("cannot start: {error}")));
        Ok(Signals {
            terminated: of(SignalKind::terminate())?,
            hung_up: of(SignalKind::hangup())?,
            stopped: of(SignalKind::from_raw(STOPPED))?,
            continued: of(SignalKind::from_raw(CONTINUED))?,
        })
    }
}

/// What is running.
struct Top {
    client: Client,
    instance: Option<InstanceKey>,
    model: Model,
    screen: Screen,
    colour: bool,
    /// The look that is under way.
    asking: Option<JoinHandle<Answer>>,
    /// When the next one is due.
    next: tokio::time::Instant,
}

/// Whether it goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Quit,
}

/// Shows devices until it is told to end.
pub(super) async fn run(
    client: Client,
    instance: Option<InstanceKey>,
    model: Model,
    colour: bool,
) -> Outcome {
    // What is wrong from the start is told as by any command.
    let first = look(&client, instance.as_ref(), None).await?;
    let mut model = model;
    model.learn(first);
    let mut signals = Signals::new()?;
    let screen = Screen::take()?;
    let mut keys = screen::keys()?;
    let next = tokio::time::Instant::now() + FIRST_PAUSE;
    let mut top = Top { client, instance, model, screen, colour, asking: None, next };
    loop {
        top.draw()?;
        let due = top.asking.is_none() && !top.model.paused;
        tokio::select! {
            event = keys.recv() => match event {
                Some(event) => if top.on_event(&event)? == Next::Quit { return Ok(()) },
                // The terminal is gone.
                None => return Err(Stop::Status(129)),
            },
            answer = finished(&mut top.asking) => top.on_answer(answer),
            () = tokio::time::sleep_until(top.next), if due => top.ask(),
            _ = signals.terminated.recv() => return Err(Stop::Status(143)),
            _ = signals.hung_up.recv() => return Err(Stop::Status(129)),
            _ = signals.stopped.recv() => top.screen.suspend()?,
            _ = signals.continued.recv() => top.screen.resume()?,
        }
    }
}

impl Top {
    fn draw(&mut self) -> Outcome {
        let (model, colour) = (&mut self.model, self.colour);
        let drawn = self.screen.terminal.draw(|frame| view::draw(frame, model, colour));
        drawn.map(drop).map_err(|error| Stop::output(&error))
    }

    fn on_event(&mut self, event: &Event) -> Outcome<Next> {
        let Event::Key(key) = event else { return Ok(Next::GoOn) };
        match action(*key, self.model.typing) {
            Some(Action::Quit) => return Ok(Next::Quit),
            Some(Action::Suspend) => self.screen.suspend()?,
            Some(Action::Redraw) => self.screen.resume()?,
            // Its connections are wanted at once.
            Some(action) if self.model.act(action) => {
                self.drop_question();
                self.ask();
            }
            Some(_) | None => {}
        }
        Ok(Next::GoOn)
    }

    fn drop_question(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }

    fn ask(&mut self) {
        self.next = tokio::time::Instant::now() + Duration::from_secs(self.model.interval.into());
        let (client, instance) = (self.client.clone(), self.instance.clone());
        let device = self.model.looked_at().cloned();
        let look =
            async move { look(&client, instance.as_ref(), device).await.map_err(|error| chain(&error)) };
        self.asking = Some(tokio::spawn(look));
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Ok(look) => self.model.learn(look),
            Err(why) => {
                self.model.lose(why);
                self.next = tokio::time::Instant::now() + AWAY_PAUSE;
            }
        }
    }
}

/// The answer of what is under way; never without.
async fn finished(asking: &mut Option<JoinHandle<Answer>>) -> Answer {
    let Some(task) = asking else { return std::future::pending().await };
    let answer = task.await.unwrap_or_else(|error| Err(error.to_string()));
    *asking = None;
    answer
}

/// Everything that is shown.
async fn look(
    client: &Client,
    instance: Option<&InstanceKey>,
    device: Option<DeviceKey>,
) -> Result<Look, ClientError> {
    let devices = client.devices(instance).await?;
    let at = Instant::now();
    // Nothing is lost without it.
    let server = client.server().await.ok();
    let connections = match device {
        Some(key) => {
            let answer = client.connections(&key, Some(CONNECTIONS)).await.map_err(|error| chain(&error));
            Some((key, answer))
        }
        None => None,
    };
    Ok(Look { at, server, devices, connections })
}
