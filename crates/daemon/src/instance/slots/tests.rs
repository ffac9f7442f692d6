//! The table of slots against a simple model: what was given and not freed.

use proptest::prelude::*;

use super::*;

/// What can happen to a table. Numbers choose among what is there.
#[derive(Debug, Clone, Copy)]
enum Event {
    Give,
    Free(usize),
    /// A slot that was freed long ago is freed once more.
    FreeAgain(usize),
    Rename(usize),
    /// A later daemon learns the table from the worker, with one entry that is no device.
    Adopt,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => Just(Event::Give),
        5 => any::<usize>().prop_map(Event::Free),
        1 => any::<usize>().prop_map(Event::FreeAgain),
        1 => any::<usize>().prop_map(Event::Rename),
        1 => Just(Event::Adopt),
    ];
    prop::collection::vec(event, 0..400)
}

fn name(number: usize) -> DeviceName {
    format!("d{number}").parse().expect("a name")
}

/// The model: present tenants, former ones.
#[derive(Default)]
struct Model {
    given: Vec<(Slot, DeviceName)>,
    freed: Vec<Slot>,
}

fn step(slots: &mut Slots, model: &mut Model, event: Event, number: usize) {
    let nth = |at: usize, count: usize| at.checked_rem(count);
    match event {
        Event::Give => {
            let slot = slots.give(name(number)).expect("there is room");
            let free = (0..).find(|index| model.given.iter().all(|(slot, _)| slot.index != *index));
            assert_eq!(Some(slot.index), free, "the lowest one");
            model.given.push((slot, name(number)));
        }
        Event::Free(at) => {
            if let Some(at) = nth(at, model.given.len()) {
                let (slot, device) = model.given.swap_remove(at);
                assert_eq!(slots.free(slot), Some(device));
                model.freed.push(slot);
            }
        }
        Event::FreeAgain(at) => {
            if let Some(at) = nth(at, model.freed.len()) {
                assert_eq!(slots.free(model.freed[at]), None);
            }
        }
        Event::Rename(at) => {
            if let Some(at) = nth(at, model.given.len()) {
                slots.rename(model.given[at].0, name(number));
                model.given[at].1 = name(number);
            }
        }
        Event::Adopt => {
            let table = model.given.iter().map(|(slot, device)| (*slot, Some(device.clone())));
            *slots = Slots::of_table(table.collect::<Vec<_>>().into_iter());
            // What was said to the former daemon is not heard by this one.
            model.freed.clear();
        }
    }
}

proptest! {
    /// Nobody has a slot that was freed, whoever has its place; everybody keeps the own one; no place has two tenants.
    ///
    /// Fails when: a place is given with the generation it had before, or two places are one.
    #[test]
    fn a_late_report_is_nobodys(events in events()) {
        let (mut slots, mut model) = (Slots::default(), Model::default());
        for (number, event) in events.into_iter().enumerate() {
            step(&mut slots, &mut model, event, number);
            for slot in &model.freed {
                prop_assert_eq!(slots.holder(*slot), None);
            }
            for (slot, device) in &model.given {
                prop_assert_eq!(slots.holder(*slot), Some(device));
            }
            prop_assert_eq!(slots.devices().count(), model.given.len());
        }
    }
}

/// Fails when: places of removed devices stay taken, or more are given than the worker has lines.
#[test]
fn a_full_table_has_room_again_after_a_removal() {
    let mut slots = Slots::default();
    let given: Vec<Slot> =
        (0..).map_while(|number| slots.give(name(number))).take(2 * SLOT_COUNT as usize).collect();
    assert_eq!(given.len(), SLOT_COUNT as usize);
    assert!(slots.is_full());
    assert_eq!(slots.free(given[700]), Some(name(700)));
    assert!(!slots.is_full());
    let next = slots.give(name(1)).expect("one is free");
    assert_eq!((next.index, next.generation), (700, u64::from(SLOT_COUNT)));
    assert!(slots.is_full());
}

/// A worker may hold what is none of ours, or lie about its generations: its place is not given, and nothing panics.
#[test]
fn what_a_worker_says_of_its_table_is_bounded() {
    let strange = [(Slot::new(0, u64::MAX), None), (Slot::new(2, 5), Some(name(2)))];
    let mut slots = Slots::of_table(strange.into_iter());
    assert_eq!(slots.holder(Slot::new(0, u64::MAX)), None);
    assert_eq!(slots.give(name(1)).map(|slot| slot.index), Some(1));
    assert_eq!(slots.give(name(3)).map(|slot| slot.index), Some(3));
    assert_eq!(slots.devices().count(), 3);
}
