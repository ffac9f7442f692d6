//! Ends connections at once: those of rules that have gone, and those of members that are members no more.

use std::io;
use std::sync::Arc;

use portway_model::Cidr;
use portway_relay::wire::ToWorker;

use super::link::Link;
use super::serve::Shared;
use super::{flows, table};
use crate::spec::RuleId;

/// Tickets or targets in one message: a packet has room for them.
const CUT_COUNT: usize = 2000;

/// A worker that takes nothing any more: what it was to end, ends with it.
pub(super) struct Stuck {
    pub(super) link: Arc<Link>,
    pub(super) why: io::Error,
}

impl Shared {
    /// Ends these connections.
    ///
    /// # Errors
    /// [`Stuck`]: it is to be replaced.
    pub(super) async fn cut(&self, tickets: Vec<u64>) -> Result<(), Stuck> {
        self.end(tickets, &[]).await
    }

    /// Ends all connections of these rules.
    ///
    /// # Errors
    /// As [`Shared::cut`].
    pub(super) async fn cut_rules(&self, rules: &[RuleId]) -> Result<(), Stuck> {
        let targets: Vec<u64> = rules.iter().map(|rule| rule.number()).collect();
        let tickets = self.table().tickets_of(rules);
        self.end(tickets, &targets).await
    }

    /// Ends connections, and what the worker calls, or has called, by itself: it may not have told of it yet. What is carried
    /// here ends whatever the worker does.
    async fn end(&self, tickets: Vec<u64>, targets: &[u64]) -> Result<(), Stuck> {
        let (own, tickets): (Vec<u64>, Vec<u64>) =
            tickets.into_iter().partition(|ticket| table::is_own(*ticket));
        own.into_iter().for_each(|ticket| flows::end(self, ticket));
        self.have_cut(targets, |targets| ToWorker::Cut { tickets: Vec::new(), targets }).await?;
        self.have_cut(&tickets, |tickets| ToWorker::Cut { tickets, targets: Vec::new() }).await
    }

    async fn have_cut(&self, numbers: &[u64], message: impl Fn(Vec<u64>) -> ToWorker) -> Result<(), Stuck> {
        let Some(link) = self.link() else { return Ok(()) };
        for some in numbers.chunks(CUT_COUNT) {
            match link.say(&message(some.to_vec()), &[]).await {
                Err(why) if why.kind() == io::ErrorKind::TimedOut => return Err(Stuck { link, why }),
                // One that has ended is seen as such, and its connections are over.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Ends all connections, flows and associations from and to these addresses of the network.
    ///
    /// # Errors
    /// As [`Shared::cut`].
    pub(super) async fn cut_members(&self, blocks: Vec<Cidr>) -> Result<(), Stuck> {
        let (tickets, targets) = {
            let table = self.table();
            (table.tickets_with(&blocks), table.targets_in(&blocks))
        };
        // Nobody may be associated.
        self.cuts.send(blocks.into()).ok();
        self.end(tickets, &targets).await
    }
}
