//! Boots: daemon, server and containers start in any order, and at once.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{ContainerSpec, DaemonSpec, Rig, Server, check, process, wait_for};

use crate::PORTWAY;
use crate::talk::{add_web, local};

/// Who starts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The server goes down and comes up while the daemon starts.
    DaemonFirst,
    Together,
    ServerFirst,
}

/// The container starts with its server (`boot.autostart`), of the daemon's former life nothing is left but its state:
/// in each order the device serves in the end, by one worker.
///
/// Fails when: a server that goes away while the daemon starts is given up, or is asked once only.
#[test]
fn all_start_in_any_order_alone_on_its_bed() {
    let mut spec = ContainerSpec::booting("serve echo tcp:0.0.0.0:80");
    spec.config.insert("boot.autostart".to_owned(), "true".to_owned());
    let Some(mut rig) = Rig::on(Server::Incus7, DaemonSpec::new(PORTWAY), "boot", &spec).unwrap() else {
        return;
    };
    let port = add_web(&rig, &[]);
    let bed = rig.bed();
    for order in [Order::DaemonFirst, Order::Together, Order::ServerFirst] {
        rig.daemon.terminate().unwrap();
        let left = rig.daemon.processes();
        for pid in &left {
            // One may have ended by itself.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let gone = || (!left.iter().any(|pid| process::is_alive(*pid))).then_some(());
        wait_for("the end of workers and keeper", gone).unwrap();
        rig.container.kill().unwrap();

        if order == Order::DaemonFirst {
            rig.daemon.spawn().unwrap();
        }
        std::thread::scope(|scope| {
            let restart = scope.spawn(|| bed.restart_server());
            if order == Order::Together {
                rig.daemon.spawn().unwrap();
            }
            restart.join().unwrap().unwrap();
        });
        if order == Order::ServerFirst {
            rig.daemon.spawn().unwrap();
        }
        let client = || check::dial(rig.host(), &local(port)).ok();
        let serves = || check::echo(&client()?, 10, 1).ok();
        wait_for(&format!("the service, {order:?}"), serves).unwrap();
        rig.daemon.wait_for_state("web", "active").unwrap();
        assert_eq!(rig.daemon.workers().len(), 1, "{order:?}");
    }
}
