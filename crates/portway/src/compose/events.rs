//! `events`: what happens to the instances of a project, as the server tells it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use portway_compose::apply::exit_code;
use portway_compose::label;
use portway_incus::{Client, Definition, Event};
use portway_model::rfc3339;
use serde_json::{Value, json};

use super::found;
use super::health::{self, HealthEvents};
use crate::cli::compose::FileArgs;
use crate::cli::compose::run::EventsArgs;
use crate::failure::{Outcome, printable};
use crate::output::Out;
use crate::session::runtime;

/// What docker compose calls what the server calls otherwise. An instance stops by its own end or by its stop signal
/// (`die`), or by force (`stop`).
const ACTIONS: [(&str, &str); 9] = [
    ("instance-created", "create"),
    ("instance-started", "start"),
    ("instance-restarted", "restart"),
    ("instance-shutdown", "die"),
    ("instance-stopped", "stop"),
    ("instance-paused", "pause"),
    ("instance-resumed", "unpause"),
    ("instance-renamed", "rename"),
    ("instance-deleted", "destroy"),
];

/// Prints them until the stream ends.
pub(super) fn run(files: &FileArgs, args: &EventsArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    runtime()?.block_on(async {
        let mut events = client.events().await.map_err(found::failed)?;
        let mut known = Known { client, name, ours: BTreeMap::new() };
        // What is deleted can no longer be asked.
        for one in known.client.definitions().await.map_err(found::failed)? {
            known.note(&one);
        }
        let mut healths = HealthEvents::open(&known.client).await;
        let mut out = Out::new();
        loop {
            let (name, action, one) = tokio::select! {
                event = events.next() => {
                    let event = event.map_err(found::failed)?;
                    let Some((_, action)) = ACTIONS.iter().find(|(of, _)| *of == event.action) else { continue };
                    let one = known.of(&event, action).await;
                    (event.name, (*action).to_owned(), one)
                }
                change = health::next(&mut healths) => {
                    let one = known.named(&change.project, &change.instance).await;
                    (change.instance, format!("health_status: {}", change.word), one)
                }
            };
            let Some(one) = one else { continue };
            if args.services.is_empty() || args.services.contains(&one.service) {
                print(&mut out, args.json, (&name, &action, &one))?;
            }
        }
    })
}

/// One line, as docker compose has it.
fn print(out: &mut Out, as_json: bool, (name, action, one): (&str, &str, &One)) -> Outcome {
    let time = rfc3339(SystemTime::now());
    if as_json {
        return out.json_line(&json!({"time": time, "type": "container", "service": one.service,
            "id": name, "action": action, "attributes": one.attributes}));
    }
    let pairs = one.attributes.as_object().into_iter().flatten();
    let pairs = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let pairs = pairs.collect::<Vec<_>>().join(", ");
    out.line(&printable(&format!("{time} container {action} {name} ({pairs})")))
}

/// An instance of the project.
#[derive(Clone)]
struct One {
    service: String,
    attributes: Value,
}

/// The instances of the project, by the server's project and their name.
struct Known {
    client: Client,
    name: String,
    ours: BTreeMap<(String, String), One>,
}

impl Known {
    /// Remembers one that is ours.
    fn note(&mut self, definition: &Definition) -> Option<One> {
        let label = |key: &str| definition.config(key);
        let is_copy = label(label::NAME).is_some_and(|origin| origin != definition.name);
        if label(label::PROJECT) != Some(&self.name) || is_copy {
            return None;
        }
        let service = label(label::SERVICE)?.to_owned();
        let image: String = label("volatile.base_image").unwrap_or_default().chars().take(12).collect();
        let one = One { service, attributes: json!({"image": image, "name": definition.name}) };
        self.ours.insert((definition.project.clone(), definition.name.clone()), one.clone());
        Some(one)
    }

    /// The instance of this name, when it is ours.
    async fn named(&mut self, project: &str, name: &str) -> Option<One> {
        match self.client.definition(project, name).await {
            Ok(Some(definition)) => self.note(&definition),
            // It may have gone since.
            _ => self.ours.get(&(project.to_owned(), name.to_owned())).cloned(),
        }
    }

    /// The instance of an event, when it is ours.
    async fn of(&mut self, event: &Event, action: &str) -> Option<One> {
        let key = (event.project.clone(), event.name.clone());
        let mut one = match action {
            "destroy" => self.ours.remove(&key)?,
            _ => self.named(&event.project, &event.name).await?,
        };
        if action == "die"
            && let Ok(Some(code)) = exit_code(&self.client, &event.project, &event.name).await
        {
            one.attributes["exitCode"] = json!(code.to_string());
        }
        Some(one)
    }
}
