//! `events`: what happens to the instances of a project, as the server tells it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use portway_compose::apply::exit_code;
use portway_compose::label;
use portway_incus::{Client, Definition, Event};
use portway_model::rfc3339;
use serde_json::{Value, json};

use super::found;
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
        let mut out = Out::new();
        loop {
            let event = events.next().await.map_err(found::failed)?;
            let Some((_, action)) = ACTIONS.iter().find(|(of, _)| *of == event.action) else { continue };
            let Some(one) = known.of(&event, action).await else { continue };
            if !args.services.is_empty() && !args.services.contains(&one.service) {
                continue;
            }
            let time = rfc3339(SystemTime::now());
            if args.json {
                out.json_line(&json!({"time": time, "type": "container", "service": one.service,
                    "id": event.name, "action": action, "attributes": one.attributes}))?;
            } else {
                let pairs = one.attributes.as_object().into_iter().flatten();
                let pairs = pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
                let pairs = pairs.collect::<Vec<_>>().join(", ");
                let line = format!("{time} container {action} {} ({pairs})", event.name);
                out.line(&printable(&line))?;
            }
        }
    })
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

    /// The instance of an event, when it is ours.
    async fn of(&mut self, event: &Event, action: &str) -> Option<One> {
        let key = (event.project.clone(), event.name.clone());
        let mut one = match action {
            "destroy" => self.ours.remove(&key)?,
            _ => match self.client.definition(&event.project, &event.name).await {
                Ok(Some(definition)) => self.note(&definition)?,
                // It may have gone since.
                _ => self.ours.get(&key)?.clone(),
            },
        };
        if action == "die"
            && let Ok(Some(code)) = exit_code(&self.client, &event.project, &event.name).await
        {
            one.attributes["exitCode"] = json!(code.to_string());
        }
        Some(one)
    }
}
