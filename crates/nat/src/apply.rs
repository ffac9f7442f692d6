//! The table's keeper: reads what is there, plans, and commits by one transaction.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use portway_sys::netlink::Family as Netlink;

use crate::conntrack::Affected;
use crate::netlink::{Connection, NetlinkError};
use crate::nft::{Batch, Count, Element, Key, Table};
use crate::observe::{self, Handle, ObserveError, Observed};
use crate::plan::layout::Label;
use crate::plan::{Plan, layout};
use crate::spec::{Checked, Conflict, Publication, Seal, Want};

/// `ERESTART`: the ruleset is not the one the transaction was made for. Programs never see this number but
/// from nfnetlink.
const RESTART: i32 = 85;

/// How often a change is planned anew because somebody else changed the ruleset meanwhile. Each time it was
/// within the microseconds between reading a number and sending.
const TRIES: u32 = 50;

/// Elements that are asked for one by one. Of more it is quicker to list all.
const FEW: usize = 16;

/// Name of a table: `portway`, or `portway_` and eight hexadecimal digits for a second one of a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName(String);

impl TableName {
    /// The name; `None` when no table of ours is called that.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = match name.strip_prefix("portway") {
            Some("") => true,
            Some(rest) => rest.strip_prefix('_').is_some_and(|digits| {
                digits.len() == 8 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            }),
            None => false,
        };
        fits.then(|| Self(name.to_owned()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The mark of the connections it leads.
    pub(crate) fn label(&self) -> Label {
        let digits = self.0.rsplit_once('_').map(|(_, digits)| u32::from_str_radix(digits, 16));
        digits.map_or(Label::MAIN, |number| Label::of_number(number.unwrap_or_default()))
    }
}

impl Default for TableName {
    fn default() -> Self {
        Self("portway".to_owned())
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a change was not made, or is not known to be made.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// Two publications share a port.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A table of our name was not made by us.
    #[error("the table inet {0} was not made by portway; remove or rename it")]
    Foreign(TableName),
    /// The ruleset changes faster than a change of ours can be made.
    #[error("other programs change the ruleset without a pause")]
    Contended,
    /// The kernel cannot be asked, or refused.
    #[error("cannot {action} the table inet {table}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// With which.
        table: TableName,
        /// Why not.
        source: NetlinkError,
    },
}

/// What a change came to.
#[derive(Debug, Clone)]
pub struct Applied {
    /// What was done.
    pub plan: Plan,
    /// Length of the transaction, bytes; 0: there was nothing to do.
    pub batch_bytes: usize,
    /// Which connections may now be led wrongly, for [`Conntrack::sweep`](crate::Conntrack::sweep): of
    /// this change, and of those before it whose outcome was not known. It is said once: whoever cannot
    /// sweep keeps it until he can.
    pub affected: Affected,
}

/// New connections through a device, by what the table has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Connections, of UDP flows: a nat chain sees the first packet of each.
    pub connections: u64,
}

/// The table as it was when `generation` was the ruleset's number.
#[derive(Debug)]
struct Known {
    generation: u32,
    table: Table,
    /// Of the [`Checked`] that it says the same as.
    seal: Option<Seal>,
}

/// The keeper of one table, in the network namespace of the thread that opened it.
///
/// Its calls block for as long as the kernel takes: well under a millisecond for one device among
/// thousands, while nobody else changes the ruleset.
#[derive(Debug)]
pub struct Nat {
    connection: Connection,
    name: TableName,
    known: Option<Known>,
    /// Of the table that was ours when it was read or made last.
    handle: Option<Handle>,
    /// What changes touch that the kernel may have made, and whose answer was lost.
    owed: Affected,
}

impl Nat {
    /// Opens a socket. Changes nothing.
    ///
    /// # Errors
    /// When there can be no such socket.
    pub fn open(name: TableName) -> Result<Self, NatError> {
        let connection = Connection::open(Netlink::Netfilter);
        let connection = connection.map_err(|source| NatError::Netlink {
            action: "reach",
            table: name.clone(),
            source,
        })?;
        Ok(Self { connection, name, known: None, handle: None, owed: Affected::Nothing })
    }

    /// The number by which [`Watch`](crate::Watch) knows this keeper's changes from those of others.
    #[must_use]
    pub fn port_id(&self) -> u32 {
        self.connection.port_id()
    }

    /// What [`apply`](Self::apply) would do.
    ///
    /// # Errors
    /// As there.
    pub fn plan(&mut self, want: &Want) -> Result<Plan, NatError> {
        let wanted = layout::table(&want.check()?, self.name.label());
        Ok(self.plan_to(&wanted)?.0)
    }

    /// Makes the table what is wanted, by one transaction or not at all: what somebody else has changed,
    /// removed or added in it is put right by the same.
    ///
    /// # Errors
    /// When two publications share a port, the table is not ours, or the kernel refuses. Then nothing has
    /// changed; unless the kernel's answer was lost, and then the next call that succeeds says what has to be
    /// swept.
    pub fn apply(&mut self, want: &Want) -> Result<Applied, NatError> {
        self.apply_checked(&want.check()?)
    }

    /// The same with what was checked already.
    ///
    /// # Errors
    /// As there.
    pub fn apply_checked(&mut self, want: &Checked) -> Result<Applied, NatError> {
        let wanted = layout::table(want, self.name.label());
        for _ in 0..TRIES {
            let (plan, generation) = self.plan_to(&wanted)?;
            if plan.is_empty() {
                return Ok(Applied { affected: self.owes(Affected::Nothing), plan, batch_bytes: 0 });
            }
            let batch = plan.batch(self.name.as_str(), generation);
            if let Some(batch_bytes) = self.commit(batch, plan.affects())? {
                self.learn(&plan, generation, wanted);
                return Ok(Applied { affected: self.owes(plan.affects()), plan, batch_bytes });
            }
        }
        Err(NatError::Contended)
    }

    /// The same with what is kept over many changes: only what has changed in it is looked at, as long as nobody else
    /// changes the ruleset.
    ///
    /// # Errors
    /// As there.
    pub fn apply_kept(&mut self, want: &mut Checked) -> Result<Applied, NatError> {
        let applied = match self.apply_touched(want)? {
            Some(applied) => applied,
            None => self.apply_checked(want)?,
        };
        let seal = Seal::default();
        if let Some(known) = &mut self.known {
            known.seal = Some(Arc::clone(&seal));
        }
        want.is_made(seal);
        Ok(applied)
    }

    /// Makes of the table what was touched of `want`; `None` when all of it has to be looked at.
    fn apply_touched(&mut self, want: &Checked) -> Result<Option<Applied>, NatError> {
        let generation = self.generation()?;
        let Some(mut known) = self.known.take_if(|known| known.generation == generation) else {
            return Ok(None);
        };
        let Some(touched) = want.touched_since(known.seal.as_ref()) else {
            self.known = Some(known);
            return Ok(None);
        };
        let mut plan = Plan::of_touched(want, touched, &known.table);
        if plan.carries_counts() {
            if !self.recount(&plan, &mut known.table)? {
                return Ok(None);
            }
            plan = Plan::of_touched(want, touched, &known.table);
        }
        if plan.is_empty() {
            self.known = Some(known);
            return Ok(Some(Applied { affected: self.owes(Affected::Nothing), plan, batch_bytes: 0 }));
        }
        let affects = plan.affects();
        let Some(batch_bytes) = self.commit(plan.batch(self.name.as_str(), generation), affects.clone())?
        else {
            return Ok(None);
        };
        plan.clone().carry_out(&mut known.table);
        self.learn(&plan, generation, known.table);
        Ok(Some(Applied { affected: self.owes(affects), plan, batch_bytes }))
    }

    /// Asks what the elements have counted that a plan makes anew; false when they are not to be had one by one.
    fn recount(&mut self, plan: &Plan, table: &mut Table) -> Result<bool, NatError> {
        for (set, key) in plan.renewed() {
            let found = if key.last.is_none() { self.element(&set, &key)? } else { None };
            let (Some(found), Some(set)) = (found, table.sets.get_mut(&set)) else { return Ok(false) };
            set.elements.insert(key, found);
        }
        Ok(true)
    }

    fn element(&mut self, set: &str, key: &Key) -> Result<Option<Element>, NatError> {
        let found = observe::element(&mut self.connection, self.name.as_str(), set, key);
        found.map_err(|e| self.failed("read", e))
    }

    /// Takes out of the table what is not wanted, and puts nothing in: for when the whole change is refused, so that
    /// one thing that cannot come keeps no other from going. Returns which connections may now be led wrongly.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn take_away(&mut self, want: &Checked) -> Result<Affected, NatError> {
        let wanted = layout::table(want, self.name.label());
        for _ in 0..TRIES {
            let generation = self.generation()?;
            let Observed::Ours(there) = self.observe()? else { return Ok(self.owes(Affected::Nothing)) };
            let plan = Plan::taking_away(&wanted, &there);
            if plan.is_empty() {
                return Ok(self.owes(Affected::Nothing));
            }
            let batch = plan.batch(self.name.as_str(), generation);
            if self.commit(batch, plan.affects())?.is_some() {
                return Ok(self.owes(plan.affects()));
            }
        }
        Err(NatError::Contended)
    }

    /// Removes the table. Returns whether there was one.
    ///
    /// # Errors
    /// When it is not ours, or the kernel refuses.
    pub fn remove(&mut self) -> Result<bool, NatError> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            if let Observed::Absent = self.observe()? {
                return Ok(false);
            }
            let mut batch = Batch::new(self.name.as_str(), Some(generation));
            batch.delete_table();
            if self.commit(batch, Affected::Everything)?.is_some() {
                return Ok(true);
            }
        }
        Err(NatError::Contended)
    }

    /// Whether there is a table of ours.
    ///
    /// # Errors
    /// When it is not ours, or cannot be read.
    pub fn exists(&mut self) -> Result<bool, NatError> {
        Ok(matches!(self.observe()?, Observed::Ours(_)))
    }

    /// What each device has counted since it was added. A device without an element in the table has
    /// counted nothing.
    ///
    /// # Errors
    /// When the table is not ours or cannot be read.
    pub fn counts(&mut self, want: &Want) -> Result<BTreeMap<String, Counted>, NatError> {
        self.counts_of(&want.publications.iter().collect::<Vec<_>>())
    }

    /// The same of some publications.
    ///
    /// # Errors
    /// As there.
    pub fn counts_of(
        &mut self,
        publications: &[&Publication],
    ) -> Result<BTreeMap<String, Counted>, NatError> {
        let elements = publications.iter().flat_map(|publication| {
            layout::elements(publication).into_iter().map(|(set, key, _)| (publication.device(), set, key))
        });
        let elements: Vec<(&str, &str, Key)> = elements.collect();
        let is_few = elements.len() <= FEW && elements.iter().all(|(_, _, key)| key.last.is_none());
        let whole = if is_few && self.knows()? { None } else { Some(self.observe()?) };
        let mut counts: BTreeMap<String, Counted> = BTreeMap::new();
        for (device, set, key) in elements {
            let found = match &whole {
                Some(Observed::Ours(table)) => {
                    table.sets.get(set).and_then(|set| set.elements.get(&key)).map(|element| element.count)
                }
                Some(Observed::Absent) => None,
                None => self.element(set, &key)?.map(|element| element.count),
            };
            let Count { packets, .. } = found.unwrap_or_default();
            let counted = counts.entry(device.to_owned()).or_default();
            counted.connections = counted.connections.saturating_add(packets);
        }
        Ok(counts)
    }

    /// The plan, and the generation it is for.
    fn plan_to(&mut self, wanted: &Table) -> Result<(Plan, u32), NatError> {
        let generation = self.generation()?;
        if let Some(known) = self.known.take_if(|known| known.generation == generation) {
            let observed = Observed::Ours(known.table);
            let plan = Plan::between(wanted, &observed);
            let Observed::Ours(table) = observed else { return Ok((plan, generation)) };
            self.known = Some(Known { generation, table, seal: None });
            if !plan.carries_counts() {
                return Ok((plan, generation));
            }
        }
        let observed = self.observe()?;
        let plan = Plan::between(wanted, &observed);
        if let Observed::Ours(table) = observed {
            self.known = Some(Known { generation, table, seal: None });
        }
        Ok((plan, generation))
    }

    /// Keeps what a change has made of the table, unless somebody else was quicker. The change is made: what
    /// fails here costs a look at the table, no more.
    fn learn(&mut self, plan: &Plan, generation: u32, wanted: Table) {
        self.known = None;
        let made = if plan.is_whole() { self.made().ok().flatten() } else { None };
        let next = self.generation().ok();
        if next == Some(generation.wrapping_add(1)) && made.is_some() {
            // Nobody has made another one of the name meanwhile.
            self.handle = made;
        }
        if let Some(next) = next.filter(|next| !plan.is_empty() && *next == generation.wrapping_add(1)) {
            self.known = Some(Known { generation: next, table: wanted, seal: None });
        }
    }

    /// What a change has touched, with what is owed of those before.
    fn owes(&mut self, touched: Affected) -> Affected {
        std::mem::replace(&mut self.owed, Affected::Nothing).and(touched)
    }

    /// Commits what touches so much; `None` when the ruleset was another one meanwhile.
    fn commit(&mut self, batch: Batch, touches: Affected) -> Result<Option<usize>, NatError> {
        self.known = None;
        let mut messages = batch.finish();
        let bytes = messages.length();
        let reserved = self.connection.reserve(bytes);
        reserved.map_err(|e| self.failed("change", e))?;
        let mistakes = self.connection.send(&mut messages).map_err(|e| {
            // Sent, and perhaps done.
            self.owed = self.owes(touches);
            self.failed("change", e)
        })?;
        match mistakes.into_iter().next() {
            None => Ok(Some(bytes)),
            Some(mistake) if mistake.errno == RESTART => Ok(None),
            Some(mistake) => Err(self.failed("change", mistake.into())),
        }
    }

    /// Whether the table is known, and so ours, at this moment.
    fn knows(&mut self) -> Result<bool, NatError> {
        let generation = self.generation()?;
        Ok(self.known.as_ref().is_some_and(|known| known.generation == generation))
    }

    fn generation(&mut self) -> Result<u32, NatError> {
        observe::generation(&mut self.connection).map_err(|e| self.failed("read", e))
    }

    fn made(&mut self) -> Result<Option<Handle>, NatError> {
        let handle = observe::handle(&mut self.connection, self.name.as_str());
        handle.map_err(|e| self.failed("read", e))
    }

    fn observe(&mut self) -> Result<Observed, NatError> {
        let observed = observe::table(&mut self.connection, self.name.as_str(), &mut self.handle);
        observed.map_err(|error| match error {
            ObserveError::Foreign => NatError::Foreign(self.name.clone()),
            ObserveError::Netlink(source) => self.failed("read", source),
        })
    }

    fn failed(&self, action: &'static str, source: NetlinkError) -> NatError {
        NatError::Netlink { action, table: self.name.clone(), source }
    }
}

#[cfg(test)]
mod tests;
