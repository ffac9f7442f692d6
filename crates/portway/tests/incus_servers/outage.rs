//! A server that goes, hangs, talks nonsense and comes back, again and again, under load.
//!
//! ```text
//!  load ──> 127.0.0.1:PORT ──> worker ──> the container
//!  daemon ──> socket of the test ──> the server's own
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portway_testkit::faults::{figure, is_long, scale};
use portway_testkit::{
    Addr, Container, ContainerSpec, Daemon, DaemonSpec, Front, Load, Manner, Pace, Ports, Server, Site, Talk,
    bed, bed_of, check, wait_for,
};
use tempfile::TempDir;

use crate::PORTWAY;

/// A container with a service, and a daemon that reaches its server through the front.
struct Scene {
    front: Front,
    daemon: Daemon,
    container: Container<'static>,
    host: Site,
    addr: Addr,
    _ports: Ports,
    _folder: TempDir,
}

impl Scene {
    fn start(name: &str) -> Option<Self> {
        let bed = bed()?;
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let front = Front::start(&socket, &bed.socket(), Manner::Pass).unwrap();
        let spec =
            DaemonSpec::new(PORTWAY).within(bed.netns()).env("INCUS_SOCKET", &socket.to_string_lossy());
        let daemon = spec.start().unwrap();
        let container = bed.launch(name, &ContainerSpec::booting("serve echo tcp:0.0.0.0:7")).unwrap();
        container.address(false).unwrap();
        let ports = Ports::claim(bed.netns()).unwrap();
        let host = Site::netns(bed.netns());
        let addr = format!("127.0.0.1:{}", ports.one().unwrap());
        daemon
            .add(container.name(), "web", &[&format!("listen=tcp:{addr}"), "connect=tcp:127.0.0.1:7"])
            .unwrap();
        let led = format!("listen=tcp:0.0.0.0:{}", ports.one().unwrap());
        daemon.add(container.name(), "led", &[&led, "connect=tcp:0.0.0.0:7", "nat=true"]).unwrap();
        let addr = Addr::tcp(&addr);
        let scene = Self { front, daemon, container, host, addr, _ports: ports, _folder: folder };
        wait_for("the service", || scene.serves()).unwrap();
        wait_for("the kernel to lead", || (scene.daemon.device("led").ok()?["mode"] == "nat").then_some(()))
            .unwrap();
        Some(scene)
    }

    fn serves(&self) -> Option<()> {
        check::echo(&check::dial(&self.host, &self.addr).ok()?, 10, 1).ok()
    }

    fn complains(&self) -> bool {
        let status = self.daemon.api().get("/1.0").unwrap();
        let mut providers = status["providers"].as_array().unwrap().iter();
        providers.any(|one| one["name"] == "incus" && !one["error"].is_null())
    }

    /// Our table, as the kernel has it, without what it counts.
    fn table(&self) -> String {
        let name = portway_config::Paths::below(&self.daemon.dir()).unwrap().nft_table();
        let mut nft = std::process::Command::new("nft");
        self.host.network().run(nft.args(["--stateless", "list", "table", "inet", &name])).unwrap()
    }
}

/// Whatever the server does instead of answering: no connection is lost, no rule removed, no device is anything but
/// active; it is said, and the daemon hears the server again when it is back.
///
/// Fails when: a server that does not answer is one without instances.
#[test]
fn an_outage_under_load_costs_nothing() {
    let Some(mut scene) = Scene::start("outage") else { return };
    let talk = Talk::start(&scene.host, &scene.addr, 1).unwrap();
    let load = Load::new(&scene.addr, Pace::PerSecond(200)).start(&scene.host).unwrap();
    load.wait_for_ok(50).unwrap();
    let table = scene.table();
    let (rounds, mut longest) = (scale(1, 20), Duration::ZERO);
    for _ in 0..rounds {
        for outage in 0..4 {
            match outage {
                0 => scene.front.go_away(),
                1 => scene.front.turn(Manner::Hang),
                2 => scene.front.turn(Manner::Say(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n".to_vec())),
                _ => scene.front.turn(Manner::Say(b"nonsense".to_vec())),
            }
            wait_for("a complaint", || scene.complains().then_some(())).unwrap();
            load.wait_for_ok(if is_long() { 600 } else { 100 }).unwrap();
            talk.wait_for_rounds(5).unwrap();
            for device in ["web", "led"] {
                assert_eq!(scene.daemon.device(device).unwrap()["state"], "active", "outage {outage}");
            }
            assert_eq!(scene.table(), table, "outage {outage}");
            let begin = Instant::now();
            if outage == 0 {
                scene.front.come_back().unwrap()
            } else {
                scene.front.turn(Manner::Pass)
            }
            wait_for("an answer", || (!scene.complains()).then_some(())).unwrap();
            longest = longest.max(begin.elapsed());
        }
    }
    assert_eq!(scene.table(), table);
    talk.finish().unwrap();
    let report = load.stop().unwrap();
    assert_eq!(report.failures(), 0, "{report}");
    figure("R12", "outages of the server: gone, silent, failing, talking nonsense", rounds * 4, "outages");
    figure("R12", "connections meanwhile, none lost", report.records.len(), "connections");
    figure("R12", "rules removed or devices not active", 0, "");
    figure("R12", "longest time until the server was heard again", longest.as_millis(), "ms");
}

/// A real server is killed and started again, under load: nobody notices, and its events are heard again.
///
/// Fails when: as above.
#[test]
fn a_killed_server_costs_nothing_alone_on_its_bed() {
    let Some(bed) = bed_of(Server::Incus7) else { return };
    let daemon = DaemonSpec::new(PORTWAY).on(bed).start().unwrap();
    let container = bed.launch("killed", &ContainerSpec::booting("serve echo tcp:0.0.0.0:7")).unwrap();
    let (ports, host) = (Ports::claim(bed.netns()).unwrap(), Site::netns(bed.netns()));
    let addr = format!("127.0.0.1:{}", ports.one().unwrap());
    daemon.add(container.name(), "web", &[&format!("listen=tcp:{addr}"), "connect=tcp:127.0.0.1:7"]).unwrap();
    let addr = Addr::tcp(&addr);
    let serves = || check::echo(&check::dial(&host, &addr).ok()?, 10, 1).ok();
    wait_for("the service", serves).unwrap();
    let load = Load::new(&addr, Pace::PerSecond(200)).start(&host).unwrap();
    let workers = daemon.workers();
    let rounds = scale(2, 20);
    for _ in 0..rounds {
        bed.kill_server().unwrap();
        load.wait_for_ok(100).unwrap();
        assert_eq!(daemon.workers(), workers);
    }
    let report = load.stop().unwrap();
    assert_eq!(report.failures(), 0, "{report}");
    container.restart().unwrap();
    wait_for("the service", serves).unwrap();
    daemon.wait_for_state("web", "active").unwrap();
    figure("R12", "kills of a real server", rounds, "kills");
    figure("R12", "connections meanwhile, none lost", report.records.len(), "connections");
}

/// The stream of events is cut all the time while an instance stops and starts: each time its device serves again, and
/// its end is seen, too.
///
/// Fails when: what is missed while nobody listens is not looked for.
#[test]
fn lost_events_lose_no_start_and_no_stop() {
    let Some(mut scene) = Scene::start("deaf") else { return };
    let (stopping, rounds) = (AtomicBool::new(false), scale(4, 1000));
    let (front, mut longest) = (&scene.front, Duration::ZERO);
    let cuts = std::thread::scope(|scope| {
        let cutting = scope.spawn(|| {
            let mut cuts = 0_u64;
            while !stopping.load(Ordering::SeqCst) {
                front.turn(Manner::Pass);
                cuts += 1;
                std::thread::sleep(Duration::from_millis(150));
            }
            cuts
        });
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..rounds {
                scene.container.kill().unwrap();
                scene.daemon.wait_for_state("web", "waiting").unwrap();
                scene.container.start().unwrap();
                let begin = Instant::now();
                wait_for("the service", || scene.serves()).unwrap();
                scene.daemon.wait_for_state("web", "active").unwrap();
                longest = longest.max(begin.elapsed());
            }
        }));
        stopping.store(true, Ordering::SeqCst);
        let cuts = cutting.join().unwrap();
        work.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        cuts
    });
    // And one that goes for good while nobody is told.
    let gone = std::mem::replace(
        &mut scene.container,
        bed().unwrap().launch("deaf", &ContainerSpec { stopped: true, ..ContainerSpec::default() }).unwrap(),
    );
    scene.front.turn(Manner::Pass);
    gone.delete().unwrap();
    scene.front.turn(Manner::Pass);
    scene.daemon.wait_for_state("web", "waiting").unwrap();
    scene.daemon.wait_until_tidy(0).unwrap();
    figure("R46", "stops and starts of an instance while its events were lost", rounds, "times");
    figure("R46", "cuts of all connections to the server meanwhile", cuts, "cuts");
    figure("R46", "stops or starts that were missed", 0, "");
    figure("R46", "longest time from a start to the device's service", longest.as_millis(), "ms");
}
