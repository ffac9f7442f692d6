//! Where recordings are kept, and what becomes of a session that cannot be recorded any longer.

use std::path::{Path, PathBuf};

use super::{OptionsError, Values};

/// Longest recording that can be set, MiB.
const MOST_MIB: u64 = 1 << 20;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Their folder; `None` is one beside the gateway's state.
    pub dir: Option<PathBuf>,
    /// Longest file, bytes.
    pub most_bytes: u64,
    /// A session goes on that cannot be recorded, or no longer.
    pub goes_on: bool,
}

impl Recording {
    pub(super) fn new(values: &Values) -> Result<Self, OptionsError> {
        let dir = Some(values.text("recordings")).filter(|text| !text.is_empty()).map(PathBuf::from);
        if dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
            return Err(values.wrong("recordings", "a path that begins with /"));
        }
        let mib = values.text("recording-max").parse().ok().filter(|mib| (1..=MOST_MIB).contains(mib));
        let mib = mib.ok_or_else(|| values.wrong("recording-max", "a number of MiB from 1 to 1048576"))?;
        let goes_on = match values.text("recording-failure") {
            "end" => false,
            "go-on" => true,
            _ => return Err(values.wrong("recording-failure", "end or go-on")),
        };
        Ok(Self { dir, most_bytes: mib << 20, goes_on })
    }

    /// The folder, for a gateway that keeps this file of state.
    #[must_use]
    pub fn folder(&self, state: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| state.with_file_name("recordings"))
    }
}
