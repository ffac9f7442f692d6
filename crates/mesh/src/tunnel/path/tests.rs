use super::*;

const MTU: usize = 1420;

/// A way, a clock, and one connection on it.
struct Way {
    path: Path,
    activity: Arc<Activity>,
    now: Instant,
    next: u32,
}

/// A segment of TCP over IPv4, or what answers it.
fn packet(back: bool, sequence: u32, acknowledged: u32, payload: usize, options: &[u8]) -> Vec<u8> {
    let (one, two) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let ([from, to], ports) =
        if back { ([two, one], [0, 80, 0x90, 0]) } else { ([one, two], [0x90, 0, 0, 80]) };
    let total = u16::try_from(40 + options.len() + payload).unwrap().to_be_bytes();
    let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 6, 0, 0];
    bytes.extend(from.into_iter().chain(to).chain(ports));
    bytes.extend(sequence.to_be_bytes().into_iter().chain(acknowledged.to_be_bytes()));
    bytes.extend([u8::try_from(5 + options.len() / 4).unwrap() << 4, 16, 0, 9, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.resize(bytes.len() + payload, 7);
    bytes
}

impl Way {
    fn new() -> Way {
        let activity = Arc::<Activity>::default();
        let mut path = Path::new(MTU, Arc::clone(&activity));
        path.lead_to(IpAddr::from([192, 0, 2, 1]));
        Way { path, activity, now: Instant::now(), next: 0xffff_f000 }
    }

    /// Sends what begins there; the longest packet that comes of it.
    fn send(&mut self, begin: u32, payload: usize) -> usize {
        self.path.widens(self.now);
        let bytes = packet(false, begin, 0, payload, &[]);
        let segment = Segment::read(&bytes).unwrap();
        self.path.sends(self.now, &segment, bytes.len().min(self.path.limit()));
        bytes.len().min(self.path.limit())
    }

    fn send_new(&mut self, payload: usize) -> usize {
        let begin = self.next;
        self.next = begin.wrapping_add(u32::try_from(payload).unwrap());
        self.send(begin, payload)
    }

    fn hear(&mut self, acknowledged: u32, options: &[u8]) {
        self.activity.watch.hear(&mut packet(true, 0, acknowledged, 0, options));
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }
}

/// Nothing long arrives from the beginning: the first that is sent again is short, and all after it, for ten minutes.
///
/// Fails when: a hole is seen late, or forgotten too early, or never.
#[test]
fn a_hole_is_seen_when_its_connection_tries_again() {
    let mut way = Way::new();
    let begin = way.next;
    assert_eq!(way.send_new(10_000), MTU);
    way.wait(200);
    assert_eq!(way.send(begin, 1380), 1220);
    way.wait(20);
    way.hear(begin.wrapping_add(1180), &[]);
    assert_eq!((way.send_new(10_000), way.activity.watch.limit()), (1220, Some(1220)));
    way.wait(599_000);
    assert_eq!(way.send_new(10_000), 1220);
    way.wait(1000);
    assert_eq!(way.send_new(10_000), MTU);
}

/// The way becomes narrow while much is sent, wherever the connection goes back to.
#[test]
fn a_hole_that_opens_later_is_seen_too() {
    let mut way = Way::new();
    way.send_new(60_000);
    way.hear(way.next, &[]);
    let begin = way.next;
    way.send_new(60_000);
    way.send_new(60_000);
    way.hear(begin.wrapping_add(3000), &[]);
    way.send_new(60_000);
    // Linux: 200 ms, then twice as long each time.
    for (millis, longest) in [(200, MTU), (400, MTU), (800, 1220)] {
        way.wait(millis);
        assert_eq!(way.send(begin.wrapping_add(3000), 1380), longest, "{millis}");
    }
    way.hear(begin.wrapping_add(3000 + 1180), &[]);
    assert_eq!(way.send_new(10_000), 1220);
}

/// What is lost now and then is no reason: what came behind it says that long ones pass.
#[test]
fn a_loss_is_no_hole() {
    let mut way = Way::new();
    let begin = way.next;
    way.send_new(10_000);
    way.wait(300);
    let edges = [begin.wrapping_add(1380), begin.wrapping_add(4140)].map(u32::to_be_bytes).concat();
    way.hear(begin, &[&[1, 1, 5, 10][..], &edges].concat());
    way.wait(1);
    assert_eq!(way.send(begin, 1380), MTU);
    way.wait(300);
    assert_eq!(way.send(begin, 1380), MTU);
}

/// The peer is away altogether: length is tried both ways, and when it is back nothing is narrow.
#[test]
fn a_peer_that_is_away_leaves_no_trace() {
    for tries in 1..8 {
        let mut way = Way::new();
        let begin = way.next;
        way.send_new(10_000);
        let mut sent = Vec::new();
        for number in 0..tries {
            way.wait(1000 << number);
            sent.push(way.send(begin, 1380));
        }
        if tries > 1 {
            assert!(sent.contains(&MTU) && sent.contains(&1220), "{sent:?}");
        }
        way.wait(10);
        way.hear(begin.wrapping_add(1380), &[]);
        let longest = way.send_new(10_000);
        // The first time it may as well have been the length.
        assert_eq!(longest, if tries == 1 { 1220 } else { MTU }, "{tries}");
    }
}

/// What is said to be taken is believed as far as anything passes everywhere, and until the way is another one.
#[test]
fn a_router_is_believed_within_reason() {
    for (ip, mtu, limit) in [
        ([192, 0, 2, 1].into(), 1400, 1340),
        ([192, 0, 2, 1].into(), 552, 1220),
        ("::ffff:192.0.2.1".parse().unwrap(), 1400, 1340),
        ("2001:db8::1".parse().unwrap(), 1400, 1320),
        ("2001:db8::1".parse().unwrap(), 0, 1200),
        ("2001:db8::1".parse().unwrap(), 9000, MTU),
    ] {
        let activity = Arc::<Activity>::default();
        let mut path = Path::new(MTU, Arc::clone(&activity));
        path.lead_to(ip);
        path.told(Instant::now(), mtu);
        let told = activity.watch.limit().map_or(MTU, usize::from);
        assert_eq!((path.limit(), told), (limit, limit), "{ip} {mtu}");
        path.lead_to([192, 0, 2, 9].into());
        assert_eq!(path.limit(), MTU);
    }
}

/// What a peer sends is not believed: other connections' answers, and such as cannot be read.
#[test]
fn only_its_own_answer_counts() {
    let mut way = Way::new();
    let begin = way.next;
    way.send_new(10_000);
    let mut other = packet(true, 0, begin.wrapping_add(9000), 0, &[]);
    other[13] = 1;
    for mut packet in
        [other, packet(true, 0, begin.wrapping_add(100), 0, &[5, 200, 0, 0]), vec![], vec![0x45; 40]]
    {
        way.activity.watch.hear(&mut packet);
    }
    assert!(!way.activity.watch.is_taken());
    way.hear(begin.wrapping_add(1380), &[]);
    assert!(way.activity.watch.is_taken());
}
