//! The table of all pairings, as the release note has it.

use std::fmt::Write as _;

use anyhow::Result;
use portway_testkit::{Rig, wait_for};

use crate::place::{BOTH, Bind, Kind, Pair, STREAMS};
use crate::{PORTWAY, datagrams, resets, streams};

/// A check of one pairing; `None` where it means nothing.
type Check = fn(&Pair) -> Result<()>;

struct Row {
    bind: Bind,
    listen: Kind,
    connect: Kind,
    cells: Vec<Option<Result<()>>>,
}

const STREAM_COLUMNS: [&str; 5] =
    ["10 MB each way", "client ends first", "service ends first", "reset by client", "reset by service"];

/// Every stream pairing carries 10 MB each way intact on both `bind` sides, with half-close from
/// either end; a reset on a tcp side is a reset at a tcp side and the end of the stream at a unix one.
/// The connection is gone from the device's count when both ends are done.
///
/// Fails when: the first end of stream closes both sides (`half_close` answers `Eof` with `CloseBoth`);
/// a spill or a pipe is not empty before `shutdown`; a reset closes without `SO_LINGER` 0.
#[test]
fn every_stream_pairing() {
    let Some(rig) = Rig::start(PORTWAY, "pairs").unwrap() else { return };
    let mut rows = Vec::new();
    for bind in BOTH {
        for (listen, connect) in STREAMS.into_iter().flat_map(|one| STREAMS.map(|other| (one, other))) {
            let client = (listen == Kind::Tcp).then_some(resets::by_client as Check);
            let service = (connect == Kind::Tcp).then_some(resets::by_service as Check);
            let checks: [Option<Check>; 5] = [
                Some(streams::each_way),
                Some(streams::client_ends_first),
                Some(streams::service_ends_first),
                client,
                service,
            ];
            rows.push(run(&rig, Row { bind, listen, connect, cells: Vec::new() }, &checks, &[]));
        }
    }
    report(&STREAM_COLUMNS, &rows);
}

/// Datagrams to a udp service, from udp of every size and from streams, on both `bind` sides.
///
/// Fails when: the buffer of a udp listener is smaller than a datagram, or empty ones are skipped;
/// the end of a stream client closes before the last answer.
#[test]
fn every_datagram_pairing() {
    let Some(rig) = Rig::start(PORTWAY, "dgrams").unwrap() else { return };
    let mut rows = Vec::new();
    for bind in BOTH {
        for listen in STREAMS {
            let row = Row { bind, listen, connect: Kind::Udp, cells: Vec::new() };
            rows.push(run(&rig, row, &[Some(datagrams::echo_to_stream as Check)], &["udp.idle=500ms"]));
        }
        let row = Row { bind, listen: Kind::Udp, connect: Kind::Udp, cells: Vec::new() };
        rows.push(run(&rig, row, &[Some(datagrams::echo as Check)], &[]));
    }
    report(&["echo"], &rows);
}

/// Adds the device, runs the checks, waits until it has no connection, removes it.
fn run(rig: &Rig, mut row: Row, checks: &[Option<Check>], keys: &[&str]) -> Row {
    static NUMBER: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let added = Pair::new(rig, row.bind, row.listen, row.connect, number).and_then(|pair| {
        pair.add(rig, "pair", keys)?;
        Ok(pair)
    });
    match added {
        Ok(pair) => {
            row.cells.extend(checks.iter().map(|check| check.map(|check| check(&pair))));
            if row.connect != Kind::Udp {
                row.cells.push(Some(counts_nothing(rig)));
            }
            if let Err(error) = rig.device_ok("remove", &["pair"]) {
                row.cells.push(Some(Err(error)));
            }
        }
        Err(error) => row.cells.push(Some(Err(error))),
    }
    row
}

fn counts_nothing(rig: &Rig) -> Result<()> {
    let now = || rig.daemon.device("pair").ok()?["connections_now"].as_u64();
    wait_for("no connection is left", || now().filter(|now| *now == 0)).map(drop)
}

/// Prints the table; fails when any cell did.
fn report(columns: &[&str], rows: &[Row]) {
    let mut text = format!("| listen | connect | bind | {} |\n", columns.join(" | "));
    let mut failures = String::new();
    text.push_str(&"|---".repeat(columns.len() + 3));
    text.push_str("|\n");
    for row in rows {
        let name = format!("{} | {} | {}", row.listen.name(), row.connect.name(), row.bind.name());
        let mut line = format!("| {name} ");
        for (at, cell) in row.cells.iter().enumerate() {
            let word = match cell {
                None => "-",
                Some(Ok(())) => "pass",
                Some(Err(error)) => {
                    let column = columns.get(at).unwrap_or(&"clean end");
                    writeln!(failures, "{name}: {column}: {error:#}").unwrap();
                    "FAIL"
                }
            };
            if at < columns.len() || word == "FAIL" {
                write!(line, "| {word} ").unwrap();
            }
        }
        text.push_str(&line);
        text.push_str("|\n");
    }
    println!("{text}");
    assert!(failures.is_empty(), "{failures}");
}
