//! One echo through the network: asked for, and waited for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_control::api::{AskPing, Failure, FailureKind, Pong};
use portway_proto::target::TargetHost;
use tokio::time::timeout;

use super::control::failure;
use super::link::watched;
use super::serve::Shared;
use crate::engine::Echo;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is asked beside a number that nobody knows: as many bytes as ping(8) sends, 56 in all.
const PAYLOAD_BYTES: usize = 48;

/// Asks once.
pub(super) async fn ping(shared: &Arc<Shared>, ask: &AskPing) -> Result<Pong, Failure> {
    let usage = |text: String| failure(FailureKind::Usage, text);
    let patience = Duration::from_millis(ask.timeout_ms.into());
    if patience.is_zero() || patience > PATIENCE {
        return Err(usage(format!("the time for an answer is not from 1 ms to {} s", PATIENCE.as_secs())));
    }
    let ip = address(shared, &ask.host).await?;
    let is_own = shared.about.network.addresses.iter().any(|own| own.ip == ip);
    if !is_own && !super::gates::has_peer(shared, ip) {
        return Err(failure(FailureKind::Refused, format!("no peer has {ip} in its allowed IPs")));
    }
    let asked = timeout(patience, echo(shared, ip, ask.sequence)).await;
    let (answered, error) = match asked {
        Ok(Ok(time)) => (Some(time), None),
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(_) => (None, None),
    };
    let seconds = answered.map(|time| time.as_secs_f64());
    Ok(Pong { address: ip.to_string(), sequence: ask.sequence, seconds, error })
}

async fn address(shared: &Arc<Shared>, host: &str) -> Result<IpAddr, Failure> {
    let shown = || host.chars().take(80).flat_map(char::escape_debug).collect::<String>();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match TargetHost::read(bare) {
        None => Err(failure(FailureKind::Usage, format!("`{}` is neither an address nor a name", shown()))),
        Some(TargetHost::Ip(ip)) => Ok(ip),
        Some(TargetHost::Name(name)) => {
            let found = shared.names.lookup(shared, name.as_str(), 0).await;
            let refused = |why: &str| failure(FailureKind::Refused, format!("{name}: {why}"));
            let found = found.map_err(|error| refused(&error.to_string()))?;
            found.first().map(SocketAddr::ip).ok_or_else(|| refused("name not found"))
        }
    }
}

async fn echo(shared: &Arc<Shared>, ip: IpAddr, sequence: u16) -> io::Result<Duration> {
    let engine = Arc::clone(&shared.engine);
    let echo: Echo = shared.room.ask(move || engine.echo(ip)).await?;
    let watch = watched(echo.as_fd().try_clone_to_owned()?)?;
    let mut secret = [0; 10];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let mut message = secret.to_vec();
    // Behind the number of who asks, which is random here, stands that of the question.
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sequence.to_be_bytes());
    }
    message.resize(4 + PAYLOAD_BYTES + 4, 0x50);
    let begin = Instant::now();
    echo.send(&message)?;
    let mut buffer = [0; 2048];
    loop {
        let mut ready = watch.readable().await?;
        match echo.receive(&mut buffer) {
            Ok(Some(answer)) if answer == message => return Ok(begin.elapsed()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(error) => return Err(error),
        }
    }
}
