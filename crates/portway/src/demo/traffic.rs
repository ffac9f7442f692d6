//! Traffic through the demo's devices, with every byte compared.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::time::{sleep, timeout};

/// Longest wait for one exchange; everything is on this machine.
const WAIT: Duration = Duration::from_secs(10);

/// Longest wait for a datagram before it counts as lost.
const DATAGRAM_WAIT: Duration = Duration::from_secs(1);

/// Sizes worth showing: nothing, one byte, an Ethernet frame's, above a common relay buffer, the IPv4 maximum.
pub(super) const DATAGRAM_SIZES: [usize; 5] = [0, 1, 1472, 32_769, 65_507];

/// `length` bytes that differ from any shifted or cut copy of themselves.
fn pattern(length: usize) -> Vec<u8> {
    let mut state: u32 = 0x2545_f491;
    let mut next = move || {
        // Marsaglia's xorshift32.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
    }
}

/// Sends `length` bytes in `pieces` with a pause after each, shuts this side down, and expects them all back.
async fn round(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    length: usize,
    pieces: usize,
    pause: Duration,
) -> io::Result<()> {
    let sent = pattern(length);
    for piece in sent.chunks(length.div_ceil(pieces.max(1)).max(1)) {
        within(WAIT, stream.write_all(piece)).await?;
        sleep(pause).await;
    }
    stream.shutdown().await?;
    let mut got = Vec::with_capacity(length);
    within(WAIT, stream.read_to_end(&mut got)).await?;
    if got == sent {
        return Ok(());
    }
    let text = format!("{} of {length} bytes came back", got.len());
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// A round through a tcp port of the host.
pub(super) async fn tcp(port: u16, length: usize, pieces: usize, pause: Duration) -> io::Result<()> {
    let stream = within(WAIT, TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await?;
    round(stream, length, pieces, pause).await
}

/// A round through a unix socket of the host.
pub(super) async fn unix(path: &Path, length: usize, pieces: usize, pause: Duration) -> io::Result<()> {
    let stream = within(WAIT, UnixStream::connect(path)).await?;
    round(stream, length, pieces, pause).await
}

/// One datagram of each size there and back, through a udp port of the host.
pub(super) async fn udp(port: u16, sizes: &[usize], pause: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let mut buffer = vec![0; 65_536];
    for &size in sizes {
        let sent = pattern(size);
        socket.send(&sent).await?;
        let length = within(DATAGRAM_WAIT, socket.recv(&mut buffer))
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("datagram of {size} bytes: {error}")))?;
        if buffer.get(..length) != Some(sent.as_slice()) {
            let text = format!("datagram of {size} bytes came back with {length}, or changed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        sleep(pause).await;
    }
    Ok(())
}
