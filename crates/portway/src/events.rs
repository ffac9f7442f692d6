//! `portway events`: what changes, as it changes.

use portway_control::api::{Event, FailureKind};
use portway_model::InstanceKey;

use crate::cli::EventsArgs;
use crate::cli::target;
use crate::failure::{Outcome, Stop, printable};
use crate::output::{Format, Out, csv};
use crate::session::Session;

/// Prints events until the daemon or the reader goes away.
pub(crate) fn run(args: &EventsArgs) -> Outcome {
    let project = args.project.project.as_deref();
    let instance = args.instance.as_deref().map(|text| target::instance(text, project)).transpose()?;
    let project = project.map(target::project).transpose()?;
    let wanted = |key: Option<&InstanceKey>| match (&instance, &project) {
        (Some(instance), _) => key == Some(instance),
        (None, Some(project)) => key.is_some_and(|key| key.project() == Some(project)),
        (None, None) => true,
    };
    let session = Session::open()?;
    let mut out = Out::new();
    session.follow(async {
        let mut events = session.client.events().await?;
        if args.format.format == Format::Csv {
            out.text(&csv::line(["at", "kind", "instance", "device", "text"]))?;
        }
        while let Some(event) = events.next().await? {
            if wanted(event.instance.as_ref()) {
                print(&mut out, &event, args.format.format)?;
            }
        }
        let ended = Stop::of(FailureKind::Unreachable, "the daemon ended the stream");
        Err(ended.hint("it stops or restarts; follow it again once `portway status` answers"))
    })
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
