//! Ports whose clients say themselves where in the network they want to go: SOCKS5, and HTTP with CONNECT.
//!
//! - A client is heard here, by a parser without I/O that takes no byte behind the request ([`portway_proto::socks5`],
//!   [`portway_proto::http_connect`]), within [`HEARING`] and [`WAITING`] others of its port.
//! - Where it wants to go is judged and dialled in `way`: what peers have, and nothing else.
//! - Then it is told, and both sockets go to the relay worker, which carries them as those of every rule.
//! - Datagrams of SOCKS5 stay here: `associate`.

mod associate;
mod http;
mod socks;
mod way;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portway_proto::admission::Source;
use portway_relay::wire::{Known, Slot};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::room::Places;
use super::serve::{Call, Shared};
use super::table::Upstream;
use crate::spec::{Login, ProxyKind, ProxyListen};
use associate::{Association, Associations};
use way::Refusal;
pub(super) use way::has_peer;

/// How long a client has to say what it wants, all messages together.
const HEARING: Duration = Duration::from_secs(10);

/// Clients of one gate that are heard. Others wait in the backlog. Who is dialled for has places of the port instead.
const WAITING: usize = 256;

/// How many of them, and of associations, may be of one address that is not this host's own.
const OF_ONE: usize = 64;

/// How long who guessed a password wrong waits for the answer.
const WRONG_LOGIN: Duration = Duration::from_millis(500);

/// How long a client that was refused has to take the answer, and how much of what it still sends is read: bytes that
/// nobody has read would make a reset of the end.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES: usize = 64 << 10;

/// Pause after a failure to take one in, which is a shortage.
const PAUSE: Duration = Duration::from_millis(100);

/// What all gates share.
struct Gates {
    shared: Arc<Shared>,
    calls: mpsc::Sender<Call>,
    sources: Arc<Sources>,
    associations: Arc<Associations>,
}

/// Clients and associations by where they come from.
type Sources = Mutex<BTreeMap<Source, usize>>;

/// One of them.
struct Gate {
    all: Arc<Gates>,
    slot: Slot,
    listen: ProxyListen,
}

/// What came of hearing a client.
enum Heard {
    /// It has been told that its connection is there.
    Connected(Upstream),
    /// It has been told, or is gone.
    Over,
    /// Datagrams are carried for it, as long as its connection lasts.
    Associated(Association),
}

/// Why a client was not heard to the end.
enum Trouble {
    /// It is gone, or its socket has failed.
    Gone,
    /// What it said is no request.
    Malformed(String),
    /// Nobody may use this without the right name and password.
    Stranger,
    /// It cannot get where it wants to go.
    Refused(Refusal),
}

impl From<io::Error> for Trouble {
    fn from(_: io::Error) -> Trouble {
        Trouble::Gone
    }
}

/// Takes the clients of all gates in, until their tasks are ended.
pub(super) fn attend(
    shared: &Arc<Shared>,
    gates: Vec<(Slot, ProxyListen, OwnedFd)>,
    calls: &mpsc::Sender<Call>,
) -> io::Result<()> {
    let all = Arc::new(Gates {
        shared: Arc::clone(shared),
        calls: calls.clone(),
        sources: Arc::default(),
        associations: Arc::default(),
    });
    for (slot, listen, fd) in gates {
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let gate = Arc::new(Gate { all: Arc::clone(&all), slot, listen });
        let task = tokio::spawn(take(gate, listener));
        shared.table().attend(slot, task.abort_handle());
    }
    Ok(())
}

async fn take(gate: Arc<Gate>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(WAITING));
    loop {
        let Ok(pass) = Arc::clone(&room).acquire_owned().await else { return };
        let (client, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "client not taken in");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(share) = Share::of(&gate.all.sources, from.ip().to_canonical()) else {
            debug!(%from, "too many of one address");
            continue;
        };
        let gate = Arc::clone(&gate);
        tokio::spawn(async move {
            let heard = gate.hear(client, from, vec![pass]).await;
            if let Some((association, client)) = heard {
                association.carry(client, &gate.all.shared, gate.slot).await;
            }
            drop(share);
        });
    }
}

impl Gate {
    /// Hears one client, and hands it on. What it takes meanwhile is `held`.
    async fn hear(
        &self,
        mut client: TcpStream,
        from: SocketAddr,
        mut held: Places,
    ) -> Option<(Association, TcpStream)> {
        // It is a hint.
        client.set_nodelay(true).ok();
        let heard = match self.listen.kind {
            ProxyKind::Socks5 => socks::serve(self, &mut client, &mut held).await,
            ProxyKind::Http => http::serve(self, &mut client, &mut held).await,
        };
        match heard {
            Ok(Heard::Connected(upstream)) => self.hand_on(client, upstream).await,
            Ok(Heard::Associated(association)) => return Some((association, client)),
            Ok(Heard::Over) | Err(Trouble::Gone) => {}
            Err(Trouble::Malformed(why)) => debug!(%from, why, "no request"),
            Err(Trouble::Stranger) => {
                warn!(client = %from.ip(), "wrong name or password at a proxy");
                self.failed("wrong name or password".to_owned());
            }
            Err(Trouble::Refused(refusal)) => self.failed(refusal.to_string()),
        }
        None
    }

    fn failed(&self, why: String) {
        self.all.shared.table().gate_failed(self.slot, why);
    }

    /// Gives the relay worker both ends.
    async fn hand_on(&self, client: TcpStream, upstream: Upstream) {
        let Ok(client) = client.into_std() else { return };
        let mark = self.all.shared.table().promise(upstream);
        let known = Known { mark: Some(mark), ends: None };
        // The other end is gone when everything ends.
        self.all.calls.send(Call { slot: self.slot, fd: client.into(), known }).await.ok();
    }
}

/// Whether these are the name and the password; takes the same time wherever they differ.
fn is_login(login: &Login, user: &[u8], password: &[u8]) -> bool {
    let same = |one: &[u8], other: &[u8]| Sha256::digest(one).ct_eq(&Sha256::digest(other));
    (same(login.user.as_bytes(), user) & same(login.password.as_bytes(), password)).into()
}

/// Says why there is no more, and ends.
async fn farewell(client: &mut TcpStream, answer: &[u8]) {
    let end = async {
        client.write_all(answer).await?;
        client.shutdown().await?;
        let (mut rest, mut room) = ([0; 4096], FAREWELL_BYTES);
        while let count @ 1.. = client.read(&mut rest).await? {
            room = room.checked_sub(count).ok_or(io::ErrorKind::InvalidData)?;
        }
        Ok::<_, io::Error>(())
    };
    // Who does not listen is not told.
    timeout(FAREWELL, end).await.ok();
}

/// One client's part of what its address may have: of IPv6, its network.
struct Share {
    all: Arc<Sources>,
    source: Source,
}

impl Share {
    /// `None`: its address has all of it. Of this host's own addresses there is no saying who is behind them.
    fn of(all: &Arc<Sources>, ip: IpAddr) -> Option<Share> {
        let source = Source::from(ip);
        let mut sources = all.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_default();
        if *count >= OF_ONE && !ip.is_loopback() {
            return None;
        }
        *count += 1;
        drop(sources);
        Some(Share { all: Arc::clone(all), source })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut sources = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: who has an IPv6 network has the part of an address for each of its addresses, or a part is not
    /// given back.
    #[test]
    fn an_ipv6_network_has_one_part() {
        let all = Arc::new(Sources::default());
        let share = |text: &str| Share::of(&all, text.parse().unwrap());
        let of_one: Vec<Share> =
            (0..OF_ONE).filter_map(|host| share(&format!("2001:db8::{host:x}"))).collect();
        assert_eq!(of_one.len(), OF_ONE);
        assert!(share("2001:db8::ffff:0:0:1").is_none());
        assert!(share("2001:db8:0:1::1").is_some() && share("192.0.2.1").is_some());
        let own: Vec<Option<Share>> = (0..2 * OF_ONE).map(|_| share("::1")).collect();
        assert!(own.iter().all(Option::is_some), "there is no saying who is behind these");
        drop((own, of_one));
        assert!(all.lock().unwrap().is_empty());
    }
}
