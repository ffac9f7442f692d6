//! The sockets of a registrar: devices over TLS, where they come from by STUN on the UDP port of the same number and on a
//! second one, its owner on a unix socket. All within bounds of number, length and time.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use portway_sys::mmsg::{Batch, LocalAddr};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::device_api::{self, Asked};
use super::limits::{CONNECTIONS_MAX, Limits, WATCHERS_MAX};
use super::{PATIENCE, Registrar, RegistrarError, admin_api, hold};
use crate::org::api;
use crate::org::http::{Answered, Denied, said};
use crate::org::proof::PROOF_BYTES;
use crate::stun;

/// Longest head and body of a request; a registration has about a kilobyte.
const HEAD_MAX_BYTES: usize = 16 << 10;
const BODY_MAX_BYTES: usize = 64 << 10;

/// How long TLS may take to begin, and the head of a request to arrive, also on a connection that was used before.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long what was sent may stay unacknowledged: somebody who follows and is gone is noticed by this.
const GONE_MILLISECONDS: u32 = 45_000;

/// Pause after a failed accept: the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// More than a question of ours.
const QUESTION_MAX_BYTES: usize = 128;

/// Connections of the owner at once.
const ADMIN_MAX: usize = 16;

/// What all connections share.
struct Hall {
    registrar: Arc<Registrar>,
    limits: Limits,
    /// Of those who ask by datagrams, whose sources anybody can write: they use up nobody's connections.
    questions: Limits,
    connections: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
}

/// What a registrar serves.
#[derive(Debug)]
pub struct Sockets {
    /// Devices.
    pub devices: TcpListener,
    /// Who asks where it comes from.
    pub datagrams: UdpSocket,
    /// The same on another port: who comes from elsewhere there has a symmetric NAT before it.
    pub second: Option<UdpSocket>,
    /// Its owner.
    pub owner: UnixListener,
}

/// Serves all sockets until the future is dropped.
///
/// # Errors
/// The registrar's key cannot be used for TLS.
pub async fn serve(registrar: Arc<Registrar>, sockets: Sockets) -> Result<Infallible, RegistrarError> {
    let acceptor = TlsAcceptor::from(Arc::new(registrar.tls()?));
    let hall = Arc::new(Hall {
        registrar: Arc::clone(&registrar),
        limits: Limits::default(),
        questions: Limits::default(),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
    });
    let Sockets { devices, datagrams, second, owner } = sockets;
    let other_port = second.as_ref().and_then(|second| second.local_addr().ok()).map(|other| other.port());
    let answering = serve_datagrams(Arc::clone(&hall), datagrams, other_port);
    let again = Arc::clone(&hall);
    let answering_again = async {
        if let Some(second) = second {
            serve_datagrams(again, second, None).await;
        }
    };
    let owner = serve_owner(registrar, owner);
    tokio::join!(answering, answering_again, owner, serve_devices(hall, devices, acceptor)).3
}

/// Tells who asks by STUN where the question came from: an answer of less than twice its length with all headers, to who has
/// not asked too often. It comes from the address that was asked: behind a translation of addresses no other one is let in.
/// `other_port` is told as one that answers, too.
async fn serve_datagrams(hall: Arc<Hall>, socket: UdpSocket, other_port: Option<u16>) {
    let mut batch = Batch::new();
    loop {
        let ready = socket.readable().await;
        let received =
            ready.and_then(|()| socket.try_io(Interest::READABLE, || batch.receive_named(socket.as_fd())));
        match received {
            Ok(count) => {
                (0..count).for_each(|slot| answer_question(&hall, &socket, &mut batch, slot, other_port));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // What an earlier answer met on its way; should it be worse, it does not take a whole core.
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

fn answer_question(hall: &Hall, socket: &UdpSocket, batch: &mut Batch, slot: usize, other_port: Option<u16>) {
    let Some(from) = batch.peer(slot) else { return };
    // The address is the one that was asked, as the asker knows it: what it is behind a translation is nobody's business.
    let none = match from.ip().to_canonical() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let other = other_port.map(|port| SocketAddr::new(none, port));
    let question = batch.bytes(slot);
    let answer = Some(question).filter(|question| question.len() <= QUESTION_MAX_BYTES);
    let Some(answer) = answer.and_then(|question| stun::answer(question, from, other)) else { return };
    if hall.questions.may_ask(from.ip().to_canonical(), Instant::now()) && batch.fill(slot, &answer) {
        batch.address(slot, from, batch.local(slot).map(LocalAddr::to_answer), 0);
        // Who does not get it asks again.
        let _lost = batch.send_addressed(socket.as_fd(), slot..slot + 1);
    }
}

async fn serve_devices(
    hall: Arc<Hall>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> Result<Infallible, RegistrarError> {
    loop {
        let (stream, from) = accepted(listener.accept().await).await;
        let Some(stream) = stream else { continue };
        // Who is one too many is closed at once: over TLS nothing could be said before it has cost something.
        let Ok(permit) = Arc::clone(&hall.connections).try_acquire_owned() else { continue };
        let (hall, acceptor) = (Arc::clone(&hall), acceptor.clone());
        tokio::spawn(async move {
            if let Some(_pass) = hall.limits.enter(from.ip().to_canonical()) {
                device(&hall, acceptor, stream, from).await;
            }
            drop(permit);
        });
    }
}

async fn accepted(done: io::Result<(TcpStream, SocketAddr)>) -> (Option<TcpStream>, SocketAddr) {
    match done {
        Ok((stream, from)) => (Some(stream), from),
        Err(error) => {
            warn!(%error, "the registrar does not accept");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            (None, SocketAddr::from(([0, 0, 0, 0], 0)))
        }
    }
}

async fn device(hall: &Arc<Hall>, acceptor: TlsAcceptor, stream: TcpStream, from: SocketAddr) {
    // Neither is worth a connection.
    let _kept = stream.set_nodelay(true);
    let _kept = rustix::net::sockopt::set_tcp_user_timeout(&stream, GONE_MILLISECONDS);
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD_PATIENCE, acceptor.accept(stream)).await else {
        debug!(%from, "no TLS");
        return;
    };
    let nonce: Mutex<Option<[u8; PROOF_BYTES]>> = Mutex::new(None);
    let (hall, nonce) = (Arc::clone(hall), Arc::new(nonce));
    connection(stream, move |request| {
        let (hall, nonce) = (Arc::clone(&hall), Arc::clone(&nonce));
        async move { device_request(&hall, &nonce, from.ip().to_canonical(), request).await }
    })
    .await;
}

async fn connection<S, F, R>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Result<Answered, Denied>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async {
            let done = answered.await;
            Ok::<_, Infallible>(done.unwrap_or_else(|denied| denied.answer()))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(HEAD_MAX_BYTES);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "connection broken");
    }
}

async fn device_request(
    hall: &Hall,
    nonce: &Mutex<Option<[u8; PROOF_BYTES]>>,
    from: IpAddr,
    request: Request<Incoming>,
) -> Result<Answered, Denied> {
    if !hall.limits.may_ask(from, Instant::now()) {
        return Err(Denied::new(429, "too_fast", "too many requests from this address"));
    }
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    if (&parts.method, target) == (&Method::GET, "/v1/nonce") {
        let mut bytes = [0; PROOF_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| Denied::new(500, "random", error))?;
        *hold(nonce) = Some(bytes);
        let key = hall.registrar.proof.public().to_string();
        return Ok(said(&api::Nonce { nonce: Base64::encode_string(&bytes), key }));
    }
    let body = whole(body).await?;
    let asked = Asked { method: &parts.method, target, headers: &parts.headers, body: &body };
    let nonce = hold(nonce).take();
    let watcher = || Arc::clone(&hall.watchers).try_acquire_owned().ok();
    within(device_api::answer(&hall.registrar, nonce, &asked, watcher)).await
}

async fn whole(body: Incoming) -> Result<Vec<u8>, Denied> {
    let read = tokio::time::timeout(HEAD_PATIENCE, Limited::new(body, BODY_MAX_BYTES).collect()).await;
    let read = read.map_err(|_| Denied::new(408, "slow", "the body did not arrive in time"))?;
    let read = read.map_err(|_| Denied::new(413, "too_long", "the body is too long, or did not arrive"))?;
    Ok(read.to_bytes().to_vec())
}

/// An answer that takes longer than anybody waits for is none.
async fn within(answer: impl Future<Output = Result<Answered, Denied>>) -> Result<Answered, Denied> {
    let late = |_| Denied::new(503, "store", "the store does not answer in time");
    tokio::time::timeout(PATIENCE, answer).await.map_err(late)?
}

async fn serve_owner(registrar: Arc<Registrar>, listener: UnixListener) {
    let passes = Arc::new(Semaphore::new(ADMIN_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "the registrar's own socket does not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&passes).try_acquire_owned() else { continue };
        let registrar = Arc::clone(&registrar);
        tokio::spawn(async move {
            connection(stream, |request: Request<Incoming>| async {
                let (parts, body) = request.into_parts();
                let body = whole(body).await?;
                let target = parts.uri.path();
                let asked = Asked { method: &parts.method, target, headers: &parts.headers, body: &body };
                within(admin_api::answer(&registrar, &asked)).await
            })
            .await;
            drop(permit);
        });
    }
}
