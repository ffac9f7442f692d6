//! The devices as the state file has them: a line of JSON each. A change makes the lines anew that it concerns,
//! and a file is its lines one after the other: its price is that of copying, whatever a device is made of.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use portway_model::DeviceKey;
use sha2::{Digest, Sha256};

use super::{Change, Desired, LAYOUT_VERSION, Refused, StoredText};

/// Every stored device, those whose keys are refused among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lines(BTreeMap<DeviceKey, Box<str>>);

/// The lines before some changes, in the order in which these were made.
#[derive(Debug, Default)]
pub(super) struct Before(Vec<(DeviceKey, Option<Box<str>>)>);

impl Lines {
    /// The lines of what was loaded.
    pub(super) fn of(desired: &Desired, refused: &Refused) -> serde_json::Result<Self> {
        let refused = refused.iter().map(|(key, device)| Ok((key.clone(), line(&device.text)?)));
        let desired = desired.iter().map(|(key, device)| Ok((key.clone(), line(&device.into())?)));
        refused.chain(desired).collect::<serde_json::Result<_>>().map(Self)
    }

    /// Carries `change` out, as [`apply`](super::apply) and [`keep_up`](super::keep_up) do on what is read of a file.
    /// `before` is told what was there.
    pub(super) fn apply(&mut self, change: &Change, before: &mut Before) -> serde_json::Result<()> {
        match change {
            Change::Put(device) => self.set(device.key(), Some(line(&(&**device).into())?), before),
            Change::Delete(key) => self.set(key.clone(), None, before),
            Change::Bind { key, uuid } => {
                if let Some(mut text) = self.text(key)?
                    && text.uuid.is_none()
                {
                    text.uuid = Some(uuid.clone());
                    self.set(key.clone(), Some(line(&text)?), before);
                }
            }
            Change::Rename { from, to } => {
                if let Some(mut text) = self.text(from)? {
                    (text.instance, text.name) = (to.instance.clone(), to.device.clone());
                    self.set(from.clone(), None, before);
                    self.set(to.clone(), Some(line(&text)?), before);
                }
            }
        }
        Ok(())
    }

    /// Takes changes back.
    pub(super) fn restore(&mut self, before: Before) {
        for (key, line) in before.0.into_iter().rev() {
            self.set(key, line, &mut Before::default());
        }
    }

    fn set(&mut self, key: DeviceKey, line: Option<Box<str>>, before: &mut Before) {
        let old = match line {
            Some(line) => self.0.insert(key.clone(), line),
            None => self.0.remove(&key),
        };
        before.0.push((key, old));
    }

    fn text(&self, key: &DeviceKey) -> serde_json::Result<Option<StoredText>> {
        self.0.get(key).map(|line| serde_json::from_str(line)).transpose()
    }

    /// The content of the file that holds them.
    pub(super) fn file(&self, generation: u64) -> Vec<u8> {
        let mut sum = Sum::new(generation);
        let mut devices = String::with_capacity(self.0.values().map(|line| line.len() + 6).sum());
        for line in self.0.values() {
            devices.push_str(if sum.is_empty() { "\n    " } else { ",\n    " });
            devices.push_str(line);
            sum.add(line);
        }
        let end = if sum.is_empty() { "" } else { "\n  " };
        let head = format!("\"version\": {LAYOUT_VERSION},\n  \"generation\": {generation}");
        let sha256 = sum.hex();
        format!("{{\n  {head},\n  \"sha256\": \"{sha256}\",\n  \"devices\": [{devices}{end}]\n}}\n")
            .into_bytes()
    }
}

fn line(text: &StoredText) -> serde_json::Result<Box<str>> {
    serde_json::to_string(text).map(String::into_boxed_str)
}

/// The checksum of a generation: over its number and the devices as JSON without white space.
pub(super) struct Sum {
    digest: Sha256,
    is_empty: bool,
}

impl Sum {
    pub(super) fn new(generation: u64) -> Self {
        let mut digest = Sha256::new();
        digest.update(generation.to_be_bytes());
        digest.update("[");
        Self { digest, is_empty: true }
    }

    const fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Adds a device, which is JSON without white space.
    pub(super) fn add(&mut self, line: &str) {
        if !self.is_empty() {
            self.digest.update(",");
        }
        self.digest.update(line);
        self.is_empty = false;
    }

    pub(super) fn hex(mut self) -> String {
        self.digest.update("]");
        self.digest.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // A string takes whatever is written.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}
