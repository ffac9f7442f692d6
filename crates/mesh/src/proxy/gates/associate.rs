//! Datagrams of a client of SOCKS version 5 (RFC 1928, 7): one socket for the client, one for each of its targets.
//!
//! The first datagram to a target has it looked up and a socket made on the inside; a few that come meanwhile wait. All of
//! it lasts as long as the client's connection. Fragments are dropped, as that RFC allows.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use portway_proto::socks5::{self, Wrapped};
use portway_proto::target::Target;
use portway_relay::wire::Slot;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::super::dial::PATIENCE;
use super::super::serve::Shared;
use super::way;

/// Associations of all gates. One more ends the one that was used the longest time ago.
const ASSOCIATIONS: usize = 128;

/// Targets of one of them; one more ends the one that was used the longest time ago.
const TARGETS: usize = 16;

/// Idle life of a target's socket: as that of a flow of a rule (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(120);

/// Datagrams that wait for the socket of their target.
const EARLY: usize = 8;

/// Bytes of them, of all associations together. Each counts for a little more than it has: it is in a queue.
const EARLY_BYTES: usize = 8 << 20;
const EARLY_EXTRA_BYTES: usize = 64;

/// Longest datagram, bytes.
const DATAGRAM_BYTES: usize = 65_535;

/// All associations, by the moment they were used last.
pub(super) struct Associations {
    last: AtomicU64,
    places: Mutex<BTreeMap<u64, Arc<Place>>>,
    early_room: Arc<Semaphore>,
}

impl Default for Associations {
    fn default() -> Associations {
        let early_room = Arc::new(Semaphore::new(EARLY_BYTES));
        Associations { last: AtomicU64::default(), places: Mutex::default(), early_room }
    }
}

/// One of them, as the others see it.
struct Place {
    /// Number of the datagram that came last.
    used: AtomicU64,
    evicted: Notify,
}

impl Associations {
    fn enter(&self) -> (u64, Arc<Place>) {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= ASSOCIATIONS
            && let Some(oldest) = places.iter().min_by_key(|(_, place)| place.used.load(Ordering::Relaxed))
        {
            let oldest = *oldest.0;
            if let Some(place) = places.remove(&oldest) {
                place.evicted.notify_one();
            }
        }
        let place = Arc::new(Place { used: AtomicU64::new(number), evicted: Notify::new() });
        places.insert(number, Arc::clone(&place));
        (number, place)
    }

    fn leave(&self, number: u64) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    fn touch(&self, place: &Place) {
        place.used.store(self.last.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The association of one client. It is over when this is dropped.
pub(super) struct Association {
    all: Arc<Associations>,
    number: u64,
    place: Arc<Place>,
    udp: Arc<UdpSocket>,
    /// Who may use it, and from which port; 0: from that of its first datagram that can be read.
    client: IpAddr,
    port: u16,
}

impl Association {
    /// Opens a socket on the address that the client has reached; and where that is.
    pub(super) async fn open(
        all: &Arc<Associations>,
        client: &TcpStream,
        port: u16,
    ) -> io::Result<(Association, SocketAddr)> {
        let local = client.local_addr()?.ip().to_canonical();
        let udp = UdpSocket::bind(SocketAddr::new(local, 0)).await?;
        let address = udp.local_addr()?;
        let client = client.peer_addr()?.ip().to_canonical();
        let (number, place) = all.enter();
        let all = Arc::clone(all);
        Ok((Association { all, number, place, udp: Arc::new(udp), client, port }, address))
    }

    /// Carries datagrams until the client's connection ends, or another association needs the place.
    pub(super) async fn carry(&self, mut connection: TcpStream, shared: &Arc<Shared>, slot: Slot) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        // Nothing is said on the connection; what is, is nothing.
        let mut ignored = [0; 256];
        let back = Arc::new(Back::new(Arc::clone(&self.udp)));
        let mut flows = Flows::new(shared, slot, &back, &self.all.early_room);
        loop {
            tokio::select! {
                () = self.place.evicted.notified() => return,
                read = connection.read(&mut ignored) => {
                    if !matches!(read, Ok(1..)) {
                        return;
                    }
                }
                Some(ended) = flows.tasks.join_next() => flows.forget(ended),
                got = self.udp.recv_from(&mut buffer) => {
                    let Ok((length, from)) = got else { return };
                    if !self.is_clients(from) || back.client.get().is_some_and(|client| *client != from) {
                        continue;
                    }
                    self.all.touch(&self.place);
                    match socks5::unwrap(buffer.get(..length).unwrap_or_default()) {
                        Ok(wrapped) => {
                            back.client.get_or_init(|| from);
                            flows.send(&wrapped);
                        }
                        Err(why) => debug!(%why, "datagram dropped"),
                    }
                }
            }
        }
    }

    fn is_clients(&self, from: SocketAddr) -> bool {
        from.ip().to_canonical() == self.client && (self.port == 0 || self.port == from.port())
    }
}

impl Drop for Association {
    fn drop(&mut self) {
        self.all.leave(self.number);
    }
}

/// The way back to the client.
struct Back {
    udp: Arc<UdpSocket>,
    client: OnceLock<SocketAddr>,
    /// Of all targets: each has it for the time of one datagram.
    buffer: Mutex<Vec<u8>>,
}

impl Back {
    fn new(udp: Arc<UdpSocket>) -> Back {
        let buffer = vec![0; socks5::HEADER_MAX_BYTES + DATAGRAM_BYTES];
        Back { udp, client: OnceLock::new(), buffer: Mutex::new(buffer) }
    }

    /// Passes on what a target has sent, behind its header.
    ///
    /// # Errors
    /// Those of the target's socket.
    fn pass(&self, target: &UdpSocket, header: &[u8]) -> io::Result<()> {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(client), Some((head, room))) =
            (self.client.get(), buffer.split_at_mut_checked(header.len()))
        else {
            return Ok(());
        };
        head.copy_from_slice(header);
        match target.try_recv(room) {
            Ok(length) => {
                // Who has no room, or takes none so long, loses it as in the network.
                let whole = buffer.get(..header.len() + length).unwrap_or_default();
                self.udp.try_send_to(whole, *client).ok();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The socket of one target, as soon as there is one.
#[derive(Default)]
struct Open {
    socket: OnceLock<UdpSocket>,
    /// Something was sent since that was looked at last.
    is_used: AtomicBool,
}

/// A datagram that waits, and its part of the room for those.
type Early = (OwnedSemaphorePermit, Vec<u8>);

/// `None`: there is no room.
fn early(room: &Arc<Semaphore>, payload: &[u8]) -> Option<Early> {
    let bytes = u32::try_from(payload.len() + EARLY_EXTRA_BYTES).ok()?;
    let part = Arc::clone(room).try_acquire_many_owned(bytes).ok()?;
    Some((part, payload.to_vec()))
}

/// One target, as its association sees it.
struct Flow {
    number: u64,
    used: u64,
    open: Arc<Open>,
    early: mpsc::Sender<Early>,
    task: AbortHandle,
}

/// The targets of one association.
struct Flows {
    shared: Arc<Shared>,
    slot: Slot,
    back: Arc<Back>,
    early_room: Arc<Semaphore>,
    tasks: JoinSet<(Target, u64)>,
    live: BTreeMap<Target, Flow>,
    last: u64,
}

impl Flows {
    fn new(shared: &Arc<Shared>, slot: Slot, back: &Arc<Back>, early_room: &Arc<Semaphore>) -> Flows {
        Flows {
            shared: Arc::clone(shared),
            slot,
            back: Arc::clone(back),
            early_room: Arc::clone(early_room),
            tasks: JoinSet::new(),
            live: BTreeMap::new(),
            last: 0,
        }
    }

    /// Sends a client's datagram to where it goes.
    fn send(&mut self, wrapped: &Wrapped<'_>) {
        self.last += 1;
        let number = self.last;
        if !self.live.contains_key(&wrapped.target) {
            self.begin(wrapped.target.clone(), number);
        }
        let Some(flow) = self.live.get_mut(&wrapped.target) else { return };
        flow.used = number;
        let Some(socket) = flow.open.socket.get() else {
            // More than wait are lost.
            if let Ok(place) = flow.early.try_reserve()
                && let Some(datagram) = early(&self.early_room, wrapped.payload)
            {
                place.send(datagram);
            }
            return;
        };
        flow.open.is_used.store(true, Ordering::Relaxed);
        let sent = socket.try_send(wrapped.payload);
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            flow.task.abort();
            self.live.remove(&wrapped.target);
        }
    }

    fn begin(&mut self, target: Target, number: u64) {
        if self.live.len() >= TARGETS
            && let Some(oldest) = self.live.iter().min_by_key(|(_, flow)| flow.used)
        {
            let oldest = oldest.0.clone();
            if let Some(flow) = self.live.remove(&oldest) {
                flow.task.abort();
            }
        }
        let open = Arc::new(Open::default());
        let (early, waiting) = mpsc::channel(EARLY);
        let (shared, slot, back) = (Arc::clone(&self.shared), self.slot, Arc::clone(&self.back));
        let (whom, opened) = (target.clone(), Arc::clone(&open));
        let task = self.tasks.spawn(async move {
            let ended = carry(&shared, slot, &whom, &opened, waiting, &back).await;
            debug!(target = %whom, error = ended.err().map(tracing::field::display), "flow over");
            (whom, number)
        });
        self.live.insert(target, Flow { number, used: number, open, early, task });
    }

    /// The task of a target has ended.
    fn forget(&mut self, ended: Result<(Target, u64), JoinError>) {
        // One that was aborted has been taken out.
        if let Ok((target, number)) = ended
            && self.live.get(&target).is_some_and(|flow| flow.number == number)
        {
            self.live.remove(&target);
        }
    }
}

/// Opens the socket of a target, and passes on what comes from there, until nothing has come or gone for a while.
async fn carry(
    shared: &Shared,
    slot: Slot,
    target: &Target,
    open: &Open,
    mut waiting: mpsc::Receiver<Early>,
    back: &Back,
) -> io::Result<()> {
    let port = shared.table().room(slot).unwrap_or_default();
    let places = shared.room.dial(&port, Instant::now() + PATIENCE).await?;
    let addresses = way::addresses(shared, target).await.map_err(io::Error::other)?;
    let address = *addresses.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let member = address.ip().to_canonical();
    let mut cuts = shared.cuts.subscribe();
    // Whoever was cut before was taken out of the organization before that.
    if !way::has_peer(shared, member) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let engine = Arc::clone(&shared.engine);
    let fd = shared.room.ask(move || engine.connect_udp(address)).await?;
    drop(places);
    let socket = std::net::UdpSocket::from(fd);
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.writable().await?;
    let socket = open.socket.get_or_init(|| socket);
    while let Ok((_part, datagram)) = waiting.try_recv() {
        socket.send(&datagram).await?;
    }
    let header = socks5::wrap(address);
    loop {
        let came = tokio::select! {
            came = timeout(IDLE, socket.readable()) => came,
            cut = cuts.recv() => {
                // Who has missed one does not know.
                if cut.map_or(true, |blocks| blocks.iter().any(|block| block.contains(member))) {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                continue;
            }
        };
        match came {
            Ok(ready) => ready?,
            Err(_) if open.is_used.swap(false, Ordering::Relaxed) => {}
            Err(_) => return Ok(()),
        }
        back.pass(socket, &header)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: associations grow without bound, or the one in use gives way.
    #[tokio::test]
    async fn the_one_that_was_used_longest_ago_gives_way() {
        let all = Associations::default();
        let mut places: Vec<(u64, Arc<Place>)> = (0..ASSOCIATIONS).map(|_| all.enter()).collect();
        all.touch(&places[0].1);
        let (number, _) = all.enter();
        assert_eq!(all.places.lock().unwrap().len(), ASSOCIATIONS);
        let told = timeout(Duration::from_secs(5), places[1].1.evicted.notified());
        told.await.unwrap();
        assert!(all.places.lock().unwrap().contains_key(&places[0].0));
        all.leave(number);
        places.drain(..).for_each(|(number, _)| all.leave(number));
        assert!(all.places.lock().unwrap().is_empty());
    }

    /// Fails when: datagrams that wait for slow names take more memory than there is for them, or do not give it back.
    #[test]
    fn datagrams_that_wait_have_one_room() {
        let room = Associations::default().early_room;
        let longest = vec![0; DATAGRAM_BYTES];
        let kept: Vec<Early> = (0..1000).map_while(|_| early(&room, &longest)).collect();
        assert_eq!(kept.len(), EARLY_BYTES / (DATAGRAM_BYTES + EARLY_EXTRA_BYTES));
        drop(kept);
        // Empty ones count too.
        let kept: Vec<Early> = (0..1_000_000).map_while(|_| early(&room, &[])).collect();
        assert_eq!(kept.len(), EARLY_BYTES / EARLY_EXTRA_BYTES);
        drop(kept);
        assert_eq!(room.available_permits(), EARLY_BYTES);
    }
}
