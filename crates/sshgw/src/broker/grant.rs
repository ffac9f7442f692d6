//! What somebody who has logged in may do.

use serde::{Deserialize, Serialize};

/// Made once, when a key is proven, and never changed after that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// User of the host that the key belongs to.
    pub(crate) person: String,
    /// SHA-256 fingerprint of the key that was proven.
    pub(crate) key: String,
    /// Project of the instance.
    pub(crate) project: String,
    /// The instance.
    pub(crate) instance: String,
    /// User inside.
    pub(crate) instance_user: String,
}
