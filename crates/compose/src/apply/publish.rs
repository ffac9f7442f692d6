//! The devices of Portway by which an instance is published.

use std::collections::BTreeMap;

use portway_control::api::{AddDevice, FailureKind};
use portway_model::DeviceKey;

use super::{ApplyError, Hands};
use crate::want::Keys;

impl Hands<'_> {
    /// Makes devices, and takes others away.
    pub(super) async fn publish(
        &self,
        instance: &str,
        set: &BTreeMap<String, Keys>,
        gone: &[String],
    ) -> Result<(), ApplyError> {
        let daemon = self.portway.ok_or(ApplyError::NoDaemon)?;
        let key = daemon.key(self.project, instance).map_err(|error| ApplyError::Name(error.to_string()))?;
        let device = |name: &str| {
            let name = name.parse().map_err(|_| ApplyError::Name(format!("device {name}")))?;
            Ok::<_, ApplyError>(DeviceKey { instance: key.clone(), device: name })
        };
        // Those that are made anew go first: another may take the port of one that goes.
        let there = daemon.client.devices(Some(&key)).await;
        let there = match there {
            Err(error) if error.kind() == FailureKind::Missing => Vec::new(),
            there => there.map_err(|source| ApplyError::Portway {
                what: "its devices cannot be read".to_owned(),
                source,
            })?,
        };
        let there = |name: &str| there.iter().any(|device| device.name.as_str() == name);
        for name in gone.iter().chain(set.keys()).filter(|name| there(name)) {
            let removed = daemon.client.remove(&device(name)?).await;
            removed.map_err(|source| ApplyError::Portway {
                what: format!("{name} cannot be withdrawn"),
                source,
            })?;
        }
        for (name, keys) in set {
            let device = device(name)?;
            let add = AddDevice { instance: device.instance, name: device.device, keys: keys.clone() };
            let added = daemon.client.add(&add).await;
            added.map_err(|source| ApplyError::Portway {
                what: format!("{name} cannot be published"),
                source,
            })?;
        }
        Ok(())
    }
}
