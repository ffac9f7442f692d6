//! Stored devices whose keys this build refuses: another build wrote them, or a rule has become stricter.
//!
//! They are kept as they stand in the file, shown as failed with the reason, and can be removed or replaced.
//! All other devices do not notice.

use std::collections::BTreeMap;
use std::time::SystemTime;

use portway_control::api;
use portway_model::{DeviceKey, DeviceName, DeviceSpec, InstanceKey, SpecError};
use serde::{Deserialize, Serialize};

use super::{Change, Origin, StoredDevice};

/// A device as the file has it, its keys unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredText {
    pub(super) instance: InstanceKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) uuid: Option<String>,
    pub(super) name: DeviceName,
    keys: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

impl StoredText {
    /// The device's full name.
    pub(crate) fn key(&self) -> DeviceKey {
        DeviceKey { instance: self.instance.clone(), device: self.name.clone() }
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// The device as it stands, and why its keys are refused.
    pub(crate) fn read(self) -> Result<StoredDevice, Box<RefusedDevice>> {
        match DeviceSpec::from_keys(&self.keys) {
            Ok(keys) => {
                let Self { instance, uuid, name, keys: _, origin } = self;
                Ok(StoredDevice { instance, uuid, name, keys, origin })
            }
            Err(why) => Err(Box::new(RefusedDevice { text: self, why, since: SystemTime::now() })),
        }
    }
}

impl From<&StoredDevice> for StoredText {
    fn from(device: &StoredDevice) -> Self {
        let StoredDevice { instance, uuid, name, keys, origin } = device.clone();
        Self { instance, uuid, name, keys: keys.to_keys(), origin }
    }
}

/// A stored device whose keys are refused.
#[derive(Debug, Clone)]
pub(crate) struct RefusedDevice {
    pub(super) text: StoredText,
    why: SpecError,
    /// When it was read.
    since: SystemTime,
}

/// All of them.
pub(crate) type Refused = BTreeMap<DeviceKey, RefusedDevice>;

/// Carries `change` out on the refused devices: one that it removes or replaces is forgotten, one whose instance has
/// another name gets that.
pub(crate) fn keep_up(refused: &mut Refused, change: &Change) {
    match change {
        Change::Put(device) => drop(refused.remove(&device.key())),
        Change::Delete(key) => drop(refused.remove(key)),
        Change::Rename { from, to } => {
            if let Some(mut device) = refused.remove(from) {
                device.text.instance = to.instance.clone();
                device.text.name = to.device.clone();
                refused.insert(to.clone(), device);
            }
        }
        Change::Bind { .. } => {}
    }
}

impl RefusedDevice {
    /// UUID of the instance it is bound to, when it follows that and not a name.
    pub(crate) fn followed_uuid(&self) -> Option<&str> {
        let by_name = self.text.keys.get("follow").is_some_and(|follow| follow == "name");
        self.text.uuid.as_deref().filter(|_| !by_name)
    }

    /// Why, on one line.
    pub(crate) fn reason(&self) -> String {
        format!("its stored keys are refused: {}", self.why)
    }

    /// The device for the control API.
    pub(crate) fn show(&self) -> api::Device {
        let text = &self.text;
        let value = |key: &str| text.keys.get(key).cloned().unwrap_or_default();
        api::Device {
            instance: text.instance.clone(),
            name: text.name.clone(),
            listen: value("listen"),
            connect: value("connect"),
            bind: text.keys.get("bind").cloned().unwrap_or_else(|| "host".into()),
            state: api::DeviceState::Failed,
            mode: api::DeviceMode::Relay,
            mode_reason: None,
            connections_now: 0,
            connections_total: 0,
            bytes_in: Some(0),
            bytes_out: Some(0),
            last_error: None,
            since: portway_model::rfc3339(self.since),
            reason: Some(self.reason()),
            keys: text.keys.clone(),
            instance_uuid: text.uuid.clone(),
            dials_failed: 0,
            resets: 0,
            dropped: 0,
            evicted: 0,
            denied: 0,
            over_connections: 0,
            over_rate: 0,
            over_per_source: 0,
            bad_headers: 0,
            failures: api::DeviceFailures::default(),
            dial_time: api::DialTime::default(),
            worker_pid: None,
        }
    }
}
