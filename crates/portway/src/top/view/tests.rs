use std::time::{Duration, Instant};

use portway_control::api::{Connections, DeviceTotals, Refusals, Server};
use portway_model::{DeviceKey, Provider};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::device::connections_sample;
use crate::top::keys::Action;
use crate::top::model::Look;
use crate::top::model::tests::device;

fn server() -> Server {
    Server {
        api: "1.0".to_owned(),
        version: "0.1.0".to_owned(),
        pid: 812,
        uptime_seconds: 11_045,
        generation: 17,
        devices: DeviceTotals::default(),
        refusals: Refusals::default(),
        providers: Vec::new(),
        workers: Vec::new(),
        keeper_pid: None,
        networks: Vec::new(),
        warnings: Vec::new(),
        limits: Vec::new(),
    }
}

/// Devices of every state and length of name, looked at five times, and one of them in full.
fn model() -> Model {
    let mut model = Model::new(Provider::Incus, 1);
    let begin = Instant::now();
    for round in 0..5_u64 {
        let mut nat = device("incus:default/c1", "dns", [12, 300 + 7 * round, 0, 0]);
        (nat.bytes_in, nat.bytes_out) = (None, None);
        let mut failed = device("netns:blue", "a-name-as-long-as-it-may-be-and-then-some", [0, 9, 0, 0]);
        (failed.state, failed.dials_failed) = (DeviceState::Failed, 4);
        failed.last_error = Some("cannot bind\n\u{1b}[2J127.0.0.1:53/udp".to_owned());
        let devices = vec![
            device("incus:default/c1", "web", [3, 1200 + 50 * round, (round * round) << 20, round << 22]),
            nat,
            device("incus:staging/database-of-the-shop", "postgres-for-the-reporting-jobs", [40, 41, 0, 0]),
            failed,
        ];
        let key = DeviceKey { instance: "incus:default/c1".parse().unwrap(), device: "web".parse().unwrap() };
        let mut connections = connections_sample();
        connections.connections[0].bytes_in += round << 20;
        let at = begin + Duration::from_secs(round);
        model.learn(Look { at, server: Some(server()), devices, connections: Some((key, Ok(connections))) });
    }
    model.act(Action::First);
    model
}

fn drawn(model: &mut Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, false)).unwrap();
    let text = terminal.backend().to_string();
    let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
    lines.collect::<Vec<_>>().join("\n")
}

/// Fails when: a column does not fit, stands over another one, or text of a device steers the terminal.
#[test]
fn the_list_at_several_sizes() {
    let mut model = model();
    for (width, height) in [(120, 12), (80, 10), (44, 9), (20, 5)] {
        insta::assert_snapshot!(format!("list_{width}x{height}"), drawn(&mut model, width, height));
    }
    model.act(Action::Filter);
    for letter in "shop".chars() {
        model.act(Action::Type(letter));
    }
    model.lose("no daemon answers on /run/portway/portway.sock: Connection refused".to_owned());
    insta::assert_snapshot!("list_filter_away", drawn(&mut model, 80, 10));
}

#[test]
fn a_device_at_several_sizes() {
    let mut model = model();
    model.act(Action::Enter);
    let key = model.looked_at().cloned().unwrap();
    assert_eq!(key.device.as_str(), "web");
    for (width, height) in [(130, 20), (80, 12), (20, 5)] {
        let mut fresh = self::model();
        fresh.act(Action::Enter);
        // What it had before is forgotten; the next look brings it.
        let found = Connections { unlisted: None, ..connections_sample() };
        let at = Instant::now() + Duration::from_secs(60);
        let devices = vec![device("incus:default/c1", "web", [3, 1450, 16 << 20, 16 << 20])];
        fresh.learn(Look { at, server: None, devices, connections: Some((key.clone(), Ok(found))) });
        insta::assert_snapshot!(format!("device_{width}x{height}"), drawn(&mut fresh, width, height));
    }
    model.act(Action::Help);
    insta::assert_snapshot!("help", drawn(&mut model, 80, 18));
}

/// Fails when: something is drawn outside, or a width is taken from another without looking.
#[test]
fn no_size_is_too_small() {
    let mut model = model();
    for page in [Page::List, Page::Device, Page::Help] {
        model.page = page;
        for width in (1..30).chain([79, 80, 81, 250]) {
            for height in (1..14).chain([50]) {
                drawn(&mut model, width, height);
            }
        }
    }
}

/// Fails when: a control character of anybody's text is in a cell.
#[test]
fn nothing_from_outside_steers_the_terminal() {
    let mut model = model();
    for page in [Page::List, Page::Device] {
        model.page = page;
        assert!(!drawn(&mut model, 200, 40).chars().any(|letter| letter.is_control() && letter != '\n'));
    }
    model.lose("\u{1b}]0;x\u{7}".to_owned());
    assert!(!drawn(&mut model, 200, 40).contains('\u{1b}'));
}
