//! An instance is deleted, and its name and its address are given to others, while its clients keep asking.
//!
//! ```text
//!            ┌─ relay ─ tcp ─┐
//!  clients ──┼─ kernel ─ tcp ┼──> c1, deleted
//!            └─ kernel ─ udp ┘    another c1, and c2 with the address of the first: neither hears a byte
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portway_testkit::faults::{figure, scale};
use portway_testkit::{ContainerSpec, Server, Site, wait_for};

use crate::scene::{INSIDE, Scene};

/// What everybody sends.
const WORD: &[u8] = b"for the first one alone";

/// Tries of each client after the others are there.
const TRIES: u64 = 15;

/// Takes all that comes to the service's port, and counts it. It lives as long as its instance.
fn count(site: &Site) -> Arc<AtomicU64> {
    let heard = Arc::new(AtomicU64::new(0));
    let listener = site.run(|| TcpListener::bind(("::", INSIDE))).unwrap().unwrap();
    let bytes = Arc::clone(&heard);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            let mut buffer = [0; 64];
            // A connection without bytes is one, too.
            let length = stream.read(&mut buffer).unwrap_or(0).max(1);
            bytes.fetch_add(length as u64, Ordering::SeqCst);
            let _ = stream.write_all(b"heard");
        }
    });
    let socket = site.run(|| UdpSocket::bind(("::", INSIDE))).unwrap().unwrap();
    let bytes = Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            bytes.fetch_add(length as u64, Ordering::SeqCst);
            let _ = socket.send_to(b"heard", from);
        }
    });
    heard
}

/// One try of a client; whether it was answered.
fn ask_tcp(site: &Site, target: SocketAddr) -> bool {
    let limit = Duration::from_millis(200);
    let Ok(mut stream) = site.run(|| TcpStream::connect_timeout(&target, limit)).unwrap() else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(limit));
    let _ = stream.write_all(WORD);
    stream.read(&mut [0; 8]).is_ok_and(|length| length > 0)
}

/// Clients that never give up.
struct Clients {
    stopping: Arc<AtomicBool>,
    tries: [Arc<AtomicU64>; 3],
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(site: &Site, [relay, led]: [SocketAddr; 2]) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let tries: [Arc<AtomicU64>; 3] = Default::default();
        // One socket for all its life: the kernel goes on leading what it has led.
        let socket = site.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let tcp = |target| {
            let site = site.clone();
            Box::new(move || _ = ask_tcp(&site, target)) as Box<dyn Fn() + Send>
        };
        let udp = Box::new(move || {
            let _ = socket.send_to(WORD, led);
            let _ = socket.recv(&mut [0; 8]);
        });
        let works: [Box<dyn Fn() + Send>; 3] = [tcp(relay), tcp(led), udp];
        let threads = works.into_iter().zip(&tries).map(|(work, tries)| {
            let (stopping, tries) = (Arc::clone(&stopping), Arc::clone(tries));
            std::thread::spawn(move || {
                while !stopping.load(Ordering::SeqCst) {
                    work();
                    tries.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        });
        let threads = threads.collect();
        Self { stopping, tries, threads }
    }

    /// Waits until each has tried so often.
    fn wait(&self, more: u64) {
        let goals = self.tries.each_ref().map(|tries| tries.load(Ordering::SeqCst) + more);
        let reached =
            || self.tries.iter().zip(goals).all(|(tries, goal)| tries.load(Ordering::SeqCst) >= goal);
        wait_for("tries of clients", || reached().then_some(())).unwrap();
    }

    fn stop(self) -> u64 {
        self.stopping.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.tries.iter().map(|tries| tries.load(Ordering::SeqCst)).sum()
    }
}

/// Neither the next owner of the name nor the next owner of the address hears a byte of the first one's clients, by the
/// relay or by the kernel, until a device is adopted or added for them.
///
/// Fails when: what is known of an instance is kept under its name, or the kernel's way to its address stays.
#[test]
fn who_gets_a_name_or_an_address_gets_no_clients() {
    let (rounds, mut tries) = (scale(1, 20), 0);
    for _ in 0..rounds {
        let Some(asked) = given_to_others() else { return };
        tries += asked;
    }
    figure("R10", "deleted instances whose name and address others got", rounds, "instances");
    figure("R10", "tries of clients meanwhile, tcp and udp", tries, "tries");
    figure("R10", "bytes that came to the wrong instance", 0, "bytes");
}

fn given_to_others() -> Option<u64> {
    let mut scene = Scene::made_as(Server::Incus6, "natreuse", &ContainerSpec::default())?;
    let bed = scene.rig.bed();
    let address = scene.rig.container.address(false).unwrap();
    let port = scene.rig.ports.one().unwrap();
    let led = ["tcp", "udp"].map(|protocol| scene.publish(protocol, protocol, port))[0];
    let relayed = scene.rig.ports.one().unwrap();
    let keys =
        [format!("listen=tcp:0.0.0.0:{relayed}"), format!("connect=tcp:127.0.0.1:{INSIDE}"), "hold=0".into()];
    scene.rig.add("relay", &keys.each_ref().map(String::as_str)).unwrap();
    let relay = SocketAddr::new(scene.hosts[0], relayed);
    let first = count(&scene.rig.inside().unwrap());
    let clients = Clients::start(&scene.client, [relay, led]);
    wait_for("the first to be heard", || (first.load(Ordering::SeqCst) > 200).then_some(())).unwrap();

    let name = scene.rig.container.name().to_owned();
    let stopped = ContainerSpec { stopped: true, ..ContainerSpec::default() };
    let placeholder = bed.launch("placeholder", &stopped).unwrap();
    std::mem::replace(&mut scene.rig.container, placeholder).delete().unwrap();
    let nic = [("type", "nic"), ("network", "br0"), ("name", "eth0"), ("ipv4.address", &address.to_string())]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let spec =
        ContainerSpec { devices: [("eth0".to_owned(), nic.into())].into(), ..ContainerSpec::default() };
    let heir = bed.launch("natheir", &spec).unwrap();
    assert_eq!(heir.address(false).unwrap(), address, "the heir has the address");
    let of_heir = count(&heir.site().unwrap());
    let namesake = bed.launch_exactly(&name, &ContainerSpec::default()).unwrap();
    let of_namesake = count(&namesake.site().unwrap());
    namesake.address(false).unwrap();
    clients.wait(TRIES);
    assert_eq!(of_heir.load(Ordering::SeqCst), 0, "bytes to the heir of the address");
    assert_eq!(of_namesake.load(Ordering::SeqCst), 0, "bytes to the heir of the name");

    // Both hear what is for them: by their own addresses, and by a device that is theirs.
    let own = |ip: IpAddr| ask_tcp(scene.rig.host(), SocketAddr::new(ip, INSIDE));
    scene.forget_neighbour(address);
    wait_for("the heir's own client", || own(address).then_some(())).unwrap();
    assert_eq!(of_heir.load(Ordering::SeqCst), WORD.len() as u64);
    let adopted = scene.rig.daemon.cli(&["device", "adopt", &name]).unwrap();
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    wait_for("the adopted", || (of_namesake.load(Ordering::SeqCst) > 200).then_some(())).unwrap();
    let asked = clients.stop();
    assert_eq!(of_heir.load(Ordering::SeqCst), WORD.len() as u64, "bytes to the heir of the address");
    for device in ["relay", "tcp", "udp"] {
        assert!(scene.rig.daemon.cli(&["device", "remove", &name, device]).unwrap().status.success());
    }
    Some(asked)
}
