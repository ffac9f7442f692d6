//! `portway mesh events`: what happens to a network that runs, as it happens.

use portway_control::api::{FailureKind, MeshEvent};

use super::live::client;
use crate::cli::mesh::MeshEventsArgs;
use crate::failure::{Outcome, Stop, printable};
use crate::output::{Format, Out, csv};
use crate::session::runtime;

/// Prints events until the network or the reader goes away.
pub(super) fn run(args: &MeshEventsArgs) -> Outcome {
    let client = client(args.name.as_deref())?;
    let mut out = Out::new();
    runtime()?.block_on(async {
        let mut events = client.mesh_events().await?;
        if args.format.format == Format::Csv {
            out.text(&csv::line(["at", "kind", "peer", "rule", "text"]))?;
        }
        while let Some(event) = events.next().await? {
            print(&mut out, &event, args.format.format)?;
        }
        Err(Stop::of(FailureKind::Unreachable, "the network ended the stream"))
    })
}

fn print(out: &mut Out, event: &MeshEvent, format: Format) -> Outcome {
    match format {
        Format::Table => out.line(&line(event)),
        Format::Json => out.json_line(event),
        Format::Yaml => {
            out.text("---\n")?;
            out.yaml(event)
        }
        Format::Csv => {
            let [peer, rule] = [&event.peer, &event.rule].map(|it| it.as_deref().unwrap_or_default());
            out.text(&csv::line([&event.at, &event.kind, peer, rule, &event.text]))
        }
    }
}

/// Time, kind, whom it concerns, text.
fn line(event: &MeshEvent) -> String {
    let whom =
        event.peer.as_ref().or(event.rule.as_ref()).map(|whom| format!("{whom}  ")).unwrap_or_default();
    printable(&format!("{}  {:<15}  {whom}{}", event.at, event.kind, event.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_each_event() {
        let mut event = MeshEvent {
            at: "2026-11-20T10:00:00Z".to_owned(),
            kind: "rule-added".to_owned(),
            peer: None,
            rule: Some("0123456789ab".to_owned()),
            text: "egress tcp:80:a:80\n".to_owned(),
        };
        assert_eq!(line(&event), "2026-11-20T10:00:00Z  rule-added       0123456789ab  egress tcp:80:a:80 ");
        (event.kind, event.rule) = ("running".to_owned(), None);
        assert_eq!(line(&event), "2026-11-20T10:00:00Z  running          egress tcp:80:a:80 ");
    }
}
