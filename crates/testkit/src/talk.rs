//! Connections that are used for as long as a test lasts: numbered bytes go out, the same must come
//! back, and not one may be missing, wrong or out of place.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{Addr, Pattern, Site, Stream, check, wait_for};

/// Bytes of one exchange.
const ROUND: usize = 1000;

/// Pause between two exchanges.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection to a service that echoes, with traffic both ways.
#[derive(Debug)]
pub struct Talk {
    stopping: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<Spoken>>,
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoken {
    /// Exchanges in which everything came back.
    pub rounds: u64,
    /// By whom it was ended.
    pub ending: Ending,
}

/// By whom a conversation was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By this side; the other followed with an end of its own and nothing before it.
    Mine,
    /// The other side reset it.
    Reset,
    /// The other side ended it.
    Theirs,
}

impl Talk {
    /// Connects, and talks until told to stop; it is under way when this returns.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn start(site: &Site, addr: &Addr, seed: u64) -> Result<Self> {
        let stream = check::dial(site, addr)?;
        let (stopping, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&stopping), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || talk(&stream, seed, &shared.0, &shared.1));
        let talk = Self { stopping, rounds, thread };
        talk.wait_for_rounds(1)?;
        Ok(talk)
    }

    /// Exchanges so far.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::SeqCst)
    }

    /// Waits for so many more exchanges.
    ///
    /// # Errors
    /// When they do not come.
    pub fn wait_for_rounds(&self, more: u64) -> Result<()> {
        let goal = self.rounds() + more;
        let done = || (self.rounds() >= goal || self.thread.is_finished()).then_some(());
        wait_for("exchanges over a connection", done)?;
        if self.rounds() < goal { bail!("the connection has ended") } else { Ok(()) }
    }

    /// Stops it and says how it was.
    ///
    /// # Errors
    /// When a byte was wrong, or nothing came for half a minute.
    pub fn stop(self) -> Result<Spoken> {
        self.stopping.store(true, Ordering::SeqCst);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The same for one that must have gone through to this end without a gap.
    ///
    /// # Errors
    /// As [`stop`](Self::stop), and when the other side ended it.
    pub fn finish(self) -> Result<u64> {
        match self.stop()? {
            Spoken { rounds, ending: Ending::Mine } => Ok(rounds),
            other => bail!("the connection was cut: {other:?}"),
        }
    }
}

fn talk(mut stream: &Stream, seed: u64, stopping: &AtomicBool, rounds: &AtomicU64) -> Result<Spoken> {
    let pattern = Pattern::new(seed);
    let (mut out, mut back) = (vec![0; ROUND], vec![0; ROUND]);
    let spoken = |ending| Ok(Spoken { rounds: rounds.load(Ordering::SeqCst), ending });
    let mut offset = 0;
    while !stopping.load(Ordering::SeqCst) {
        pattern.fill(offset, &mut out);
        match stream.write_all(&out).and_then(|()| stream.read_exact(&mut back)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return spoken(Ending::Reset);
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return spoken(Ending::Theirs),
            Err(error) => return Err(error).context("a conversation broke"),
        }
        if out != back {
            bail!("wrong bytes came back in the exchange at byte {offset}");
        }
        offset += ROUND as u64;
        rounds.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(PAUSE);
    }
    stream.shutdown(Shutdown::Write).context("cannot end my side")?;
    let rest = check::read_all(stream)?;
    if !rest.is_empty() {
        bail!("{} bytes too many", rest.len());
    }
    spoken(Ending::Mine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Behaviour, Service};

    #[test]
    fn a_talk_goes_on_until_it_is_ended() {
        let site = Site::host().unwrap();
        let service = Service::start(&site, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo).unwrap();
        let talk = Talk::start(&site, service.addr(), 1).unwrap();
        talk.wait_for_rounds(3).unwrap();
        assert!(talk.finish().unwrap() >= 4);
        let talk = Talk::start(&site, service.addr(), 2).unwrap();
        drop(service);
        while talk.wait_for_rounds(1).is_ok() {}
        let ending = talk.stop().unwrap().ending;
        assert!(matches!(ending, Ending::Theirs | Ending::Reset), "{ending:?}");
    }
}
