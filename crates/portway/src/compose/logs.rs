//! `portway compose logs`: what services have said, and go on saying.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portway_incus::{Client, Exec, ExecSpec, FileContent};
use portway_model::{parse_duration, rfc3339};
use portway_proto::service::{DIR, LOG_MAX_BYTES, LOGS, PROGRAM, Record, Source, Stamp};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::found::{self, Detail, Replica};
use crate::cli::compose::FileArgs;
use crate::cli::compose::inside::LogsArgs;
use crate::failure::{Outcome, Stop, colour_allowed};
use crate::session::runtime;

/// Colours of names, in the order of the instances.
const COLOURS: [&str; 6] = ["36", "33", "32", "35", "34", "31"];

/// Longest `--since`: a hundred years.
const SINCE_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// How long an instance that ends may refuse to be looked at, and the time between two looks.
const END: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// Most lines that wait to be printed.
const WAITING: usize = 256;

/// A line of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// Number of the instance in the list.
    of: usize,
    at: Stamp,
    source: Source,
    goes_on: bool,
    text: Vec<u8>,
}

impl Line {
    fn of(of: usize, record: Record<'_>) -> Self {
        let Record { at, source, goes_on, text } = record;
        Self { of, at, source, goes_on, text: text.to_vec() }
    }
}

/// How lines are shown.
struct Show {
    prefixes: Vec<String>,
    timestamps: bool,
}

/// Prints them.
pub(super) fn run(files: &FileArgs, args: &LogsArgs) -> Outcome {
    let since = args.since.as_deref().map(|text| since(text, SystemTime::now())).transpose()?;
    let most = most(&args.tail)?;
    let name = found::name(files)?;
    let client = found::client()?;
    runtime()?.block_on(async {
        let mut replicas = found::replicas(&client, &name, &args.services, Detail::Listed).await?;
        replicas.retain(|replica| args.index.is_none_or(|index| replica.index == index.get()));
        let show = Show::new(&replicas, args);
        let mut lines = Vec::new();
        let mut last = Vec::new();
        for (of, replica) in replicas.iter().enumerate() {
            let mut own = read(&client, of, replica).await?;
            last.push(own.last().map(|line| line.at).unwrap_or_default());
            own.retain(|line| line.source != Source::Own && since.is_none_or(|since| line.at >= since));
            lines.extend(own.split_off(own.len() - most.unwrap_or(own.len()).min(own.len())));
        }
        // Of one instance they are in order already.
        lines.sort_by_key(|line| line.at);
        for line in &lines {
            show.print(line)?;
        }
        if args.follow { follow(&client, replicas, last, &show).await } else { Ok(()) }
    })
}

/// Everything an instance has kept.
async fn read(client: &Client, of: usize, replica: &Replica) -> Outcome<Vec<Line>> {
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
    if !has_log {
        let console = client.console(replica.project(), replica.name()).await.map_err(found::failed)?;
        lines.extend(console_lines(of, &console.unwrap_or_default()));
    }
    Ok(lines)
}

/// Of an instance whose first process is its own there is the console, without times.
fn console_lines(of: usize, console: &[u8]) -> Vec<Line> {
    let text = console.strip_suffix(b"\n").unwrap_or(console);
    let lines = text.split(|byte| *byte == b'\n').filter(|_| !text.is_empty());
    let line = |text: &[u8]| {
        let text = text.strip_suffix(b"\r").unwrap_or(text).to_vec();
        Line { of, at: Stamp::default(), source: Source::Out, goes_on: false, text }
    };
    lines.map(line).collect()
}

/// Prints what comes until all that run have ended.
async fn follow(client: &Client, replicas: Vec<Replica>, last: Vec<Stamp>, show: &Show) -> Outcome {
    let (send, mut lines) = mpsc::channel(WAITING);
    let mut tails = JoinSet::new();
    for ((of, replica), last) in replicas.into_iter().enumerate().zip(last) {
        if replica.runs() {
            tails.spawn(tail(client.clone(), of, replica, last, send.clone()));
        }
    }
    drop(send);
    while let Some(line) = lines.recv().await {
        show.print(&line)?;
    }
    while let Some(ended) = tails.join_next().await {
        match ended {
            Ok(done) => done?,
            Err(error) => return Err(Stop::refused(format!("cannot follow: {error}"))),
        }
    }
    Ok(())
}

/// Sends what an instance says after `last`, until it ends.
async fn tail(client: Client, of: usize, replica: Replica, last: Stamp, to: mpsc::Sender<Line>) -> Outcome {
    let program = format!("{DIR}/{PROGRAM}");
    let spec = ExecSpec {
        command: vec![program, "tail".to_owned(), DIR.to_owned(), last.to_string()],
        environment: std::collections::BTreeMap::new(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: None,
    };
    let started = client.exec(replica.project(), replica.name(), &spec).await.map_err(found::failed)?;
    let Some(sockets) = started else { return Ok(()) };
    let broken = |error: io::Error| Stop::refused(format!("cannot follow {}: {error}", replica.name()));
    let mut exec = Exec::new(sockets).await.map_err(broken)?;
    let (mut rest, mut last) = (Vec::new(), last);
    while let Some(bytes) = exec.output.next().await {
        rest.extend_from_slice(&bytes);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for record in Record::all(&rest[..whole]) {
            last = last.max(record.at);
            if record.source != Source::Own && to.send(Line::of(of, record)).await.is_err() {
                return Ok(());
            }
        }
        rest.drain(..whole);
        if rest.len() as u64 > LOG_MAX_BYTES {
            return Err(Stop::refused(format!("{} says what is no log", replica.name())));
        }
    }
    // The end of an instance ends the one who tells before everything is told.
    let begin = Instant::now();
    let rest = loop {
        match read(&client, of, &replica).await {
            // A server in the middle of a stop refuses to look.
            Err(_) if begin.elapsed() < END => tokio::time::sleep(PAUSE).await,
            read => break read?,
        }
    };
    for line in rest {
        if line.at > last && line.source != Source::Own && to.send(line).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

impl Show {
    fn new(replicas: &[Replica], args: &LogsArgs) -> Self {
        let colour = !args.no_color && io::stdout().is_terminal() && colour_allowed();
        let width = replicas.iter().map(|replica| replica.name().len()).max().unwrap_or_default();
        let prefix = |(number, replica): (usize, &Replica)| {
            let name = format!("{:<width$}  | ", replica.name());
            match (args.no_log_prefix, colour) {
                (true, _) => String::new(),
                (false, false) => name,
                (false, true) => format!("\x1b[{}m{name}\x1b[0m", COLOURS[number % COLOURS.len()]),
            }
        };
        let prefixes = replicas.iter().enumerate().map(prefix).collect();
        Self { prefixes, timestamps: args.timestamps }
    }

    fn print(&self, line: &Line) -> Outcome {
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
fn time(at: Stamp) -> String {
    let seconds = rfc3339(UNIX_EPOCH + Duration::from_secs(at.seconds));
    let seconds = seconds.split('.').next().unwrap_or_default();
    format!("{seconds}.{:09}Z", at.nanoseconds)
}

/// How many lines; `None` is all.
fn most(text: &str) -> Outcome<Option<usize>> {
    match text {
        "all" => Ok(None),
        number => number
            .parse()
            .map(Some)
            .map_err(|_| Stop::usage(format!("--tail is a number or \"all\", not {text:?}"))),
    }
}

/// A time, or how long before `now`.
fn since(text: &str, now: SystemTime) -> Outcome<Stamp> {
    let of = |since: Duration| Stamp { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(since) = instant(text) {
        return Ok(of(since));
    }
    let ago = parse_duration(text, Duration::ZERO, SINCE_MAX).map_err(|_| {
        let expected = "a time such as 2026-01-31T08:05:00Z, or how long ago such as 10m";
        Stop::usage(format!("--since is {expected}, not {text:?}"))
    })?;
    Ok(of(now.saturating_sub(ago)))
}

/// RFC 3339, UTC where no zone is said; seconds since 1970.
fn instant(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let (date, clock) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00:00Z"));
    let mut fields = date.split('-').map(|field| field.parse::<i64>().ok());
    let (year, month, day) = (fields.next()??, fields.next()??, fields.next()??);
    if fields.next().is_some()
        || !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
    {
        return None;
    }
    let (clock, zone) = match clock.find(['Z', 'z', '+', '-']) {
        Some(at) => clock.split_at(at),
        None => (clock, "Z"),
    };
    let offset = if zone.eq_ignore_ascii_case("z") {
        0
    } else {
        let (hours, minutes) = zone[1..].split_once(':')?;
        let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
        if zone.starts_with('-') { -minutes * 60 } else { minutes * 60 }
    };
    let mut fields = clock.split(':');
    let (hour, minute) = (fields.next()?.parse::<i64>().ok()?, fields.next()?.parse::<i64>().ok()?);
    let second = fields.next().map_or(Some(0.0), |field| field.parse::<f64>().ok())?;
    if fields.next().is_some()
        || !(0..24).contains(&hour)
        || !(0..60).contains(&minute)
        || !(0.0..61.0).contains(&second)
    {
        return None;
    }
    // Days since 1970 of the Gregorian calendar, years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    let whole = u64::try_from(days * 86_400 + hour * 3600 + minute * 60 - offset).ok()?;
    Some(Duration::from_secs(whole) + Duration::from_secs_f64(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_printed() {
        for seconds in [0, 951_782_400, 951_868_800, 1_709_251_199, 1_763_700_000, 4_102_444_800] {
            let at = Stamp { seconds, nanoseconds: 500_000_000 };
            let read = instant(&time(at)).expect("a time");
            assert_eq!((read.as_secs(), read.subsec_millis()), (seconds, 500), "{}", time(at));
        }
        let of = |text: &str| instant(text).map(|since| since.as_secs());
        assert_eq!(of("2026-01-31"), of("2026-01-31T00:00:00Z"));
        assert_eq!(of("2026-01-31T02:30:00+02:30"), of("2026-01-31T00:00"));
        assert_eq!(of("1763700000"), Some(1_763_700_000));
        for none in [
            "",
            "x",
            "2026-13-01",
            "2026-01-31T25:00:00Z",
            "2026-01-31T1",
            "2026-01-31T10:00:00+x",
            "1-2-3-4",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(since("10m", now).ok().map(|at| at.seconds), Some(400));
        assert!(since("yesterday", now).is_err());
    }

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

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(most("all").ok(), Some(None));
        assert_eq!(most("0").ok(), Some(Some(0)));
        assert!(most("-1").is_err() && most("x").is_err());
    }
}
