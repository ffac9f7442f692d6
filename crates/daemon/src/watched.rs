//! Descriptors that the runtime watches.

use std::os::fd::{AsFd, AsRawFd};

use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor that `owner` owns.
///
/// # Errors
/// When the kernel refuses, for instance for lack of memory.
pub(crate) fn watched<T: AsFd + AsRawFd>(owner: T) -> std::io::Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for owners without I/O safety; AsFd proves it here"
    )]
    AsyncFd::new(owner)
}
