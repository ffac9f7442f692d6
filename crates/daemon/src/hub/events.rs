//! What happens, for whoever listens, and the last of it for whoever comes late.

use std::collections::VecDeque;
use std::sync::Mutex;

use portway_control::api::{Event, EventFilter, RECENT_MAX};
use tokio::sync::broadcast;

use super::locked;

/// Events that may wait for a reader; one that is slower misses some.
const QUEUE: usize = 1024;

/// See the module.
pub(super) struct Events {
    sender: broadcast::Sender<Event>,
    /// The oldest first, at most [`RECENT_MAX`].
    recent: Mutex<VecDeque<Event>>,
}

impl Default for Events {
    fn default() -> Events {
        Events { sender: broadcast::channel(QUEUE).0, recent: Mutex::default() }
    }
}

impl Events {
    /// Tells who listens.
    pub(super) fn tell(&self, event: Event) {
        // Locked until it is sent: who comes late has it either from here or from there.
        let mut recent = locked(&self.recent);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(event.clone());
        // Nobody may listen.
        let _ = self.sender.send(event);
    }

    /// The last ones that `filter` asks for, and all that come.
    pub(super) fn subscribe(&self, filter: &EventFilter) -> (VecDeque<Event>, broadcast::Receiver<Event>) {
        let recent = locked(&self.recent);
        let wanted = recent.iter().rev().filter(|event| filter.takes(event));
        let mut last: VecDeque<Event> = wanted.take(filter.recent.unwrap_or(0)).cloned().collect();
        last.make_contiguous().reverse();
        (last, self.sender.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, number: usize) -> Event {
        let (at, kind, text) = (String::new(), kind.to_owned(), number.to_string());
        Event { at, kind, instance: None, device: None, network: None, text }
    }

    /// Fails when: the ring has no bound, old ones come before new ones in it, or the filter is asked after the count.
    #[test]
    fn the_last_ones_are_kept_in_their_order() {
        let events = Events::default();
        for number in 0..RECENT_MAX + 10 {
            events.tell(event(if number % 2 == 0 { "even" } else { "odd" }, number));
        }
        let last = |recent, kind: Option<&str>| {
            let filter = EventFilter { recent, kind: kind.map(str::to_owned), ..EventFilter::default() };
            events.subscribe(&filter).0.into_iter().map(|event| event.text).collect::<Vec<_>>()
        };
        assert_eq!(last(None, None), [""; 0]);
        assert_eq!(last(Some(3), None), ["1007", "1008", "1009"]);
        assert_eq!(last(Some(2), Some("even")), ["1006", "1008"]);
        assert_eq!(last(Some(RECENT_MAX), None).first().map(String::as_str), Some("10"));
    }

    /// Fails when: one that comes between the two is missing or told twice.
    #[test]
    fn who_comes_late_misses_nothing() {
        let events = Events::default();
        events.tell(event("one", 1));
        let (last, mut receiver) =
            events.subscribe(&EventFilter { recent: Some(9), ..EventFilter::default() });
        events.tell(event("two", 2));
        assert_eq!(last.len(), 1);
        assert_eq!(receiver.try_recv().map(|event| event.kind), Ok("two".to_owned()));
        assert!(receiver.try_recv().is_err());
    }
}
