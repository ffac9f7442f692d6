//! Who has a port: looked up only after a bind has failed, for the error message.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portway_model::{Address, ListenAddr, UnixName};

/// Files of one process that are looked at, at most: the look is for a message and must end.
const FILES_MAX: usize = 100_000;

/// Whether a device's listen address takes `address`, the text of one port of ours.
pub(crate) fn overlaps(theirs: &Address, address: &str) -> bool {
    let Ok(ours) = address.parse::<ListenAddr>() else { return false };
    match (theirs, ours.address()) {
        (Address::Tcp { host: a, ports: p }, Address::Tcp { host: b, ports: q })
        | (Address::Udp { host: a, ports: p }, Address::Udp { host: b, ports: q }) => {
            let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
            same_host && p.shares(q)
        }
        (Address::Unix(_, UnixName::Abstract(a)), Address::Unix(_, UnixName::Abstract(b))) => a == b,
        (Address::Unix(_, UnixName::Path(a)), Address::Unix(_, UnixName::Path(b))) => a == b,
        _ => false,
    }
}

/// Which file is at a path: device and inode. A link at its end is a file of its own.
pub(crate) fn file_at(path: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The process that has `address` in the calling process' network namespace: `nginx (pid 12)`.
pub(crate) fn process_at(address: &str) -> Option<String> {
    let listen: ListenAddr = address.parse().ok()?;
    let (tables, port, listening): (&[&str], u16, bool) = match listen.address() {
        Address::Tcp { ports, .. } => (&["tcp", "tcp6"], ports.nth(0)?.get(), true),
        Address::Udp { ports, .. } => (&["udp", "udp6"], ports.nth(0)?.get(), false),
        Address::Unix(..) => return None,
    };
    let ip = match listen.address() {
        Address::Tcp { host, .. } | Address::Udp { host, .. } => host.ip(),
        Address::Unix(..) => return None,
    };
    let inode = tables.iter().find_map(|table| {
        let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).ok()?;
        text.lines().skip(1).find_map(|line| entry(line, port, ip, listening))
    })?;
    process_of(&inode)
}

/// Inode of the socket in a line of `/proc/net/tcp` (proc_net(5)), if it holds the port.
fn entry(line: &str, port: u16, ip: IpAddr, listening: bool) -> Option<String> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (host, number) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    // 0A is TCP_LISTEN (include/net/tcp_states.h).
    if u16::from_str_radix(number, 16).ok()? != port || (listening && state != "0A") {
        return None;
    }
    let wildcard = host.bytes().all(|digit| digit == b'0') || ip.is_unspecified();
    (wildcard || parse_host(host) == Some(ip)).then(|| fields.nth(5).map(str::to_owned))?
}

/// Addresses there are words of 32 bits in host order.
fn parse_host(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for word in text.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(ip.to_canonical())
}

fn process_of(inode: &str) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |file: std::fs::DirEntry| {
            std::fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&wanted))
        };
        if files.flatten().take(FILES_MAX).any(holds) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            // A process names itself as it likes: nothing but plain text reaches a terminal.
            let name: String =
                name.trim().chars().map(|one| if one.is_control() { '?' } else { one }).collect();
            return Some(format!("{name} (pid {pid})"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_listener_is_found() {
        for bind in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let listener = std::net::TcpListener::bind(bind).unwrap();
            let port = listener.local_addr().unwrap().port();
            let host = bind.rsplit_once(':').unwrap().0;
            let owner = process_at(&format!("tcp:{host}:{port}")).unwrap();
            assert!(owner.contains(&format!("pid {}", std::process::id())), "{owner}");
        }
    }

    #[test]
    fn overlap_needs_the_same_protocol_a_common_address_and_a_common_port() {
        let device: ListenAddr = "tcp:0.0.0.0:8000-8010".parse().unwrap();
        for (address, expected) in [
            ("tcp:127.0.0.1:8005", true),
            ("tcp:0.0.0.0:8010", true),
            ("tcp:0.0.0.0:8011", false),
            ("udp:0.0.0.0:8005", false),
            ("nonsense", false),
        ] {
            assert_eq!(overlaps(device.address(), address), expected, "{address}");
        }
    }
}
