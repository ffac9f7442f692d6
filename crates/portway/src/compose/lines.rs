//! Lines that instances have said: read, followed, and shown.
//!
//! Of a service whose first process is Portway's they are what it keeps, with times. Of any other they are its console,
//! which the server says once while it runs, and whole when it does not.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portway_incus::{Client, Exec, ExecSpec, FileContent};
use portway_model::rfc3339;
use portway_proto::service::{DIR, LOG_MAX_BYTES, LOGS, PROGRAM, Record, Source, Stamp};
use tokio::sync::mpsc;

use super::found::{self, Replica};
use crate::failure::{Outcome, Stop, colour_allowed};

/// Colours of names, in the order of the instances.
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];

/// How long an instance that ends may refuse to be looked at, and the time between two looks.
const END: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// Longest line that is waited for, bytes; a longer one becomes several.
const HELD_BYTES: usize = 1 << 20;

/// So many of the last bytes of a console tell where it goes on.
const KNOWN_BYTES: usize = 1 << 10;

/// A line of an instance, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Number of the instance in the list.
    pub(super) of: usize,
    /// When; the beginning of time where nothing tells.
    pub(super) at: Stamp,
    pub(super) source: Source,
    /// Its end has not come yet.
    pub(super) goes_on: bool,
    pub(super) text: Vec<u8>,
}

impl Line {
    pub(super) fn of(of: usize, record: Record<'_>) -> Self {
        let Record { at, source, goes_on, text } = record;
        Self { of, at, source, goes_on, text: text.to_vec() }
    }
}

/// The time it is.
pub(super) fn now() -> Stamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamp { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() }
}

/// How lines are shown.
pub(super) struct Show {
    prefixes: Vec<String>,
    timestamps: bool,
    /// Lines whose ends have not come yet, by instance and whether they are errors.
    begun: BTreeMap<(usize, bool), Line>,
}

/// What is asked for about that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) names: Names,
    pub(super) timestamps: bool,
}

/// What stands in front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// The name of the instance, in a colour where colours are shown.
    Coloured,
    /// The name.
    Plain,
    /// Nothing.
    None,
}

impl Names {
    pub(super) fn of(no_prefix: bool, no_color: bool) -> Names {
        match (no_prefix, no_color) {
            (true, _) => Names::None,
            (false, true) => Names::Plain,
            (false, false) => Names::Coloured,
        }
    }
}

/// The same with parts of lines put together; one without an end is the last of its source.
pub(super) fn joined(lines: Vec<Line>) -> Vec<Line> {
    let mut whole = Vec::with_capacity(lines.len());
    let mut begun: [Option<Line>; 2] = [None, None];
    for line in lines {
        let own = &mut begun[usize::from(line.source == Source::Error)];
        let line = match own.take() {
            Some(mut first) => {
                first.text.extend_from_slice(&line.text);
                Line { goes_on: line.goes_on, ..first }
            }
            None => line,
        };
        if line.goes_on { *own = Some(line) } else { whole.push(line) }
    }
    whole.extend(begun.into_iter().flatten());
    whole.sort_by_key(|line| line.at);
    whole
}

/// Everything an instance has kept; of a console also its last bytes, by which its next are known.
pub(super) async fn read(client: &Client, of: usize, replica: &Replica) -> Outcome<(Vec<Line>, Vec<u8>)> {
    let most = usize::try_from(2 * LOG_MAX_BYTES).unwrap_or(usize::MAX);
    let mut lines: Vec<Line> = Vec::new();
    let mut has_log = false;
    for name in LOGS.iter().rev() {
        let path = format!("{DIR}/{name}");
        let file =
            client.file(replica.project(), replica.name(), &path, most).await.map_err(found::failed)?;
        let Some(FileContent::Plain(bytes)) = file.map(|file| file.content) else { continue };
        has_log = true;
        let last = lines.last().map(|line| line.at);
        // One that has changed its place since the last was read.
        let new = Record::all(&bytes).filter(|record| last.is_none_or(|last| record.at > last));
        lines.extend(new.map(|record| Line::of(of, record)));
    }
    if has_log {
        return Ok((lines, Vec::new()));
    }
    let console = client.console(replica.project(), replica.name()).await.map_err(found::failed)?;
    let console = console.unwrap_or_default();
    Ok((console_lines(of, &console), end_of(&console)))
}

/// The last bytes of a console.
pub(super) fn end_of(console: &[u8]) -> Vec<u8> {
    console[console.len().saturating_sub(KNOWN_BYTES)..].to_vec()
}

/// Of an instance whose first process is its own there is the console, without times.
pub(super) fn console_lines(of: usize, console: &[u8]) -> Vec<Line> {
    let text = console.strip_suffix(b"\n").unwrap_or(console);
    let lines = text.split(|byte| *byte == b'\n').filter(|_| !text.is_empty());
    let line = |text: &[u8]| {
        let text = text.strip_suffix(b"\r").unwrap_or(text).to_vec();
        Line { of, at: Stamp::default(), source: Source::Out, goes_on: false, text }
    };
    lines.map(line).collect()
}

/// Sends what an instance says after `last`, which is moved to the time of the last of it, until it ends. Only of those
/// whose first process is Portway's. Cancel safe: what was sent is in `last`, and nothing else.
pub(super) async fn tail<T: From<Line>>(
    client: &Client,
    of: usize,
    replica: &Replica,
    last: &mut Stamp,
    to: &mpsc::Sender<T>,
) -> Outcome {
    let program = format!("{DIR}/{PROGRAM}");
    let spec = ExecSpec {
        command: vec![program, "tail".to_owned(), DIR.to_owned(), last.to_string()],
        environment: BTreeMap::new(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: None,
    };
    let started = client.exec(replica.project(), replica.name(), &spec).await.map_err(found::failed)?;
    let Some(sockets) = started else { return Ok(()) };
    let broken = |error: io::Error| Stop::refused(format!("cannot follow {}: {error}", replica.name()));
    let mut exec = Exec::new(sockets).await.map_err(broken)?;
    let mut rest = Vec::new();
    while let Some(bytes) = exec.output.next().await {
        rest.extend_from_slice(&bytes);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for record in Record::all(&rest[..whole]) {
            let at = record.at;
            if record.source != Source::Own && to.send(Line::of(of, record).into()).await.is_err() {
                return Ok(());
            }
            *last = (*last).max(at);
        }
        rest.drain(..whole);
        if rest.len() as u64 > LOG_MAX_BYTES {
            return Err(Stop::refused(format!("{} says what is no log", replica.name())));
        }
    }
    Ok(())
}

/// What one that has ended has said after `last`: its end ends the one who tells before everything is told. A server in
/// the middle of a stop refuses to look.
pub(super) async fn rest(client: &Client, of: usize, replica: &Replica) -> Outcome<(Vec<Line>, Vec<u8>)> {
    let begin = Instant::now();
    loop {
        match read(client, of, replica).await {
            Err(_) if begin.elapsed() < END => tokio::time::sleep(PAUSE).await,
            read => return read,
        }
    }
}

impl Show {
    pub(super) fn new(replicas: &[Replica], style: Style) -> Self {
        let colour = style.names == Names::Coloured && io::stdout().is_terminal() && colour_allowed();
        let width = replicas.iter().map(|replica| replica.name().len()).max().unwrap_or_default();
        let prefix = |(number, replica): (usize, &Replica)| {
            let name = format!("{:<width$}  | ", replica.name());
            match (style.names, colour) {
                (Names::None, _) => String::new(),
                (_, false) => name,
                (_, true) => format!("\x1b[{}m{name}\x1b[0m", COLOURS[number % COLOURS.len()]),
            }
        };
        let prefixes = replicas.iter().enumerate().map(prefix).collect();
        Self { prefixes, timestamps: style.timestamps, begun: BTreeMap::new() }
    }

    /// Prints a line, once its end has come.
    pub(super) fn print(&mut self, line: &Line) -> Outcome {
        let key = (line.of, line.source == Source::Error);
        let mut whole = match self.begun.remove(&key) {
            Some(mut first) => {
                first.text.extend_from_slice(&line.text);
                first
            }
            None => line.clone(),
        };
        whole.goes_on = line.goes_on && whole.text.len() < HELD_BYTES;
        if whole.goes_on {
            self.begun.insert(key, whole);
            return Ok(());
        }
        self.write(&whole)
    }

    /// Prints what has no end and will get none.
    pub(super) fn flush(&mut self) -> Outcome {
        std::mem::take(&mut self.begun).values().try_for_each(|line| self.write(line))
    }

    /// The same of an instance that has ended.
    pub(super) fn flush_of(&mut self, of: usize) -> Outcome {
        for key in [(of, false), (of, true)] {
            if let Some(line) = self.begun.remove(&key) {
                self.write(&line)?;
            }
        }
        Ok(())
    }

    fn write(&self, line: &Line) -> Outcome {
        let mut bytes = self.prefixes[line.of].clone().into_bytes();
        if self.timestamps && line.at != Stamp::default() {
            bytes.extend_from_slice(time(line.at).as_bytes());
            bytes.push(b' ');
        }
        bytes.extend_from_slice(&line.text);
        bytes.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout.write_all(&bytes).and_then(|()| stdout.flush()).map_err(|error| Stop::output(&error))
    }
}

/// RFC 3339 with nanoseconds.
pub(super) fn time(at: Stamp) -> String {
    let seconds = rfc3339(UNIX_EPOCH + Duration::from_secs(at.seconds));
    let seconds = seconds.split('.').next().unwrap_or_default();
    format!("{seconds}.{:09}Z", at.nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_lines() {
        let texts = |console: &[u8]| {
            console_lines(0, console)
                .into_iter()
                .map(|line| String::from_utf8(line.text).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(b"a\r\n\r\nb"), ["a", "", "b"]);
        assert_eq!(texts(b""), Vec::<String>::new());
    }

    /// Fails when parts of two outputs are mixed, or a part without an end is lost.
    #[test]
    fn parts_are_put_together() {
        let line = |nanoseconds, source, goes_on, text: &str| Line {
            of: 0,
            at: Stamp { seconds: 1, nanoseconds },
            source,
            goes_on,
            text: text.as_bytes().to_vec(),
        };
        let (out, error) = (Source::Out, Source::Error);
        let lines = vec![
            line(1, out, true, "a"),
            line(2, error, true, "x"),
            line(3, out, false, "b"),
            line(4, out, false, "c"),
            line(5, error, false, "y"),
            line(6, out, true, "who? "),
        ];
        let whole = joined(lines);
        let expected = [
            line(1, out, false, "ab"),
            line(2, error, false, "xy"),
            line(4, out, false, "c"),
            line(6, out, true, "who? "),
        ];
        assert_eq!(whole, expected);
    }
}
