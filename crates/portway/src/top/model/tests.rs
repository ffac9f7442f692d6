use super::*;
use crate::device::sample;

/// A device with these counters.
pub(crate) fn device(instance: &str, name: &str, [open, total, bytes_in, bytes_out]: [u64; 4]) -> Device {
    Device {
        instance: instance.parse().unwrap(),
        name: name.parse().unwrap(),
        connections_now: open,
        connections_total: total,
        bytes_in: Some(bytes_in),
        bytes_out: Some(bytes_out),
        ..sample()
    }
}

fn look(at: Instant, devices: Vec<Device>) -> Look {
    Look { at, server: None, devices, connections: None }
}

/// Three devices that have been looked at twice, two seconds apart: `busy` with 1 MiB/s, `some` with 1 KiB/s, `idle`.
pub(crate) fn three() -> Model {
    let mut model = Model::new(Provider::Incus, 1);
    let begin = Instant::now();
    let devices = |round: u64| {
        let mib = round << 21;
        vec![
            device("incus:default/c1", "busy", [3, 10 * round, mib, 0]),
            device("incus:dev/c2", "some", [1, round, 0, round << 11]),
            device("netns:blue", "idle", [0, 5, 100, 100]),
        ]
    };
    model.learn(look(begin, devices(0)));
    model.learn(look(begin + Duration::from_secs(2), devices(1)));
    model.set_room(10);
    model
}

fn names(model: &Model) -> Vec<&str> {
    model.shown().map(|(_, row)| row.name.as_str()).collect()
}

fn selected(model: &Model) -> &str {
    model.shown_row().map_or("", |row| row.name.as_str())
}

/// Fails when: rates are of a look instead of a second, or the busiest does not come first.
#[test]
fn rates_are_per_second_and_the_busiest_comes_first() {
    let model = three();
    assert_eq!(names(&model), ["busy", "some", "idle"]);
    let rates: Vec<Rate> = model.shown().map(|(_, row)| row.rate).collect();
    assert_eq!(rates[0], Rate { new_tenths: 50, bytes_in: 1 << 20, bytes_out: 0 });
    assert_eq!(rates[1], Rate { new_tenths: 5, bytes_in: 0, bytes_out: 1 << 10 });
    assert_eq!(rates[2], Rate::default());
    let (open, all) = model.totals();
    assert_eq!((open, all.new_tenths, all.traffic()), (4, 55, (1 << 20) + (1 << 10)));
}

/// Fails when: counters that begin anew become a rate, or a device that is new has the rate of all it ever did.
#[test]
fn what_begins_anew_has_no_rate() {
    let mut model = three();
    let at = model.at.unwrap() + Duration::from_secs(1);
    let fresh = vec![
        device("incus:default/c1", "busy", [0, 0, 5, 0]),
        device("incus:default/c1", "new", [9, 900, 9_000_000, 0]),
    ];
    model.learn(look(at, fresh));
    assert!(model.shown().all(|(_, row)| row.rate == Rate::default()));
    assert_eq!(model.counts(), (2, 2));
}

/// Fails when: the line stays selected instead of the device.
#[test]
fn the_same_device_stays_selected() {
    let mut model = three();
    assert_eq!(selected(&model), "busy");
    model.act(Action::Reverse);
    assert_eq!(selected(&model), "idle", "nobody has chosen one");
    model.act(Action::Reverse);
    model.act(Action::Move(1));
    assert_eq!(selected(&model), "some");
    model.act(Action::Reverse);
    assert_eq!((names(&model), selected(&model)), (vec!["idle", "some", "busy"], "some"));
    let at = model.at.unwrap() + Duration::from_secs(1);
    let devices = vec![
        device("incus:dev/c2", "some", [1, 1, 0, 1 << 30]),
        device("incus:default/c1", "busy", [3, 10, 1 << 21, 0]),
        device("netns:blue", "idle", [0, 5, 100, 100]),
    ];
    model.learn(look(at, devices));
    assert_eq!((names(&model).last().copied(), selected(&model)), (Some("some"), "some"));
    // It is removed: the one in its place.
    let devices = vec![device("netns:blue", "idle", [0, 5, 100, 100])];
    model.learn(look(at + Duration::from_secs(1), devices));
    assert_eq!(selected(&model), "idle");
    model.learn(look(at + Duration::from_secs(2), Vec::new()));
    assert_eq!(selected(&model), "");
    assert!(!model.act(Action::Enter));
    assert_eq!(model.page, Page::List);
}

#[test]
fn every_column_sorts() {
    let mut model = three();
    for (column, expected) in [
        (Column::Instance, ["busy", "some", "idle"]),
        (Column::Name, ["busy", "idle", "some"]),
        (Column::State, ["busy", "some", "idle"]),
        (Column::Open, ["busy", "some", "idle"]),
        (Column::New, ["busy", "some", "idle"]),
        (Column::In, ["busy", "some", "idle"]),
        (Column::Out, ["some", "busy", "idle"]),
        (Column::Failed, ["busy", "some", "idle"]),
        (Column::Traffic, ["busy", "some", "idle"]),
    ] {
        while model.sort != column {
            model.act(Action::Sort(1));
        }
        assert_eq!(names(&model), expected, "{column:?}");
    }
    model.act(Action::Sort(1));
    assert_eq!(model.sort, Column::Instance);
    model.act(Action::Sort(-1));
    assert_eq!(model.sort, Column::Traffic);
}

/// Fails when: a filter asks the name alone, or hides what it is not asked about.
#[test]
fn a_filter_asks_names_and_addresses() {
    let mut model = three();
    model.act(Action::Filter);
    for letter in "DEV/".chars() {
        model.act(Action::Type(letter));
    }
    assert_eq!((names(&model), selected(&model), model.counts()), (vec!["some"], "some", (1, 3)));
    model.act(Action::Accept);
    assert!(!model.typing);
    model.act(Action::Back);
    assert_eq!((model.counts(), selected(&model)), ((3, 3), "busy"), "nobody has chosen one");
    model.act(Action::Filter);
    for letter in "8080".chars() {
        model.act(Action::Type(letter));
    }
    assert_eq!(model.counts(), (3, 3), "all of them listen there");
    model.act(Action::Erase);
    model.act(Action::Type('9'));
    assert_eq!((model.counts(), model.shown().count()), ((0, 3), 0));
    model.act(Action::Clear);
    assert_eq!((model.typing, model.counts()), (false, (3, 3)));
}

/// Fails when: what is selected is not on the screen, or empty lines are below the last one without need.
#[test]
fn what_is_selected_is_shown() {
    let mut model = Model::new(Provider::Incus, 1);
    let devices = (0..100).map(|at| device("incus:default/c1", &format!("d{at:02}"), [0; 4])).collect();
    model.learn(look(Instant::now(), devices));
    model.set_room(10);
    let shows = |model: &Model| {
        let lines: Vec<_> = model.shown().take(10).collect();
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().any(|(selected, _)| *selected), "{} from {}", model.position(), model.offset);
    };
    for action in [
        Action::Move(1),
        Action::Pages(1),
        Action::Last,
        Action::Move(1),
        Action::Pages(-1),
        Action::Move(-9),
        Action::First,
        Action::Move(-1),
        Action::Pages(3),
        Action::Reverse,
        Action::Sort(1),
    ] {
        model.act(action);
        shows(&model);
    }
    model.act(Action::Last);
    for room in [3, 1, 50, 10] {
        model.set_room(room);
        assert!(model.shown().take(room.into()).any(|(selected, _)| selected), "{room} lines");
    }
    shows(&model);
    assert_eq!(model.offset, 90);
}

fn connections(talks: &[(&str, u64)]) -> Connections {
    let one = crate::device::connection();
    let talks = talks.iter().map(|(id, bytes_in)| Connection {
        id: (*id).to_owned(),
        bytes_in: *bytes_in,
        ..one.clone()
    });
    Connections { connections_now: 9, connections: talks.collect(), unlisted: None }
}

/// Fails when: rates of connections are not by their names, or an answer about another device is taken in.
#[test]
fn connections_of_the_one_that_is_looked_at() {
    let mut model = three();
    assert_eq!(model.looked_at(), None);
    assert!(model.act(Action::Enter));
    let key = model.looked_at().cloned().unwrap();
    let at = model.at.unwrap();
    let devices = || vec![device("incus:default/c1", "busy", [3, 10, 1 << 21, 0])];
    let mut learn = |seconds, key: &DeviceKey, answer| {
        let at = at + Duration::from_secs(seconds);
        model.learn(Look { connections: Some((key.clone(), answer)), ..look(at, devices()) });
        let talks = model.detail.talks.iter().map(|talk| (talk.connection.id.clone(), talk.rate.bytes_in));
        (talks.collect::<Vec<_>>(), model.detail.error.clone())
    };
    let of = |id: &str, rate| (id.to_owned(), rate);
    assert_eq!(learn(1, &key, Ok(connections(&[("a", 100), ("b", 100)]))).0, [of("a", 0), of("b", 0)]);
    let second = learn(3, &key, Ok(connections(&[("a", 100), ("b", 300), ("c", 7)])));
    assert_eq!(second.0, [of("b", 100), of("a", 0), of("c", 0)]);
    let other = DeviceKey { device: "other".parse().unwrap(), ..key.clone() };
    assert_eq!(learn(4, &other, Ok(connections(&[("z", 1)]))), second);
    assert_eq!(learn(5, &key, Err("gone".to_owned())), (second.0, Some("gone".to_owned())));
    model.act(Action::Help);
    assert_eq!((model.page, model.looked_at()), (Page::Help, Some(&key)));
    model.act(Action::Back);
    assert_eq!(model.page, Page::Device);
    // It is removed while somebody looks at it.
    model.learn(look(at + Duration::from_secs(6), vec![device("netns:blue", "idle", [0; 4])]));
    assert_eq!((model.page, selected(&model)), (Page::List, "idle"));
}

#[test]
fn the_pace_has_two_ends() {
    let mut model = three();
    model.act(Action::Interval(-1));
    assert_eq!(model.interval, 1);
    for _ in 0..20 {
        model.act(Action::Interval(1));
    }
    assert_eq!(model.interval, 3600);
    model.act(Action::Interval(-1));
    assert_eq!(model.interval, 600);
    model.interval = 7;
    model.act(Action::Interval(-1));
    assert_eq!(model.interval, 5);
}
