//! What a client can find out about a stream from its own end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Addr, Pattern, Site, Stream};

/// How long any wait may take; nothing here should take a tenth of it.
const LIMIT: Duration = Duration::from_secs(30);

/// Connects from a site, with all waits bounded.
///
/// # Errors
/// Those of `connect`, and a site that is gone.
pub fn dial(site: &Site, addr: &Addr) -> Result<Stream> {
    let stream = site.run(|| addr.connect(LIMIT))?.with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_timeout(LIMIT)?;
    Ok(stream)
}

/// Sends `length` bytes to a service that echoes, reading at the same time, then ends its side:
/// everything must come back, then the end.
///
/// # Errors
/// What went wrong, with the byte where it did.
pub fn echo(stream: &Stream, length: u64, seed: u64) -> Result<()> {
    let pattern = Pattern::new(seed);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            pattern.write(length, stream).context("cannot send")?;
            stream.shutdown(Shutdown::Write).context("cannot end my side")
        });
        let received = pattern.check_to_end(length, stream);
        if received.is_err() {
            // The sender may wait for room that never comes.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        received.and(sent)
    })
}

/// One round with a service that echoes, on a connection that stays open.
///
/// # Errors
/// What went wrong.
pub fn exchange(mut stream: &Stream) -> Result<()> {
    const ASKED: &[u8] = b"still there?";
    stream.write_all(ASKED).context("cannot ask")?;
    let mut answer = [0; ASKED.len()];
    stream.read_exact(&mut answer).context("no answer")?;
    ensure!(answer == *ASKED, "answered {:?}", answer.escape_ascii().to_string());
    Ok(())
}

/// Half-close by the client: sends `length` bytes and ends its side before it reads anything; a
/// service that answers only then ([`Behaviour::AnswerAtEnd`](crate::Behaviour::AnswerAtEnd))
/// must be heard in full.
///
/// # Errors
/// What went wrong.
pub fn half_close(stream: &Stream, length: u64, seed: u64) -> Result<()> {
    let pattern = Pattern::new(seed);
    pattern.write(length, stream).context("cannot send")?;
    stream.shutdown(Shutdown::Write).context("cannot end my side")?;
    pattern.check_to_end(length, stream).context("no full answer after my end")
}

/// Half-close by the service ([`Behaviour::Source`](crate::Behaviour::Source)): reads its `length`
/// bytes and its end, and only then sends as much; the service records it.
///
/// # Errors
/// What went wrong.
pub fn half_close_by_service(stream: &Stream, pattern: Pattern, length: u64, answer: &[u8]) -> Result<()> {
    pattern.check_to_end(length, stream).context("the service's bytes")?;
    let mut writer = stream;
    writer.write_all(answer).context("cannot send after the service's end")?;
    stream.shutdown(Shutdown::Write).context("cannot end my side")
}

/// Reads until the other side resets the connection.
///
/// # Errors
/// When the stream ends, or says nothing for half a minute.
pub fn expect_reset(mut stream: &Stream) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("an end of stream, not a reset"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("no reset"),
        }
    }
}

/// Connects, and is reset: at once, or before the call has returned.
///
/// # Errors
/// When the connection lives on or ends in another way.
pub fn expect_refusal(site: &Site, addr: &Addr) -> Result<()> {
    match site.run(|| addr.connect(LIMIT))? {
        Ok(stream) => {
            stream.set_timeout(LIMIT)?;
            expect_reset(&stream)
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error).context("no reset"),
    }
}

/// Reads to the end.
///
/// # Errors
/// When the connection breaks.
pub fn read_all(mut stream: &Stream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).context("cannot read to the end")?;
    Ok(all)
}
