//! Devices in the store whose keys are refused: no actor has them, the hub alone. The actor of their instance looks
//! whether that has another name.

use portway_control::api::{Failure, FailureKind};
use portway_model::{DeviceKey, DeviceName, InstanceKey};

use super::{Hub, failure, locked};
use crate::state::{Change, Refused, RefusedDevice};

impl Hub {
    /// Devices in the store whose keys are refused.
    pub(crate) fn refused(&self) -> Refused {
        locked(&self.refused).clone()
    }

    /// Those of an instance.
    pub(crate) fn refused_of(&self, instance: &InstanceKey) -> Vec<(DeviceName, RefusedDevice)> {
        let refused = locked(&self.refused);
        let of = refused.iter().filter(|(key, _)| key.instance == *instance);
        of.map(|(key, device)| (key.device.clone(), device.clone())).collect()
    }

    /// Whether there is one of an instance.
    pub(crate) fn has_refused(&self, instance: &InstanceKey) -> bool {
        locked(&self.refused).keys().any(|key| key.instance == *instance)
    }

    /// Whether a device's keys can be used, as far as the store knows it.
    ///
    /// # Errors
    /// When they are refused: it can only be removed, or replaced by a list that has it.
    pub(crate) fn check_usable(&self, key: &DeviceKey) -> Result<(), Failure> {
        let Some(reason) = locked(&self.refused).get(key).map(RefusedDevice::reason) else { return Ok(()) };
        Err(Failure {
            hint: Some("remove it and add it again".into()),
            ..failure(FailureKind::Refused, format!("{key}: {reason}"))
        })
    }

    /// Removes a device whose keys are refused; nothing of it is served.
    ///
    /// # Errors
    /// When it cannot be stored; nothing is changed then.
    pub(crate) async fn remove_refused(&self, key: &DeviceKey) -> Result<(), Failure> {
        let committed = self.commit(vec![Change::Delete(key.clone())]).await;
        committed.map_err(|text| failure(FailureKind::Internal, format!("removal not stored: {text}")))?;
        self.tell("device-removed", &key.instance, Some(&key.device), "removed".into());
        Ok(())
    }
}
