//! Devices that lead to each other in a ring: a client of one would be carried round until something
//! runs out.
//!
//! A way leads from a device to the one that listens where it dials. Only what addresses say is seen: a
//! service between two devices, another machine, or a listener at every address that is dialled by one of
//! the host's own is not.

use std::collections::{HashMap, HashSet};

use crate::address::Address;
use crate::host::IpHost;
use crate::instance::InstanceKey;
use crate::listeners::{ListenIndex, Place};
use crate::port::PortRange;
use crate::spec::DeviceSpec;

/// Which device leads to which. Devices are known by their place in the list.
#[derive(Debug)]
pub struct Ways<'a> {
    devices: Vec<(&'a InstanceKey, &'a DeviceSpec)>,
    /// The host that each dials, unless unix.
    dialled: Vec<Option<IpHost>>,
    listeners: ListenIndex<'a, usize>,
}

/// A listener of a device: the device, and the place of the port in its list.
type Door = (usize, u32);

impl<'a> Ways<'a> {
    /// The ways between these devices.
    #[must_use]
    pub fn new(devices: Vec<(&'a InstanceKey, &'a DeviceSpec)>) -> Self {
        let listed = devices.iter().enumerate().map(|(number, (instance, spec))| (number, *instance, *spec));
        let listeners = ListenIndex::new(listed);
        let dialled = devices.iter().map(|(_, spec)| spec.connect.address().host().map(IpHost::dialled));
        Self { dialled: dialled.collect(), listeners, devices }
    }

    /// The devices of a ring through `device`, which is the first of them, each once, in the order in which the ring
    /// comes to them; `None` where there is none, or no such device. A ring comes to a device of several ports more
    /// than once when it goes through more than one of them.
    #[must_use]
    pub fn ring(&self, device: usize) -> Option<Vec<usize>> {
        if !self.comes_back(device) {
            return None;
        }
        // Ports matter: what comes back at another port may leave there.
        let (_, spec) = self.devices.get(device)?;
        let mut seen = HashSet::new();
        (0..spec.listen_count()).find_map(|place| self.ring_of((device, place), &mut seen))
    }

    /// Whether a way leads from a device back to it, whatever the ports.
    fn comes_back(&self, device: usize) -> bool {
        let (mut seen, mut open) = (HashSet::new(), vec![device]);
        while let Some(from) = open.pop() {
            for to in self.next_devices(from) {
                if to == device {
                    return true;
                }
                if seen.insert(to) {
                    open.push(to);
                }
            }
        }
        false
    }

    fn next_devices(&self, from: usize) -> Vec<usize> {
        let Some((instance, spec)) = self.devices.get(from) else { return Vec::new() };
        let ports = spec.connect.address().ports().into_iter().flat_map(|ports| ports.ranges());
        let at_ports = ports.flat_map(|range| self.at(from, *range)).map(|(_, device)| device);
        let place = Place::dialling(instance, spec.bind);
        let named = match spec.connect.address() {
            Address::Unix(kind, name) => Some(self.listeners.at_name(place, *kind, name)),
            Address::Tcp { .. } | Address::Udp { .. } => None,
        };
        at_ports.chain(named.into_iter().flatten()).collect()
    }

    /// Who listens at these ports of what a device dials.
    fn at(&self, from: usize, range: PortRange) -> impl Iterator<Item = (PortRange, usize)> + '_ {
        let device = self.devices.get(from).zip(self.dialled.get(from).and_then(Option::as_ref));
        device.into_iter().flat_map(move |((instance, spec), host)| {
            let place = Place::dialling(instance, spec.bind);
            self.listeners.at_ports(place, spec.connect.address().protocol(), host, range)
        })
    }

    /// Follows the ways from a listener, depth first. `seen` are listeners that are known to lead into no
    /// ring of its device.
    fn ring_of(&self, start: Door, seen: &mut HashSet<Door>) -> Option<Vec<usize>> {
        let mut path: Vec<(Door, Vec<Door>)> = Vec::new();
        let mut on_path: HashMap<Door, usize> = HashMap::new();
        let mut enter =
            |door: Door, path: &mut Vec<(Door, Vec<Door>)>, on_path: &mut HashMap<Door, usize>| {
                if seen.insert(door) {
                    on_path.insert(door, path.len());
                    path.push((door, self.next_doors(door)));
                }
            };
        enter(start, &mut path, &mut on_path);
        while let Some((door, next)) = path.last_mut() {
            let Some(to) = next.pop() else {
                on_path.remove(door);
                path.pop();
                continue;
            };
            if let Some(begin) = on_path.get(&to) {
                let ring: Vec<usize> = path.iter().skip(*begin).map(|((device, _), _)| *device).collect();
                if let Some(at) = ring.iter().position(|device| *device == start.0) {
                    return Some(from_its_first(&ring, at));
                }
            } else {
                enter(to, &mut path, &mut on_path);
            }
        }
        None
    }

    fn next_doors(&self, (from, place): Door) -> Vec<Door> {
        let Some((instance, spec)) = self.devices.get(from) else { return Vec::new() };
        match spec.connect.address() {
            Address::Unix(kind, name) => {
                let side = Place::dialling(instance, spec.bind);
                self.listeners.at_name(side, *kind, name).map(|device| (device, 0)).collect()
            }
            Address::Tcp { ports, .. } | Address::Udp { ports, .. } => {
                let port = ports.nth(if ports.count() == 1 { 0 } else { place });
                let found = port.into_iter().flat_map(|port| self.at(from, PortRange::from(port)));
                let door = |(range, device): (PortRange, usize)| {
                    let (_, spec) = self.devices.get(device)?;
                    Some((device, spec.listen.address().ports()?.position(range.first())?))
                };
                found.filter_map(door).collect()
            }
        }
    }
}

/// A ring that begins with the device at `at`, each device once.
fn from_its_first(ring: &[usize], at: usize) -> Vec<usize> {
    let mut named = Vec::new();
    for device in ring.iter().cycle().skip(at).take(ring.len()) {
        if !named.contains(device) {
            named.push(*device);
        }
    }
    named
}
