//! Ports whose clients say where they want to go, as the table knows them, and connections that were made for those
//! clients until the worker asks for them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use portway_relay::wire::Slot;
use portway_sys::sockopt::linger_reset;

use super::super::balance::Policy;
use super::Table;
use crate::spec::{ProxyKind, ProxyListen, RuleId};

/// How long a connection is kept for the worker to ask for it.
const KEPT: Duration = Duration::from_secs(10);

/// A port whose clients say where they want to go.
#[derive(Debug, Clone)]
pub(in super::super) struct Gate {
    /// By which its connections are counted.
    pub(in super::super) id: RuleId,
    pub(in super::super) kind: ProxyKind,
    pub(in super::super) is_guarded: bool,
}

/// A connection that was made for a client, and to whom.
#[derive(Debug)]
pub(in super::super) struct Upstream {
    pub(in super::super) fd: OwnedFd,
    pub(in super::super) member: IpAddr,
}

/// Connections that were made for clients, by the marks of those.
#[derive(Debug, Default)]
pub(super) struct Promises {
    kept: BTreeMap<u64, (Instant, Upstream)>,
    last: u64,
}

impl Promises {
    /// Those that nobody has asked for in time go.
    fn expire(&mut self, now: Instant) {
        while let Some(first) = self.kept.first_entry()
            && now.saturating_duration_since(first.get().0) > KEPT
        {
            give_up(&first.remove().1);
        }
    }

    /// The worker is gone, and its clients.
    pub(super) fn clear(&mut self) {
        std::mem::take(&mut self.kept).values().for_each(|(_, upstream)| give_up(upstream));
    }
}

/// Nobody has said anything there: it is no end.
fn give_up(upstream: &Upstream) {
    if let Err(error) = linger_reset(upstream.fd.as_fd()) {
        tracing::debug!(%error, "a connection that nobody wants ends without a reset");
    }
}

impl Table {
    /// Adds a port whose clients say where they want to go.
    pub(in super::super) fn serve_gate(&mut self, proxy: &ProxyListen) -> Slot {
        let slot = self.serve(proxy.listen(), Vec::new(), Vec::new(), Policy::RoundRobin);
        let id = RuleId::of_text(&format!("{} {}", proxy.kind.as_str(), proxy.listen()));
        self.accounts.entry(id).or_default();
        if let Some(served) = self.at(slot) {
            served.balancer.add(id);
            served.gate = Some(Gate { id, kind: proxy.kind, is_guarded: proxy.login.is_some() });
        }
        slot
    }

    /// A client of a gate could not be served.
    pub(in super::super) fn gate_failed(&mut self, slot: Slot, why: String) {
        let Some(id) = self.at(slot).and_then(|served| served.gate.as_ref()).map(|gate| gate.id) else {
            return;
        };
        if let Some(account) = self.accounts.get_mut(&id) {
            account.failed += 1;
            account.last_error = Some(why);
        }
    }

    /// Keeps a connection that was made for a client until the worker asks for it by this mark. Not for long: a worker
    /// may be gone, or may have refused the client.
    pub(in super::super) fn promise(&mut self, upstream: Upstream) -> u64 {
        let Promises { kept, last } = &mut self.promises;
        *last += 1;
        kept.insert(*last, (Instant::now(), upstream));
        *last
    }

    /// Closes the connections that the worker has not asked for in time.
    pub(in super::super) fn expire_promises(&mut self, now: Instant) {
        self.promises.expire(now);
    }

    /// The connection of a mark, and by what it is counted.
    pub(in super::super) fn redeem(&mut self, slot: Slot, mark: u64) -> Option<(RuleId, Upstream)> {
        let (_, upstream) = self.promises.kept.remove(&mark)?;
        let id = self.at(slot)?.gate.as_ref()?.id;
        Some((id, upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a connection that nobody asks for stays open for longer than it is kept.
    #[test]
    fn what_nobody_asks_for_is_closed() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let is_closed = || matches!(std::io::Read::read(&mut &ours, &mut [0]), Ok(0));
        let mut promises = Promises::default();
        let begun = Instant::now();
        let member = IpAddr::from([10, 0, 0, 1]);
        promises.kept.insert(1, (begun, Upstream { fd: theirs.into(), member }));
        promises.expire(begun + KEPT);
        assert!(!is_closed());
        promises.expire(begun + KEPT + Duration::from_millis(1));
        assert!(is_closed());
    }
}
