//! What a client is told of what is being done before its program runs: on its terminal in one line that changes, else on
//! standard error, a line now and then. Never among what the program writes.

use std::time::Duration;

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::time::Instant;

use super::program::STDERR;

/// Pause between two lines about the same on standard error.
const PAUSE: Duration = Duration::from_secs(5);

/// What an error says, without the numbers that stand behind the kernel's words.
pub(super) fn in_words(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let (mut words, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once(NUMBER) {
        words.push_str(before);
        let behind = after.trim_start_matches(|c: char| c.is_ascii_digit());
        rest = behind.strip_prefix(')').unwrap_or_else(|| {
            words.push_str(NUMBER);
            after
        });
    }
    words.push_str(rest);
    words
}

/// Tells one client.
pub(super) struct Teller<'c> {
    channel: &'c ChannelWriteHalf<Msg>,
    on_terminal: bool,
    /// The last line, without figures, and when it was said.
    last: Option<(String, Instant)>,
}

impl<'c> Teller<'c> {
    pub(super) fn new(channel: &'c ChannelWriteHalf<Msg>, on_terminal: bool) -> Self {
        Self { channel, on_terminal, last: None }
    }

    /// Says a line, which may be about the same as the last; an empty one says nothing.
    pub(super) async fn tell(&mut self, text: &str) {
        if text.is_empty() || !self.is_due(text) {
            return;
        }
        let text = in_words(text);
        // Who does not hear it has gone.
        let _gone = if self.on_terminal {
            // At the beginning of the line, which is cleared (ECMA-48, EL).
            self.channel.data_bytes(Bytes::from(format!("\r\x1b[Kportway: {text}"))).await
        } else {
            self.channel.extended_data_bytes(STDERR, Bytes::from(format!("portway: {text}\n"))).await
        };
    }

    fn is_due(&mut self, text: &str) -> bool {
        let kind: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        let is_new = self.last.as_ref().is_none_or(|(last, at)| *last != kind || at.elapsed() >= PAUSE);
        if is_new {
            self.last = Some((kind, Instant::now()));
        }
        is_new || self.on_terminal
    }

    /// Leaves the terminal as it was.
    pub(super) async fn end(self) {
        if self.on_terminal && self.last.is_some() {
            let _gone = self.channel.data_bytes(Bytes::from_static(b"\r\x1b[K")).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a number of the kernel's stands in what somebody is told, or anything else is left out.
    #[test]
    fn errors_are_words() {
        let error = std::io::Error::from_raw_os_error(111);
        assert_eq!(
            in_words(&format!("cannot connect to h:1: {error}")),
            "cannot connect to h:1: Connection refused"
        );
        assert_eq!(in_words("a: b (os error 2): c (os error 13)"), "a: b: c");
        for text in ["a (os error x) b", "a (os error 2", "", "(b)"] {
            assert_eq!(in_words(text), text);
        }
    }
}
