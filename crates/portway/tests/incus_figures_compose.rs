//! How long a project of twenty services takes to come up, to be looked at again, and to go, beside the server's own
//! client. `cargo xtask figures` runs it.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a helper fails its test")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "incus_compose/scene.rs"]
mod scene;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use scene::Scene;

/// The program.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

/// Services.
const COUNT: usize = 20;

/// Runs of each; the median counts.
const RUNS: usize = 3;

fn time(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn client(scene: &Scene, args: &[&str]) {
    let said = scene.bed.client_output(args).unwrap();
    assert!(said.status.success(), "{args:?}: {said:?}");
}

/// The figures, side by side on one server.
#[test]
#[ignore = "measures for a minute: `cargo xtask figures`"]
fn twenty_services() {
    let Some(scene) = Scene::open("twenty") else { return };
    let mut text = "services:\n".to_owned();
    for number in 1..=COUNT {
        let _infallible = writeln!(text, "  s{number}: {{image: bb}}");
    }
    scene.write(&text);
    let names: Vec<String> = (1..=COUNT).map(|number| format!("fg{}-{number}", std::process::id())).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let [mut up, mut again, mut down, mut launch, mut delete] = [const { Vec::new() }; 5];
    for _ in 0..RUNS {
        up.push(time(|| drop(scene.ok(&["up", "-d"]))));
        assert_eq!(scene.instances().iter().filter(|line| line.ends_with(" Running")).count(), COUNT);
        again.push(time(|| drop(scene.ok(&["up", "-d"]))));
        down.push(time(|| drop(scene.ok(&["down"]))));
        assert!(scene.is_gone());
        launch
            .push(time(|| names.iter().for_each(|name| client(&scene, &["launch", "bb", name, "--quiet"]))));
        let all: Vec<&str> = ["delete", "-f"].iter().chain(&names).copied().collect();
        delete.push(time(|| client(&scene, &all)));
    }
    let [up, again, down, launch, delete] = [up, again, down, launch, delete].map(median);
    println!("{COUNT} services on one network, median of {RUNS}, milliseconds");
    let line = |what: &str, took: Duration, than: Duration, most: f64| {
        let share = took.as_secs_f64() / than.as_secs_f64();
        let met = if share <= most { "met" } else { "MISSED" };
        println!("{what:<44} {:>9} {share:>6.2} of {most:.2}: {met}", took.as_millis());
    };
    println!("{:<44} {:>9}", "incus launch, one after the other", launch.as_millis());
    line("up -d", up, launch, 0.75);
    line("up -d again", again, Duration::from_secs(1), 1.0);
    println!("{:<44} {:>9}", "incus delete -f, all at once", delete.as_millis());
    line("down, by each one's signal", down, delete, 0.5);
}
