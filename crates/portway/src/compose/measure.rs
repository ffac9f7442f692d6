//! What services use: `portway compose stats` and `top`.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use portway_incus::{Client, Exec, ExecSpec, Measured};
use serde_json::json;

use super::found::{self, Detail, Replica};
use crate::cli::compose::FileArgs;
use crate::cli::compose::inside::{ListFormat, StatsArgs, TopArgs};
use crate::failure::{Outcome, Stop, printable};
use crate::output::table::{Text, render};
use crate::output::{Out, human};
use crate::session::runtime;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Most output of a list of processes, bytes.
const LIST_MAX_BYTES: usize = 4 << 20;

/// Prints what services use, once or again and again.
pub(super) fn stats(files: &FileArgs, args: &StatsArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    let again = !args.no_stream && std::io::stdout().is_terminal() && args.format == ListFormat::Table;
    runtime()?.block_on(async {
        let mut before = look(&client, &name, args).await?;
        loop {
            tokio::time::sleep(PAUSE).await;
            let after = look(&client, &name, args).await?;
            let rows: Vec<Row> = after.1.iter().map(|replica| Row::of(replica, &before, after.0)).collect();
            print(&rows, args.format, again)?;
            if !again {
                return Ok(());
            }
            before = after;
        }
    })
}

type Look = (Instant, Vec<Replica>);

async fn look(client: &Client, name: &str, args: &StatsArgs) -> Outcome<Look> {
    let mut replicas = found::replicas(client, name, &args.services, Detail::Measured).await?;
    replicas.retain(|replica| args.all || replica.runs());
    Ok((Instant::now(), replicas))
}

struct Row {
    name: String,
    /// Of one processor.
    cpu_percent: f64,
    memory_bytes: u64,
    limit_bytes: u64,
    received_bytes: u64,
    sent_bytes: u64,
    processes: u64,
}

impl Row {
    fn of(replica: &Replica, before: &Look, now: Instant) -> Self {
        let measured = replica.listed.measured.clone().unwrap_or_default();
        let earlier = before.1.iter().find(|other| other.name() == replica.name());
        let earlier = earlier.and_then(|other| other.listed.measured.as_ref());
        let elapsed = now.duration_since(before.0).as_secs_f64();
        let sum = |of: fn(&portway_incus::Interface) -> u64| measured.interfaces.values().map(of).sum();
        Self {
            name: replica.name().to_owned(),
            cpu_percent: earlier.map_or(0.0, |earlier| percent(earlier, &measured, elapsed)),
            memory_bytes: measured.memory_bytes,
            limit_bytes: measured.memory_limit_bytes,
            received_bytes: sum(|nic| nic.received_bytes),
            sent_bytes: sum(|nic| nic.sent_bytes),
            processes: measured.processes,
        }
    }
}

fn percent(before: &Measured, after: &Measured, seconds: f64) -> f64 {
    if seconds > 0.0 { after.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds * 100.0 } else { 0.0 }
}

fn print(rows: &[Row], format: ListFormat, again: bool) -> Outcome {
    let mut out = Out::new();
    if format == ListFormat::Json {
        return rows.iter().try_for_each(|row| {
            out.json_line(&json!({"Name": row.name, "CPUPerc": format!("{:.2}%", row.cpu_percent),
                "MemUsage": row.memory_bytes, "MemLimit": row.limit_bytes, "NetIn": row.received_bytes,
                "NetOut": row.sent_bytes, "PIDs": row.processes}))
        });
    }
    let line = |row: &Row| {
        let memory = format!("{} / {}", human::bytes(row.memory_bytes), human::bytes(row.limit_bytes));
        let network = format!("{} / {}", human::bytes(row.received_bytes), human::bytes(row.sent_bytes));
        [
            Text::new(&row.name),
            Text::number(format!("{:.2}%", row.cpu_percent)),
            Text::number(memory),
            Text::number(network),
            Text::number(row.processes.to_string()),
        ]
    };
    let header = ["NAME", "CPU %", "MEM USAGE / LIMIT", "NET I/O", "PIDS"];
    let text = render(header, rows.iter().map(line).collect(), out.look);
    // From the top left corner, with nothing left of what was there.
    out.text(&if again { format!("\x1b[H\x1b[2J{text}") } else { text })
}

/// Prints the processes of services, as their own `ps` has them.
pub(super) fn top(files: &FileArgs, args: &TopArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    runtime()?.block_on(async {
        let replicas = found::replicas(&client, &name, &args.services, Detail::Listed).await?;
        let mut out = Out::new();
        for replica in replicas.iter().filter(|replica| replica.runs()) {
            let listed = processes(&client, replica).await?;
            out.line(&printable(replica.name()))?;
            listed.lines().try_for_each(|line| out.line(&printable(line)))?;
            out.line("")?;
        }
        Ok(())
    })
}

async fn processes(client: &Client, replica: &Replica) -> Outcome<String> {
    let spec = ExecSpec {
        command: ["ps", "-ef"].map(str::to_owned).to_vec(),
        environment: std::collections::BTreeMap::new(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: None,
    };
    let broken = |error: std::io::Error| Stop::refused(format!("cannot ask {}: {error}", replica.name()));
    let started = client.exec(replica.project(), replica.name(), &spec).await.map_err(found::failed)?;
    let sockets = started.ok_or_else(|| Stop::refused(format!("the instance {} is gone", replica.name())))?;
    let mut exec = Exec::new(sockets).await.map_err(broken)?;
    let mut text = Vec::new();
    while let Some(bytes) = exec.output.next().await {
        text.extend_from_slice(&bytes);
        if text.len() > LIST_MAX_BYTES {
            break;
        }
    }
    if text.is_empty() {
        return Err(Stop::refused(format!("{} has no ps that lists its processes", replica.name())));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
