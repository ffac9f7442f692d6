use portway_model::GroupIds;

use super::*;

const NONE: GroupIds = GroupIds::NONE;

const GROUP: Group = Group {
    connect_side: Side::Instance,
    ids: Some(Ids { uid: 65534, gid: 65534, groups: NONE }),
    sibling: 0,
};
const OTHER: Group =
    Group { connect_side: Side::Instance, ids: Some(Ids { uid: 7, gid: 7, groups: NONE }), sibling: 0 };

fn run(text: &str) -> RunId {
    RunId(text.into())
}

fn device() -> DeviceView {
    DeviceView {
        name: "web".parse().unwrap(),
        bind: Bind::Host,
        kind: Kind::Stream,
        listeners: Listeners::Closed,
        held: false,
        instance_matches: true,
        group: Some(GROUP),
        placed: None,
    }
}

fn open() -> Listeners {
    Listeners::Open { run: None, refusing: false }
}

fn view(present: Option<&str>, device: DeviceView, workers: &[WorkerView]) -> View {
    View { run: present.map(run), devices: vec![device], workers: workers.to_vec() }
}

fn serving(group: Group, text: &str) -> WorkerView {
    WorkerView::Serving { group, run: run(text) }
}

fn name() -> DeviceName {
    "web".parse().unwrap()
}

#[test]
fn a_new_device_is_opened_then_gets_a_worker_then_is_put() {
    assert_eq!(plan(&view(Some("1"), device(), &[])), vec![Step::Open(name())]);
    let opened = DeviceView { listeners: open(), ..device() };
    assert_eq!(plan(&view(Some("1"), opened.clone(), &[])), vec![Step::StartWorker(GROUP)]);
    let put = Step::Put { device: name(), group: GROUP, keep_listeners: false };
    assert_eq!(plan(&view(Some("1"), opened.clone(), &[serving(GROUP, "1")])), vec![put]);
    let done = DeviceView { placed: Some(Placed { group: GROUP, current: true }), ..opened };
    assert_eq!(plan(&view(Some("1"), done, &[serving(GROUP, "1")])), vec![]);
}

#[test]
fn a_changed_target_keeps_the_listeners() {
    let placed = Some(Placed { group: GROUP, current: false });
    let changed = DeviceView { listeners: open(), placed, ..device() };
    let put = Step::Put { device: name(), group: GROUP, keep_listeners: true };
    assert_eq!(plan(&view(Some("1"), changed, &[serving(GROUP, "1")])), vec![put]);
}

#[test]
fn a_changed_group_takes_the_device_out_first() {
    let placed = Some(Placed { group: OTHER, current: true });
    let moved = DeviceView { listeners: open(), placed, ..device() };
    let steps = plan(&view(Some("1"), moved, &[serving(OTHER, "1")]));
    assert_eq!(steps, vec![Step::Take { device: name(), group: OTHER }]);
}

#[test]
fn while_held_the_listener_stays_open_and_afterwards_refuses() {
    let held = DeviceView { listeners: open(), held: true, ..device() };
    assert_eq!(plan(&view(None, held.clone(), &[])), vec![]);
    let over = DeviceView { held: false, ..held };
    assert_eq!(plan(&view(None, over.clone(), &[])), vec![Step::Refuse(name())]);
    let refusing = Listeners::Open { run: None, refusing: true };
    let waiting = DeviceView { listeners: refusing, ..over };
    assert_eq!(plan(&view(None, waiting.clone(), &[])), vec![]);
    assert_eq!(plan(&view(Some("2"), waiting, &[])), vec![Step::Reopen(name())]);
}

#[test]
fn a_unix_listener_is_closed_when_the_hold_is_over_and_a_datagram_one_is_left() {
    let unix = DeviceView { kind: Kind::Unix, listeners: open(), ..device() };
    assert_eq!(plan(&view(None, unix.clone(), &[])), vec![Step::Close(name())]);
    assert_eq!(plan(&view(None, DeviceView { listeners: Listeners::Closed, ..unix }, &[])), vec![]);
    let datagram = DeviceView { kind: Kind::Datagram, listeners: open(), ..device() };
    assert_eq!(plan(&view(None, datagram, &[])), vec![]);
}

#[test]
fn listeners_inside_the_instance_belong_to_one_run() {
    let inside = DeviceView { bind: Bind::Instance, ..device() };
    assert_eq!(plan(&view(None, inside.clone(), &[])), vec![]);
    let stale = DeviceView { listeners: Listeners::Open { run: Some(run("1")), refusing: false }, ..inside };
    assert_eq!(plan(&view(None, stale.clone(), &[])), vec![Step::Close(name())]);
    assert_eq!(plan(&view(Some("2"), stale, &[])), vec![Step::Close(name())]);
}

#[test]
fn workers_of_an_earlier_run_and_idle_ones_are_stopped() {
    let idle =
        DeviceView { instance_matches: false, listeners: Listeners::Broken { due: false }, ..device() };
    assert_eq!(plan(&view(Some("2"), idle.clone(), &[serving(GROUP, "2")])), vec![Step::StopWorker(GROUP)]);
    assert_eq!(plan(&view(None, idle, &[serving(GROUP, "1")])), vec![Step::StopWorker(GROUP)]);
}

#[test]
fn nothing_is_retried_before_its_time() {
    let broken = DeviceView { listeners: Listeners::Broken { due: false }, ..device() };
    assert_eq!(plan(&view(Some("1"), broken, &[])), vec![]);
    let opened = DeviceView { listeners: open(), ..device() };
    let worker = WorkerView::Broken { group: GROUP, due: false };
    assert_eq!(plan(&view(Some("1"), opened.clone(), &[worker])), vec![]);
    let due = WorkerView::Broken { group: GROUP, due: true };
    assert_eq!(plan(&view(Some("1"), opened, &[due])), vec![Step::StartWorker(GROUP)]);
}

/// Carries each step out on the view, as an actor that never fails would.
fn simulate(mut view: View) -> View {
    for _ in 0..50 {
        let steps = plan(&view);
        if steps.is_empty() {
            return view;
        }
        for step in steps {
            perform(&mut view, &step);
        }
    }
    panic!("no end of steps: {view:?}");
}

fn perform(view: &mut View, step: &Step) {
    let present = view.run.clone();
    let device = &mut view.devices[0];
    match step {
        Step::Open(_) => {
            let run = present.filter(|_| device.bind == Bind::Instance);
            device.listeners = Listeners::Open { run, refusing: false };
        }
        Step::Close(_) => device.listeners = Listeners::Closed,
        Step::Refuse(_) => device.listeners = Listeners::Open { run: None, refusing: true },
        Step::Reopen(_) => device.listeners = Listeners::Open { run: None, refusing: false },
        Step::StartWorker(group) => {
            view.workers
                .retain(|worker| !matches!(worker, WorkerView::Broken { group: g, .. } if g == group));
            view.workers.push(WorkerView::Serving { group: *group, run: present.unwrap() });
        }
        Step::Put { group, .. } => device.placed = Some(Placed { group: *group, current: true }),
        Step::Take { .. } => device.placed = None,
        Step::StopWorker(group) => {
            view.workers
                .retain(|worker| !matches!(worker, WorkerView::Serving { group: g, .. } if g == group));
        }
    }
}

/// From every combination of states the steps come to an end, and the end is right: served when
/// the instance runs, out of service when it does not.
#[test]
fn every_state_converges() {
    let listeners = [
        Listeners::Closed,
        Listeners::Broken { due: true },
        open(),
        Listeners::Open { run: None, refusing: true },
        Listeners::Open { run: Some(run("1")), refusing: false },
    ];
    let placements = [
        None,
        Some(Placed { group: GROUP, current: true }),
        Some(Placed { group: GROUP, current: false }),
        Some(Placed { group: OTHER, current: true }),
    ];
    let mut seen = 0;
    for present in [None, Some("1"), Some("2")] {
        for bind in [Bind::Host, Bind::Instance] {
            for kind in [Kind::Stream, Kind::Datagram, Kind::Unix] {
                for (held, matches) in [(false, false), (false, true), (true, false), (true, true)] {
                    for listeners in &listeners {
                        // Host listeners belong to no run, those inside to one, always.
                        if matches!(listeners, Listeners::Open { run, .. } if run.is_some() == (bind == Bind::Host))
                        {
                            continue;
                        }
                        for placed in &placements {
                            let workers: Vec<_> =
                                placed.iter().map(|placed| serving(placed.group, "1")).collect();
                            let start = DeviceView {
                                bind,
                                kind,
                                held,
                                instance_matches: matches,
                                listeners: listeners.clone(),
                                placed: placed.clone(),
                                ..device()
                            };
                            // A worker of an earlier run has ended, and with it the placement.
                            let start =
                                DeviceView { placed: start.placed.filter(|_| present == Some("1")), ..start };
                            check_end(&simulate(view(present, start, &workers)), matches);
                            seen += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(seen > 1000);
}

fn check_end(end: &View, matches: bool) {
    let device = &end.devices[0];
    if end.run.is_some() && matches {
        assert_eq!(device.placed, Some(Placed { group: GROUP, current: true }), "{end:?}");
        assert!(matches!(device.listeners, Listeners::Open { refusing: false, .. }), "{end:?}");
        assert_eq!(end.workers, vec![WorkerView::Serving { group: GROUP, run: end.run.clone().unwrap() }]);
    } else {
        assert_eq!((&device.placed, end.workers.len()), (&None, 0), "{end:?}");
        assert!(device.bind == Bind::Host || !matches!(device.listeners, Listeners::Open { .. }), "{end:?}");
    }
}
