//! What the kernel knows of a tcp connection's send side (`TCP_INFO`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Offsets in `struct tcp_info` of linux/tcp.h; the structure only ever grows at its end.
const SND_MSS_AT: usize = 16;
const UNACKED_AT: usize = 24;
const LAST_ACK_RECV_AT: usize = 56;
const NOTSENT_BYTES_AT: usize = 144;
const SND_WND_AT: usize = 228;

/// Enough of the structure for the fields above.
const READ_BYTES: usize = 232;

/// State of the send side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendSide {
    /// Segments that are on their way.
    pub unacked_count: u32,
    /// Bytes that have not been sent yet.
    pub unsent_bytes: u32,
    /// What the peer takes at present; `None` before Linux 5.4, which does not tell.
    pub window_bytes: Option<u32>,
    /// Longest segment.
    pub segment_bytes: u32,
    /// Time since the peer last acknowledged anything, window probes included.
    pub last_ack: Duration,
}

/// Asks for the send side of `fd`.
///
/// # Errors
/// Those of getsockopt(2): the socket is not tcp.
pub fn send_side(fd: BorrowedFd<'_>) -> io::Result<SendSide> {
    let mut info = [0_u8; READ_BYTES];
    let mut length = libc::socklen_t::try_from(READ_BYTES).map_err(io::Error::other)?;
    // SAFETY: `info` and `length` outlive the call and `length` is the size of `info`.
    crate::check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    let known = info.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
    let field = |at: usize| known.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    Ok(SendSide {
        unacked_count: field(UNACKED_AT).unwrap_or(0),
        unsent_bytes: field(NOTSENT_BYTES_AT).unwrap_or(0),
        window_bytes: field(SND_WND_AT),
        segment_bytes: field(SND_MSS_AT).unwrap_or(0),
        last_ack: Duration::from_millis(field(LAST_ACK_RECV_AT).unwrap_or(0).into()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_closed_window_shows() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_reader, _) = listener.accept().unwrap();
        let fresh = send_side(sender.as_fd()).unwrap();
        assert_eq!((fresh.unacked_count, fresh.unsent_bytes), (0, 0));
        assert!(fresh.window_bytes > Some(1000) && fresh.segment_bytes > 500, "{fresh:?}");
        sender.set_nonblocking(true).unwrap();
        let start = Instant::now();
        loop {
            while sender.write(&[0; 65_536]).is_ok() {}
            let full = send_side(sender.as_fd()).unwrap();
            if full.unacked_count == 0
                && full.unsent_bytes > 0
                && full.window_bytes < Some(full.segment_bytes)
            {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{full:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
