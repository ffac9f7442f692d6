//! What is shown on a channel, written down for those who have to know: the file is the broker's, opened by it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use portway_proto::guest::Size;

use super::link::Link;
use crate::recording::{End, Script, Stream, Terms};
use crate::wire::Request;

/// A recording that is made.
#[derive(Debug)]
pub(super) struct Recorder {
    link: Arc<Link>,
    channel: u32,
    goes_on: bool,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    script: Script,
    left: u64,
    written: u64,
    end: End,
}

impl State {
    /// Writes a line whole, or ends the recording.
    fn put(&mut self, line: &str) -> io::Result<()> {
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.end != End::Whole {
            return Ok(());
        }
        let Some(left) = self.left.checked_sub(bytes) else {
            self.end = End::Full;
            return Ok(());
        };
        // Each at once: a process that is killed has written what was shown.
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.end = End::Failed;
            return Err(error);
        }
        (self.left, self.written) = (left, self.written + bytes);
        Ok(())
    }
}

impl Recorder {
    pub(super) fn new(link: Arc<Link>, channel: u32, terms: Terms, file: OwnedFd) -> Self {
        let state = State {
            file: file.into(),
            script: Script::default(),
            left: terms.most_bytes,
            written: 0,
            end: End::Whole,
        };
        Self { link, channel, goes_on: terms.goes_on, begun: Instant::now(), state: Mutex::new(state) }
    }

    /// Something was written. Whether what is recorded may go on.
    pub(super) fn output(&self, stream: Stream, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let line = state.script.output(self.begun.elapsed(), stream, bytes);
        self.put(&mut state, line)
    }

    /// The terminal has another size.
    pub(super) fn resize(&self, size: Size) {
        let line = Script::resize(self.begun.elapsed(), size.columns, size.rows);
        // What is written next tells whether it may go on.
        let _goes_on = self.put(&mut self.state(), Some(line));
    }

    fn put(&self, state: &mut State, line: Option<String>) -> bool {
        if let Some(line) = line
            && let Err(error) = state.put(&line)
        {
            tracing::error!(%error, "a recording cannot go on");
        }
        self.goes_on || state.end == End::Whole
    }

    /// Why it is not recorded any longer, if that has ended what was recorded.
    pub(super) fn ended_by_it(&self) -> Option<&'static str> {
        match self.state().end {
            _ if self.goes_on => None,
            End::Whole => None,
            End::Full => Some("its recording is as long as it may be"),
            End::Failed => Some("its recording cannot be written"),
        }
    }

    /// Tells what became of it.
    pub(super) async fn end(&self) {
        let (bytes, end) = {
            let mut state = self.state();
            if state.end == End::Full {
                let line = Script::mark(self.begun.elapsed(), "not recorded from here on: it is full");
                // Beyond the bound by a line: whoever looks is to know.
                let _unmarked = state.file.write_all(line.as_bytes());
            }
            (state.written, state.end)
        };
        self.link.tell(Request::Recorded { channel: self.channel, bytes, end }).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
