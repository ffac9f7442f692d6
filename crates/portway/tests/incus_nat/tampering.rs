//! Somebody harms the table again and again while it is used.

use std::time::{Duration, Instant};

use portway_testkit::faults::{figure, scale};
use portway_testkit::{Addr, Behaviour, Load, Pace, Service, wait_for};

use crate::scene::Scene;

/// Whatever is done to the table, it is put right, and no connection is lost meanwhile: while a part is missing the
/// relay carries who comes, and who was led to a wrong place is led again.
///
/// Fails when: changes of others are not heard, or flows that were led wrongly are not forgotten.
#[test]
fn a_table_that_is_harmed_all_the_time_loses_nobody() {
    let Some(scene) = Scene::start("nattamper") else { return };
    let inside = scene.rig.inside().unwrap();
    let _echo = Service::start(&inside, &Addr::tcp("[::]:9"), Behaviour::Echo).unwrap();
    let port = scene.rig.ports.one().unwrap();
    let listen = format!("listen=tcp:0.0.0.0:{port}");
    scene.rig.add("web", &[&listen, "connect=tcp:0.0.0.0:9", "nat=true"]).unwrap();
    scene.wait_until_led("web");
    let own = scene.tables();
    let name = portway_config::Paths::below(&scene.rig.daemon.dir()).unwrap().nft_table();
    let target = Addr::tcp(&format!("{}:{port}", scene.hosts[0]));
    let load =
        Load::new(&target, Pace::PerSecond(100)).limit(Duration::from_secs(60)).start(&scene.client).unwrap();
    load.wait_for_ok(50).unwrap();
    let element = format!("tcp . {port}");
    let own_address = scene.rig.container.address(false).unwrap().to_string();
    let nobody = format!("{}.254", own_address.rsplit_once('.').unwrap().0);
    let harms = [
        format!("delete table inet {name}"),
        format!("flush table inet {name}"),
        format!("delete element inet {name} every4 {{ {element} }}"),
        format!("flush map inet {name} every4"),
        format!("flush chain inet {name} prerouting"),
        format!("flush chain inet {name} wildcard"),
        format!("insert rule inet {name} wildcard tcp dport {port} drop"),
        format!("delete set inet {name} made-by-portway-1"),
        // To an address of the instances' network that nobody has.
        format!(
            "delete element inet {name} every4 {{ {element} }}; \
             add element inet {name} every4 {{ {element} : {nobody} . 9 }}"
        ),
        format!("add chain inet {name} mine"),
    ];
    let (rounds, mut longest) = (scale(10, 200), Duration::ZERO);
    for round in 0..rounds {
        let harm = &harms[round % harms.len()];
        scene.rig.host().network().nft(harm).unwrap();
        let begin = Instant::now();
        wait_for(&format!("a repair after {harm}"), || (scene.tables() == own).then_some(())).unwrap();
        longest = longest.max(begin.elapsed());
        load.wait_for_ok(20).unwrap();
    }
    let report = load.stop().unwrap();
    assert_eq!(report.failures(), 0, "{report}");
    assert_eq!(scene.tables(), own);
    scene.wait_until_led("web");
    figure("R25", "harms to the table while it is used", rounds, "harms");
    figure("R25", "connections meanwhile, none lost", report.records.len(), "connections");
    figure("R25", "longest time until the table was right again", longest.as_millis(), "ms");
}
