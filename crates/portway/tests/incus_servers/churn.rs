//! Instances that come, get other names, go, and come again under a name there has been.

use portway_testkit::faults::{figure, scale};
use portway_testkit::{ContainerSpec, Daemon, DaemonSpec, Ports, Site, bed, process, wait_for};

use crate::PORTWAY;
use crate::talk::{heard, say_in, wait_for_reason, wait_until_heard};

/// What the daemon has open and under way.
#[derive(Debug, PartialEq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
    processes: usize,
    devices: usize,
}

impl Holdings {
    fn of(daemon: &Daemon) -> Self {
        let pid = daemon.pid().unwrap();
        Self {
            descriptors: process::fd_count(pid).unwrap(),
            threads: process::thread_count(pid).unwrap(),
            processes: daemon.processes().len(),
            devices: daemon.devices().unwrap().len(),
        }
    }
}

/// An instance is made, renamed, deleted, and made again under both names it has had: its device follows it, is nobody
/// else's, and comes by `device adopt` alone. After any number of that the daemon has open what it had before.
///
/// Fails when: what an instance had is kept under its name.
#[test]
fn who_comes_and_goes_leaves_nothing_and_inherits_nothing() {
    let Some(bed) = bed() else { return };
    let daemon = DaemonSpec::new(PORTWAY).on(bed).start().unwrap();
    let (ports, host) = (Ports::claim(bed.netns()).unwrap(), Site::netns(bed.netns()));
    let port = ports.one().unwrap();
    let listen = format!("listen=tcp:127.0.0.1:{port}");
    let keys = [&listen[..], "connect=tcp:127.0.0.1:80", "hold=0"];
    let round = |number: usize| {
        let mut first =
            bed.launch("churn", &ContainerSpec { stopped: true, ..ContainerSpec::default() }).unwrap();
        let (old, new) = (first.name().to_owned(), format!("{}-new", first.name()));
        daemon.add(&old, "web", &keys).unwrap();
        if number.is_multiple_of(2) {
            first.start().unwrap();
            let service = say_in(&first, 80, "the first");
            wait_until_heard(&host, port, "the first");
            drop(service);
            first.kill().unwrap();
        }
        first.rename(&new).unwrap();
        first.start().unwrap();
        let service = say_in(&first, 80, "renamed");
        wait_until_heard(&host, port, "renamed");
        let follows =
            || (daemon.device("web").ok()?["instance"] == format!("incus:default/{new}")).then_some(());
        wait_for("the device to follow", follows).unwrap();
        drop(service);
        first.delete().unwrap();
        for name in [&old, &new] {
            let again = bed.launch_exactly(name, &ContainerSpec::default()).unwrap();
            let _service = say_in(&again, 80, "a namesake");
            if name == &new {
                wait_for_reason(&daemon, "web", "another instance has this name");
            }
            for _ in 0..5 {
                assert_eq!(heard(&host, port), None, "{name}");
            }
            if name == &new {
                let output = daemon.cli(&["device", "adopt", name]).unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                wait_until_heard(&host, port, "a namesake");
                assert!(daemon.cli(&["device", "remove", name, "web"]).unwrap().status.success());
            }
            again.delete().unwrap();
        }
        daemon.wait_until_tidy(0).unwrap();
    };
    // The first ones open what stays open: connections to the server.
    round(0);
    round(1);
    let before = Holdings::of(&daemon);
    let rounds = scale(2, 100);
    (0..rounds).for_each(round);
    // What has a time to live goes by itself.
    let mut last = Holdings::of(&daemon);
    let same = || {
        last = Holdings::of(&daemon);
        (last.descriptors <= before.descriptors
            && last.threads <= before.threads
            && last.processes == before.processes)
            .then_some(())
    };
    assert!(wait_for("what was there before", same).is_ok(), "{last:?}, before: {before:?}");
    assert_eq!(last.devices, 0);
    figure("R10", "instances made, renamed, deleted and made again under both names", rounds, "instances");
    figure("R10", "namesakes that got something that was not theirs", 0, "instances");
    figure("R10", "descriptors, threads and processes more than before", 0, "");
}
