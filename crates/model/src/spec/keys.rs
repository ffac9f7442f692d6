//! The keys of a device: their table, reading and writing.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use super::{DeviceSpec, SpecError};
use crate::at::{AddrError, ValueError, ValueErrorKind};
use crate::cidr::{AcceptProxy, CidrList};
use crate::duration::{format_duration, parse_duration};
use crate::limits::parse_cap;
use crate::nearest::nearest;
use crate::options::{not_one_of, parse_id, parse_number, truth};
use crate::text::quote;

/// One key, for completion and manual pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyDoc {
    /// The key.
    pub name: &'static str,
    /// Shape of its value.
    pub value: &'static str,
    /// Default as text; empty where there is none.
    pub default: &'static str,
    /// One line: what it does.
    pub about: &'static str,
}

const fn key(name: &'static str, value: &'static str, default: &'static str, about: &'static str) -> KeyDoc {
    KeyDoc { name, value, default, about }
}

impl DeviceSpec {
    /// Every key of this version, in the order values are checked.
    pub const KEYS: &'static [KeyDoc] = &[
        key(
            "listen",
            "ADDRESS",
            "",
            "where clients come in: tcp:HOST:PORTS, udp:HOST:PORTS, unix:PATH, unix:@NAME; unixgram: and unixpacket: as unix:",
        ),
        key("connect", "ADDRESS", "", "where the target is, same form"),
        key("bind", "host|instance", "host", "side that listens"),
        key("uid", "ID", "", "owner of the socket file listened on"),
        key("gid", "ID", "", "group of the socket file listened on"),
        key("mode", "OCTAL", "0644", "permissions of the socket file listened on"),
        key("security.uid", "ID", "", "user the relay runs as"),
        key("security.gid", "ID", "", "group the relay runs as"),
        key("security.groups", "ID,...", "", "supplementary groups of the relay"),
        key("proxy_protocol", "v1|v2|true|false", "false", "PROXY header sent to the target"),
        key(
            "accept_proxy",
            "CIDR,...|anybody",
            "",
            "from whom a PROXY header with the client's address is accepted and required",
        ),
        key("allow", "CIDR,...", "", "clients that are served, and nobody else"),
        key("deny", "CIDR,...", "", "clients that are not served, whatever allow says"),
        key("limits.connections", "NUMBER", "", "most connections or UDP flows at once"),
        key("limits.rate", "NUMBER/s", "", "new connections or UDP flows per second"),
        key(
            "limits.per_source",
            "NUMBER",
            "",
            "most connections or UDP flows at once of one client address, or IPv6 /64",
        ),
        key("nat", "true|false|auto", "false", "kernel NAT instead of the relay; auto: where it can be"),
        key("connect.timeout", "DURATION", "10s", "longest wait for the target to accept"),
        key("hold", "DURATION", "30s", "how long clients are kept while the instance is down"),
        key("udp.idle", "DURATION", "2m", "idle life of a flow of datagrams"),
        key("udp.max_flows", "NUMBER", "16384", "most flows of datagrams at once"),
        key(
            "udp.framing",
            "raw|len16",
            "",
            "how datagrams stand in a stream, from udp to tcp or unix and back",
        ),
        key("fds", "on|off", "on", "pass file descriptors from unix to unix"),
        key("follow", "uuid|name", "", "what to follow when the instance is made anew"),
        key("v6only", "true|false", "false", "[::] takes IPv6 clients only"),
        key("tcp.keepalive", "DURATION", "30s", "idle time before the first keepalive probe"),
        key("tcp.timeout", "DURATION", "2m", "how long sent bytes may stay unacknowledged"),
    ];
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(10);
const UDP_IDLE_MIN: Duration = Duration::from_millis(100);
const TCP_MIN: Duration = Duration::from_secs(1);
/// `TCP_KEEPIDLE` takes up to 32,767 s (tcp(7), `MAX_TCP_KEEPIDLE`).
const TCP_KEEPALIVE_MAX: Duration = Duration::from_secs(9 * 60 * 60);
const UDP_MAX_FLOWS_MAX: u32 = 1_000_000;

/// Values by key, each known.
struct Given(BTreeMap<String, String>);

impl Given {
    /// The value of `key` through `parse`, `default` when it is not given.
    fn value<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Result<T, SpecError> {
        match self.0.get(key) {
            None => Ok(default),
            Some(text) => parse(text).map_err(|error| SpecError::Value { key, error }),
        }
    }

    /// The address at `key`, which has been seen to be there.
    fn address<T: FromStr<Err = AddrError>>(&self, key: &'static str) -> Result<T, SpecError> {
        let text = self.0.get(key).ok_or(SpecError::Missing { key })?;
        text.parse().map_err(|error| SpecError::Address { key, error })
    }
}

/// See [`DeviceSpec::from_keys`].
pub(super) fn read<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<DeviceSpec, SpecError>
where
    K: AsRef<str>,
    V: AsRef<str>,
{
    let mut given = BTreeMap::new();
    for (key, value) in pairs {
        let key = key.as_ref();
        if given.insert(key.to_owned(), value.as_ref().to_owned()).is_some() {
            return Err(SpecError::Duplicate { key: key.to_owned() });
        }
    }
    given.keys().try_for_each(|key| known(key))?;
    for key in ["listen", "connect"] {
        if !given.contains_key(key) {
            return Err(SpecError::Missing { key });
        }
    }
    let spec = values(&Given(given))?;
    spec.check()?;
    Ok(spec)
}

/// Refuses a key that cannot be there.
fn known(key: &str) -> Result<(), SpecError> {
    if DeviceSpec::KEYS.iter().any(|doc| doc.name == key) {
        return Ok(());
    }
    if key.starts_with("user.") || key.starts_with("initial.") {
        return Err(SpecError::Foreign { key: key.to_owned() });
    }
    let names = DeviceSpec::KEYS.iter().map(|doc| doc.name);
    Err(SpecError::UnknownKey { key: key.to_owned(), nearest: nearest(key, names) })
}

/// Reads each value, in the order of the table.
fn values(given: &Given) -> Result<DeviceSpec, SpecError> {
    let duration = |key, default, min, max| given.value(key, default, |text| parse_duration(text, min, max));
    let id = |key| given.value(key, None, |text| parse_id(text).map(Some));
    let mut spec = DeviceSpec::with_defaults(given.address("listen")?, given.address("connect")?);
    spec.bind = given.value("bind", spec.bind, str::parse)?;
    spec.socket.uid = id("uid")?;
    spec.socket.gid = id("gid")?;
    spec.socket.mode = given.value("mode", spec.socket.mode, str::parse)?;
    spec.run_as.uid = id("security.uid")?;
    spec.run_as.gid = id("security.gid")?;
    spec.run_as.groups = given.value("security.groups", spec.run_as.groups, str::parse)?;
    spec.proxy_protocol = given.value("proxy_protocol", spec.proxy_protocol, str::parse)?;
    clients(given, &mut spec)?;
    spec.nat = given.value("nat", spec.nat, str::parse)?;
    spec.connect_timeout = duration("connect.timeout", spec.connect_timeout, CONNECT_TIMEOUT_MIN, DAY)?;
    spec.hold = duration("hold", spec.hold, Duration::ZERO, DAY)?;
    spec.udp_idle = duration("udp.idle", spec.udp_idle, UDP_IDLE_MIN, DAY)?;
    spec.udp_max_flows =
        given.value("udp.max_flows", spec.udp_max_flows, |text| parse_number(text, 1, UDP_MAX_FLOWS_MAX))?;
    spec.udp_framing = given.value("udp.framing", None, |text| text.parse().map(Some))?;
    spec.fds = given.value("fds", spec.fds, str::parse)?;
    spec.follow = given.value("follow", spec.follow, |text| text.parse().map(Some))?;
    spec.v6only = given.value("v6only", spec.v6only, boolean)?;
    spec.tcp_keepalive = given.value("tcp.keepalive", spec.tcp_keepalive, keepalive)?;
    spec.tcp_timeout = duration("tcp.timeout", spec.tcp_timeout, TCP_MIN, DAY)?;
    socket_keys(given, &spec)?;
    Ok(spec)
}

/// Who is served, and how much of it.
fn clients(given: &Given, spec: &mut DeviceSpec) -> Result<(), SpecError> {
    spec.accept_proxy = given.value("accept_proxy", None, |text| text.parse().map(Some))?;
    spec.allow = given.value("allow", CidrList::default(), str::parse)?;
    spec.deny = given.value("deny", CidrList::default(), str::parse)?;
    spec.limits.connections = given.value("limits.connections", None, parse_cap)?;
    spec.limits.rate = given.value("limits.rate", None, |text| text.parse().map(Some))?;
    spec.limits.per_source = given.value("limits.per_source", None, parse_cap)?;
    Ok(())
}

fn boolean(text: &str) -> Result<bool, ValueError> {
    truth(text).ok_or_else(|| not_one_of(text, "true or false"))
}

/// The kernel counts this one in seconds.
fn keepalive(text: &str) -> Result<Duration, ValueError> {
    let value = parse_duration(text, TCP_MIN, TCP_KEEPALIVE_MAX)?;
    if value.subsec_millis() != 0 {
        return Err(ValueError::new(text, 0, ValueErrorKind::NotSeconds(quote(text))));
    }
    Ok(value)
}

/// Keys whose presence alone asks for something the addresses cannot give, at the default value too.
fn socket_keys(given: &Given, spec: &DeviceSpec) -> Result<(), SpecError> {
    let (listen, connect) = (spec.listen.address(), spec.connect.address());
    if listen.unix().and_then(crate::UnixName::path).is_none()
        && let Some(key) = ["uid", "gid", "mode"].into_iter().find(|key| given.0.contains_key(*key))
    {
        return Err(SpecError::NotASocketFile { key });
    }
    let asks = given.0.get("fds").is_some_and(|text| truth(text) == Some(true));
    if asks && (listen.unix_kind().is_none() || listen.unix_kind() != connect.unix_kind()) {
        return Err(SpecError::Fds);
    }
    Ok(())
}

/// See [`DeviceSpec::to_keys`].
pub(super) fn write(spec: &DeviceSpec) -> BTreeMap<String, String> {
    let usual = DeviceSpec::with_defaults(spec.listen.clone(), spec.connect.clone());
    let mut keys = BTreeMap::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            keys.insert(key.to_owned(), value);
        }
    };
    let id = |id: Option<u32>| id.map(|id| id.to_string());
    let time = |value: Duration, usual: Duration| (value != usual).then(|| format_duration(value));
    put("listen", Some(spec.listen.to_string()));
    put("connect", Some(spec.connect.to_string()));
    put("bind", unless(&spec.bind, &usual.bind));
    put("uid", id(spec.socket.uid));
    put("gid", id(spec.socket.gid));
    put("mode", unless(&spec.socket.mode, &usual.socket.mode));
    put("security.uid", id(spec.run_as.uid));
    put("security.gid", id(spec.run_as.gid));
    put("security.groups", unless(&spec.run_as.groups, &usual.run_as.groups));
    put("proxy_protocol", unless(&spec.proxy_protocol, &usual.proxy_protocol));
    put_clients(spec, &mut put);
    put("nat", unless(&spec.nat, &usual.nat));
    put("connect.timeout", time(spec.connect_timeout, usual.connect_timeout));
    put("hold", time(spec.hold, usual.hold));
    put("udp.idle", time(spec.udp_idle, usual.udp_idle));
    put("udp.max_flows", unless(&spec.udp_max_flows, &usual.udp_max_flows));
    put("udp.framing", spec.udp_framing.map(|framing| framing.to_string()));
    put("fds", unless(&spec.fds, &usual.fds));
    put("follow", spec.follow.map(|follow| follow.to_string()));
    put("v6only", unless(&spec.v6only, &usual.v6only));
    put("tcp.keepalive", time(spec.tcp_keepalive, usual.tcp_keepalive));
    put("tcp.timeout", time(spec.tcp_timeout, usual.tcp_timeout));
    keys
}

/// The text of a value that is not the usual one. Most are, and writing them all for every device of a state
/// file would be most of the time that a change takes.
fn unless<T: PartialEq + ToString>(value: &T, usual: &T) -> Option<String> {
    (value != usual).then(|| value.to_string())
}

/// Who is served, and how much of it.
fn put_clients(spec: &DeviceSpec, put: &mut impl FnMut(&str, Option<String>)) {
    let cap = |cap: Option<NonZeroU32>| cap.map(|cap| cap.to_string());
    let list = |list: &CidrList| (!list.is_empty()).then(|| list.to_string());
    put("accept_proxy", spec.accept_proxy.as_ref().map(AcceptProxy::to_string));
    put("allow", list(&spec.allow));
    put("deny", list(&spec.deny));
    put("limits.connections", cap(spec.limits.connections));
    put("limits.rate", spec.limits.rate.map(|rate| rate.to_string()));
    put("limits.per_source", cap(spec.limits.per_source));
}
