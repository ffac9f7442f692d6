//! Networks that go, or that somebody was killed in the middle of.

use portway_incus::{IncusError, Refusal, ResourceId};

use super::patience::{AGAIN, EARLY, refused, worth};
use super::{ApplyError, Hands, server};
use crate::look::is_half;

/// Looks at a network that has no bridge: the server makes or removes one in less than a second.
const UNDER_WAY: u32 = 20;

impl Hands<'_> {
    /// Removes a network and its access list. One that is gone may have left its list.
    pub(super) async fn remove_network(&self, name: &str) -> Result<(), ApplyError> {
        let id = self.network(name);
        self.stays_half(&id).await.map_err(server("it cannot be looked at"))?;
        // What the server says when it cannot: its own failures as those of its tools, of which most pass.
        let worth = |error: &IncusError| if refused(error, Refusal::Other) { EARLY } else { worth(error) };
        self.remove_while(worth, &id).await?;
        self.remove_fence(name).await
    }

    /// Whether a network that has no bridge stays so. Otherwise the server was at it: a removal that overtakes another
    /// leaves that one to remove what is made under the same name meanwhile.
    pub(super) async fn stays_half(&self, id: &ResourceId) -> Result<bool, IncusError> {
        for _ in 0..UNDER_WAY {
            let Some(there) = self.client.resource(id).await? else { return Ok(false) };
            if !is_half(self.client, &there).await? {
                return Ok(false);
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(true)
    }
}
