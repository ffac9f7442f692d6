//! The process that speaks TLS with one server elsewhere: `portway ssh tunnel`.
//!
//! The broker makes each connection and hands over two descriptors: that of the server, and one end of a pair of
//! sockets whose other end somebody uses as if it were the server's own socket. This process alone has the key, and reads
//! what a server elsewhere sends; like that of a client's connection it has no id, no capability, no path and few system
//! calls. It opens nothing itself. When its broker has gone it goes on until the last connection has ended, so programs
//! outlive a gateway on servers elsewhere too.
//!
//! Where there is no TLS to be had, what is asked of the server is answered in its stead: by an error of the API.
//!
//! - `tls`: who the server has to be, and who we are.

mod tls;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as UnixStd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use portway_sys::process;
use portway_sys::sandbox::{Refused, Role};
use portway_sys::seqpacket::Channel;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::confine::confine;
use crate::logging;
use crate::watched::{receive, watched_channel};
use crate::wire::{self, PROTOCOL_VERSION};

/// How the program is started again for this.
pub(crate) const ROLE: [&str; 2] = ["ssh", "tunnel"];

/// The broker.
const CHANNEL_FD: i32 = process::FIRST_FD;

/// Connections at a time: five are those of one program. Each takes some 70 kB at most.
const CONNECTIONS: usize = 4096;

/// How long a server may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(8);

/// How long a server may go on once its client has gone.
const LINGER: Duration = Duration::from_secs(30);

/// How long somebody may take to read that there is no server.
const REFUSAL: Duration = Duration::from_secs(2);

/// The first message to a new process.
#[derive(Serialize, Deserialize)]
pub(crate) struct Init {
    /// [`PROTOCOL_VERSION`].
    pub(crate) version: u32,
    /// The server's name or address.
    pub(crate) host: String,
    /// Our certificate and its key, as PEM.
    pub(crate) cert: String,
    pub(crate) key: String,
    /// Who the server has to be.
    pub(crate) proof: InitProof,
    /// Uid and gid to become, when the broker may give them up.
    pub(crate) ids: Option<(u32, u32)>,
    /// What is logged on standard error.
    pub(crate) log: String,
}

/// What proves the server.
#[derive(Serialize, Deserialize)]
pub(crate) enum InitProof {
    /// This certificate, as PEM.
    Pinned(String),
    /// Those in this file.
    Known(PathBuf),
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("a tunnel is started by the gateway only")]
    NotStarted(#[source] io::Error),
    #[error("no first message of this version")]
    Init,
    #[error("cannot start")]
    Start(#[source] io::Error),
    #[error(transparent)]
    NotConfined(#[from] Refused),
}

/// Whether `arguments` are those of this role.
#[must_use]
pub fn is_role(arguments: &[String]) -> bool {
    arguments.iter().map(String::as_str).eq(ROLE)
}

/// Role `portway ssh tunnel`: fd 3 is the link to the broker.
#[must_use]
pub fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "tunnel ended");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), TunnelError> {
    let channel = process::inherited(CHANNEL_FD).and_then(Channel::from_fd);
    let channel = channel.map_err(TunnelError::NotStarted)?;
    let mut packet = Vec::new();
    channel.recv(&mut packet).map_err(TunnelError::NotStarted)?;
    let (init, _): (Init, _) = wire::decode(&packet).ok_or(TunnelError::Init)?;
    zeroize::Zeroize::zeroize(&mut packet);
    if init.version != PROTOCOL_VERSION {
        return Err(TunnelError::Init);
    }
    logging::start(&init.log);
    let _descriptors = process::raise_nofile();
    let ids = init.ids;
    let tunnel = Arc::new(Tunnel { way: Way::new(init), room: Semaphore::new(CONNECTIONS) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(TunnelError::Start)?;
    let _context = runtime.enter();
    let channel = watched_channel(channel).map_err(TunnelError::Start)?;
    confine(Role::Tunnel, "portway-tunnel", ids)?;
    runtime.block_on(async {
        let tasks = TaskTracker::new();
        let mut packet = Vec::new();
        // Until the broker has gone.
        loop {
            let fds = match receive(&channel, &mut packet).await {
                Ok(fds) => fds,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(_) => break,
            };
            if let Ok([far, near]) = <[OwnedFd; 2]>::try_from(fds) {
                let tunnel = Arc::clone(&tunnel);
                tasks.spawn(async move { tunnel.carry(far, near).await });
            }
        }
        tasks.close();
        tasks.wait().await;
    });
    Ok(())
}

/// The process.
struct Tunnel {
    way: Result<Way, String>,
    room: Semaphore,
}

/// What every connection needs.
struct Way {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Way {
    fn new(init: Init) -> Result<Self, String> {
        let name = ServerName::try_from(init.host).map_err(|_| "its address is no name".to_owned())?;
        let config = tls::config(init.cert.as_bytes(), init.key.as_bytes(), &init.proof)?;
        Ok(Self { name, config: Arc::new(config) })
    }
}

impl Tunnel {
    /// Carries bytes between the two until one of them has ended.
    async fn carry(&self, far: OwnedFd, near: OwnedFd) {
        let Ok((far, mut near)) = streams(far, near) else { return };
        let why = match (&self.way, self.room.try_acquire()) {
            (Err(why), _) => why.clone(),
            (_, Err(_)) => "too many connections are open".to_owned(),
            (Ok(way), Ok(_place)) => {
                let connector = TlsConnector::from(Arc::clone(&way.config));
                match tokio::time::timeout(HANDSHAKE, connector.connect(way.name.clone(), far)).await {
                    Ok(Ok(far)) => return copy(far, near).await,
                    Ok(Err(error)) => tls::words(&error),
                    Err(_) => "it does not answer".to_owned(),
                }
            }
        };
        refuse(&mut near, &why).await;
    }
}

fn streams(far: OwnedFd, near: OwnedFd) -> io::Result<(TcpStream, UnixStream)> {
    let (far, near) = (std::net::TcpStream::from(far), UnixStd::from(near));
    far.set_nonblocking(true)?;
    near.set_nonblocking(true)?;
    Ok((TcpStream::from_std(far)?, UnixStream::from_std(near)?))
}

/// Nobody closes half of these connections and waits: who has ended has gone.
async fn copy(far: tokio_rustls::client::TlsStream<TcpStream>, near: UnixStream) {
    let (mut far_reads, mut far_writes) = tokio::io::split(far);
    let (mut near_reads, mut near_writes) = near.into_split();
    let up = async {
        let copied = tokio::io::copy(&mut near_reads, &mut far_writes).await;
        // The server is told, so that it ends what it does for nobody.
        let told = far_writes.shutdown().await;
        copied.and(told)
    };
    let down = tokio::io::copy(&mut far_reads, &mut near_writes);
    tokio::pin!(down);
    tokio::select! {
        _ended = &mut down => {}
        _ended = up => {
            let _late = tokio::time::timeout(LINGER, down).await;
        }
    }
}

/// Answers in the server's stead.
async fn refuse(near: &mut UnixStream, why: &str) {
    let body =
        serde_json::json!({ "type": "error", "error_code": 502, "error": format!("no way there: {why}") });
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let said = async {
        let mut piece = [0; 4096];
        // An answer before the question is none.
        if near.read(&mut piece).await? == 0 {
            return Ok(());
        }
        near.write_all(answer.as_bytes()).await?;
        near.shutdown().await?;
        // Closed with something unread, the answer would be lost.
        while near.read(&mut piece).await? > 0 {}
        io::Result::Ok(())
    };
    let _unheard = tokio::time::timeout(REFUSAL, said).await;
}

#[cfg(test)]
mod tests;
