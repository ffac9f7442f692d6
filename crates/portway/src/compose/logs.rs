//! `portway compose logs`: what services have said, and go on saying.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portway_incus::Client;
use portway_model::{parse_duration, read_rfc3339};
use portway_proto::service::{Source, Stamp};

use super::follow::{Followed, Told, Until, follow};
use super::found::{self, Detail, Replica};
use super::lines::{Names, Show, Style, joined, read};
use crate::cli::compose::FileArgs;
use crate::cli::compose::inside::LogsArgs;
use crate::failure::{Outcome, Stop};
use crate::session::runtime;

/// The longest time ago, and the longest that is waited: a hundred years.
const SINCE_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Prints them.
pub(super) fn run(files: &FileArgs, args: &LogsArgs) -> Outcome {
    let now = SystemTime::now();
    let since = args.since.as_deref().map(|text| moment("--since", text, now)).transpose()?;
    let until = args.until.as_deref().map(|text| moment("--until", text, now)).transpose()?;
    let most = most(&args.tail)?;
    let name = found::name(files)?;
    let client = found::client()?;
    runtime()?.block_on(async {
        let mut replicas = found::replicas(&client, &name, &args.services, Detail::Listed).await?;
        replicas.retain(|replica| args.index.is_none_or(|index| replica.index == index.get()));
        let names = Names::of(args.no_log_prefix, args.no_color);
        let mut show = Show::new(&replicas, Style { names, timestamps: args.timestamps });
        let mut lines = Vec::new();
        let mut known = Vec::new();
        for (of, replica) in replicas.iter().enumerate() {
            let (mut own, console) = read(&client, of, replica).await?;
            known.push((own.last().map(|line| line.at).unwrap_or_default(), console));
            own.retain(|line| line.source != Source::Own && until.is_none_or(|until| line.at <= until));
            let mut own = joined(own);
            own.retain(|line| since.is_none_or(|since| line.at >= since));
            lines.extend(own.split_off(own.len() - most.unwrap_or(own.len()).min(own.len())));
        }
        // Of one instance they are in order already.
        lines.sort_by_key(|line| line.at);
        for line in &lines {
            show.print(line)?;
        }
        if args.follow {
            let left = until.map(|until| {
                let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                Duration::new(until.seconds, until.nanoseconds).saturating_sub(now)
            });
            let following = go_on(client, replicas, known, (&mut show, until));
            // Its time may come while nothing is said.
            if let Ok(done) = tokio::time::timeout(left.unwrap_or(SINCE_MAX), following).await {
                done?;
            }
        }
        show.flush()
    })
}

/// Prints what comes until all that run have ended, or until then.
async fn go_on(
    client: Client,
    replicas: Vec<Replica>,
    known: Vec<(Stamp, Vec<u8>)>,
    (show, until): (&mut Show, Option<Stamp>),
) -> Outcome {
    let running = replicas.into_iter().enumerate().zip(known).filter(|((_, replica), _)| replica.runs());
    let followed = running.map(|((of, replica), (last, console))| Followed { of, replica, last, console });
    let mut following = follow(client, followed.collect(), Until::Ended);
    while let Some(told) = following.next().await? {
        if let Told::Line(line) = told {
            if until.is_some_and(|until| line.at > until) {
                return Ok(());
            }
            show.print(&line)?;
        }
    }
    Ok(())
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

/// A time, or how long before `now`, as `flag` says it.
fn moment(flag: &str, text: &str, now: SystemTime) -> Outcome<Stamp> {
    let of = |since: Duration| Stamp { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(at) = instant(text) {
        return Ok(of(at));
    }
    let ago = parse_duration(text, Duration::ZERO, SINCE_MAX).map_err(|_| {
        let expected = "a time such as 2026-01-31T08:05:00Z, or how long ago such as 10m";
        Stop::usage(format!("{flag} is {expected}, not {text:?}"))
    })?;
    Ok(of(now.saturating_sub(ago)))
}

/// A time as a text, or seconds since 1970.
fn instant(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| read_rfc3339(text)?.duration_since(UNIX_EPOCH).ok())
}

#[cfg(test)]
mod tests {
    use super::super::lines::time;
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
        assert_eq!(moment("--since", "10m", now).ok().map(|at| at.seconds), Some(400));
        assert!(moment("--until", "yesterday", now).is_err());
    }

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(most("all").ok(), Some(None));
        assert_eq!(most("0").ok(), Some(Some(0)));
        assert!(most("-1").is_err() && most("x").is_err());
    }
}
