//! The table under other people's hands: seen, put right, or said to be theirs.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod publish;

use std::process::Command;
use std::time::{Duration, Instant};

use portway_nat::{Applied, Event, Nat, NatError, TableName, Watch};
use portway_testkit::faults::{figure, scale};
use portway_testkit::{Netns, is_root};
use publish::town::PATIENCE;
use publish::{publication, want};

/// Tables of others: those of Incus' kind, a set, a map, a chain that is called as ours are.
const FOREIGN: &str = "
table inet incus {
    chain prert.c1.web { type nat hook prerouting priority -100; policy accept; \
        ip daddr 192.0.2.9 tcp dport 80 dnat ip to 10.0.0.9:80; };
    chain pstrt.br0 { type nat hook postrouting priority 100; policy accept; \
        ip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 masquerade; };
}
table ip other {
    set made-by-portway-1 { type ipv4_addr; flags interval; elements = { 10.1.0.0/16 }; }
    map m { type inet_service : verdict; elements = { 80 : accept }; }
    chain prerouting { type filter hook prerouting priority 0; policy accept; tcp dport vmap @m; counter; };
}
table inet portway_x { set s { type ipv4_addr; }; chain postrouting { ip saddr @s drop; }; }
";

fn nft(netns: &Netns, words: &str) -> String {
    netns.run(Command::new("nft").args(words.split(' '))).unwrap()
}

fn next(watch: &mut Watch) -> Option<Event> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(event) = watch.poll().unwrap() {
            return Some(event);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Everything somebody can do to the table is heard and put right by one transaction; our own changes are not
/// heard.
///
/// Fails when: a set, a chain or a rule is left out of what is compared; a change of ours is taken for
/// somebody's.
#[test]
fn what_others_do_to_the_table_is_heard_and_put_right() {
    Netns::apart(|netns| {
        let mut watch = Watch::open(TableName::default()).unwrap();
        let mut nat = Nat::open(TableName::default()).unwrap();
        watch.ignore(nat.port_id());
        let want = publish::ten_devices();
        nat.apply(&want).unwrap();
        let right = nft(netns, "-n list table inet portway");
        assert_eq!(watch.poll().unwrap(), None, "our own change");
        nft(netns, "add table ip foreign");
        assert_eq!(watch.poll().unwrap(), None, "somebody's own table");
        for damage in [
            "flush ruleset",
            "delete table inet portway",
            "flush table inet portway",
            "delete set inet portway made-by-portway-1",
            "delete element inet portway address4 { 192.0.2.1 . tcp . 80 }",
            "add element inet portway address4 { 192.0.2.7 . tcp . 80 : 10.0.0.66 . 80 }",
            "flush map inet portway every6-range-ends",
            "flush chain inet portway wildcard",
            "insert rule inet portway wildcard drop",
            "add rule inet portway prerouting counter accept",
            "add chain inet portway mine { type filter hook input priority 0; policy drop; }",
            "add set inet portway mine { type ipv4_addr; }",
        ] {
            nft(netns, damage);
            assert_eq!(next(&mut watch), Some(Event::Changed), "{damage}");
            let Applied { plan, .. } = nat.apply(&want).unwrap();
            assert!(!plan.is_empty(), "{damage}");
            assert_eq!(nft(netns, "-n list table inet portway"), right, "{damage}");
            assert!(nat.apply(&want).unwrap().plan.is_empty(), "{damage}");
            assert_eq!(watch.poll().unwrap(), None, "our own repair of: {damage}");
        }
    });
}

/// A table that somebody has put in the place of ours, without its mark, is theirs, though ours of that name was known.
///
/// Fails when: the name is enough to know the table again.
#[test]
fn a_table_in_the_place_of_ours_is_not_ours() {
    Netns::apart(|netns| {
        let mut nat = Nat::open(TableName::default()).unwrap();
        let want = publish::ten_devices();
        nat.apply(&want).unwrap();
        netns
            .nft("delete table inet portway; add table inet portway; add set inet portway s { type mark; }")
            .unwrap();
        let before = nft(netns, "-a list ruleset");
        assert!(matches!(nat.apply(&want), Err(NatError::Foreign(_))));
        assert!(matches!(nat.remove(), Err(NatError::Foreign(_))));
        assert_eq!(nft(netns, "-a list ruleset"), before);
    });
}

/// An element that somebody replaces by one to another target is put right too, and counts go on.
#[test]
fn a_replaced_element_is_put_right() {
    Netns::apart(|netns| {
        let mut nat = Nat::open(TableName::default()).unwrap();
        let want = publish::ten_devices();
        nat.apply(&want).unwrap();
        let wrong = "192.0.2.1 . tcp . 80 counter packets 7 bytes 420 : 10.0.0.66 . 80";
        nft(netns, "delete element inet portway address4 { 192.0.2.1 . tcp . 80 }");
        nft(netns, &format!("add element inet portway address4 {{ {wrong} }}"));
        let applied = nat.apply(&want).unwrap();
        assert_eq!((applied.plan.coming(), applied.plan.leaving()), (1, 1));
        assert_eq!(nat.counts(&want).unwrap()["web"].connections, 7);
        let listed = nft(netns, "list map inet portway address4");
        assert!(listed.contains("packets 7 bytes 420 : 10.0.0.2 . 8080"), "{listed}");
    });
}

/// Tables of others are the same before, while ours changes, and after it is gone.
///
/// Fails when: anything of another table or family is deleted, or the mark of another table is taken for one
/// of ours.
#[test]
fn others_tables_stay_as_they_are() {
    Netns::apart(|netns| {
        netns.nft(FOREIGN).unwrap();
        let before = nft(netns, "-a list ruleset");
        let names = [TableName::default(), TableName::new("portway_0badcafe").unwrap()];
        let mut nats = names.map(|name| Nat::open(name).unwrap());
        for nat in &mut nats {
            assert!(!nat.remove().unwrap());
            for round in 2..20 {
                let target = format!("10.0.0.{round} 80-89");
                let publications = vec![
                    publication("a", "tcp", "192.0.2.1 80-89", &target),
                    publication("b", "udp", &format!("* {round}"), "10.0.0.3 53"),
                ];
                nat.apply(&want(publications)).unwrap();
            }
            let listed = nft(netns, "-a list ruleset");
            assert!(listed.starts_with(&before), "{listed}");
        }
        // One of two goes, the other stays.
        assert!(nats[0].remove().unwrap());
        let listed = nft(netns, "list tables");
        assert!(!listed.lines().any(|line| line == "table inet portway"), "{listed}");
        assert!(listed.lines().any(|line| line == "table inet portway_0badcafe"), "{listed}");
        assert!(nats[1].remove().unwrap());
        assert_eq!(nft(netns, "-a list ruleset"), before);
    });
}

/// Ways that come and go by the thousand, beside ten that stay, leave tables of others byte for byte as they are, with
/// their handles, and nothing of their own.
///
/// Fails when: what is deleted of ours leaves something behind.
#[test]
fn many_changes_leave_nothing_and_touch_nothing() {
    Netns::apart(|netns| {
        netns.nft(FOREIGN).unwrap();
        let before = nft(netns, "-a list ruleset");
        let mut nat = Nat::open(TableName::default()).unwrap();
        let stay = publish::ten_devices();
        nat.apply(&stay).unwrap();
        // Handles of ours count on; what has none is compared.
        let right = nft(netns, "-n list table inet portway");
        let rounds = scale(300_u32, 10_000);
        for round in 0..rounds {
            let port = 1_000 + round % 200 * 10;
            let mut more = stay.clone();
            let (protocol, listen) = [
                ("tcp", format!("* {port}")),
                ("udp", format!("192.0.2.1 {port}-{}", port + 9)),
                ("tcp", format!("192.0.2.9 {port}")),
            ][round as usize % 3]
                .clone();
            let target =
                if round % 3 == 1 { format!("10.0.0.9 {port}-{}", port + 9) } else { "10.0.0.9 80".into() };
            more.publications.push(publication("passing", protocol, &listen, &target));
            nat.apply(&more).unwrap();
            nat.apply(&stay).unwrap();
            if round % 50 == 0 {
                assert_eq!(nft(netns, "-n list table inet portway"), right, "round {round}");
                assert!(nft(netns, "-a list ruleset").starts_with(&before), "round {round}");
            }
        }
        assert_eq!(nft(netns, "-n list table inet portway"), right);
        assert!(nat.remove().unwrap());
        assert_eq!(nft(netns, "-a list ruleset"), before);
        figure("R26", "ways added and removed beside tables of others", rounds, "ways");
        figure("R26", "bytes of tables of others that are not as before", 0, "bytes");
        figure("R26", "rules, elements, sets or maps of ours left", 0, "");
    });
}

/// A table of our name without our mark is left as it is, and named.
///
/// Fails when: the mark is not asked for.
#[test]
fn a_table_of_our_name_that_is_not_ours_is_left_alone() {
    Netns::apart(|netns| {
        netns
            .nft("table inet portway { chain prerouting { type nat hook prerouting priority -100; }; }")
            .unwrap();
        let before = nft(netns, "-a list ruleset");
        let mut nat = Nat::open(TableName::default()).unwrap();
        let want = publish::ten_devices();
        for error in [
            nat.apply(&want).unwrap_err(),
            nat.plan(&want).unwrap_err(),
            nat.remove().unwrap_err(),
            nat.counts(&want).unwrap_err(),
        ] {
            assert!(matches!(error, NatError::Foreign(_)), "{error:?}");
        }
        assert_eq!(nft(netns, "-a list ruleset"), before);
        nft(netns, "delete table inet portway");
        nat.apply(&want).unwrap();
    });
}

/// Changes of ours get through while somebody else changes the ruleset without a pause, and a flood of
/// announcements is one event.
///
/// Fails when: a transaction refused for its generation is an error, or lost announcements are.
#[test]
fn others_who_change_the_ruleset_all_the_time_do_not_stop_us() {
    if !is_root() {
        return;
    }
    let netns = Netns::new().unwrap();
    let mut churn = "add table ip churn\nadd chain ip churn c\n".to_owned();
    for _ in 0..3_000 {
        churn.push_str("add rule ip churn c counter accept\n");
    }
    let file = std::env::temp_dir().join(format!("portway-churn-{}", std::process::id()));
    std::fs::write(&file, churn).unwrap();
    netns
        .enter(|| {
            let mut watch = Watch::open(TableName::default()).unwrap();
            let mut nat = Nat::open(TableName::default()).unwrap();
            watch.ignore(nat.port_id());
            let mut others = netns
                .spawn(Command::new("sh").args([
                    "-c",
                    "while nft flush ruleset && nft -f $0; do :; done",
                    &file.display().to_string(),
                ]))
                .unwrap();
            let want = publish::ten_devices();
            let mut rounds = 0;
            let begun = Instant::now();
            while rounds < 8 {
                assert!(begun.elapsed() < 3 * PATIENCE, "{rounds} rounds");
                match nat.apply(&want) {
                    Ok(applied) => rounds += u32::from(!applied.plan.is_empty()),
                    Err(NatError::Contended) => {}
                    Err(error) => panic!("{error:?}"),
                }
                watch.poll().unwrap();
            }
            others.kill().unwrap();
            others.wait().unwrap();
        })
        .unwrap();
    std::fs::remove_file(file).unwrap();
}

/// More announcements than there is room for: said once, and what comes later is heard again.
///
/// Fails when: lost announcements are an error, or nothing.
#[test]
fn lost_announcements_are_said() {
    Netns::apart(|netns| {
        let mut watch = Watch::open(TableName::default()).unwrap();
        let rules =
            format!("add table ip t\nadd chain ip t c\n{}", "add rule ip t c accept\n".repeat(20_000));
        let file = std::env::temp_dir().join(format!("portway-flood-{}", std::process::id()));
        std::fs::write(&file, rules).unwrap();
        nft(netns, &format!("-f {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(watch.poll().unwrap(), Some(Event::Lost));
        assert_eq!(watch.poll().unwrap(), None);
        nft(netns, "add table inet portway");
        assert_eq!(next(&mut watch), Some(Event::Changed));
    });
}

/// Of a change that is refused as a whole, what only takes away is made: what is not wanted goes, what leads elsewhere
/// leads nowhere, and nothing comes. The rest follows by the next change, and what stays has counted on.
///
/// Fails when: something is added, something that stays is made anew, or a table of another shape keeps what has to
/// go.
#[test]
fn what_is_taken_away_brings_nothing() {
    Netns::apart(|netns| {
        let mut nat = Nat::open(TableName::default()).unwrap();
        let before = publish::ten_devices();
        nat.apply(&before).unwrap();
        let mut after = before.clone();
        after.publications.retain(|one| one.device() != "ssh");
        let web = after.publications.iter_mut().find(|one| one.device() == "web").unwrap();
        *web = publication("web", "tcp", "192.0.2.1 80", "10.0.0.9 8080");
        after.publications.push(publication("new", "tcp", "192.0.2.1 81", "10.0.0.9 81"));
        for damage in ["", "add set inet portway mine { type ipv4_addr; }"] {
            if !damage.is_empty() {
                nat.apply(&before).unwrap();
                nft(netns, damage);
            }
            nat.take_away(&after.check().unwrap()).unwrap();
            let left = nft(netns, "-n list table inet portway");
            assert!(!left.contains("10.0.0.3 . 22") && !left.contains("10.0.0.2 . 8080"), "{left}");
            assert!(!left.contains("10.0.0.9"), "{left}");
            assert!(left.contains("10.0.0.2 . 8443") && left.contains("10.0.0.4 . 53"), "{left}");
            let applied = nat.apply(&after).unwrap();
            assert_eq!(applied.plan.is_whole(), !damage.is_empty());
            assert_eq!(nft(netns, "-n list table inet portway").matches("10.0.0.9").count(), 2);
            assert!(nat.apply(&after).unwrap().plan.is_empty());
        }
    });
}

/// A block of addresses within another one, as two networks of a server may have: the outer one stands for both,
/// whichever comes first.
///
/// Fails when: both are asked of the kernel, which then refuses the whole table.
#[test]
fn a_subnet_within_another_one_is_no_obstacle() {
    Netns::apart(|netns| {
        let mut nat = Nat::open(TableName::default()).unwrap();
        let mut nested = want(vec![publication("web", "tcp", "* 80", "10.0.0.2 80")]);
        nested.subnets.extend([publish::subnet("10.0.0.0", 16), publish::subnet("10.0.7.0", 24)]);
        nested.subnets.insert(publish::subnet("fd00::", 48));
        nat.apply(&nested).unwrap();
        let table = nft(netns, "-n list table inet portway");
        assert!(table.contains("10.0.0.0/16 . 10.0.0.0/16") && !table.contains("/24"), "{table}");
        assert!(table.contains("fd00::/48 . fd00::/48") && !table.contains("fd00::/64"), "{table}");
        nested.subnets.remove(&publish::subnet("10.0.0.0", 16));
        nat.apply(&nested).unwrap();
        let table = nft(netns, "-n list table inet portway");
        assert!(table.contains("10.0.0.0/24 . 10.0.0.0/24") && table.contains("10.0.7.0/24"), "{table}");
    });
}
