//! Projects, networks, volumes, images and instances made, changed and removed, on real servers.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use portway_incus::{
    Client, Definition, Device, Image, ImageProtocol, IncusError, InstanceKind, InstanceSource, Keys, Listed,
    NewInstance, Refusal, RemoteImage, ResourceId, Result, Shelf, StateChange, status_code,
};
use portway_testkit::{Bed, OciImage, Server, bed_of, is_root};

/// Bounds a test that has stalled.
const LIMIT: Duration = Duration::from_secs(120);

mod incus6 {
    use super::Server::Incus6;

    #[test]
    fn what_stands_beside_instances() {
        super::what_stands_beside_instances(Incus6);
    }
    #[test]
    fn an_instance_from_its_start_to_its_end() {
        super::an_instance_from_its_start_to_its_end(Incus6);
    }
    #[test]
    fn a_stop_that_is_not_heard_ends_by_force() {
        super::a_stop_that_is_not_heard_ends_by_force(Incus6);
    }
    #[test]
    fn images_have_names() {
        super::images_have_names(Incus6);
    }
    #[test]
    fn what_is_begun_is_ended() {
        super::what_is_begun_is_ended(Incus6);
    }
}

mod incus7 {
    use super::Server::Incus7;

    #[test]
    fn what_stands_beside_instances() {
        super::what_stands_beside_instances(Incus7);
    }
    #[test]
    fn an_instance_from_its_start_to_its_end() {
        super::an_instance_from_its_start_to_its_end(Incus7);
    }
    #[test]
    fn a_stop_that_is_not_heard_ends_by_force() {
        super::a_stop_that_is_not_heard_ends_by_force(Incus7);
    }
    #[test]
    fn images_have_names() {
        super::images_have_names(Incus7);
    }
    #[test]
    fn what_is_begun_is_ended() {
        super::what_is_begun_is_ended(Incus7);
    }
}

mod lxd {
    use super::Server::Lxd;

    #[test]
    fn what_is_begun_is_ended() {
        super::what_is_begun_is_ended(Lxd);
    }
}

fn keys(of: &[(&str, &str)]) -> Keys {
    of.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn refusal<T>(done: Result<T>) -> Option<Refusal> {
    done.err().and_then(|error| error.refusal())
}

/// A project and a network of a test's own; gone on drop with all that is in them.
struct Scene {
    bed: &'static Bed,
    client: Client,
    project: String,
    network: String,
    subnet: [u8; 3],
}

impl Scene {
    fn open(server: Server) -> Option<Self> {
        let bed = if is_root() { bed_of(server)? } else { return None };
        let pid = std::process::id().to_be_bytes();
        let [_, _, high, low] = pid;
        let scene = Self {
            bed,
            client: Client::new(bed.socket()),
            project: format!("resources-{}", std::process::id()),
            network: format!("rs{}", std::process::id()),
            subnet: [10, 128 + high % 64, low],
        };
        run(scene.make()).expect("a project and a network");
        Some(scene)
    }

    async fn make(&self) -> Result<()> {
        let features = keys(&[("features.images", "false"), ("features.networks", "false")]);
        self.client.create(&self.project_id(), "a test's", &features).await?;
        let address = format!("{}/24", self.address(1));
        let network = keys(&[
            ("ipv4.address", &address),
            ("ipv4.nat", "true"),
            ("ipv6.address", "none"),
            ("user.a", "b"),
        ]);
        self.client.create(&self.network_id(), "", &network).await
    }

    fn address(&self, host: u8) -> IpAddr {
        let [a, b, c] = self.subnet;
        IpAddr::from([a, b, c, host])
    }

    fn project_id(&self) -> ResourceId {
        ResourceId::Project { name: self.project.clone() }
    }

    fn network_id(&self) -> ResourceId {
        ResourceId::Network { project: self.project.clone(), name: self.network.clone() }
    }

    fn volume_id(&self, name: &str) -> ResourceId {
        ResourceId::Volume { project: self.project.clone(), pool: "default".into(), name: name.into() }
    }

    /// One with an address in the network.
    fn instance(&self, name: &str) -> NewInstance {
        let address = self.address(9).to_string();
        let device = |of: &[(&str, &str)]| -> Device { keys(of) };
        let root = device(&[("type", "disk"), ("pool", "default"), ("path", "/")]);
        let nic = device(&[
            ("type", "nic"),
            ("name", "eth0"),
            ("network", &self.network),
            ("ipv4.address", &address),
        ]);
        NewInstance {
            name: name.to_owned(),
            kind: InstanceKind::Container,
            is_ephemeral: false,
            source: InstanceSource::Alias("bb".to_owned()),
            description: "made by a test".to_owned(),
            config: keys(&[("user.label", "one")]),
            devices: [("root".to_owned(), root), ("eth0".to_owned(), nic)].into(),
            profiles: None,
        }
    }

    async fn make_instance(&self, new: &NewInstance) -> Result<()> {
        let making = self.client.create_instance(&self.project, new).await?;
        self.client.finish(&making, Some(LIMIT), |_| ()).await.map(drop)
    }

    async fn created(&self, new: &NewInstance) {
        self.make_instance(new).await.expect("it is made");
    }

    async fn change(&self, name: &str, change: StateChange) -> Result<()> {
        let changing = self.client.change_state(&self.project, name, change).await?;
        self.client.finish(&changing, Some(LIMIT), |_| ()).await.map(drop)
    }

    async fn one(&self) -> Listed {
        let mut listed = self.client.measure(&self.project).await.expect("a list");
        assert_eq!(listed.len(), 1);
        listed.remove(0)
    }
}

impl Drop for Scene {
    /// By other means than those under test.
    fn drop(&mut self) {
        let (incus, project) = (self.bed.incus(), &self.project);
        let listed = incus.get(&format!("/1.0/instances?project={project}")).unwrap_or_default();
        for path in listed.as_array().into_iter().flatten().filter_map(|path| path.as_str()) {
            let name = path.split('?').next().and_then(|path| path.rsplit('/').next());
            drop(name.map(|name| self.bed.take(project, name)));
        }
        for target in [
            format!("/1.0/storage-pools/default/volumes/custom/data?project={project}"),
            format!("/1.0/networks/{}", self.network),
            format!("/1.0/projects/{project}"),
        ] {
            let _ = incus.change("DELETE", &target, None);
        }
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let limited = async { tokio::time::timeout(LIMIT, work).await.expect("it does not stall") };
    runtime.expect("a runtime").block_on(limited)
}

/// Fails when a project is changed by `PATCH` (its features go), or a version is not sent.
fn what_stands_beside_instances(server: Server) {
    let Some(scene) = Scene::open(server) else { return };
    let client = &scene.client;
    run(async {
        for id in [scene.project_id(), scene.network_id()] {
            assert_eq!(refusal(client.create(&id, "", &Keys::new()).await), Some(Refusal::Exists), "{id}");
            let read = client.resource(&id).await.expect("an answer").expect("there");
            let mut changed = read.clone();
            changed.config.insert("user.x".to_owned(), "1".to_owned());
            client.put(&changed).await.expect("it is put back");
            let again = client.resource(&id).await.expect("an answer").expect("there");
            assert_eq!(again.config, changed.config, "all keys and no other");
            let late = client.put(&read).await.expect_err("it was changed since");
            assert!(late.is_outdated() && late.refusal() == Some(Refusal::Outdated), "{late}");
        }
        let volume = scene.volume_id("data");
        let shifted = keys(&[("security.shifted", "true")]);
        client.create(&volume, "of a test", &shifted).await.expect("a volume");
        assert_eq!(refusal(client.create(&volume, "", &shifted).await), Some(Refusal::Exists));
        let listed = async |shelf: Shelf| {
            let all = client.resources(&shelf).await.expect("a list");
            all.into_iter().map(|one| one.id).collect::<Vec<_>>()
        };
        assert!(listed(Shelf::Projects).await.contains(&scene.project_id()));
        let project = scene.project.clone();
        assert!(listed(Shelf::Networks { project: project.clone() }).await.contains(&scene.network_id()));
        let shelf = |pool: &str| Shelf::Volumes { project: project.clone(), pool: pool.to_owned() };
        assert_eq!(listed(shelf("default")).await, std::slice::from_ref(&volume));
        assert_eq!(listed(shelf("no-such-pool")).await, []);
        assert!(client.pools().await.expect("pools").iter().any(|pool| pool.name == "default"));
        assert_eq!(refusal(client.remove(&scene.project_id()).await), Some(Refusal::InUse));
        for id in [volume, scene.network_id(), scene.project_id()] {
            assert_eq!(client.remove(&id).await.expect("an answer"), Some(()), "{id}");
            assert_eq!(client.remove(&id).await.expect("an answer"), None, "{id}");
            assert_eq!(client.resource(&id).await.expect("an answer"), None, "{id}");
        }
        assert_eq!(client.list(&scene.project).await.expect("an answer"), [], "no such project");
    });
}

/// Fails when a server calls a change of a network off in the middle because whoever has asked for it has gone: it is listed
/// then, and half made or half removed.
fn what_is_begun_is_ended(server: Server) {
    let Some(scene) = Scene::open(server) else { return };
    let (client, id) = (&scene.client, scene.network_id());
    run(async {
        let read = client.resource(&id).await.expect("an answer").expect("there");
        let config: Keys = read.config.into_iter().filter(|(key, _)| !key.starts_with("volatile.")).collect();
        let until = async |is_so: fn(Option<bool>) -> bool| loop {
            let there = client.resource(&id).await.expect("an answer");
            if is_so(there.map(|there| there.is_half)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for _ in 0..3 {
            // A removal takes 0.2 s, and making one 0.5 s.
            let gone = tokio::time::timeout(Duration::from_millis(50), client.remove(&id)).await;
            assert!(gone.is_err(), "nobody waits for it: {gone:?}");
            until(|is_half| is_half.is_none()).await;
            let made = tokio::time::timeout(Duration::from_millis(50), client.create(&id, "", &config)).await;
            assert!(made.is_err(), "nobody waits for it: {made:?}");
            until(|is_half| is_half == Some(false)).await;
        }
    });
}

/// Fails when a refusal that comes with the operation is not told from one that comes with the answer.
fn an_instance_from_its_start_to_its_end(server: Server) {
    let Some(scene) = Scene::open(server) else { return };
    let (client, project) = (&scene.client, scene.project.as_str());
    // Not one that an instance of another test has.
    let name = format!("web-{}", std::process::id());
    let name = name.as_str();
    run(async {
        client.create(&scene.volume_id("data"), "", &Keys::new()).await.expect("a volume");
        let mut new = scene.instance(name);
        let disk = keys(&[("type", "disk"), ("pool", "default"), ("source", "data"), ("path", "/data")]);
        new.devices.insert("data".to_owned(), disk);
        scene.created(&new).await;
        assert_eq!(refusal(scene.make_instance(&new).await), Some(Refusal::Exists));
        let stopped = scene.one().await;
        assert_eq!((stopped.status_code, stopped.definition.name.as_str()), (status_code::STOPPED, name));
        assert_eq!(stopped.definition.devices().len(), 3);

        scene.change(name, StateChange::Start).await.expect("it starts");
        assert_eq!(refusal(scene.change(name, StateChange::Start).await), Some(Refusal::State));
        client.set_keys(project, name, &keys(&[("user.more", "two")])).await.expect("a key");
        let running = loop {
            let listed = scene.one().await;
            let has_address = |of: &portway_incus::Measured| {
                of.interfaces.get("eth0").is_some_and(|nic| nic.addresses.contains(&scene.address(9)))
            };
            if listed.measured.as_ref().is_some_and(has_address) {
                break listed;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(running.status_code, status_code::RUNNING);
        let own = |of: &Definition, key: &str| of.config(key).map(str::to_owned);
        assert_eq!(own(&running.definition, "user.label").as_deref(), Some("one"), "it stays");
        assert_eq!(own(&running.definition, "user.more").as_deref(), Some("two"));
        let measured = running.measured.expect("measured");
        assert!(measured.pid.is_some() && measured.processes > 0, "{measured:?}");
        // The bed of the other one hides the control groups from it.
        let counts = measured.memory_bytes > 0 && !measured.cpu.is_zero();
        assert!(counts || server == Server::Incus7, "{measured:?}");

        for id in [scene.volume_id("data"), scene.network_id(), scene.project_id()] {
            assert_eq!(refusal(client.remove(&id).await), Some(Refusal::InUse), "{id}");
        }
        assert_eq!(refusal(client.remove_instance(project, name).await), Some(Refusal::State));
        // A namesake of another project in the same network.
        let namesake = scene.bed.project("resources").expect("a project");
        let mut other = scene.instance(name);
        other.devices.get_mut("eth0").and_then(|nic| nic.remove("ipv4.address"));
        let making = client.create_instance(namesake.name(), &other).await.expect("it begins");
        client.finish(&making, Some(LIMIT), |_| ()).await.expect("it is made");
        let taken = scene.bed.take(namesake.name(), name);
        let starting =
            client.change_state(namesake.name(), name, StateChange::Start).await.expect("it begins");
        let refused = client.finish(&starting, Some(LIMIT), |_| ()).await;
        assert_eq!(refusal(refused), Some(Refusal::NameOnNetwork));
        drop((taken, namesake));

        scene.change(name, StateChange::Kill).await.expect("it stops");
        let removing = client.remove_instance(project, name).await.expect("an answer").expect("there");
        client.finish(&removing, Some(LIMIT), |_| ()).await.expect("it is deleted");
        assert!(client.remove_instance(project, name).await.expect("an answer").is_none());
        assert_eq!(refusal(scene.change(name, StateChange::Start).await), Some(Refusal::Absent));
    });
}

/// What Incus is known for: a stop that has run out of time goes on. Fails when a limit of ours passes for an end.
fn a_stop_that_is_not_heard_ends_by_force(server: Server) {
    let Some(scene) = Scene::open(server) else { return };
    let name = format!("deaf-{}", std::process::id());
    let name = name.as_str();
    run(async {
        let mut new = scene.instance(name);
        new.config.extend(keys(&[("raw.lxc", "lxc.init.cmd = /bin/sleep 100000")]));
        scene.created(&new).await;
        scene.change(name, StateChange::Start).await.expect("it starts");
        scene
            .change(name, StateChange::Freeze)
            .await
            .map_or_else(|error| assert_eq!(server, Server::Incus7, "{error}"), |()| ());
        let _ = scene.change(name, StateChange::Unfreeze).await;
        let stop = StateChange::Stop { grace: Duration::from_secs(100) };
        let stopping = scene.client.change_state(&scene.project, name, stop).await.expect("it begins");
        let left = scene.client.finish(&stopping, Some(Duration::from_secs(1)), |_| ()).await;
        assert!(matches!(left, Err(IncusError::TimedOut { .. })), "{left:?}");
        let busy = scene.client.set_keys(&scene.project, name, &keys(&[("user.a", "b")])).await;
        assert_eq!(refusal(busy), Some(Refusal::Busy));
        assert!(scene.client.cancel(&stopping).await.is_err(), "a stop cannot be cancelled");
        scene.change(name, StateChange::Kill).await.expect("it is killed");
        assert_eq!(scene.one().await.status_code, status_code::STOPPED);
    });
}

/// With a registry where the server can ask one. Fails when a name is not taken from the image that had it.
fn images_have_names(server: Server) {
    let Some(scene) = Scene::open(server) else { return };
    let (client, project) = (&scene.client, scene.project.as_str());
    run(async {
        let image =
            async |name: &str| -> Option<Image> { client.image(project, name).await.expect("an answer") };
        let native = image("bb").await.expect("the bed's");
        assert!(native.aliases.contains(&"bb".to_owned()) && native.size_bytes > 0, "{native:?}");
        assert_eq!(image(&native.fingerprint[..20]).await.as_ref(), Some(&native));
        for none in ["no-such-image", "../instances", "ffffffffffff", "", ".."] {
            assert_eq!(image(none).await, None, "{none}");
        }
        assert!(client.images(project).await.expect("a list").contains(&native));
        let away = RemoteImage::new(ImageProtocol::Simplestreams, "https://localhost:9", "debian/13");
        let refused = match client.pull(project, &away, &[]).await {
            Ok(pulling) => client.finish(&pulling, Some(LIMIT), |_| ()).await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(refusal(refused), Some(Refusal::Other), "nobody is there");
        if server != Server::Incus7 {
            return;
        }
        let oci = OciImage { user: "0:0", entrypoint: &["/bin/sleep", "1000"], ..OciImage::default() };
        let registry = scene.bed.registry().expect("a registry");
        registry.push(scene.bed, "app:latest", &oci).expect("an image");
        let away = RemoteImage::new(ImageProtocol::Oci, &registry.server(), "app:latest");
        let alias = format!("app-{project}");
        let pulling = client.pull(project, &away, &[&alias]).await.expect("it begins");
        let left = client.finish(&pulling, Some(LIMIT), |_| ()).await.expect("it is fetched");
        let fetched = image(&alias).await.expect("it is there");
        assert_eq!(left["fingerprint"], fetched.fingerprint.as_str());
        assert_eq!(fetched.source.as_ref(), Some(&away));
        assert_eq!(fetched.properties.get("type").map(String::as_str), Some("oci"), "{fetched:?}");
        client.name_image(project, &alias, &native.fingerprint).await.expect("it is renamed");
        assert_eq!(image(&alias).await.expect("it is there").fingerprint, native.fingerprint);
        client.name_image(project, &alias, &fetched.fingerprint).await.expect("it is renamed");
        assert_eq!(client.remove_image(project, &fetched.fingerprint).await.expect("an answer"), Some(()));
        assert_eq!(client.remove_image(project, &fetched.fingerprint).await.expect("an answer"), None);
    });
}
