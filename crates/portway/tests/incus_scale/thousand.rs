//! A thousand devices on one container: all of them serve, they fit in memory, and what is done to one is
//! felt by no other.

use anyhow::{Result, ensure};
use portway_testkit::{Addr, Stream, check, wait_for};
use serde_json::Value;

use crate::fleet::{DEVICES, Fleet, LIMIT_BYTES, address, name, speak};

/// The device something is done to.
const CHANGED: usize = 500;

/// Devices beyond the thousand: more than one worker has places for.
const SURPLUS: usize = 100;

/// How many connections each device has had, by its number.
fn totals(fleet: &Fleet) -> Result<Vec<(u64, u64)>> {
    let devices = fleet.rig.daemon.devices()?;
    let number = |device: &Value, field: &str| device[field].as_u64().unwrap_or(u64::MAX);
    let find = |wanted: usize| devices.iter().find(move |device| device["name"] == name(wanted));
    let known = (0..DEVICES).filter_map(find);
    Ok(known.map(|device| (number(device, "connections_total"), number(device, "bytes_in"))).collect())
}

fn all_speak(clients: &[Stream]) -> Result<()> {
    clients.iter().enumerate().filter(|(number, _)| *number != CHANGED).try_for_each(|(number, client)| {
        speak(client).map_err(|failure| failure.context(format!("connection through device {number}")))
    })
}

/// A thousand devices are added, many requests at a time: each carries bytes of its own, one worker and
/// one keeper serve them all, everything together stays below 60 MB, and the state on disk has all.
///
/// Fails when: a device costs a process or a buffer, or one write of the state loses what another wrote.
#[test]
fn each_carries_bytes_and_all_fit_in_60_mb() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    fleet.add(DEVICES)?;
    let clients = fleet.connections(DEVICES)?;
    ensure!(totals(&fleet)? == vec![(1, 1); DEVICES], "not each device has carried its own byte");
    let (workers, keepers) = (fleet.rig.daemon.workers(), fleet.rig.daemon.keepers());
    ensure!(workers.len() == 1 && keepers.len() == 1, "workers {workers:?}, keepers {keepers:?}");
    let resident = fleet.resident()?;
    ensure!(resident < LIMIT_BYTES, "{resident} bytes resident with {DEVICES} devices");
    let state = std::fs::read_to_string(fleet.rig.daemon.dir().join("state.json"))?;
    let stored: Value = serde_json::from_str(&state)?;
    ensure!(stored["devices"].as_array().map(Vec::len) == Some(DEVICES), "not all are on disk");
    let listed = fleet.rig.daemon.cli(&["device", "list", fleet.rig.container.name(), "--format", "csv"])?;
    ensure!(String::from_utf8_lossy(&listed.stdout).lines().count() == DEVICES + 1);
    all_speak(&clients)
}

/// A change of one of the thousand, one that cannot be made, its removal and its return: the connections
/// of the other 999 live on, and so does its own while only its target changes.
///
/// Fails when: a change replaces the worker or its table, or a change that fails leaves the device without
/// its old listener.
#[test]
fn a_change_of_one_touches_no_other() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    fleet.add(DEVICES)?;
    let clients = fleet.connections(DEVICES)?;
    let (workers, changed) = (fleet.rig.daemon.workers(), name(CHANGED));

    fleet.rig.device_ok("set", &[&changed, "connect.timeout=3s"])?;
    speak(&clients[CHANGED])?;
    fleet.rig.device_ok("set", &[&changed, "connect=tcp:127.0.0.1:1"])?;
    speak(&clients[CHANGED])?;
    fleet.rig.device_ok("set", &[&changed, &format!("connect={}", fleet.connect())])?;
    let refused = fleet.rig.device("set", &[&changed, &format!("listen=tcp:{}", address(CHANGED + 1))])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    speak(&clients[CHANGED])?;
    fleet.connection(CHANGED)?;
    all_speak(&clients)?;

    fleet.rig.device_ok("set", &[&changed, &format!("listen=tcp:{}", address(DEVICES))])?;
    check::echo(&check::dial(fleet.rig.host(), &Addr::tcp(&address(DEVICES)))?, 1_000, 1)?;
    fleet.rig.device_ok("remove", &[&changed])?;
    ensure!(check::dial(fleet.rig.host(), &Addr::tcp(&address(CHANGED))).is_err(), "its port is open");
    all_speak(&clients)?;
    let listen = format!("listen=tcp:{}", address(CHANGED));
    fleet.rig.add(&changed, &[&listen, &format!("connect={}", fleet.connect())])?;
    fleet.connection(CHANGED)?;
    all_speak(&clients)?;
    ensure!(fleet.rig.daemon.workers() == workers, "not the worker it was");
    Ok(())
}

/// Kill -9 of the daemon, and more devices than one worker takes: the next daemon adopts the thousand with
/// their connections, and those for which the worker has no place get a second one.
///
/// Fails when: adoption is bounded by a number of messages, or a device that finds the worker full is
/// refused.
#[test]
fn the_next_daemon_adopts_them_and_a_second_worker_takes_what_the_first_cannot() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    fleet.add(DEVICES)?;
    let clients = fleet.connections(DEVICES)?;
    let workers = fleet.rig.daemon.workers();
    fleet.rig.daemon.kill()?;
    all_speak(&clients)?;
    fleet.rig.daemon.launch()?;
    wait_for("all devices are served", || {
        let server = fleet.rig.daemon.api().get("/1.0").ok()?;
        (server["devices"]["active"].as_u64()? == u64::try_from(DEVICES).ok()?).then_some(())
    })?;
    ensure!(fleet.rig.daemon.workers() == workers, "not the worker it was");
    all_speak(&clients)?;
    speak(&clients[CHANGED])?;

    fleet.add_from(DEVICES, SURPLUS)?;
    fleet.connections(DEVICES + SURPLUS)?;
    ensure!(fleet.rig.daemon.workers().len() == 2, "workers: {:?}", fleet.rig.daemon.workers());
    all_speak(&clients)
}
