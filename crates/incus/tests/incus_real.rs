//! The client against a real Incus: what the crate's description promises.

use std::time::{Duration, Instant};

use portway_incus::{Client, Event, Events, IncusError, InstanceKind, State, status_code};
use portway_testkit::{Bed, Container, ContainerSpec, bed, is_root};

const LIMIT: Duration = Duration::from_secs(20);

/// The bed and a client of it.
fn ready() -> Option<(&'static Bed, Client)> {
    let bed = if is_root() { bed()? } else { return None };
    Some((bed, Client::new(bed.socket())))
}

/// Actions that come for one name until one of them is `last`.
async fn actions_until(events: &mut Events, names: &[&str], last: &str) -> Vec<Event> {
    let mut seen = Vec::new();
    let wait = async {
        loop {
            let event = events.next().await.expect("the stream lives");
            if names.contains(&event.name.as_str()) {
                let is_last = event.action == last;
                seen.push(event);
                if is_last {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect(last);
    seen
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.action.as_str()).collect()
}

/// Runs blocking work of the test's beside the client's.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

async fn launch(bed: &'static Bed, name: &'static str, spec: ContainerSpec) -> Container<'static> {
    aside(move || bed.launch(name, &spec)).await.expect("a container")
}

/// Asks until the server can say; while an instance stops it cannot.
async fn state(client: &Client, container: &Container<'_>) -> State {
    let begin = Instant::now();
    loop {
        match client.state(container.project(), container.name()).await {
            Ok(state) => return state.expect("it exists"),
            Err(error) => assert!(error.is_transient() && begin.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_read() {
    let Some((bed, client)) = ready() else { return };
    let server = client.server().await.expect("server");
    assert!(server.version.starts_with("6."), "{}", server.version);
    assert_eq!(
        (server.product.as_str(), server.auth.as_str(), server.clustered),
        ("incus", "trusted", false)
    );

    let container = launch(bed, "read", ContainerSpec::default()).await;
    let instance = client.instance("default", container.name()).await.expect("answer").expect("there");
    assert_eq!((instance.kind, instance.status_code), (InstanceKind::Container, status_code::RUNNING));
    assert_eq!(instance.location, "none");
    let uuid = instance.uuid.clone().expect("a UUID");
    assert_eq!(uuid, container.uuid().expect("a UUID"));
    assert_eq!(state(&client, &container).await.pid, Some(container.pid().expect("a pid")));

    let found = client.with_uuid(&uuid).await.expect("answer");
    assert_eq!(found, [instance]);
    let list = client.instances().await.expect("answer");
    let ours = list.iter().find(|summary| summary.name == container.name()).expect("listed");
    assert_eq!((ours.project.as_str(), ours.uuid.as_deref()), ("default", Some(uuid.as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_none() {
    let Some((_, client)) = ready() else { return };
    for (project, name) in
        [("default", "nobody"), ("no-such-project", "c1"), ("default", "a%2fb"), ("default", "a b\n")]
    {
        assert_eq!(client.instance(project, name).await.expect("an answer"), None, "{project}/{name}");
        assert_eq!(client.state(project, name).await.expect("an answer"), None, "{project}/{name}");
    }
    assert_eq!(client.with_uuid("00000000-0000-4000-8000-000000000000").await.expect("an answer"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_one_event_and_then_the_pid_is_known() {
    let Some((bed, client)) = ready() else { return };
    let container = launch(bed, "restart", ContainerSpec::default()).await;
    for force in [false, true] {
        let before = state(&client, &container).await.pid;
        let mut events = client.events().await.expect("events");
        let (container, name) = (&container, container.name());
        let restart = tokio::task::block_in_place(|| {
            std::thread::scope(|scope| {
                let restart =
                    scope.spawn(|| if force { container.restart_by_force() } else { container.restart() });
                let runtime = tokio::runtime::Handle::current();
                let (seen, after) = runtime.block_on(async {
                    let seen = actions_until(&mut events, &[name], "instance-restarted").await;
                    // At once, with no second try: the event promises it.
                    (seen, client.state("default", name).await.expect("an answer").expect("there"))
                });
                restart.join().expect("no panic").map(|()| (seen, after))
            })
        });
        let (seen, after) = restart.expect("restarted");
        assert_eq!(names(&seen), ["instance-restarted"]);
        assert!(after.pid.is_some() && after.pid != before, "{before:?} {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_rename_start_delete_and_create_again() {
    let Some((bed, client)) = ready() else { return };
    let mut container = launch(bed, "life", ContainerSpec::default()).await;
    let (old, uuid) = (container.name().to_owned(), container.uuid().expect("a UUID"));
    let new = format!("{old}-new");
    let mut events = client.events().await.expect("events");
    let (old_too, new_too) = (old.clone(), new.clone());
    aside(move || {
        container.stop().expect("stop");
        container.rename(&new_too).expect("rename");
        container.start().expect("start");
        container.kill().expect("kill");
        container.delete().expect("delete");
        let stopped = ContainerSpec { stopped: true, ..ContainerSpec::default() };
        bed.launch_exactly(&old_too, &stopped).expect("create")
    })
    .await;
    let seen = actions_until(&mut events, &[&old, &new], "instance-created").await;
    assert_eq!(
        names(&seen),
        [
            "instance-shutdown",
            "instance-renamed",
            "instance-started",
            "instance-stopped",
            "instance-deleted",
            "instance-created"
        ]
    );
    assert_eq!((seen[1].name.as_str(), seen[1].old_name.as_deref()), (new.as_str(), Some(old.as_str())));
    let again = client.with_uuid(&uuid).await.expect("an answer");
    assert_eq!(again, [], "a namesake is somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_init_ends_the_instance_and_a_reboot_restarts_it() {
    let Some((bed, client)) = ready() else { return };
    let container = launch(bed, "inside", ContainerSpec::default()).await;
    let name = container.name().to_owned();
    let before = state(&client, &container).await.pid;
    let mut events = client.events().await.expect("events");
    container.exec(&["reboot", "-f"]).expect("exec");
    assert_eq!(
        names(&actions_until(&mut events, &[&name], "instance-restarted").await),
        ["instance-restarted"]
    );
    assert_ne!(state(&client, &container).await.pid, before);
    container.exec(&["kill", "-TERM", "1"]).expect("exec");
    assert_eq!(
        names(&actions_until(&mut events, &[&name], "instance-shutdown").await),
        ["instance-shutdown"]
    );
    let after = state(&client, &container).await;
    assert_eq!((after.pid, after.status_code), (None, status_code::STOPPED));
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_are_told_apart() {
    let Some((bed, client)) = ready() else { return };
    let project = bed.project("blue").expect("a project");
    let mut events = client.events().await.expect("events");
    let container = launch(bed, "blue", ContainerSpec::default().in_project(project.name())).await;
    let seen = actions_until(&mut events, &[container.name()], "instance-started").await;
    assert_eq!(names(&seen), ["instance-created", "instance-started"]);
    assert!(seen.iter().all(|event| event.project == project.name()));
    assert!(client.instance(project.name(), container.name()).await.expect("answer").is_some());
    assert_eq!(client.instance("default", container.name()).await.expect("answer"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_stays_open() {
    let Some((_, client)) = ready() else { return };
    let limits =
        portway_incus::Limits { silence: Duration::from_millis(200), ..portway_incus::Limits::default() };
    let client = Client::with_limits(client.socket().to_owned(), limits);
    let mut events = client.events().await.expect("events");
    // Others' events are welcome; an error is not. Three times the silence, and its doubling.
    let quiet = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            let event: Result<Event, IncusError> = events.next().await;
            event.expect("the server answers pings");
        }
    });
    assert!(quiet.await.is_err());
}
