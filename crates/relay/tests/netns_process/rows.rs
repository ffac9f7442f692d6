//! Equally long replies in a row, which the kernel gets as one.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;

use portway_relay::wire::field;
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{PATIENCE, Rig, in_netns, packets, until};
use crate::start;

const LISTEN: &str = "127.0.0.1:1000";
const TARGET: &str = "127.0.0.1:2000";

/// Runs `act` while the worker stands still.
fn while_stopped(rig: &Rig, act: impl FnOnce()) {
    let pid = Pid::from_raw(rig.pid).unwrap();
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", rig.pid)).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    };
    kill_process(pid, Signal::STOP).unwrap();
    until("it stands still", is_stopped);
    act();
    kill_process(pid, Signal::CONT).unwrap();
}

/// What has come from a target at once goes back at once, as far as it is equally long, and arrives as it was sent: also what
/// is longer than a packet may be, where the kernel takes no row.
///
/// Fails when: replies are sent one by one, or a row that is refused is lost or not sent.
pub(crate) fn replies_that_came_together_go_back_together() {
    in_netns(|| {
        let status = Command::new("ip").args(["link", "set", "lo", "mtu", "1400"]).status();
        assert!(status.unwrap().success());
        let mut rig = start();
        let target = UdpSocket::bind(TARGET).unwrap();
        target.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.add(0, &format!("udp:{LISTEN}"), &format!("udp:{TARGET}"), &[]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = [0; 4000];
        client.send_to(b"question", LISTEN).unwrap();
        let (_, flow) = target.recv_from(&mut got).unwrap();
        let sizes = [vec![64; 20], vec![3000; 4], vec![1300, 1300, 1300, 5], vec![64; 4]].concat();
        let datagram = |at: usize| vec![u8::try_from(at).unwrap(); sizes[at]];
        for _ in 0..2 {
            let mut before = 0;
            while_stopped(&rig, || {
                for at in 0..sizes.len() {
                    target.send_to(&datagram(at), flow).unwrap();
                }
                before = packets();
            });
            for at in 0..sizes.len() {
                let length = client.recv(&mut got).unwrap();
                assert_eq!(got[..length], datagram(at), "{at}");
            }
            // Three for each of the long ones and one for each of three rows, and whatever else the kernel has to say; one
            // by one they are forty.
            let sent = packets() - before;
            assert!((15..25).contains(&sent), "{sent} packets");
        }
        assert_eq!((rig.count(0, field::OPENED), rig.count(0, field::DROPPED)), (1, 0));
    });
}
