//! `portway mesh ping`: echoes through a network that runs, by its control socket.

use std::time::Duration;

use portway_control::Client;
use portway_control::api::{AskPing, Pong};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::live;
use crate::cli::mesh::PingArgs;
use crate::failure::{Outcome, Stop, printable};
use crate::output::{Format, Out, csv};
use crate::session::runtime;

/// The shortest pause between two questions: what ping(8) allows everybody.
const SHORTEST: f64 = 0.01;

/// Longest wait for an answer, seconds.
const PATIENCE: f64 = 20.0;

/// What became of all of it.
#[derive(Debug, Default, Serialize)]
struct Summary {
    host: String,
    sent: u32,
    received: u32,
    loss_percent: f64,
    min_ms: Option<f64>,
    avg_ms: Option<f64>,
    max_ms: Option<f64>,
    answers: Vec<Pong>,
}

/// Asks, and prints what comes.
pub(super) fn run(args: &PingArgs) -> Outcome {
    if !(SHORTEST..=3600.0).contains(&args.interval) {
        return Err(Stop::usage(format!("the interval is not from {SHORTEST} to 3600 seconds")));
    }
    if !(0.001..=PATIENCE).contains(&args.timeout) {
        return Err(Stop::usage(format!("the time for an answer is not from 0.001 to {PATIENCE} seconds")));
    }
    let format = args.format.format;
    if args.count == 0 && format != Format::Table {
        return Err(Stop::usage("without an end there is no summary: `--count` says how often"));
    }
    let client = live::client(args.name.as_deref())?;
    let mut out = Out::new();
    let summary = runtime()?.block_on(ask(&client, args, &mut out))?;
    out.show(format, &summary, |_| text(&summary), || lines(&summary.answers))?;
    if summary.received == 0 { Err(Stop::Found) } else { Ok(()) }
}

async fn ask(client: &Client, args: &PingArgs, out: &mut Out) -> Outcome<Summary> {
    let mut summary = Summary { host: args.host.clone(), ..Summary::default() };
    let mut ticks = interval(Duration::from_secs_f64(args.interval));
    // A late answer puts off the next question.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let timeout = Duration::from_secs_f64(args.timeout);
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut host = args.host.clone();
    for sequence in 1_u16.. {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut interrupted => break,
        }
        let question = AskPing { host: host.clone(), sequence, timeout_ms };
        let pong = tokio::select! {
            pong = client.ping(&question) => pong?,
            _ = &mut interrupted => break,
        };
        // A name is looked up once.
        host.clone_from(&pong.address);
        summary.add(&pong);
        match args.format.format {
            Format::Table => out.line(&line(&pong))?,
            Format::Json | Format::Yaml | Format::Csv => summary.answers.push(pong),
        }
        if summary.sent == args.count {
            break;
        }
    }
    Ok(summary)
}

impl Summary {
    fn add(&mut self, pong: &Pong) {
        self.sent += 1;
        if let Some(seconds) = pong.seconds {
            let ms = seconds * 1000.0;
            let total = self.avg_ms.unwrap_or(0.0) * f64::from(self.received) + ms;
            self.received += 1;
            self.avg_ms = Some(total / f64::from(self.received));
            self.min_ms = Some(self.min_ms.map_or(ms, |least| least.min(ms)));
            self.max_ms = Some(self.max_ms.map_or(ms, |most| most.max(ms)));
        }
        self.loss_percent = 100.0 * f64::from(self.sent - self.received) / f64::from(self.sent);
    }
}

fn line(pong: &Pong) -> String {
    match (pong.seconds, &pong.error) {
        (Some(seconds), _) => {
            format!("{}: seq {}, {:.3} ms", pong.address, pong.sequence, seconds * 1000.0)
        }
        (None, Some(error)) => format!("{}: seq {}: {}", pong.address, pong.sequence, printable(error)),
        (None, None) => format!("{}: seq {}, no answer", pong.address, pong.sequence),
    }
}

fn text(summary: &Summary) -> String {
    let Summary { sent, received, loss_percent, .. } = summary;
    let mut text = format!("{sent} sent, {received} received, {loss_percent:.0} % lost\n");
    if let (Some(min), Some(avg), Some(max)) = (summary.min_ms, summary.avg_ms, summary.max_ms) {
        text += &format!("min/avg/max {min:.3}/{avg:.3}/{max:.3} ms\n");
    }
    text
}

fn lines(answers: &[Pong]) -> String {
    let line = |pong: &Pong| {
        let seconds = pong.seconds.map(|seconds| seconds.to_string()).unwrap_or_default();
        csv::line([pong.address.clone(), pong.sequence.to_string(), seconds])
    };
    csv::line(["address", "sequence", "seconds"].map(str::to_owned))
        + &answers.iter().map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said() {
        let mut summary = Summary::default();
        assert_eq!(text(&summary), "0 sent, 0 received, 0 % lost\n");
        for (sequence, seconds) in [(1, Some(0.002)), (2, None), (3, Some(0.004))] {
            let pong = Pong { address: "10.9.0.2".to_owned(), sequence, seconds, error: None };
            summary.add(&pong);
            let wanted = match sequence {
                1 => "10.9.0.2: seq 1, 2.000 ms",
                2 => "10.9.0.2: seq 2, no answer",
                _ => "10.9.0.2: seq 3, 4.000 ms",
            };
            assert_eq!(line(&pong), wanted);
        }
        assert_eq!(text(&summary), "3 sent, 2 received, 33 % lost\nmin/avg/max 2.000/3.000/4.000 ms\n");
    }
}
