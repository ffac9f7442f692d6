//! What keeps sessions that stay, where that is another program of the instance's: had before the first one begins.

use portway_incus::Client;
use tokio::sync::watch;

use super::Child;
use crate::audit::{Event, bounded};
use crate::broker::Grant;
use crate::broker::mux::{Had, Mux};
use crate::broker::open::Opened;
use crate::options::TermMux;
use crate::wire::{Kept, KeptWish};

impl Child {
    /// What keeps sessions beside the helper.
    pub(super) fn mux(&self) -> Option<Mux> {
        match self.broker.options.options.term_mux {
            TermMux::Builtin => None,
            TermMux::Tmux => Some(Mux::Tmux),
            TermMux::Screen => Some(Mux::Screen),
        }
    }

    /// Has it be in the instance, for a session that is about to be looked at. What is done is said as the answer to
    /// question `id`; where it cannot be had the helper says so, and keeps the session itself.
    pub(super) async fn have_mux(&self, id: u64, client: &Client, grant: &Grant, opened: &Opened) {
        let Opened::Inside { keep: Some(Kept { wish: KeptWish::Attach, .. }), .. } = opened else { return };
        let Some(mux) = self.mux() else { return };
        let (say, heard) = watch::channel(String::new());
        let had = tokio::select! {
            had = self.broker.muxes.have(client, grant, mux, &say) => had,
            () = self.tell(id, heard) => return,
        };
        let failed = match had {
            Had::AsItWas => return,
            Had::Installed => None,
            Had::Failed(why) => {
                tracing::warn!(instance = grant.instance, program = mux.name(), why, "it is not installed");
                Some(bounded(&why))
            }
        };
        self.note(&Event::PackageInstalled { grant, package: mux.name(), failed });
    }
}
