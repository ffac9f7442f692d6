//! What a program is lent of the client's: where it is to be reached in here, and the variables that say so.
//!
//! Each has a folder of its own that nobody else can look into, `ssh-XXXXXXXXXX` as of sshd, which goes with it: with the
//! agent's socket in it, or with the cookie of the display. That one is a port of loopback, as of sshd, so whoever comes there has
//! to show the cookie; the gateway looks at it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use portway_proto::guest::{Lent, Why};
use portway_proto::x11;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::janitor::Spot;
use super::listen::{Holding, Listener};

/// Where folders are made, in their order.
const PLACES: [&str; 2] = ["/tmp", "/dev/shm"];

/// How often a name is tried that is not taken.
const TRIES: usize = 10;

/// Letters of a name, as mkdtemp(3) has it.
const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const NAME_LETTERS: usize = 10;

/// Displays that are tried: from sshd's first one (`X11DisplayOffset`) to its last one.
const FIRST_DISPLAY: u16 = 10;
const LAST_DISPLAY: u16 = 999;

/// Variables of a program.
pub(super) type Variables = Vec<Vec<u8>>;

/// Makes what a program is lent. Whoever drops the listener takes it back.
///
/// # Errors
/// What was in the way.
pub(super) fn open(lent: &Lent) -> Result<(Listener, Variables), (Why, Errno)> {
    let opened = match lent {
        Lent::Agent => agent(),
        Lent::Display { screen, cookie } => display(*screen, cookie),
    };
    opened.map_err(|error| (Why::System, error))
}

fn agent() -> rustix::io::Result<(Listener, Variables)> {
    let folder = Folder::make()?;
    let path = folder.path.join(format!("agent.{}", std::process::id()));
    let variable = [b"SSH_AUTH_SOCK=", path.as_os_str().as_bytes()].concat();
    let listener = Listener::at_path(&path)?;
    Ok((listener.holding(folder.holding), vec![variable]))
}

fn display(screen: u32, cookie: &[u8; x11::COOKIE_BYTES]) -> rustix::io::Result<(Listener, Variables)> {
    let (listener, display) = first_display()?;
    let folder = Folder::make()?;
    let path = folder.path.join("xauth");
    let host = fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let file = x11::authority(host.trim_ascii_end(), display, cookie);
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut to| to.write_all(&file));
    written.map_err(|error| number(&error))?;
    let variables = vec![
        format!("DISPLAY=localhost:{display}.{screen}").into_bytes(),
        [b"XAUTHORITY=", path.as_os_str().as_bytes()].concat(),
    ];
    Ok((listener.holding(folder.holding), variables))
}

/// The first one that nobody has at either address, as of sshd.
fn first_display() -> rustix::io::Result<(Listener, u16)> {
    for display in FIRST_DISPLAY..=LAST_DISPLAY {
        let port = x11::FIRST_PORT + display;
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        match Listener::at_port(&addresses.map(|ip| SocketAddr::new(ip, port)), port) {
            Err(Errno::ADDRINUSE) => {}
            opened => return opened.map(|listener| (listener, display)),
        }
    }
    Err(Errno::ADDRINUSE)
}

/// A folder of this user's alone.
struct Folder {
    path: PathBuf,
    /// Removes it.
    holding: Holding,
}

impl Folder {
    fn make() -> rustix::io::Result<Self> {
        let mut last = Errno::EXIST;
        for place in PLACES {
            for _ in 0..TRIES {
                let path = Path::new(place).join(name().map_err(|error| number(&error))?);
                match Spot::find(&path).and_then(Spot::furnished) {
                    Ok((traces, opened)) => {
                        // What cleans up old files leaves alone what somebody has locked (tmpfiles.d(5)).
                        let _as_it_is = rustix::fs::flock(&opened, FlockOperation::NonBlockingLockShared);
                        return Ok(Self { path, holding: Holding::new(traces, Some(opened))? });
                    }
                    Err(Errno::EXIST | Errno::ADDRINUSE) => {}
                    Err(error) => {
                        last = error;
                        break;
                    }
                }
            }
        }
        Err(last)
    }
}

/// A name that hardly anybody has; that nobody has it is seen when it is made.
fn name() -> io::Result<String> {
    let mut bytes = [0; NAME_LETTERS];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let letter = |byte: u8| LETTERS.get(usize::from(byte) % LETTERS.len()).copied().map_or('x', char::from);
    Ok(format!("ssh-{}", bytes.map(letter).iter().collect::<String>()))
}

fn number(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn value(variables: &Variables, name: &str) -> String {
        let entries = variables.iter().map(|entry| String::from_utf8_lossy(entry));
        let mut found =
            entries.filter_map(|entry| entry.strip_prefix(&format!("{name}=")).map(str::to_owned));
        found.next_back().unwrap_or_else(|| panic!("no {name}"))
    }

    /// Fails when others can look into the folder, or it stays, with whatever its user has put there.
    #[test]
    fn an_agent_is_this_users_alone_and_goes() {
        let (listener, variables) = open(&Lent::Agent).expect("a socket");
        let path = PathBuf::from(value(&variables, "SSH_AUTH_SOCK"));
        let folder = path.parent().expect("a folder").to_owned();
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        UnixStream::connect(&path).expect("somebody listens");
        fs::write(folder.join("mine"), "x").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).expect("a link");
        drop(listener);
        assert!(!folder.exists() && Path::new("/etc/passwd").exists());
    }

    /// Fails when another's folder of that name is emptied.
    #[test]
    fn a_folder_that_has_come_in_its_place_is_left_alone() {
        let (listener, variables) = open(&Lent::Agent).expect("a socket");
        let path = PathBuf::from(value(&variables, "SSH_AUTH_SOCK"));
        let folder = path.parent().expect("a folder").to_owned();
        let aside = folder.with_extension("aside");
        fs::rename(&folder, &aside).expect("moved");
        fs::create_dir(&folder).expect("made");
        fs::write(folder.join("mine"), "x").expect("written");
        drop(listener);
        assert!(folder.join("mine").exists());
        fs::remove_dir_all(&folder).expect("removed");
        fs::remove_dir_all(&aside).expect("removed");
    }

    /// Fails when a display is another's, or the file says another cookie, or stays.
    #[test]
    fn a_display_is_a_free_port_with_a_cookie() {
        let lent = Lent::Display { screen: 2, cookie: [7; x11::COOKIE_BYTES] };
        let (first, variables) = open(&lent).expect("a display");
        let (second, others) = open(&lent).expect("another display");
        let (one, other) = (value(&variables, "DISPLAY"), value(&others, "DISPLAY"));
        assert_ne!(one, other);
        let number: u16 =
            one.trim_start_matches("localhost:").trim_end_matches(".2").parse().expect("a number");
        assert!((FIRST_DISPLAY..=LAST_DISPLAY).contains(&number) && first.port == number + x11::FIRST_PORT);
        let path = PathBuf::from(value(&variables, "XAUTHORITY"));
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
        let said = fs::read(&path).expect("it can be read");
        let host = fs::read("/proc/sys/kernel/hostname").expect("a name");
        assert_eq!(said, x11::authority(host.trim_ascii_end(), number, &[7; 16]));
        drop((first, second));
        assert!(!path.parent().expect("a folder").exists());
    }
}
