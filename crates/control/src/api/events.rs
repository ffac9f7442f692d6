//! Which events somebody wants.

use portway_model::{DeviceName, InstanceKey, ProjectName};
use serde::{Deserialize, Serialize};

use super::Event;

/// Every kind of event there is.
pub const EVENT_KINDS: &[&str] = &[
    "device-added",
    "device-removed",
    "device-changed",
    "device-state",
    "device-error",
    "worker-started",
    "worker-ended",
    "instance-started",
    "instance-stopped",
    "instance-health",
    "network-started",
    "network-failed",
];

/// How many of the last events a daemon keeps, and may be asked for.
pub const RECENT_MAX: usize = 1000;

/// Query of `GET /1.0/events`: an event is told when it has all that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    /// Of one of these kinds, with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// About this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceKey>,
    /// About an instance of this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// About a device of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceName>,
    /// About this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// So many of the last ones first, at most [`RECENT_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<usize>,
    /// False: nothing but those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

impl EventFilter {
    /// Whether it asks for `event`.
    #[must_use]
    pub fn takes(&self, event: &Event) -> bool {
        let instance = event.instance.as_ref();
        let kind = self.kind.as_deref().is_none_or(|kinds| kinds.split(',').any(|kind| kind == event.kind));
        kind && self.instance.as_ref().is_none_or(|wanted| instance == Some(wanted))
            && self
                .project
                .as_ref()
                .is_none_or(|wanted| instance.and_then(InstanceKey::project) == Some(wanted))
            && self.device.as_ref().is_none_or(|wanted| event.device.as_ref() == Some(wanted))
            && self.network.as_ref().is_none_or(|wanted| event.network.as_ref() == Some(wanted))
    }

    /// A kind it asks for that there is not, and the nearest that there is.
    #[must_use]
    pub fn unknown_kind(&self) -> Option<(&str, Option<&'static str>)> {
        let unknown = self.kind.as_deref()?.split(',').find(|kind| !EVENT_KINDS.contains(kind))?;
        Some((unknown, portway_model::nearest(unknown, EVENT_KINDS.iter().copied())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a part of the filter is not asked, or one that is not given refuses something.
    #[test]
    fn an_event_has_to_be_all_that_is_asked_for() {
        let event = Event {
            at: String::new(),
            kind: "device-state".to_owned(),
            instance: Some("incus:dev/c1".parse().unwrap()),
            device: Some("web".parse().unwrap()),
            network: None,
            text: String::new(),
        };
        let of_network =
            Event { instance: None, device: None, network: Some("home".to_owned()), ..event.clone() };
        for (query, takes, takes_network) in [
            (r"{}", true, true),
            (r#"{"kind":"device-state"}"#, true, true),
            (r#"{"kind":"device-added,device-state"}"#, true, true),
            (r#"{"kind":"device-added"}"#, false, false),
            (r#"{"instance":"incus:dev/c1"}"#, true, false),
            (r#"{"instance":"incus:default/c1"}"#, false, false),
            (r#"{"project":"dev"}"#, true, false),
            (r#"{"project":"default"}"#, false, false),
            (r#"{"device":"web"}"#, true, false),
            (r#"{"device":"dns"}"#, false, false),
            (r#"{"network":"home"}"#, false, true),
            (r#"{"device":"web","kind":"device-error"}"#, false, false),
            (r#"{"recent":5,"follow":false}"#, true, true),
        ] {
            let filter: EventFilter = serde_json::from_str(query).unwrap();
            assert_eq!((filter.takes(&event), filter.takes(&of_network)), (takes, takes_network), "{query}");
            assert_eq!(filter.unknown_kind(), None);
        }
        let kind = Some("device-added,device-stat".to_owned());
        let unknown = EventFilter { kind, ..EventFilter::default() };
        assert_eq!(unknown.unknown_kind(), Some(("device-stat", Some("device-state"))));
    }
}
