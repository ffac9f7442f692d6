//! Tunnels that run: engine K as an ordinary user, against wireguard-go and against each other, over a cable between two
//! namespaces.
//!
//! This binary is its own test harness, because its `main` is also the node's and its stack's: the stack is the running
//! program started again.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test program of its own")]

mod bad;
mod bed;
mod engines;
mod figures;
mod flood;
mod keys;
mod node;
mod onetun;
mod peers;
mod pressure;
mod proxy;
mod script;
mod shim;
mod sources;
mod ways;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use bed::{Bed, Node};
use portway_testkit::{Netns, Pattern, is_root};

/// Tests by name.
const TESTS: &[(&str, fn())] = &[
    ("wireguard_go_over_tun", || with_wireguard_go("tun")),
    ("wireguard_go_over_veth", || with_wireguard_go("veth")),
    ("two_of_ours", two_of_ours),
    ("keys_change_under_load", keys_change_under_load),
    ("peers_roam", || engines::both_ways(peers_roam)),
    ("answers_leave_from_where_it_was_asked", || {
        engines::both_ways(sources::answers_leave_from_where_it_was_asked);
    }),
    ("an_address_is_gone", || engines::both_ways(sources::an_address_is_gone)),
    ("prefixes_move_while_it_runs", prefixes_move_while_it_runs),
    ("prefixes_of_two_peers", || engines::both_ways(peers::prefixes_of_two_peers)),
    ("peers_come_and_go", || engines::both_ways(peers::peers_come_and_go)),
    ("sockets_of_the_inside_are_used_outside", sockets_of_the_inside_are_used_outside),
    ("ports_are_free_again_soon", ports_are_free_again_soon),
    ("a_cable_that_takes_less", a_cable_that_takes_less),
    ("rows_can_be_turned_off", rows_can_be_turned_off),
    ("what_cannot_be_is_said", what_cannot_be_is_said),
    ("wireguard_go_with_smoltcp", engines::bulk),
    ("smoltcp_is_confined", engines::confined),
    ("half_closes", || engines::both(engines::half_closes)),
    ("the_server_ends_first", || engines::both(engines::server_first)),
    ("resets", || engines::both(engines::resets)),
    ("slow_readers", || engines::both(engines::slow_readers)),
    ("a_thousand_connections", || engines::both(engines::a_thousand)),
    ("refused_and_unanswered", || engines::both(engines::refused)),
    ("datagrams_of_every_length", || engines::both(engines::datagrams)),
    ("ports_are_taken_once", || engines::both(engines::ports)),
    ("to_oneself", || engines::both(engines::to_oneself)),
    ("flows_give_way", engines::flows_give_way),
    ("engines_talk_to_each_other", engines::to_each_other),
    ("a_narrow_way_that_says_so", || ways::narrow(ways::Router::Says)),
    ("a_narrow_way_that_says_nothing", || ways::narrow(ways::Router::IsSilent)),
    ("a_way_becomes_narrow", ways::becomes_narrow),
    ("an_address_is_translated_anew", ways::translated_anew),
    ("keys_of_both_at_once", pressure::keys_of_both_at_once),
    ("keys_change_with_wireguard_go", keys::under_load),
    ("chains_of_a_thousand", || engines::both_ways(flood::chains_of_a_thousand)),
    ("calls_that_are_none", || engines::both_ways(flood::calls_that_are_none)),
    ("many_calls", || engines::both_ways(flood::many_calls)),
    ("very_late", || engines::both_ways(flood::very_late)),
    ("everything_comes_twice", pressure::everything_comes_twice),
    ("strangers_knock", pressure::strangers_knock),
    ("rows_are_refused_later", pressure::rows_are_refused_later),
    ("a_bad_day", bad::a_bad_day),
    ("a_lost_window", bad::a_lost_window),
    ("what_was_done_is_done_again", bad::what_was_done_is_done_again),
];

/// What is measured, or takes minutes, when it is asked for: `--ignored`.
const FIGURES: &[(&str, fn())] = &[
    ("figures_of_engines", figures::engines),
    ("figures_of_connections", figures::connections),
    ("keys_change_by_themselves", keys::by_themselves),
    ("onetun_is_a_peer", || engines::both_ways(onetun::is_a_peer)),
    ("a_million_calls", || engines::both_ways(flood::a_million_calls)),
];

/// What cargo-nextest and `cargo test` ask of a harness: a list, one test by its exact name, or all that contain a word.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((role, _)) if role == portway_mesh::engine::ROLE => return portway_mesh::engine::run(),
        Some((role, words)) if role == node::ROLE => return node::run(words),
        Some((role, words)) if role == proxy::ROLE => return proxy::run(words),
        Some((role, _)) if role == "worker" => return portway_relay::worker::run(),
        _ => {}
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // The value of `--format` is no test's name.
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-') && *word != "terse" && *word != "pretty")
        .collect();
    let wanted = |name: &str| {
        words.is_empty()
            || words.iter().any(|word| if has("--exact") { name == *word } else { name.contains(*word) })
    };
    let (tests, more) = if has("--ignored") { (FIGURES, &[][..]) } else { (TESTS, proxy::TESTS) };
    for (name, test) in tests.iter().chain(more).filter(|(name, _)| wanted(name)) {
        if has("--list") {
            println!("{name}: test");
        } else if is_root() {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

/// Both ways, in both families.
const ADDRESSES: [(&str, &str); 2] = [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")];

fn ping(from: &Netns, to: &str) {
    from.run(Command::new("ping").args(["-c", "3", "-i", "0.1", "-W", "5", to])).unwrap();
}

/// Carries `length` bytes from one namespace to an address in another, and compares them.
fn carry(from: &Netns, to: &Netns, address: &str, length: u64) -> Duration {
    let address = SocketAddr::new(address.parse().unwrap(), 0);
    let listener = to.enter(|| TcpListener::bind(address)).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stream = from.enter(|| TcpStream::connect(address)).unwrap().unwrap();
            Pattern::new(length).write(length, &stream).unwrap();
        });
        let (stream, _) = listener.accept().unwrap();
        Pattern::new(length).check_to_end(length, &stream).unwrap();
    });
    begin.elapsed()
}

/// A kibibyte less than makes whole packets.
const BULK_BYTES: u64 = (64 << 20) - 1023;

/// Ping and bulk, both ways, IPv4 and IPv6, against the real thing.
///
/// Fails when: a checksum or a length is wrong anywhere, the handshake is not understood, or packets are moved one by one.
fn with_wireguard_go(way: &str) {
    let bed = Bed::new();
    let peer = bed.wireguard_go();
    let mut node = Node::start(&bed.place(), way);
    assert_eq!(node.way.to_lowercase(), way);
    for (ours, theirs) in ADDRESSES {
        ping(&node.stack, theirs);
        ping(&peer.netns, ours);
        let out = carry(&node.stack, &peer.netns, theirs, BULK_BYTES);
        let back = carry(&peer.netns, &node.stack, ours, BULK_BYTES);
        println!("{BULK_BYTES} bytes to {theirs} in {out:?}, back in {back:?}");
    }
    let [frames_out, messages_out, rows_out, rows_in, messages_in, frames_in, refused] = node.totals();
    println!("out: {frames_out} frames, {messages_out} messages, {rows_out} rows, {refused} refused");
    println!("in: {rows_in} rows, {messages_in} messages, {frames_in} frames");
    println!("dropped: {}; lost between stack and crypto: {}", node.ask("dropped"), node.ask("lost"));
    assert_eq!(node.ask("lost"), "0");
    assert!(messages_out > 2 * rows_out, "rows go to the kernel");
    assert!(messages_in > 2 * frames_in, "packets are joined");
    assert_eq!(refused, 0);
}

/// Fails when: two of this kind do not understand each other, or what one has cut the other does not join.
fn two_of_ours() {
    let bed = Bed::new();
    let mut one = Node::start(&bed.place(), "auto");
    let mut two = Node::start(&bed.other_place(), "veth");
    for (ours, theirs) in ADDRESSES {
        ping(&one.stack, theirs);
        ping(&two.stack, ours);
        let out = carry(&one.stack, &two.stack, theirs, BULK_BYTES);
        let back = carry(&two.stack, &one.stack, ours, BULK_BYTES);
        println!("{BULK_BYTES} bytes to {theirs} in {out:?}, back in {back:?}");
    }
    for node in [&mut one, &mut two] {
        println!("{:?}, dropped: {}", node.totals(), node.ask("dropped"));
    }
    let [.., messages_in, frames_in, _] = two.totals();
    assert!(messages_in > 10 * frames_in, "rows arrive as rows");
}

/// New keys again and again while bytes flow: none is lost, and nothing stands still.
///
/// Fails when: packets of old keys are dropped that are still under way, or new ones are used too soon.
fn keys_change_under_load() {
    let bed = Bed::new();
    let peer = bed.wireguard_go();
    let mut node = Node::start(&bed.place(), "auto");
    ping(&node.stack, "10.9.0.2");
    let (mut changes, mut last) = (0, String::new());
    std::thread::scope(|scope| {
        let (stack, netns) = (node.stack.clone(), &peer.netns);
        let there = stack.clone();
        let out = scope.spawn(move || carry(&there, netns, "10.9.0.2", 4 * BULK_BYTES));
        let back = scope.spawn(move || carry(netns, &stack, "fd09::1", 4 * BULK_BYTES));
        while !out.is_finished() || !back.is_finished() {
            node.ask("rekey");
            std::thread::sleep(Duration::from_millis(150));
            let shown = node.ask("peer").split(' ').next_back().unwrap().to_owned();
            let since: u64 = shown.parse().unwrap();
            changes += u32::from(since < 200 && shown != last);
            last = shown;
        }
        println!("{:?} {:?}, keys changed {changes} times", out.join().unwrap(), back.join().unwrap());
    });
    println!("dropped: {}", node.ask("dropped"));
    assert!(changes >= 3, "{changes}");
    for why in ["Forged", "NoSession", "Expired", "Unsent", "Undelivered"] {
        assert_eq!(node.ask(&format!("dropped {why}")), "0", "{why}");
    }
}

/// Each side moves, and the other follows with the next packet.
fn peers_roam(way: &str) {
    let bed = Bed::new();
    let peer = bed.wireguard_go();
    let mut node = Node::start(&bed.place(), way);
    peers::meet(&mut node);
    assert!(node.ask("peer").starts_with("192.0.2.2:51820 "));
    peer.set("listen-port 40000");
    ping(&peer.netns, "10.9.0.1");
    assert!(node.ask("peer").starts_with("192.0.2.2:40000 "));
    peers::meet(&mut node);
    // Our address goes, and another one comes: nobody is told.
    bed.ours.ip("addr add 192.0.2.99/24 dev cable").unwrap();
    bed.ours.ip("addr del 192.0.2.1/24 dev cable").unwrap();
    bed.ours.ip("addr add 192.0.2.99/24 dev cable").ok();
    peers::meet(&mut node);
    assert_eq!(peer.shown(2), "192.0.2.99:51820");
    ping(&peer.netns, "10.9.0.1");
}

/// Fails when: what a peer may send or is sent is fixed when the tunnel starts.
fn prefixes_move_while_it_runs() {
    let bed = Bed::new();
    let peer = bed.wireguard_go();
    let mut node = Node::start(&bed.place(), "auto");
    ping(&node.stack, "10.9.0.2");
    assert_eq!(node.ask("allow fd09::2/128"), "true");
    let refused = |from: &Netns, to: &str| {
        from.run(Command::new("ping").args(["-c", "2", "-i", "0.2", "-W", "1", to])).unwrap_err();
    };
    refused(&peer.netns, "10.9.0.1");
    node.wait("dropped Source", |count| count == "2");
    refused(&node.stack, "10.9.0.2");
    assert_ne!(node.ask("dropped NoRoute"), "0");
    ping(&node.stack, "fd09::2");
    assert_eq!(node.ask("allow 10.9.0.2/32"), "true");
    ping(&node.stack, "10.9.0.2");
}

/// Where messages are longer than a packet of the cable may be, they are made shorter, and go in rows again; what was
/// sealed before that goes in fragments, and nothing is lost.
fn a_cable_that_takes_less() {
    let bed = Bed::new();
    for netns in [&bed.ours, &bed.theirs] {
        netns.ip("link set cable mtu 1400").unwrap();
    }
    let peer = bed.wireguard_go();
    let mut node = Node::start(&bed.place(), "auto");
    carry(&node.stack, &peer.netns, "10.9.0.2", BULK_BYTES / 4);
    carry(&peer.netns, &node.stack, "10.9.0.1", BULK_BYTES / 4);
    let [_, messages_out, rows_out, .., refused] = node.totals();
    println!(
        "{messages_out} messages in {rows_out} rows, {refused} refused; dropped: {}",
        node.ask("dropped")
    );
    assert_eq!(node.ask("longest"), "1340");
    assert!(refused < 10 && messages_out > 2 * rows_out, "{refused} {messages_out} {rows_out}");
    assert_eq!(node.ask("dropped Unsent"), "0");
}

/// Told not to, a tunnel sends no rows, and carries all the same.
fn rows_can_be_turned_off() {
    let bed = Bed::new();
    let peer = bed.wireguard_go();
    let mut node = Node::start(&bed.place(), "tun-single");
    carry(&node.stack, &peer.netns, "10.9.0.2", BULK_BYTES / 4);
    let [_, messages_out, rows_out, .., refused] = node.totals();
    assert_eq!((messages_out, refused), (rows_out, 0));
}

/// A listener on port 443 of the tunnel and a dial through it, by sockets that the node uses outside.
fn sockets_of_the_inside_are_used_outside() {
    let bed = Bed::new();
    let mut one = Node::start(&bed.place(), "auto");
    let mut two = Node::start(&bed.other_place(), "auto");
    for address in ["10.9.0.1:443", "[fd09::1]:443"] {
        assert_eq!(one.ask(&format!("serve {address} echo")), "ok");
        assert_eq!(two.ask(&format!("dial {address} echo 1000")), "ok 1000");
    }
}

/// Fails when: each connection that is over keeps its port from the next ones for a minute, or those outside are changed, too.
fn ports_are_free_again_soon() {
    use portway_mesh::engine::kernel::Stack;
    use portway_mesh::spec::{InterfaceAddr, Mtu};
    let read = || std::fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse").unwrap();
    let before = read();
    let own = InterfaceAddr { ip: [10, 9, 0, 1].into(), prefix: 24 };
    let (stack, _frames) = Stack::start(&[own], Mtu::DEFAULT, None).unwrap();
    assert_eq!(Netns::of_pid(stack.pid()).unwrap().enter(read).unwrap(), "1\n");
    assert_eq!(read(), before);
}

/// Fails when: a way that is not there is not told from one that is, or the node goes on without one.
fn what_cannot_be_is_said() {
    use portway_mesh::engine::kernel::Stack;
    use portway_mesh::spec::{InterfaceAddr, Mtu};
    let wrong = InterfaceAddr { ip: [10, 0, 0, 1].into(), prefix: 33 };
    let error = Stack::start(&[wrong], Mtu::DEFAULT, None).unwrap_err();
    assert_eq!(error.to_string(), "cannot set up the tunnel's stack: address");
}
