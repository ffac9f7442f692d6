//! Live connections of a device, for the control API. They are the workers' word, bounded in number.

use std::sync::Arc;

use portway_control::api::{self, Connection, ConnectionState, Connections, Failure, FailureKind};
use portway_model::{DeviceKey, DeviceSpec, Target};
use portway_relay::wire::{Live, LiveState};
use tracing::debug;

use crate::hub::{Hub, failure};
use crate::instance::{Asked, Command};
use crate::state::with_sources;

/// Most that are listed for one question.
pub(crate) const LIMIT_MAX: usize = 10_000;

/// How many are listed unless somebody asks for another number.
pub(crate) const LIMIT: usize = 1000;

/// At most `limit` live connections of a device, the oldest of them first.
///
/// # Errors
/// There is no such device.
pub(crate) async fn list(hub: &Arc<Hub>, key: &DeviceKey, limit: usize) -> Result<Connections, Failure> {
    let question = |reply| Command::Connections(key.device.clone(), reply);
    let (answers, _silent) = hub.ask(Some(&key.instance), question).await;
    let Some(Asked { device, spec, workers }) = answers.into_iter().flatten().next() else {
        return unknown(hub, key).await;
    };
    let (mut connections, mut silent) = (Vec::new(), false);
    for (worker, pid, slot) in workers {
        match worker.list(slot, limit.saturating_sub(connections.len())).await {
            Ok(found) => connections.extend(found.into_iter().map(|live| shown(&spec, pid, live))),
            Err(failure) => {
                debug!(pid, error = %with_sources(&failure), "connections not listed");
                silent = true;
            }
        }
    }
    connections.sort_by_key(|connection| std::cmp::Reverse(connection.age_ms));
    let device = hub.counted(device).await;
    let unlisted = match (silent, device.mode) {
        (true, _) => Some("a relay worker does not list its connections"),
        (false, api::DeviceMode::Nat) => Some("the kernel carries the device: it counts and does not list"),
        (false, api::DeviceMode::Relay) => None,
    };
    let unlisted = unlisted.map(str::to_owned);
    Ok(Connections { connections_now: device.connections_now, connections, unlisted })
}

/// Of a device that no actor has, or whose actor does not answer.
async fn unknown(hub: &Arc<Hub>, key: &DeviceKey) -> Result<Connections, Failure> {
    let devices = hub.devices(Some(&key.instance)).await;
    match devices.into_iter().find(|device| device.name == key.device) {
        Some(device) => Ok(Connections {
            connections_now: device.connections_now,
            connections: Vec::new(),
            unlisted: Some(device.reason.unwrap_or_else(|| "the instance is busy".into())),
        }),
        None => {
            let text = format!("{} has no device {}", key.instance, key.device);
            Err(failure(FailureKind::Missing, text))
        }
    }
}

fn shown(spec: &DeviceSpec, pid: i32, live: Live) -> Connection {
    let protocol = |address: &portway_model::Address| address.protocol();
    let connect = spec.connect.address();
    let target = match (live.target, spec.target(live.index)) {
        (Some(address), _) => format!("{}:{address}", protocol(connect)),
        (None, Some(Target::Unix(_, name))) => format!("{}:{name}", protocol(connect)),
        (None, Some(Target::Tcp { addr, .. } | Target::Udp { addr, .. })) => {
            format!("{}:{addr}", protocol(connect))
        }
        (None, None) => connect.to_string(),
    };
    Connection {
        id: format!("{pid}-{:x}", live.id),
        protocol: protocol(spec.listen.address()).to_string(),
        client: live.client,
        via: live.via,
        target,
        state: state(live.state),
        age_ms: live.age_ms,
        idle_ms: live.idle_ms,
        bytes_in: live.bytes_in,
        bytes_out: live.bytes_out,
    }
}

fn state(state: LiveState) -> ConnectionState {
    match state {
        LiveState::Announcing => ConnectionState::Announcing,
        LiveState::Dialling => ConnectionState::Dialling,
        LiveState::Held => ConnectionState::Held,
        LiveState::Open => ConnectionState::Open,
        LiveState::ClientEnded => ConnectionState::ClientEnded,
        LiveState::TargetEnded => ConnectionState::TargetEnded,
        LiveState::Flow => ConnectionState::Flow,
    }
}
