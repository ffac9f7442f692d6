//! Actors that come and go.

use portway_sys::netns;
use std::os::fd::AsFd;
use tokio::sync::mpsc;

use super::*;

fn hub() -> Arc<Hub> {
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
        worker_environment: Vec::new(),
    };
    Hub::new(Parts {
        settings,
        keeper: Keeper::default(),
        providers: crate::setup::providers(&portway_config::Settings::default()),
        store: Store::ephemeral(),
        desired: Desired::new(),
        generation: 0,
        warnings: Vec::new(),
        frozen: None,
    })
}

#[tokio::test]
async fn an_actor_ends_only_when_nobody_can_reach_it() {
    let (hub, key) = (hub(), "netns:blue".parse::<InstanceKey>().expect("a name"));
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
