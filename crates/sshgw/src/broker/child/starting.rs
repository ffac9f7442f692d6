//! What becomes of a program whose instance does not run.

use std::time::Duration;

use portway_incus::Client;

use super::Child;
use crate::audit::{Event, bounded};
use crate::broker::grant::Grant;
use crate::broker::open::{self, Opened, Order, Refusal};
use crate::broker::stored;
use crate::policy::Action;
use crate::wire::What;

/// How often an instance is tried that runs, as its server says, and can run nothing; and the pause after each time. So it
/// is with Incus 6 for half a second after a start that failed.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

impl Child {
    /// Opens it: in an instance that is started where the policy lets this person do that, or else, of files, as the server
    /// has them.
    pub(super) async fn opened(
        &self,
        client: &Client,
        grant: &Grant,
        order: &Order,
    ) -> Result<Opened, Refusal> {
        let mut refusal = match open::open(client, grant, order).await {
            Err(refusal) if refusal.is_stopped => refusal,
            other => return other,
        };
        if !self.broker.judge.decide(grant, Action::Start).allowed {
            if order.what == What::Sftp {
                return stored::open(client, grant).await;
            }
            refusal.message.push_str(", and `start` is not allowed there");
            return Err(refusal);
        }
        for _ in 0..TRIES {
            let is_ours = self.start_instance(client, grant).await?;
            refusal = match open::open(client, grant, order).await {
                // What was started for this and has ended is not started again.
                Err(refusal) if refusal.is_stopped && !is_ours => refusal,
                other => return other,
            };
            tokio::time::sleep(PAUSE).await;
        }
        Err(refusal)
    }

    /// Has the instance run. Whether it was started for this.
    async fn start_instance(&self, client: &Client, grant: &Grant) -> Result<bool, Refusal> {
        let started = self.broker.starts.start(client, grant).await;
        let failed = started.as_ref().err().map(|refusal| bounded(&refusal.message));
        // Whoever waited for somebody else's start has not started it.
        if !matches!(started, Ok(false)) {
            self.note(&Event::InstanceStarted { grant, failed });
        }
        started
    }
}
