//! Health of Compose services.

use portway_model::InstanceKey;
use serde::{Deserialize, Serialize};

/// What is known of the health of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// No test has succeeded yet, and too few have failed.
    Starting,
    /// The latest test has succeeded, or too few have failed since one did.
    Healthy,
    /// So many tests in a row have failed as the service says.
    Unhealthy,
}

impl HealthState {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            HealthState::Starting => "starting",
            HealthState::Healthy => "healthy",
            HealthState::Unhealthy => "unhealthy",
        }
    }
}

/// Health of an instance that is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Instance, canonical.
    pub instance: InstanceKey,
    /// Compose project, by its label.
    pub project: String,
    /// Service, by its label.
    pub service: String,
    /// What is known.
    pub state: HealthState,
    /// When that began, RFC 3339, UTC.
    pub since: String,
    /// Failed tests in a row, as far as they count.
    pub failures: u32,
    /// Tests since the daemon watches the instance.
    pub tests_total: u64,
    /// Those of them that failed.
    pub failed_total: u64,
    /// The latest test; `None` before the first has ended.
    pub last: Option<HealthTest>,
}

/// A test that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthTest {
    /// When it began, RFC 3339, UTC.
    pub at: String,
    /// How long it took.
    pub millis: u64,
    /// Exit status; `None` when there is none: it took too long, or could not be run.
    pub status: Option<u8>,
    /// The first 4 KiB of what it said on both outputs, or why there is no status.
    pub output: String,
}
