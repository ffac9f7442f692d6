//! What of the host stops packets on their way to an instance: forwarding that is off, and firewalls of others that drop
//! what nobody has allowed. Looked at again and again, because nothing tells of it.

use std::sync::Arc;
use std::time::Duration;

use portway_nat::{Family, forward_obstacles, forwards};
use tracing::{debug, info, warn};

use crate::hub::Hub;
use crate::state::with_sources;

/// Pause between two looks: who starts a firewall has his clients wait no longer.
const PAUSE: Duration = Duration::from_secs(5);

/// What stops packets, one line each, by family.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Obstacles {
    pub(super) v4: Vec<String>,
    pub(super) v6: Vec<String>,
}

impl Obstacles {
    /// What there is at this moment. What cannot be asked for counts as not there.
    pub(super) fn read() -> Obstacles {
        let chains = forward_obstacles().unwrap_or_else(|problem| {
            debug!(error = with_sources(&problem), "firewalls of others not looked at");
            Vec::new()
        });
        let of = |family, name| {
            let off = (forwards(family) == Some(false)).then(|| format!("the host does not forward {name}"));
            let chains = chains.iter().filter(|chain| chain.concerns(family)).map(ToString::to_string);
            off.into_iter().chain(chains).collect()
        };
        Obstacles { v4: of(Family::V4, "IPv4"), v6: of(Family::V6, "IPv6") }
    }

    /// Those that packets of a family meet.
    pub(super) fn of(&self, v6: bool) -> &[String] {
        if v6 { &self.v6 } else { &self.v4 }
    }

    /// Whether nothing is known to stop any.
    pub(crate) const fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn say(&self) {
        let mut all: Vec<&str> = self.v4.iter().chain(&self.v6).map(String::as_str).collect();
        all.dedup();
        if all.is_empty() {
            info!("nothing is known to stop what the kernel leads");
        } else {
            warn!(obstacles = all.join("; "), "the host may stop what the kernel leads");
        }
    }
}

/// Has every instance decide anew when what stops packets is other than before.
pub(crate) async fn follow(hub: Arc<Hub>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(leader) = hub.nat.as_ref().filter(|_| hub.wants_nat()) else { continue };
        let Ok(found) = tokio::task::spawn_blocking(Obstacles::read).await else { continue };
        if *leader.obstacles() != found {
            found.say();
            leader.show_obstacles(found);
            hub.poke_all().await;
        }
    }
}
