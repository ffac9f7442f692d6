//! What `portway top` knows and shows: devices with their rates, which of them is looked at, and in which order.
//!
//! It reads no clock and touches no terminal: looks come with the time they were taken at, keys as [`Action`]s.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use portway_control::api::{Connection, Connections, Device, DeviceState, Server};
use portway_model::{DeviceKey, Provider};

use super::keys::Action;
use crate::cli::target;
use crate::device::state_word;
use crate::failure::printable;

/// Looks that a sparkline can show.
const HISTORY: usize = 240;

/// Shortest and longest time between two looks, seconds.
const INTERVALS: [u32; 9] = [1, 2, 3, 5, 10, 30, 60, 600, 3600];

/// Columns that the table can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Instance,
    Name,
    State,
    Open,
    New,
    In,
    Out,
    Failed,
    /// Both directions together.
    Traffic,
}

impl Column {
    /// In the order they stand in.
    pub(super) const ALL: [Column; 9] = [
        Column::Instance,
        Column::Name,
        Column::State,
        Column::Open,
        Column::New,
        Column::In,
        Column::Out,
        Column::Failed,
        Column::Traffic,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Column::Instance => "INSTANCE",
            Column::Name => "NAME",
            Column::State => "STATE",
            Column::Open => "OPEN",
            Column::New => "NEW/S",
            Column::In => "IN",
            Column::Out => "OUT",
            Column::Failed => "FAILED",
            Column::Traffic => "TRAFFIC",
        }
    }

    /// The one `step` columns to the right.
    fn beside(self, step: isize) -> Column {
        let count = Column::ALL.len();
        let at = Column::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Column::ALL.get((at + count).wrapping_add_signed(step) % count).copied().unwrap_or(self)
    }
}

/// What something does in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rate {
    /// New connections, tenths.
    pub(super) new_tenths: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}

impl Rate {
    pub(super) fn traffic(self) -> u64 {
        self.bytes_in.saturating_add(self.bytes_out)
    }
}

/// A device, and what it did lately.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) device: Device,
    /// The instance as it is typed, and the device's name.
    pub(super) instance: String,
    pub(super) name: String,
    pub(super) rate: Rate,
    /// Bytes per second of the last looks, the latest last.
    pub(super) history: VecDeque<u64>,
}

/// A connection of the device that is looked at.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) connection: Connection,
    pub(super) rate: Rate,
}

/// What is known of the device that is looked at.
#[derive(Debug, Default)]
pub(super) struct Detail {
    /// The busiest first.
    pub(super) talks: Vec<Talk>,
    pub(super) connections_now: u64,
    pub(super) unlisted: Option<String>,
    /// What came of the last question, if that was nothing.
    pub(super) error: Option<String>,
    /// When it was answered.
    at: Option<Instant>,
    /// First line that is shown.
    pub(super) offset: usize,
}

/// What is on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    List,
    Device,
    Help,
}

/// What one look has brought.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) server: Option<Server>,
    pub(super) devices: Vec<Device>,
    /// Of the device that was looked at.
    pub(super) connections: Option<(DeviceKey, Result<Connections, String>)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Model {
    default: Provider,
    rows: BTreeMap<DeviceKey, Row>,
    /// Those that are shown, in order.
    order: Vec<DeviceKey>,
    pub(super) server: Option<Server>,
    /// When the last look was taken.
    at: Option<Instant>,
    /// Why there is no later one.
    pub(super) away: Option<String>,
    pub(super) page: Page,
    before_help: Page,
    selected: Option<DeviceKey>,
    /// Somebody has chosen it; until then it is the first.
    is_chosen: bool,
    /// First line of the list that is shown.
    pub(super) offset: usize,
    /// Lines of a list that the screen has room for.
    room: usize,
    pub(super) sort: Column,
    pub(super) reversed: bool,
    /// What names and addresses must contain.
    pub(super) filter: String,
    /// It is being typed.
    pub(super) typing: bool,
    pub(super) paused: bool,
    pub(super) interval: u32,
    pub(super) detail: Detail,
}

impl Model {
    pub(super) fn new(default: Provider, interval: u32) -> Model {
        Model {
            default,
            rows: BTreeMap::new(),
            order: Vec::new(),
            server: None,
            at: None,
            away: None,
            page: Page::List,
            before_help: Page::List,
            selected: None,
            is_chosen: false,
            offset: 0,
            room: 1,
            sort: Column::Traffic,
            reversed: false,
            filter: String::new(),
            typing: false,
            paused: false,
            interval,
            detail: Detail::default(),
        }
    }

    /// Takes in what a look has brought.
    pub(super) fn learn(&mut self, look: Look) {
        let Look { at, server, devices, connections } = look;
        let before = self.at.replace(at);
        let mut old = std::mem::take(&mut self.rows);
        for device in devices {
            let key = DeviceKey { instance: device.instance.clone(), device: device.name.clone() };
            let row = self.row(old.remove(&key), device, before, at);
            self.rows.insert(key, row);
        }
        self.server = server.or(self.server.take());
        self.away = None;
        if let Some((key, answer)) = connections {
            self.learn_connections(&key, answer, at);
        }
        if self.page == Page::Device && self.shown_row().is_none() {
            // It was removed while it was looked at.
            self.page = Page::List;
        }
        self.arrange();
    }

    fn row(&self, old: Option<Row>, device: Device, before: Option<Instant>, at: Instant) -> Row {
        let mut history = VecDeque::new();
        let mut rate = Rate::default();
        if let (Some(mut row), Some(before)) = (old, before) {
            let (was, is) = (&row.device, &device);
            let bytes = |one: &Device| (one.bytes_in.unwrap_or(0), one.bytes_out.unwrap_or(0));
            let since = Since(at.saturating_duration_since(before));
            rate = Rate {
                new_tenths: since.each(was.connections_total, is.connections_total, 10),
                bytes_in: since.each(bytes(was).0, bytes(is).0, 1),
                bytes_out: since.each(bytes(was).1, bytes(is).1, 1),
            };
            history = std::mem::take(&mut row.history);
            history.push_back(rate.traffic());
            while history.len() > HISTORY {
                history.pop_front();
            }
        }
        let instance = printable(&target::short(&device.instance, self.default));
        let name = printable(device.name.as_str());
        Row { device, instance, name, rate, history }
    }

    fn learn_connections(&mut self, key: &DeviceKey, answer: Result<Connections, String>, at: Instant) {
        if self.selected.as_ref() != Some(key) {
            return;
        }
        let found = match answer {
            Ok(found) => found,
            Err(why) => {
                self.detail.error = Some(why);
                return;
            }
        };
        let before = self.detail.at.replace(at);
        let talks = std::mem::take(&mut self.detail.talks);
        let old: HashMap<&str, &Connection> =
            talks.iter().map(|talk| (talk.connection.id.as_str(), &talk.connection)).collect();
        let rate = |connection: &Connection| {
            let since = Since(at.saturating_duration_since(before?));
            let was = old.get(connection.id.as_str())?;
            Some(Rate {
                new_tenths: 0,
                bytes_in: since.each(was.bytes_in, connection.bytes_in, 1),
                bytes_out: since.each(was.bytes_out, connection.bytes_out, 1),
            })
        };
        let rated = found.connections.into_iter().map(|connection| {
            let rate = rate(&connection).unwrap_or_default();
            Talk { connection, rate }
        });
        let mut talks: Vec<Talk> = rated.collect();
        talks.sort_by_key(|talk| (Reverse(talk.rate.traffic()), Reverse(talk.connection.age_ms)));
        self.detail.talks = talks;
        self.detail.connections_now = found.connections_now;
        self.detail.unlisted = found.unlisted;
        self.detail.error = None;
    }

    /// A look has failed: what is shown stays, and is known to be old.
    pub(super) fn lose(&mut self, why: String) {
        self.away = Some(why);
    }

    /// Puts the devices that are to be shown in their order. The same one stays selected.
    fn arrange(&mut self) {
        let before = self.position();
        let needle = self.filter.to_lowercase();
        let mut shown: Vec<(&DeviceKey, &Row)> =
            self.rows.iter().filter(|(_, row)| has(row, &needle)).collect();
        // Equal ones stay in the order of their names, whichever way it goes.
        let (sort, reversed) = (self.sort, self.reversed);
        shown.sort_by(|(_, one), (_, other)| {
            let order = compare(sort, one, other);
            if reversed { order.reverse() } else { order }
        });
        self.order = shown.into_iter().map(|(key, _)| key.clone()).collect();
        let is_there = self.selected.as_ref().is_some_and(|key| self.order.contains(key));
        if !self.is_chosen && self.looked_at().is_none() {
            self.selected = self.order.first().cloned();
        } else if !is_there && self.looked_at().is_none() {
            // Who stands where it stood.
            let at = before.min(self.order.len().saturating_sub(1));
            self.selected = self.order.get(at).cloned();
        }
        self.scroll();
    }

    /// Place of the selected one.
    pub(super) fn position(&self) -> usize {
        let at = |key| self.order.iter().position(|other| other == key);
        self.selected.as_ref().and_then(at).unwrap_or(0)
    }

    /// Moves what is shown until the selected one is.
    fn scroll(&mut self) {
        let at = self.position();
        let last_offset = self.order.len().saturating_sub(self.room);
        let lowest = (at + 1).saturating_sub(self.room);
        self.offset = self.offset.clamp(lowest, at).min(last_offset.max(lowest));
        let last = self.detail.talks.len().saturating_sub(1);
        self.detail.offset = self.detail.offset.min(last);
    }

    /// The screen has room for so many lines of a list.
    pub(super) fn set_room(&mut self, lines: u16) {
        self.room = usize::from(lines).max(1);
        self.scroll();
    }

    /// Does what a key asks for; true when the device that is looked at is another one.
    pub(super) fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Move(step) => self.step(step),
            Action::Pages(step) => self.step(step * isize::try_from(self.room).unwrap_or(1)),
            Action::First => self.step(isize::MIN / 2),
            Action::Last => self.step(isize::MAX / 2),
            Action::Sort(step) => self.sort = self.sort.beside(step),
            Action::Reverse => self.reversed = !self.reversed,
            Action::Pause => self.paused = !self.paused,
            Action::Interval(step) => self.change_interval(step),
            Action::Help => self.toggle_help(),
            Action::Enter if self.page == Page::List && self.selected.is_some() => {
                self.page = Page::Device;
                self.is_chosen = true;
                self.detail = Detail::default();
                return true;
            }
            Action::Back => self.go_back(),
            Action::Filter if self.page == Page::List => self.typing = true,
            Action::Type(letter) => self.filter.push(letter),
            Action::Erase => drop(self.filter.pop()),
            Action::Accept => self.typing = false,
            Action::Clear => {
                self.typing = false;
                self.filter.clear();
            }
            Action::Enter | Action::Filter | Action::Quit | Action::Suspend | Action::Redraw => {}
        }
        self.arrange();
        false
    }

    fn step(&mut self, step: isize) {
        if self.page == Page::Device {
            self.detail.offset = self.detail.offset.saturating_add_signed(step);
            return;
        }
        self.is_chosen = true;
        let last = self.order.len().saturating_sub(1);
        let at = self.position().saturating_add_signed(step).min(last);
        self.selected = self.order.get(at).cloned();
    }

    fn toggle_help(&mut self) {
        if self.page == Page::Help {
            self.page = self.before_help;
        } else {
            self.before_help = std::mem::replace(&mut self.page, Page::Help);
        }
    }

    fn go_back(&mut self) {
        match self.page {
            Page::Help => self.page = self.before_help,
            Page::Device => self.page = Page::List,
            Page::List => self.filter.clear(),
        }
    }

    fn change_interval(&mut self, step: isize) {
        let longer = INTERVALS.iter().copied().find(|seconds| *seconds > self.interval);
        let shorter = INTERVALS.iter().rev().copied().find(|seconds| *seconds < self.interval);
        self.interval = if step > 0 { longer } else { shorter }.unwrap_or(self.interval);
    }

    /// Devices that are shown, from the first line on.
    pub(super) fn shown(&self) -> impl Iterator<Item = (bool, &Row)> {
        let from = self.order.iter().skip(self.offset);
        from.filter_map(|key| Some((self.selected.as_ref() == Some(key), self.rows.get(key)?)))
    }

    /// How many pass the filter, and how many there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.order.len(), self.rows.len())
    }

    /// The device whose connections are to be asked for.
    pub(super) fn looked_at(&self) -> Option<&DeviceKey> {
        let page = if self.page == Page::Help { self.before_help } else { self.page };
        self.selected.as_ref().filter(|_| page == Page::Device)
    }

    /// The device on the screen.
    pub(super) fn shown_row(&self) -> Option<&Row> {
        self.rows.get(self.selected.as_ref()?)
    }

    /// All devices together: how many are open, and their rates.
    pub(super) fn totals(&self) -> (u64, Rate) {
        let mut open = 0_u64;
        let mut all = Rate::default();
        for row in self.rows.values() {
            open = open.saturating_add(row.device.connections_now);
            all.new_tenths = all.new_tenths.saturating_add(row.rate.new_tenths);
            all.bytes_in = all.bytes_in.saturating_add(row.rate.bytes_in);
            all.bytes_out = all.bytes_out.saturating_add(row.rate.bytes_out);
        }
        (open, all)
    }

    /// Devices that do not serve as they should.
    pub(super) fn ailing(&self) -> usize {
        let ails = |row: &&Row| matches!(row.device.state, DeviceState::Degraded | DeviceState::Failed);
        self.rows.values().filter(ails).count()
    }

    /// Whether something has been learnt at all.
    pub(super) const fn is_empty(&self) -> bool {
        self.at.is_none()
    }
}

/// The time between two looks.
struct Since(Duration);

impl Since {
    /// What came in a second, in parts of one. What is less than before began anew in between.
    fn each(&self, was: u64, is: u64, parts: u128) -> u64 {
        let millis = self.0.as_millis().max(1);
        let more = u128::from(is.saturating_sub(was));
        u64::try_from(more * 1000 * parts / millis).unwrap_or(u64::MAX)
    }
}

fn has(row: &Row, needle: &str) -> bool {
    let device = &row.device;
    needle.is_empty()
        || [&row.instance, &row.name, &device.listen, &device.connect]
            .iter()
            .any(|text| text.to_lowercase().contains(needle))
}

/// The most comes first, and names in their order.
fn compare(by: Column, one: &Row, other: &Row) -> Ordering {
    let most = |value: fn(&Row) -> u64| value(other).cmp(&value(one));
    match by {
        Column::Instance => one.instance.cmp(&other.instance),
        Column::Name => one.name.cmp(&other.name),
        Column::State => most(|row| severity(row.device.state)),
        Column::Open => most(|row| row.device.connections_now),
        Column::New => most(|row| row.rate.new_tenths),
        Column::In => most(|row| row.rate.bytes_in),
        Column::Out => most(|row| row.rate.bytes_out),
        Column::Failed => most(|row| row.device.dials_failed),
        Column::Traffic => {
            most(|row| row.rate.traffic()).then_with(|| most(|row| row.device.connections_now))
        }
    }
}

const fn severity(state: DeviceState) -> u64 {
    match state {
        DeviceState::Active => 0,
        DeviceState::Waiting => 1,
        DeviceState::Degraded => 2,
        DeviceState::Failed => 3,
    }
}

/// The word for the state of a row.
pub(super) fn state_of(row: &Row) -> &'static str {
    state_word(row.device.state)
}

#[cfg(test)]
pub(super) mod tests;
