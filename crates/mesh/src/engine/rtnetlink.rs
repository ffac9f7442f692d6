//! The few requests that set up the namespace: a veth pair, addresses, routes (rtnetlink(7)).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use portway_sys::netlink::{Family, Socket};

use crate::spec::InterfaceAddr;

/// Kinds of messages.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;

/// Flags of a request: that it is one, that it is to be answered, that it makes something new.
const REQUEST: u16 = 1 | 4;
const CREATE: u16 = 0x400 | 0x200;

/// `IFLA_…` of linux/if_link.h.
const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_QUEUE: u16 = 13;
const LINK_KIND: u16 = 18;
const LINK_OF_FAMILY: u16 = 26;
const LINK_GSO_BYTES: u16 = 41;
const LINK_GSO_V4_BYTES: u16 = 63;
const KIND_NAME: u16 = 1;
const KIND_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const V6_ADDRESS_MODE: u16 = 8;
/// `IN6_ADDR_GEN_MODE_NONE`: no address of its own making.
const NO_ADDRESS: u8 = 1;

/// `IFA_…` and `RTA_…`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const ROUTE_DEVICE: u16 = 4;
/// `IFA_F_NODAD`: usable at once.
const NO_DUPLICATES: u8 = 2;

/// `IFF_UP`, `IFF_NOARP`: nobody is asked for his address.
const UP: u32 = 1;
const NO_ARP: u32 = 0x80;

const V4: u8 = 2;
const V6: u8 = 10;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Packets that may wait at a device. Of 64 KiB each: more than TCP has under way.
const QUEUE_PACKETS: u32 = 4096;

/// Greatest packet the stack makes, to be cut: sealed it still fits one row of datagrams (65,507 bytes), whatever
/// its MTU of at least 576 is.
const GSO_BYTES: u32 = 60_000;

/// A conversation with the kernel about the namespace the calling thread is in.
pub(super) struct Route(Socket);

/// A message in the making.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, head: &[&[u8]]) -> Request {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        // Number and sender: one is asked at a time.
        bytes.extend([0; 8]);
        head.iter().for_each(|part| bytes.extend(*part));
        Request(bytes)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Request {
        self.0.extend(attribute(kind, value));
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_ne_bytes();
        self.0.iter_mut().zip(length).for_each(|(to, from)| *to = from);
        self.0
    }
}

/// Length, type and value, up to the next multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct ifinfomsg`.
fn link_head(index: u32, flags: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

fn name(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

impl Route {
    pub(super) fn open() -> io::Result<Route> {
        Ok(Route(Socket::open(Family::Route, PATIENCE)?))
    }

    /// Makes two interfaces that are each other's other side.
    pub(super) fn add_veth(&self, one: &str, other: &str) -> io::Result<()> {
        let peer = [link_head(0, 0), attribute(LINK_NAME, &name(other))].concat();
        let data = attribute(VETH_PEER, &peer);
        let kind = [attribute(KIND_NAME, &name("veth")), attribute(KIND_DATA, &data)].concat();
        let request = Request::new(NEW_LINK, CREATE, &[&link_head(0, 0)]);
        self.ask(request.with(LINK_NAME, &name(one)).with(LINK_KIND, &kind))
    }

    /// Gives an Ethernet interface its address.
    pub(super) fn set_link_address(&self, index: u32, address: [u8; 6]) -> io::Result<()> {
        self.ask(Request::new(NEW_LINK, 0, &[&link_head(index, 0)]).with(LINK_ADDRESS, &address))
    }

    /// Sets an interface up, without addresses of its own making, and starts it.
    pub(super) fn start_link(&self, index: u32, mtu: u16) -> io::Result<()> {
        let head = link_head(index, 0);
        let sizes = Request::new(NEW_LINK, 0, &[&head])
            .with(LINK_MTU, &u32::from(mtu).to_ne_bytes())
            .with(LINK_QUEUE, &QUEUE_PACKETS.to_ne_bytes());
        self.ask(sizes)?;
        let v6 = attribute(u16::from(V6), &attribute(V6_ADDRESS_MODE, &[NO_ADDRESS]));
        // Without IPv6 there is nothing to turn off.
        self.ask(Request::new(NEW_LINK, 0, &[&head]).with(LINK_OF_FAMILY, &v6)).ok();
        self.ask(Request::new(NEW_LINK, 0, &[&head]).with(LINK_GSO_BYTES, &GSO_BYTES.to_ne_bytes()))?;
        // Since Linux 6.3 IPv4 has a limit of its own; before, the first one holds for both.
        self.ask(Request::new(NEW_LINK, 0, &[&head]).with(LINK_GSO_V4_BYTES, &GSO_BYTES.to_ne_bytes())).ok();
        self.ask(Request::new(NEW_LINK, 0, &[&link_head(index, UP | NO_ARP)]))
    }

    /// Gives an interface an address.
    pub(super) fn add_address(&self, index: u32, address: InterfaceAddr) -> io::Result<()> {
        let (family, octets) = octets(address.ip);
        let head = [family, address.prefix, NO_DUPLICATES, 0];
        let request = Request::new(NEW_ADDRESS, CREATE, &[&head, &index.to_ne_bytes()]);
        self.ask(request.with(LOCAL, &octets).with(ADDRESS, &octets))
    }

    /// Sends all of a family to an interface.
    pub(super) fn add_default_route(&self, index: u32, v4: bool) -> io::Result<()> {
        /// `RT_TABLE_MAIN`, `RTPROT_STATIC`, `RT_SCOPE_LINK` and `RTN_UNICAST`.
        const MAIN_STATIC_LINK_UNICAST: [u8; 4] = [254, 4, 253, 1];
        let head = [if v4 { V4 } else { V6 }, 0, 0, 0];
        let request = Request::new(NEW_ROUTE, CREATE, &[&head, &MAIN_STATIC_LINK_UNICAST, &[0; 4]]);
        self.ask(request.with(ROUTE_DEVICE, &index.to_ne_bytes()))
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        self.0.send(&request.finish())?;
        let mut answer = vec![0; 32 << 10];
        let length = self.0.receive(&mut answer)?;
        let kind = answer.get(4..6).map(|kind| kind == ERROR.to_ne_bytes());
        let code = answer.get(..length).and_then(|answer| answer.get(16..20)?.try_into().ok());
        match (kind, code.map(i32::from_ne_bytes)) {
            (Some(true), Some(0)) => Ok(()),
            (Some(true), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no answer of the kernel's")),
        }
    }
}

fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (V4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (V6, ip.octets().to_vec()),
    }
}
