//! Network namespaces for tests. One lives as long as its value, and whatever still uses it; a
//! killed test leaves nothing behind, because it has no name.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{is_root, run};

/// A network namespace held open. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// A new namespace with its loopback up and nothing else.
    ///
    /// # Errors
    /// When this process may not make one.
    pub fn new() -> Result<Self> {
        let opened = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let netns = Self::of(opened.context("cannot make a network namespace")?);
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Runs a test inside a new namespace; without root it is told as by [`is_root`].
    ///
    /// # Panics
    /// With `test`, when this process may not make a namespace, and as [`is_root`].
    #[expect(clippy::expect_used, reason = "it fails a test")]
    pub fn apart(test: impl FnOnce(&Self) + Send) {
        if is_root() {
            let netns = Self::new().expect("a network namespace");
            netns.enter(|| test(&netns)).expect("to enter it");
        }
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// When the process is gone or out of reach.
    pub fn of_pid(pid: i32) -> Result<Self> {
        Self::open(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The namespace at a path, as `ip netns` makes them below `/run/netns`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self::of(file))
    }

    /// The namespace this process started in.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn host() -> Result<Self> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    fn of(file: File) -> Self {
        Self { file: Arc::new(file) }
    }

    /// A path other processes can open while this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Runs `work` in this namespace, on a thread of its own; sockets it makes stay here.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// With `work`.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let entered = on_thread(|| {
            setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        entered.context("cannot enter a network namespace")
    }

    /// Starts a program in this namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.enter(|| command.spawn())?.context("cannot start a program")
    }

    /// Runs a program in this namespace to its end; see [`run`].
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, command: &mut Command) -> Result<String> {
        self.enter(|| run(command))?
    }

    /// `ip` with these words: `ns.ip("addr add 10.0.0.1/24 dev eth0")`.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ip(&self, words: &str) -> Result<String> {
        self.run(Command::new("ip").args(words.split_whitespace()))
    }

    /// Loads nft text.
    ///
    /// # Errors
    /// As [`run`].
    pub fn nft(&self, rules: &str) -> Result<String> {
        self.run(Command::new("nft").arg(rules))
    }

    /// Sets a sysctl below `net`: `ns.sysctl("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// When there is none of that name, or the value is refused.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let written = self.enter(|| std::fs::write(format!("/proc/sys/net/{name}"), value))?;
        written.with_context(|| format!("cannot set {name}"))
    }

    /// A veth pair: `name` here, `other_name` in `other`; both up, with these addresses (with
    /// prefix length; an empty one is left out).
    ///
    /// # Errors
    /// As [`run`].
    pub fn veth(
        &self,
        name: &str,
        addresses: &[&str],
        other: &Self,
        other_name: &str,
        others: &[&str],
    ) -> Result<()> {
        let there = other.path();
        let peer = format!("peer name {other_name} netns {}", there.display());
        self.ip(&format!("link add name {name} type veth {peer}"))?;
        for (netns, name, addresses) in [(self, name, addresses), (other, other_name, others)] {
            for address in addresses.iter().filter(|address| !address.is_empty()) {
                // Without nodad an IPv6 address is unusable for a second.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                netns.ip(&format!("addr add {address} dev {name} {nodad}"))?;
            }
            netns.ip(&format!("link set dev {name} up"))?;
        }
        Ok(())
    }
}

/// Runs `work` on a thread that ends with it, so that what it does to its thread goes with it.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn namespaces_are_apart_and_veth_joins_them() {
        if !is_root() {
            return;
        }
        let (one, two) = (Netns::new().unwrap(), Netns::new().unwrap());
        let listener = one.enter(|| TcpListener::bind("10.0.0.1:80")).unwrap();
        assert!(listener.is_err(), "no such address yet");
        one.veth("a", &["10.0.0.1/24", "fd00::1/64"], &two, "b", &["10.0.0.2/24", "fd00::2/64"]).unwrap();
        for address in ["10.0.0.1:80", "[fd00::1]:80"] {
            let _listener = one.enter(|| TcpListener::bind(address)).unwrap().unwrap();
            two.enter(|| TcpStream::connect(address)).unwrap().unwrap();
        }
        let third = Netns::new().unwrap();
        third.enter(|| TcpStream::connect("10.0.0.1:80")).unwrap().unwrap_err();
    }

    #[test]
    fn a_sysctl_is_set_there_and_not_here() {
        if !is_root() {
            return;
        }
        let netns = Netns::new().unwrap();
        let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").unwrap();
        let here = read();
        netns.sysctl("ipv4/ip_default_ttl", "33").unwrap();
        assert_eq!(netns.enter(read).unwrap().trim(), "33");
        assert_eq!(read(), here);
    }

    #[test]
    fn programs_start_there_and_its_path_opens_elsewhere() {
        if !is_root() {
            return;
        }
        let netns = Netns::new().unwrap();
        let link =
            |path: &str| std::fs::metadata(path).map(|m| std::os::unix::fs::MetadataExt::ino(&m)).unwrap();
        let shown = netns.run(Command::new("stat").args(["-L", "-c", "%i", "/proc/self/ns/net"])).unwrap();
        assert_eq!(shown.trim(), link(&netns.path().display().to_string()).to_string());
        assert_ne!(shown.trim(), link("/proc/self/ns/net").to_string());
    }
}
