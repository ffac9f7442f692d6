//! Files of a channel, for the audit: what its client asks for and what is answered are looked at as they pass.
//!
//! It is this process that looks, and not the helper that says so: that one runs in the instance. What a file holds is
//! neither kept nor told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portway_proto::sftp::{Transfer, Watch};

use super::link::Link;
use crate::wire::Request;

/// The files of one channel.
#[derive(Debug)]
pub(super) struct Transfers {
    watch: Mutex<Watch>,
    link: Arc<Link>,
    channel: u32,
    begin: Instant,
}

impl Transfers {
    pub(super) fn new(link: Arc<Link>, channel: u32) -> Self {
        Self { watch: Mutex::default(), link, channel, begin: Instant::now() }
    }

    /// Looks at what the client sends. Called before it is passed on: the answer may be fast.
    pub(super) fn asks(&self, bytes: &[u8]) {
        self.watch().client_sends(bytes, self.begin.elapsed());
    }

    /// Looks at what is answered, and tells the broker of files that have ended. Cancelled, it tells the rest later.
    pub(super) async fn answers(&self, bytes: &[u8]) {
        self.watch().server_sends(bytes, self.begin.elapsed());
        self.tell().await;
    }

    /// Tells of what is open still.
    pub(super) async fn end(&self) {
        self.watch().end(self.begin.elapsed());
        self.tell().await;
        let unseen = self.watch().unseen();
        if unseen > 0 {
            tracing::warn!(files = unseen, "more files were open than the audit follows");
        }
    }

    async fn tell(&self) {
        loop {
            let next = self.watch().front().map(|transfer| request(self.channel, transfer));
            let Some(next) = next else { return };
            self.link.tell(next).await;
            let _told = self.watch().pop();
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(channel: u32, transfer: &Transfer) -> Request {
    Request::Transferred {
        channel,
        path: String::from_utf8_lossy(&transfer.path).into_owned(),
        reads: transfer.reads,
        writes: transfer.writes,
        bytes_in: transfer.written_bytes,
        bytes_out: transfer.read_bytes,
        millis: u64::try_from(transfer.lasted.as_millis()).unwrap_or(u64::MAX),
        end: transfer.end.into(),
    }
}
