//! Connections that are held, more than one process could.

use std::time::Duration;

use portway_testkit::{DaemonSpec, Netns, faults, process, wait_for};
use serde_json::json;

use crate::PORTWAY;
use crate::crew::Member;
use crate::stand::{LIMIT, namespace};

/// R1: connections held by several workers: all of them answer when they were idle for a while, and cost nothing but
/// memory meanwhile.
#[test]
fn held_connections_all_answer() {
    let Some(host) = namespace() else { return };
    let daemon = DaemonSpec::new(PORTWAY).within(&host).start().unwrap();
    // A worker has 20,000 descriptors on a machine that gives it no more, and a connection takes two.
    let (instances, each) = (faults::scale(2_u32, 12), faults::scale(500, 8_500));
    let wanted = u64::from(instances) * each;
    let insides: Vec<Netns> = (0..instances).map(|_| namespace().unwrap()).collect();
    let mut halls: Vec<Member> = insides.iter().map(|inside| Member::hall(inside, 7)).collect();
    for hall in &mut halls {
        hall.number();
    }
    let port = |instance: usize| 8100 + u16::try_from(instance).unwrap();
    for (number, inside) in insides.iter().enumerate() {
        let body = json!({ "instance": format!("netns:{}", inside.path().display()), "name": format!("d{number}"),
            "keys": { "listen": format!("tcp:127.0.0.1:{}", port(number)), "connect": "tcp:127.0.0.1:7" } });
        let answer = daemon.api().call("POST", "/1.0/devices", Some(&body), LIMIT).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let workers = wait_for("the workers", || {
        let workers = daemon.workers();
        (workers.len() == insides.len()).then_some(workers)
    })
    .unwrap();
    let memory = || workers.iter().map(|pid| process::rss_bytes(*pid).unwrap()).sum::<u64>();
    let ticks = || workers.iter().map(|pid| process::cpu_ticks(*pid).unwrap()).sum::<u64>();
    let before = memory();
    let mut clients: Vec<Member> =
        (0..insides.len()).map(|number| Member::clients(&host, port(number), each)).collect();
    let connected: u64 = clients.iter_mut().map(Member::number).sum();
    let idle = faults::scale(2, 120);
    let spent = ticks();
    std::thread::sleep(Duration::from_secs(idle));
    let spent = ticks() - spent;
    clients.iter_mut().for_each(Member::go);
    let answered: u64 = clients.iter_mut().map(Member::number).sum();
    let bytes = memory().saturating_sub(before) / wanted;
    faults::figure("R1", "connections held", connected, "");
    faults::figure("R1", "answered after they were idle", answered, "");
    faults::figure("R1", "workers", workers.len(), "");
    faults::figure("R1", "idle for", idle, "s");
    faults::figure("R1", "processor time of all workers meanwhile", spent * 10, "ms");
    faults::figure("R1", "memory of each connection", bytes, "bytes");
    assert_eq!((connected, answered), (wanted, wanted));
    assert!(bytes <= 12 << 10, "{bytes} bytes each");
    // Two of a hundred of one processor.
    assert!(spent * 10 <= (idle * 20).max(100), "{spent} ticks");
}
