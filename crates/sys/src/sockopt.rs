//! Socket options of the data path. Each is one setsockopt(2) or getsockopt(2).

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Longest keepalive time the kernel accepts, seconds (`MAX_TCP_KEEPIDLE` of net/tcp.h).
const MAX_KEEPALIVE_SECS: u64 = 32_767;

/// Turns keepalive on: first probe after `idle`, then one every `interval`, dead after `count`
/// unanswered ones. Times are rounded up to seconds and kept within 1 s to 32,767 s, `count` within 1 to 127.
///
/// # Errors
/// Those of setsockopt(2): the socket is not tcp.
pub fn keepalive(fd: BorrowedFd<'_>, idle: Duration, interval: Duration, count: u32) -> io::Result<()> {
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, keepalive_time(idle))?;
    sockopt::set_tcp_keepintvl(fd, keepalive_time(interval))?;
    Ok(sockopt::set_tcp_keepcnt(fd, count.clamp(1, 127))?)
}

fn keepalive_time(time: Duration) -> Duration {
    let up = u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(time.as_secs().saturating_add(up).clamp(1, MAX_KEEPALIVE_SECS))
}

/// `TCP_QUICKACK`: what has come is acknowledged now, and not with the next data or 40 ms later. It holds until the kernel
/// sees fit (tcp(7)), so it is said each time.
///
/// # Errors
/// Those of setsockopt(2): the socket is not tcp.
pub fn acknowledge(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(sockopt::set_tcp_quickack(fd, true)?)
}

/// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged before the connection is ended.
/// Zero is the kernel's default (retransmission count).
///
/// # Errors
/// Those of setsockopt(2): the socket is not tcp.
pub fn user_timeout(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs());
    Ok(sockopt::set_tcp_user_timeout(fd, millis)?)
}

/// `SO_PASSCRED`: every message of a unix socket comes with its sender's credentials.
///
/// # Errors
/// Those of setsockopt(2).
pub fn pass_credentials(fd: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
    Ok(sockopt::set_socket_passcred(fd, wanted)?)
}

/// `TCP_NODELAY`: small segments leave at once.
///
/// # Errors
/// Those of setsockopt(2): the socket is not tcp.
pub fn nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(fd, true)?)
}

/// `SO_LINGER` with time 0: closing the last descriptor sends a reset instead of FIN.
///
/// # Errors
/// Those of setsockopt(2).
pub fn linger_reset(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(fd, Some(Duration::ZERO))?)
}

/// `SO_ERROR`: the pending error of the socket, which is cleared. `None`: there was none.
///
/// # Errors
/// Those of getsockopt(2) itself.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    Ok(sockopt::socket_error(fd)?.err().map(io::Error::from))
}

#[cfg(test)]
mod tests;
