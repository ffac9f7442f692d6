//! Which instances there are: for completion, and to tell one without devices from one that is not.

use std::collections::BTreeMap;

use portway_control::api::{self, Failure, FailureKind};
use portway_model::{InstanceKey, Provider};

use crate::hub::{Hub, failure};
use crate::instance::edit;
use crate::provider::{Question, Status};

/// Where network namespaces have names (ip-netns(8)).
const NETNS_DIR: &str = "/run/netns";

impl Hub {
    /// Every instance that a provider names, and those that have devices. A provider that does not
    /// answer names none.
    pub(crate) async fn instances(&self) -> Vec<api::KnownInstance> {
        let mut known: BTreeMap<InstanceKey, (Option<String>, u64)> = BTreeMap::new();
        for device in self.desired().into_keys() {
            known.entry(device.instance).or_default().1 += 1;
        }
        for endpoint in [&self.providers.incus, &self.providers.lxd] {
            let summaries = match endpoint.client() {
                Some(client) => client.instances().await.unwrap_or_default(),
                None => Vec::new(),
            };
            for found in summaries {
                let key = InstanceKey::new(endpoint.provider(), Some(&found.project), &found.name);
                if let Ok(key) = key {
                    known.entry(key).or_default().0 = Some(found.status.to_lowercase());
                }
            }
        }
        for entry in std::fs::read_dir(NETNS_DIR).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let key = name.to_str().and_then(|name| InstanceKey::new(Provider::Netns, None, name).ok());
            if let Some(key) = key {
                known.entry(key).or_default();
            }
        }
        let shown = |(instance, (status, devices))| api::KnownInstance { instance, status, devices };
        known.into_iter().map(shown).collect()
    }

    /// Whether there is an instance of this name, with devices or without.
    ///
    /// # Errors
    /// When there is none, or its server does not answer.
    pub(crate) async fn check_exists(&self, key: &InstanceKey) -> Result<(), Failure> {
        match self.providers.observe(key, Question::default()).await.status {
            Status::Unreachable(text) => Err(edit::unreachable(key.provider(), &text)),
            Status::Absent => {
                let known = self.instances().await.into_iter().map(|known| known.instance);
                let beside = |other: &InstanceKey| {
                    (other.provider(), other.project()) == (key.provider(), key.project())
                };
                let beside: Vec<InstanceKey> = known.filter(beside).collect();
                let near = portway_model::nearest(
                    key.name().as_str(),
                    beside.iter().map(|other| other.name().as_str()),
                );
                let near = near.and_then(|near| beside.iter().find(|other| other.name().as_str() == near));
                Err(Failure {
                    hint: near.map(|near| format!("did you mean {near}?")),
                    ..failure(FailureKind::Missing, format!("{key} does not exist"))
                })
            }
            Status::Down(_)
            | Status::Elsewhere(_)
            | Status::Unready(_)
            | Status::Unsupported(_)
            | Status::Up(_) => Ok(()),
        }
    }
}
