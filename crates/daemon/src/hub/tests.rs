//! Actors that come and go.

use portway_sys::netns;
use std::os::fd::AsFd;
use tokio::sync::mpsc;

use super::*;
use crate::provider::{Observation, Status};
use crate::state::StoredDevice;

fn hub(desired: Desired) -> Arc<Hub> {
    let own_netns = netns::current().and_then(|namespace| netns::id(namespace.as_fd())).expect("a namespace");
    let settings = HubSettings {
        workers_dir: PathBuf::from("/nonexistent"),
        seal_key: PathBuf::from("/nonexistent/moves.key"),
        worker_ids: None,
        sandbox: Sandbox::BestEffort,
        lifetime: Lifetime::WithDaemon,
        owner_uid: 0,
        build: "test".into(),
        nofile: 1024,
        own_netns,
        network_environment: Vec::new(),
    };
    Hub::new(Parts {
        settings,
        keeper: Keeper::default(),
        providers: crate::setup::providers(&portway_config::Settings::default()),
        nat: None,
        store: Store::ephemeral(),
        desired,
        refused: Refused::new(),
        generation: 0,
        warnings: Vec::new(),
        frozen: None,
    })
}

#[tokio::test]
async fn an_actor_ends_only_when_nobody_can_reach_it() {
    let (hub, key) = (hub(Desired::new()), "netns:blue".parse::<InstanceKey>().expect("a name"));
    let (sender, mut commands) = mpsc::channel(4);
    let own = sender.downgrade();
    locked(&hub.actors).insert(key.clone(), sender);

    let handle = hub.handle(&key);
    assert!(!hub.retire(&key, &own, &commands), "somebody has a handle");
    handle.send(Command::Poke).await.expect("the actor is there");
    drop(handle);
    assert!(!hub.retire(&key, &own, &commands), "a command waits");
    commands.recv().await.expect("the command");
    assert!(hub.retire(&key, &own, &commands));
    assert!(hub.known(&key).is_none());
    assert!(commands.recv().await.is_none(), "nobody can send any more");
}

/// The actor of an instance with this device, after a look has found the instance's UUID.
async fn observed(hub: &Arc<Hub>, device: StoredDevice) {
    let (key, name) = (device.instance.clone(), device.name.clone());
    let seed = Seed { devices: vec![device], ..Seed::default() };
    let actor = Instance::start(Arc::clone(hub), key, seed);
    let seen = Observation { uuid: Some("77ff".into()), ..Observation::of(Status::Down("stopped".into())) };
    actor.send(Command::Observed(seen)).await.expect("the actor is there");
    let (reply, listed) = oneshot::channel();
    actor.send(Command::List(reply)).await.expect("the actor is there");
    assert_eq!(listed.await.expect("a list")[0].name, name);
}

/// Fails when the actor stores a device whose UUID it has seen: an apply that is taken back would leave it.
#[tokio::test]
async fn an_observed_uuid_stores_no_device_that_is_only_staged() {
    let keys = [("listen", "unix:/nonexistent/s"), ("connect", "tcp:127.0.0.1:80")];
    let device = StoredDevice {
        instance: "incus:default/c1".parse().expect("a name"),
        uuid: None,
        name: "web".parse().expect("a name"),
        keys: DeviceSpec::from_keys(keys).expect("a device"),
        origin: None,
    };
    let staged = hub(Desired::new());
    observed(&staged, device.clone()).await;
    assert_eq!(staged.desired(), Desired::new());
    let stored = hub(Desired::from([(device.key(), device.clone())]));
    observed(&stored, device.clone()).await;
    assert_eq!(stored.desired()[&device.key()].uuid.as_deref(), Some("77ff"));
}
