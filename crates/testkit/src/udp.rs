//! UDP servers and clients: echo, exchanges with patience, many source ports, live flows.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::SockRef;

use crate::{Pattern, Site};

/// Wait of a thread that must see when it is told to stop.
const TURN: Duration = Duration::from_millis(20);

/// Room for bursts: what the socket loses must not be taken for a loss of the relay.
const BUFFER_BYTES: usize = 8 << 20;

/// An echo server.
#[derive(Debug)]
pub struct UdpEcho {
    shared: Arc<Shared>,
    addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    received: AtomicU64,
    sources: Mutex<HashSet<SocketAddr>>,
}

impl UdpEcho {
    /// Answers every datagram with `name` followed by what came; an empty name is a plain echo.
    ///
    /// # Errors
    /// When the site is gone or the address is taken.
    pub fn start(site: &Site, addr: SocketAddr, name: &str) -> Result<Self> {
        let socket =
            site.run(|| UdpSocket::bind(addr))?.with_context(|| format!("cannot serve at udp:{addr}"))?;
        enlarge(&socket);
        socket.set_read_timeout(Some(TURN))?;
        let addr = socket.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (for_thread, name) = (Arc::clone(&shared), name.as_bytes().to_vec());
        let thread = thread::spawn(move || for_thread.serve(&socket, &name));
        Ok(Self { shared, addr, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Datagrams received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Different addresses they came from.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket, name: &[u8]) {
        let mut buffer = vec![0; 65536];
        while !self.stopping.load(Ordering::SeqCst) {
            // A timeout, or a client that is gone.
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            self.received.fetch_add(1, Ordering::SeqCst);
            self.sources.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
            let answer = [name, &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// A client socket, bound at a site.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
}

impl UdpClient {
    /// A socket at `local`, port 0 for any.
    ///
    /// # Errors
    /// When the site is gone or the address is taken.
    pub fn bind(site: &Site, local: SocketAddr) -> Result<Self> {
        let socket =
            site.run(|| UdpSocket::bind(local))?.with_context(|| format!("cannot bind udp:{local}"))?;
        enlarge(&socket);
        Ok(Self { socket })
    }

    /// The same, connected: it hears `target` alone and is told when nobody listens there.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn connect(site: &Site, target: SocketAddr) -> Result<Self> {
        let any: IpAddr = if target.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let client = Self::bind(site, SocketAddr::new(any, 0))?;
        site.run(|| client.socket.connect(target))?.context("cannot connect")?;
        Ok(client)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends one datagram from a connected client and waits for one answer; `None` when none comes
    /// in time or the target is said to be closed.
    ///
    /// # Errors
    /// Any other failure of the socket.
    pub fn exchange(&self, payload: &[u8], limit: Duration) -> Result<Option<Vec<u8>>> {
        match self.socket.send(payload) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
            sent => sent.context("cannot send")?,
        };
        self.receive(limit).map(|answer| answer.map(|(bytes, _)| bytes))
    }

    /// Sends one datagram to `target` and waits for one from anybody.
    ///
    /// # Errors
    /// A failure of the socket.
    pub fn exchange_with(
        &self,
        target: SocketAddr,
        payload: &[u8],
        limit: Duration,
    ) -> Result<Option<(Vec<u8>, SocketAddr)>> {
        self.socket.send_to(payload, target).context("cannot send")?;
        self.receive(limit)
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    /// A failure of the socket other than a closed target.
    pub fn receive(&self, limit: Duration) -> Result<Option<(Vec<u8>, SocketAddr)>> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut buffer = vec![0; 65536];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                buffer.truncate(length);
                Ok(Some((buffer, from)))
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error).context("cannot receive"),
            },
        }
    }
}

/// Sends one datagram to `target` from each of `ports` of each of `sources`, at most `per_second`,
/// and closes the socket at once: one-way flows by the thousand. Returns how many were sent.
///
/// # Errors
/// When the site is gone.
pub fn spray(
    site: &Site,
    target: SocketAddr,
    sources: &[IpAddr],
    ports: std::ops::Range<u16>,
    per_second: u32,
) -> Result<u64> {
    site.run(|| {
        let (begin, mut sent) = (Instant::now(), 0_u64);
        for source in sources {
            for port in ports.clone() {
                // A port somebody has is left out.
                let Ok(socket) = UdpSocket::bind((*source, port)) else { continue };
                sent += u64::from(socket.send_to(b"one", target).is_ok());
                let due = Duration::from_secs(sent) / per_second.max(1);
                thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
        sent
    })
}

/// Live two-way flows: each sends a numbered datagram every interval and counts its answers.
#[derive(Debug)]
pub struct UdpFlows {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<Vec<FlowReport>>,
}

/// What became of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Of these, answered with the same bytes.
    pub answered: u64,
    /// Answers that belong to no datagram of this flow.
    pub foreign: u64,
}

impl UdpFlows {
    /// Starts `count` flows to `target`.
    ///
    /// # Errors
    /// When the site is gone.
    pub fn start(site: &Site, target: SocketAddr, count: u64, interval: Duration) -> Result<Self> {
        let mut flows = Vec::new();
        for number in 0..count {
            let client = UdpClient::connect(site, target)?;
            client.socket.set_nonblocking(true)?;
            flows.push(Flow {
                number,
                socket: client.socket,
                waiting: HashSet::new(),
                report: FlowReport::default(),
            });
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = thread::spawn(move || run_flows(flows, interval, &stop));
        Ok(Self { stopping, thread })
    }

    /// Sends no more, gives the last answers half a second, and reports each flow.
    #[must_use]
    pub fn stop(self) -> Vec<FlowReport> {
        self.stopping.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Flow {
    number: u64,
    socket: UdpSocket,
    waiting: HashSet<u64>,
    report: FlowReport,
}

fn run_flows(mut flows: Vec<Flow>, interval: Duration, stopping: &AtomicBool) -> Vec<FlowReport> {
    let mut next = Instant::now();
    while !stopping.load(Ordering::SeqCst) {
        if Instant::now() >= next {
            next += interval;
            flows.iter_mut().for_each(Flow::send);
        }
        flows.iter_mut().for_each(Flow::receive);
        thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(2)));
    }
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        flows.iter_mut().for_each(Flow::receive);
        thread::sleep(Duration::from_millis(2));
    }
    flows.into_iter().map(|flow| flow.report).collect()
}

impl Flow {
    fn payload(&self, number: u64) -> Vec<u8> {
        let mut payload = [self.number.to_le_bytes(), number.to_le_bytes()].concat();
        payload.extend(Pattern::new(self.number).bytes(48));
        payload
    }

    fn send(&mut self) {
        let number = self.report.sent;
        self.report.sent += 1;
        // A refusal counts as sent and unanswered.
        let _ = self.socket.send(&self.payload(number));
        self.waiting.insert(number);
    }

    fn receive(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let number = buffer.get(8..16).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
            let ours = number.filter(|number| buffer[..length] == self.payload(*number)[..]);
            if ours.is_some_and(|number| self.waiting.remove(&number)) {
                self.report.answered += 1;
            } else {
                self.report.foreign += 1;
            }
        }
    }
}

fn enlarge(socket: &UdpSocket) {
    // Cut to net.core.rmem_max, which is enough for the ordinary case.
    let _ = SockRef::from(socket).set_recv_buffer_size(BUFFER_BYTES);
    let _ = SockRef::from(socket).set_send_buffer_size(BUFFER_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn echo(name: &str) -> (Site, UdpEcho) {
        let site = Site::host().unwrap();
        let echo = UdpEcho::start(&site, "127.0.0.1:0".parse().unwrap(), name).unwrap();
        (site, echo)
    }

    #[test]
    fn datagrams_come_back_whole() {
        let (site, echo) = echo("");
        let client = UdpClient::connect(&site, echo.addr()).unwrap();
        for size in [0, 1, 1472, 32_769, 65_507] {
            let payload = Pattern::new(3).bytes(size);
            assert_eq!(client.exchange(&payload, LIMIT).unwrap(), Some(payload));
        }
        assert_eq!((echo.received(), echo.sources()), (5, 1));
        let addr = echo.addr();
        drop(echo);
        assert_eq!(client.exchange(b"x", Duration::from_millis(200)).unwrap(), None);
        let _echo = UdpEcho::start(&site, addr, "again ").unwrap();
        assert_eq!(client.exchange(b"x", LIMIT).unwrap().as_deref(), Some(&b"again x"[..]));
    }

    #[test]
    fn many_ports_and_live_flows() {
        let (site, echo) = echo("");
        let flows = UdpFlows::start(&site, echo.addr(), 10, Duration::from_millis(10)).unwrap();
        let sources = ["127.0.0.2".parse().unwrap(), "127.0.0.3".parse().unwrap()];
        let sent = spray(&site, echo.addr(), &sources, 40_000..40_500, 5_000).unwrap();
        thread::sleep(Duration::from_millis(200));
        let reports = flows.stop();
        assert_eq!(sent, 1_000);
        assert!(echo.sources() >= 1_000);
        for report in reports {
            assert!(report.sent > 10);
            assert_eq!((report.answered, report.foreign), (report.sent, 0));
        }
    }
}
