//! One device inside an instance's actor: what is wanted of it and what it has.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portway_control::api;
use portway_model::{Bind, DeviceKey, DeviceName, DeviceSpec, Follow, InstanceKey, Nat, Protocol, Provider};
use portway_relay::wire::{DIAL_BOUNDS_MICROS, FailureKind, Slot, field};
use portway_sys::shm::FIELD_COUNT;

use super::lead::Judged;
use super::orphans::Orphans;
use super::plan::{self, DeviceView, Group};
use crate::listeners::{self, Listeners};
use crate::nat::{Failures, Way};
use crate::rivals::{self, Rival};
use crate::state::Origin;
use crate::tally::{self, Hit};

/// Clients kept for the next worker, at most, per device: as many as a listen backlog holds.
const ORPHANS_MAX: usize = 4096;

/// A failure and when the next try is due.
#[derive(Debug, Clone)]
pub(crate) struct Setback {
    /// One line.
    pub(crate) text: String,
    /// Whether it is expected to pass by itself.
    pub(crate) passes: bool,
    /// Next try.
    pub(crate) retry_at: Instant,
}

/// Where a device is served.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    /// Worker.
    pub(crate) group: Group,
    /// Slot in it. The worker sets its line of counters to zero when the device comes in.
    pub(crate) slot: Slot,
    /// The worker has the present options.
    pub(crate) current: bool,
}

/// A device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Name.
    pub(crate) name: DeviceName,
    /// Options.
    pub(crate) spec: Arc<DeviceSpec>,
    /// UUID of the instance it is bound to.
    pub(crate) uuid: Option<String>,
    /// What it was elsewhere.
    pub(crate) origin: Option<Origin>,
    /// Its listeners.
    pub(crate) listeners: Option<Listeners>,
    /// Why it has none.
    pub(crate) broken: Option<Setback>,
    /// It has none because somebody else, and no device of ours, is at its address.
    pub(crate) taken: bool,
    /// Why its worker does not take it.
    pub(crate) unplaced: Option<Setback>,
    /// Until when clients wait for the instance.
    pub(crate) held_until: Option<Instant>,
    /// Where it is served.
    pub(crate) placed: Option<Placement>,
    /// The worker has listeners of earlier options and needs the present ones.
    pub(crate) relisten: bool,
    /// Its socket file is being looked for.
    pub(crate) checking: bool,
    /// Clients without an upstream.
    pub(crate) orphans: Vec<Orphans>,
    /// Its way through the kernel as the table was told; `None`: nothing was said of it yet.
    pub(crate) led: Option<Option<Arc<Way>>>,
    /// What was last said of it for its options and the instance's interfaces.
    pub(crate) judged: Option<Judged>,
    /// Its service may not have started with the run that there is.
    awaits: bool,
    /// At the last [`assess`](Self::assess) the kernel carried it.
    is_carried: bool,
    /// Where it leads, or why it is relayed, for one with `nat`.
    pub(crate) mode_reason: Option<String>,
    /// Counters of earlier placements.
    past: [u64; FIELD_COUNT],
    /// Last failure.
    pub(crate) last_error: Option<String>,
    state: api::DeviceState,
    reason: Option<String>,
    since: SystemTime,
}

/// What of the instance a device's state depends on.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings<'a> {
    /// Name of the instance.
    pub(crate) key: &'a InstanceKey,
    /// It runs.
    pub(crate) up: bool,
    /// UUID of the instance that has this name at present.
    pub(crate) uuid: Option<&'a str>,
    /// Why it cannot be served, in words: "the instance is stopped".
    pub(crate) absence: Option<&'a str>,
    /// It can never be served from here.
    pub(crate) unsupported: bool,
    /// The server does not answer, so that nothing is known.
    pub(crate) unreachable: bool,
    /// Why the kernel does not carry what it should.
    pub(crate) nat_failures: &'a Failures,
    /// Who takes what comes to ports of the host before a device gets it, of each server.
    pub(crate) rivals: &'a [Arc<Vec<Rival>>],
}

impl Device {
    /// A device that has nothing yet.
    pub(crate) fn new(name: DeviceName, spec: DeviceSpec, uuid: Option<String>) -> Device {
        Device {
            name,
            spec: Arc::new(spec),
            uuid,
            origin: None,
            listeners: None,
            broken: None,
            taken: false,
            unplaced: None,
            held_until: None,
            placed: None,
            relisten: false,
            checking: false,
            orphans: Vec::new(),
            led: None,
            judged: None,
            awaits: false,
            is_carried: false,
            mode_reason: None,
            past: [0; FIELD_COUNT],
            last_error: None,
            state: api::DeviceState::Waiting,
            reason: None,
            since: SystemTime::now(),
        }
    }

    /// The same device, come from elsewhere.
    pub(crate) fn coming_from(self, origin: Option<Origin>) -> Device {
        Device { origin, ..self }
    }

    /// Whether it follows the instance's name rather than its UUID.
    pub(crate) fn follows_name(&self, provider: Provider) -> bool {
        match self.spec.follow {
            Some(follow) => follow == Follow::Name,
            None => provider == Provider::Netns,
        }
    }

    /// Whether the instance never comes back for this device: a process does not.
    pub(crate) fn ends_with_instance(&self, provider: Provider) -> bool {
        provider == Provider::Pid && !self.follows_name(provider)
    }

    /// Whether an instance with this UUID is the one the device is bound to. Without a UUID (the
    /// server was not asked yet, and a worker of the same run was adopted) nothing speaks against it.
    pub(crate) fn matches(&self, provider: Provider, present: Option<&str>) -> bool {
        self.follows_name(provider)
            || self.uuid.is_none()
            || present.is_none()
            || self.uuid.as_deref() == present
    }

    /// The device as [`plan::plan`] sees it.
    pub(crate) fn view(&self, matches: bool, group: Option<Group>, now: Instant) -> DeviceView {
        let listeners = match (&self.listeners, &self.broken) {
            (Some(open), _) => plan::Listeners::Open { run: open.run.clone(), refusing: open.refusing },
            (None, Some(setback)) => plan::Listeners::Broken { due: setback.retry_at <= now },
            (None, None) => plan::Listeners::Closed,
        };
        let placeable = self.unplaced.as_ref().is_none_or(|setback| setback.retry_at <= now);
        DeviceView {
            name: self.name.clone(),
            bind: self.spec.bind,
            kind: listeners::kind(&self.spec),
            listeners,
            held: self.held_until.is_some_and(|until| until > now),
            instance_matches: matches,
            group: group.filter(|_| placeable || self.placed.is_some()),
            placed: self
                .placed
                .as_ref()
                .map(|placed| plan::Placed { group: placed.group, current: placed.current || !placeable }),
        }
    }

    /// Lets everything that failed be tried at once.
    pub(crate) fn forget_setbacks(&mut self) {
        self.broken = None;
        self.unplaced = None;
    }

    /// Starts the hold: clients wait at most this long for the instance.
    pub(crate) fn hold(&mut self, now: Instant, rest: Duration) {
        if self.spec.bind == Bind::Host && !rest.is_zero() {
            let until = now + rest;
            self.held_until = Some(self.held_until.map_or(until, |before| before.max(until)));
        }
    }

    /// Rest of the hold.
    pub(crate) fn hold_rest(&self, now: Instant) -> Option<Duration> {
        self.held_until.map(|until| until.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// Takes note that the instance has ended, or that it is found running by a daemon that has not led its clients. A
    /// service that was led to before this daemon came has answered before.
    pub(crate) fn await_service(&mut self, has_ended: bool) {
        self.awaits |= has_ended || !matches!(self.led, Some(Some(_)));
    }

    /// Whether its clients wait for a service that has not answered since the instance has started. Datagrams do not
    /// wait for anything.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaits && self.held_until.is_some() && self.spec.listen.address().protocol() == Protocol::Tcp
    }

    /// Keeps clients for the next worker; gives them back when there are too many.
    pub(crate) fn keep_orphans(&mut self, orphans: Orphans) -> Option<Orphans> {
        let kept: usize = self.orphans.iter().map(Orphans::count).sum();
        if kept + orphans.count() > ORPHANS_MAX {
            tally::hit(Hit::Orphans);
            return Some(orphans);
        }
        self.orphans.push(orphans);
        None
    }

    /// Ends the placement and adds its counters (`line`, if it can be read) to the past ones.
    pub(crate) fn displace(&mut self, line: Option<[u64; FIELD_COUNT]>) {
        if self.placed.take().is_some()
            && let Some(line) = line
        {
            add(&mut self.past, &line);
            // What was live has ended with the worker.
            self.past[field::CLOSED] = self.past[field::OPENED];
        }
    }

    /// Counters: past placements and the present one.
    fn totals(&self, line: Option<[u64; FIELD_COUNT]>) -> [u64; FIELD_COUNT] {
        let mut totals = self.past;
        if let (Some(_), Some(line)) = (&self.placed, line) {
            add(&mut totals, &line);
        }
        totals
    }

    /// Counts datagrams discarded while the instance was down.
    pub(crate) fn count_discarded(&mut self, count: u64) {
        self.past[field::DROPPED] = self.past[field::DROPPED].saturating_add(count);
    }

    /// Recomputes the state; true when it changed.
    pub(crate) fn assess(&mut self, around: &Surroundings<'_>, group_error: Option<&str>) -> bool {
        let (state, reason) = self.judge(around, group_error);
        let changed = state != self.state || reason != self.reason;
        let key = || DeviceKey { instance: around.key.clone(), device: self.name.clone() };
        self.is_carried = matches!(self.led, Some(Some(_))) && around.nat_failures.of(key).is_none();
        if state != self.state {
            self.since = SystemTime::now();
        }
        self.state = state;
        self.reason = reason;
        changed
    }

    fn judge(
        &self,
        around: &Surroundings<'_>,
        group_error: Option<&str>,
    ) -> (api::DeviceState, Option<String>) {
        use api::DeviceState::{Active, Degraded, Failed, Waiting};
        let setback = self.broken.as_ref().or(self.unplaced.as_ref());
        if let Some(setback) = setback {
            return (if setback.passes { Waiting } else { Degraded }, Some(setback.text.clone()));
        }
        if around.unsupported {
            return (Failed, around.absence.map(str::to_owned));
        }
        let own = self.matches(around.key.provider(), around.uuid);
        let is_bound = self.uuid.is_some() && self.ends_with_instance(around.key.provider());
        if is_bound && !(around.up && own) {
            return (Failed, Some(format!("process {} has ended", around.key.name())));
        }
        if !around.up && around.unreachable {
            return (Degraded, around.absence.map(str::to_owned));
        }
        if !around.up {
            // A worker that still serves while the server is silent serves all the same.
            return (Waiting, around.absence.map(str::to_owned));
        }
        if !own {
            let reason = "another instance has this name now; `portway device adopt` gives it the device";
            return (Waiting, Some(reason.into()));
        }
        if let Some(error) = group_error {
            return (Degraded, Some(error.to_owned()));
        }
        match &self.placed {
            Some(placed) if placed.current => {
                let mut rivals = around.rivals.iter();
                let rival = rivals.find_map(|of_server| rivals::in_the_way_of(&self.spec, of_server));
                let rival = rival.map(str::to_owned);
                match rival.or_else(|| self.unled(around)) {
                    Some(text) => (Degraded, Some(text)),
                    None => (Active, None),
                }
            }
            _ => (Waiting, Some("it is being set up".into())),
        }
    }

    /// Why a device is relayed though it wants the kernel to carry it.
    fn unled(&self, around: &Surroundings<'_>) -> Option<String> {
        let loopback = self.spec.listen.address().host().is_some_and(|host| host.ip().is_loopback());
        let key = || DeviceKey { instance: around.key.clone(), device: self.name.clone() };
        let reason = match &self.led {
            Some(Some(_)) => around.nat_failures.of(key),
            Some(None) if self.spec.nat == Nat::On && !loopback && !self.is_awaited() => {
                self.mode_reason.as_deref()
            }
            Some(None) | None => None,
        };
        reason.map(|reason| format!("relayed instead of NAT: {reason}"))
    }

    /// The device for the control API when its actor does not answer: what is stored, and that no
    /// more is known.
    pub(crate) fn unknown(mut self, key: &InstanceKey) -> api::Device {
        self.state = api::DeviceState::Degraded;
        self.reason = Some("not known: something of the instance does not answer".into());
        self.show(key, None, None)
    }

    /// State at the last [`Device::assess`].
    pub(crate) fn state(&self) -> (api::DeviceState, Option<&str>) {
        (self.state, self.reason.as_deref())
    }

    /// The device for the control API. `line` is its counter line, if it is placed.
    pub(crate) fn show(
        &self,
        key: &InstanceKey,
        line: Option<[u64; FIELD_COUNT]>,
        worker_pid: Option<i32>,
    ) -> api::Device {
        let totals = self.totals(line);
        api::Device {
            instance: key.clone(),
            name: self.name.clone(),
            listen: self.spec.listen.to_string(),
            connect: self.spec.connect.to_string(),
            bind: self.spec.bind.to_string(),
            state: self.state,
            mode: if self.is_carried { api::DeviceMode::Nat } else { api::DeviceMode::Relay },
            mode_reason: self.mode_reason.clone(),
            connections_now: totals[field::OPENED].saturating_sub(totals[field::CLOSED]),
            connections_total: totals[field::OPENED],
            bytes_in: (!self.is_carried).then_some(totals[field::BYTES_IN]),
            bytes_out: (!self.is_carried).then_some(totals[field::BYTES_OUT]),
            last_error: self.last_error.clone(),
            since: portway_model::rfc3339(self.since),
            reason: self.reason.clone(),
            keys: self.spec.to_keys(),
            instance_uuid: self.uuid.clone(),
            dials_failed: totals[field::DIAL_FAILED],
            resets: totals[field::RESET],
            dropped: totals[field::DROPPED],
            evicted: totals[field::EVICTED],
            denied: totals[field::DENIED],
            over_connections: totals[field::OVER_CONNECTIONS],
            over_rate: totals[field::OVER_RATE],
            over_per_source: totals[field::OVER_PER_SOURCE],
            bad_headers: totals[field::BAD_HEADER],
            failures: failures(&totals),
            dial_time: dial_time(&totals),
            worker_pid,
        }
    }
}

fn failures(totals: &[u64; FIELD_COUNT]) -> api::DeviceFailures {
    let [refused, timed_out, unreachable, reset, absent, forbidden, no_descriptors, other] =
        FailureKind::ALL.map(|kind| totals[kind.field()]);
    api::DeviceFailures { refused, timed_out, unreachable, reset, absent, forbidden, no_descriptors, other }
}

fn dial_time(totals: &[u64; FIELD_COUNT]) -> api::DialTime {
    let buckets: Vec<u64> = totals[field::DIAL_TIMES..=field::DIAL_TIMES + DIAL_BOUNDS_MICROS.len()].to_vec();
    let count = buckets.iter().fold(0, |sum: u64, more| sum.saturating_add(*more));
    api::DialTime { count, micros: totals[field::DIAL_MICROS], buckets }
}

/// The API says the bounds that the workers count by.
const _: () = {
    let mut at = 0;
    while at < DIAL_BOUNDS_MICROS.len() {
        assert!(DIAL_BOUNDS_MICROS[at] == api::DIAL_BOUNDS_MICROS[at], "two lists of bounds");
        at += 1;
    }
};

/// Adds a line of counters. They are those of a process that may lie.
fn add(totals: &mut [u64; FIELD_COUNT], line: &[u64; FIELD_COUNT]) {
    for (total, counted) in totals.iter_mut().zip(line) {
        *total = total.saturating_add(*counted);
    }
}
