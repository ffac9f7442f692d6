//! Equally long datagrams in a row, which the kernel gets as one.

mod rig;

use std::net::UdpSocket;

use portway_relay::wire::field;
use rig::{PATIENCE, Rig, in_netns, open, packets};

const LISTEN: &str = "127.0.0.1:1000";
const TARGET: &str = "127.0.0.1:2000";

/// What has come to a listener at once goes on at once, as far as it is equally long, and arrives as it was sent:
/// also what is longer than a packet may be, where the kernel takes no row.
///
/// Fails when: datagrams are sent one by one, or a row that is refused is lost.
#[test]
fn what_came_together_goes_on_together_and_arrives_apart() {
    in_netns(|| {
        let status = std::process::Command::new("ip").args(["link", "set", "lo", "mtu", "1400"]).status();
        assert!(status.unwrap().success());
        let mut rig = Rig::start();
        let target = UdpSocket::bind(TARGET).unwrap();
        target.set_read_timeout(Some(PATIENCE)).unwrap();
        let device = rig::device(&format!("udp:{LISTEN}"), &format!("udp:{TARGET}"), &[]);
        let listeners = open(&device.spec);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sizes = [vec![64; 20], vec![3000; 4], vec![1300, 1300, 1300, 5], vec![64; 4]].concat();
        let datagram = |at: usize| vec![u8::try_from(at).unwrap(); sizes[at]];
        for at in 0..sizes.len() {
            client.send_to(&datagram(at), LISTEN).unwrap();
        }
        let before = packets();
        rig.put(0, &device, &listeners, None).unwrap();
        let mut got = [0; 4000];
        for at in 0..sizes.len() {
            let length = target.recv(&mut got).unwrap();
            assert_eq!(got[..length], datagram(at), "{at}");
        }
        // Three for each of the long ones and one for each of three rows, and whatever else the kernel has to say; one by
        // one they are forty.
        let sent = packets() - before;
        assert!((15..25).contains(&sent), "{sent} packets");
        assert_eq!((rig.count(0, field::OPENED), rig.count(0, field::DROPPED)), (1, 0));
    });
}
