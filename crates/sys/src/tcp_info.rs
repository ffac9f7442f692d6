//! What the kernel knows of a tcp connection's send side (`TCP_INFO`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Offsets in `struct tcp_info` of linux/tcp.h; the structure only ever grows at its end.
const UNACKED_AT: usize = 24;
const NOTSENT_BYTES_AT: usize = 144;

/// Enough of the structure for the fields above.
const READ_BYTES: usize = 160;

/// Whether bytes wait in the send buffer only because the peer's receive window is closed: nothing is on its
/// way and something is unsent. The peer is alive (it answers window probes, or its death shows otherwise),
/// its reader just does not read.
///
/// # Errors
/// Those of getsockopt(2): the socket is not tcp.
pub fn waits_for_window(fd: BorrowedFd<'_>) -> io::Result<bool> {
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
    let field = |at: usize| {
        info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
    };
    Ok(field(UNACKED_AT) == 0 && field(NOTSENT_BYTES_AT) > 0)
}
