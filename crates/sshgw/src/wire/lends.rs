//! What of a client's its programs are lent.

use serde::{Deserialize, Serialize};

/// Asked for, or allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lends {
    /// Its agent of keys.
    pub(crate) agent: bool,
    /// Its display.
    pub(crate) x11: bool,
}

impl Lends {
    /// What both say.
    #[must_use]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self { agent: self.agent && other.agent, x11: self.x11 && other.x11 }
    }

    /// Whether it is anything.
    pub(crate) const fn is_any(self) -> bool {
        self.agent || self.x11
    }
}
