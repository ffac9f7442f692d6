//! `portway events`: what changes, as it changes.

use std::time::Duration;

use portway_control::api::{Event, EventFilter, FailureKind, RECENT_MAX};
use portway_control::{Client, ClientError, Events};

use crate::cli::EventsArgs;
use crate::cli::target;
use crate::failure::{Outcome, Stop, printable};
use crate::output::{Format, Out, csv};
use crate::session::Session;

/// Pause between two tries to reach a daemon that is away.
const AWAY_PAUSE: Duration = Duration::from_millis(300);

/// Prints events until the daemon or the reader goes away, or there were as many as asked for.
pub(crate) fn run(args: &EventsArgs) -> Outcome {
    let filter = filter(args)?;
    let session = Session::open()?;
    let mut out = Out::new();
    session.follow(async {
        let mut following = Following {
            client: &session.client,
            filter,
            args,
            left: args.count,
            daemon: None,
            has_header: false,
        };
        loop {
            match following.once(&mut out).await {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(failure)) if args.reconnect && failure.kind == FailureKind::Unreachable => {
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
                Err(stop) => return Err(stop),
            }
        }
    })
}

fn filter(args: &EventsArgs) -> Outcome<EventFilter> {
    let project = args.project.as_deref();
    let instance = args.instance.as_deref().or(args.of.as_deref());
    let instance = instance.map(|text| target::instance(text, project)).transpose()?;
    // With an instance it says which one.
    let project = project.filter(|_| instance.is_none()).map(target::project).transpose()?;
    let device = args.device.as_deref().map(target::device_name).transpose()?;
    let kind = (!args.kind.is_empty()).then(|| args.kind.join(","));
    let recent = args.recent.map(|recent| usize::try_from(recent).unwrap_or(RECENT_MAX));
    let follow = args.no_follow.then_some(false);
    Ok(EventFilter { kind, instance, project, device, network: args.network.clone(), recent, follow })
}

/// A reader of events, across daemons.
struct Following<'a> {
    client: &'a Client,
    filter: EventFilter,
    args: &'a EventsArgs,
    /// Events that are still asked for; `None`: all.
    left: Option<u64>,
    /// Pid of the daemon of before.
    daemon: Option<u32>,
    /// The header of a table for programs has been printed.
    has_header: bool,
}

impl Following<'_> {
    /// Reads one stream to its end; success is the end of all.
    async fn once(&mut self, out: &mut Out) -> Outcome {
        let mut events = self.open().await?;
        if self.args.format.format == Format::Csv && !std::mem::replace(&mut self.has_header, true) {
            out.text(&header())?;
        }
        while self.left != Some(0) {
            let Some(event) = events.next().await? else {
                if self.args.no_follow {
                    return Ok(());
                }
                let ended = Stop::of(FailureKind::Unreachable, "the daemon ended the stream");
                return Err(ended.hint("it stops or restarts; `--reconnect` goes on with the next one"));
            };
            // A daemon of an earlier version tells everything.
            if self.filter.takes(&event) {
                print(out, &event, self.args.format.format)?;
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
        }
        Ok(())
    }

    /// Of the next daemon everything is wanted that has happened since it started.
    async fn open(&mut self) -> Result<Events, ClientError> {
        if self.args.reconnect {
            let pid = self.client.server().await?.pid;
            if let Some(before) = self.daemon.replace(pid) {
                self.filter.recent = (before != pid).then_some(RECENT_MAX);
            }
        }
        self.client.events_of(&self.filter).await
    }
}

fn print(out: &mut Out, event: &Event, format: Format) -> Outcome {
    match format {
        Format::Table => out.line(&line(event)),
        Format::Json => out.json_line(event),
        Format::Yaml => {
            out.text("---\n")?;
            out.yaml(event)
        }
        Format::Csv => out.text(&csv::line([
            event.at.as_str(),
            event.kind.as_str(),
            whom(event).as_str(),
            event.device.as_ref().map_or("", |device| device.as_str()),
            event.text.as_str(),
        ])),
    }
}

fn header() -> String {
    csv::line(["at", "kind", "instance", "device", "text"])
}

/// The instance or the network concerned.
fn whom(event: &Event) -> String {
    match (&event.instance, &event.network) {
        (Some(instance), _) => instance.to_string(),
        (None, Some(network)) => format!("mesh:{network}"),
        (None, None) => String::new(),
    }
}

/// Time, kind, whom it concerns, text.
fn line(event: &Event) -> String {
    let device = event.device.as_ref().map(|device| format!("/{device}")).unwrap_or_default();
    let text = format!("{}  {:<17}  {}{device}  {}", event.at, event.kind, whom(event), event.text);
    printable(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_event() {
        let mut event = Event {
            at: "2026-11-20T10:00:00Z".to_owned(),
            kind: "device-state".to_owned(),
            instance: Some("incus:default/c1".parse().unwrap()),
            device: Some("web".parse().unwrap()),
            network: None,
            text: "active\nagain".to_owned(),
        };
        assert_eq!(
            line(&event),
            "2026-11-20T10:00:00Z  device-state       incus:default/c1/web  active again"
        );
        event.device = None;
        event.kind = "instance-stopped".to_owned();
        assert_eq!(line(&event), "2026-11-20T10:00:00Z  instance-stopped   incus:default/c1  active again");
        (event.instance, event.network) = (None, Some("home".to_owned()));
        assert_eq!(line(&event), "2026-11-20T10:00:00Z  instance-stopped   mesh:home  active again");
    }
}
