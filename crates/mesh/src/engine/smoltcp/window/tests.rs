use super::*;

const MSS: usize = 1000;

/// A connection that fills its window, and a way that takes so long.
struct Way {
    window: Window,
    now: Instant,
    queued: usize,
}

impl Way {
    fn new() -> Way {
        Way { window: Window::new(), now: Instant::now(), queued: 0 }
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// Fills what there is room for; how much that is.
    fn fill(&mut self) -> usize {
        let room = self.window.room(MSS);
        self.window.fill(self.now, room);
        self.queued += room;
        room
    }

    fn hear(&mut self, count: usize) -> Wanted {
        self.queued -= count;
        self.window.hear(self.now, self.queued, MSS)
    }
}

/// Fails when: the window is counted in acknowledgements, of which there is one for many packets, or grows without bound.
#[test]
fn it_doubles_with_what_is_acknowledged_and_has_an_end() {
    let mut way = Way::new();
    assert_eq!(way.fill(), 10 * MSS);
    assert_eq!(way.window.room(MSS), 0);
    for expected in [20, 40, 80] {
        way.wait(1);
        assert_eq!(way.hear(way.queued), Wanted::Nothing);
        assert_eq!(way.fill(), expected * MSS);
    }
    for _ in 0..20 {
        way.wait(1);
        way.hear(way.queued);
        way.fill();
    }
    assert_eq!(way.queued, MOST_BYTES);
    // Who has little to send has no greater window for it.
    let mut way = Way::new();
    for _ in 0..100 {
        way.window.fill(way.now, 100);
        way.queued += 100;
        way.wait(1);
        way.hear(100);
    }
    assert_eq!(way.fill(), 10 * MSS);
}

/// Fails when: a round trip that becomes longer, by what waits on the way, is no reason to grow more slowly.
#[test]
fn it_grows_slowly_when_something_waits_on_its_way() {
    let mut way = Way::new();
    for millis in [1, 1, 1, 1, 20, 20, 20] {
        way.fill();
        way.wait(millis);
        way.hear(way.queued);
    }
    let before = way.fill();
    way.wait(1);
    way.hear(way.queued);
    assert!((before..=before + 2 * MSS).contains(&way.fill()));
}

/// Fails when: only the first of several losses is made good at once, or the window is made less for each of them.
#[test]
fn every_loss_of_a_window_is_made_good() {
    let mut way = Way::new();
    for _ in 0..4 {
        way.fill();
        way.wait(1);
        way.hear(way.queued);
    }
    let before = way.fill();
    for _ in 0..5 {
        way.window.hear_again(MSS);
    }
    // smoltcp has sent one segment again; three more are missing.
    for _ in 0..3 {
        way.wait(1);
        assert_eq!(way.hear(5 * MSS), Wanted::Again);
    }
    way.wait(1);
    // Part of what was sent again says nothing.
    assert_eq!(way.hear(MSS / 2), Wanted::Nothing);
    assert_eq!(way.hear(way.queued), Wanted::Nothing);
    assert!((before * 6 / 10..before * 8 / 10).contains(&way.fill()));
}

/// Fails when: what nobody acknowledges waits for a second, or is sent again ever faster.
#[test]
fn what_is_not_acknowledged_is_sent_again_in_time() {
    let mut way = Way::new();
    assert_eq!(way.window.due(), None);
    way.fill();
    way.wait(10);
    way.hear(way.queued);
    assert_eq!(way.window.due(), None);
    way.fill();
    let mut waited = Vec::new();
    for _ in 0..5 {
        let due = way.window.due().unwrap();
        assert_eq!(way.window.look(due - Duration::from_millis(1), MSS), Wanted::Nothing);
        waited.push((due - way.now).as_millis());
        way.now = due;
        assert_eq!(way.window.look(way.now, MSS), Wanted::Again);
    }
    assert_eq!(waited, [200, 400, 800, 900, 900]);
    assert_eq!(way.hear(MSS), Wanted::Again);
    assert_eq!((way.window.due().unwrap() - way.now).as_millis(), 200);
    for _ in 0..100 {
        let due = way.window.due().unwrap();
        assert!(due - way.now <= Duration::from_millis(900));
        way.now = due;
        way.window.look(way.now, MSS);
    }
}

/// Fails when: who was only slow has a small window for it.
#[test]
fn a_timer_that_ran_out_for_nothing_is_forgotten() {
    let mut way = Way::new();
    for _ in 0..4 {
        way.fill();
        way.wait(1);
        way.hear(way.queued);
    }
    let before = way.fill();
    for _ in 0..3 {
        way.now = way.window.due().unwrap();
        assert_eq!(way.window.look(way.now, MSS), Wanted::Again);
    }
    assert_eq!(way.hear(before - MSS), Wanted::Nothing);
    assert!(way.fill() >= before - MSS);
}
