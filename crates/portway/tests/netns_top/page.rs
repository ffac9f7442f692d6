//! The page on a terminal.

use nix::sys::signal::Signal;

use crate::place::Place;
use crate::tty::Tty;

/// The program on a terminal of that size, its first figures there.
fn top(place: &Place, columns: u16, rows: u16) -> Tty {
    let mut command = place.daemon.command();
    command.arg("top");
    let mut tty = Tty::run(&command, columns, rows);
    tty.shows("web");
    assert!(tty.is_taken());
    tty
}

/// Fails when: figures stay at what the first look brought, a page does not fit the window, the last figures go when
/// the daemon does, or the terminal is not given back.
#[test]
fn figures_follow_the_daemon_and_the_window() {
    let Some(mut place) = Place::start() else { return };
    place.add("other", 8081);
    let traffic = place.traffic(8080);
    let mut tty = top(&place, 110, 24);
    tty.shows("2 devices");
    tty.until("a rate", |tty| {
        tty.text().lines().any(|line| line.contains(" web ") && line.contains("KiB/s"))
    });
    let quiet = place.client(8081);

    // The busiest is the first, and selected.
    tty.keys("\r");
    tty.shows("tcp:127.0.0.1:8080 → tcp:127.0.0.1:80");
    tty.shows("CLIENT");
    tty.until("its connection", |tty| {
        tty.text().lines().any(|line| line.contains("127.0.0.1:") && line.contains(" open "))
    });
    tty.until("its rate", |tty| {
        tty.text().lines().any(|line| line.starts_with("127.0.0.1:") && line.contains("KiB/s"))
    });
    tty.resize(50, 12);
    tty.shows("Esc back");
    tty.keys("\x1b");
    tty.shows("INSTANCE");
    tty.resize(100, 20);
    tty.shows("TRAFFIC");
    tty.keys("/other\r");
    tty.shows("1 of 2 devices");
    tty.hides(" web ");
    tty.keys("\x1b");
    tty.shows(" web ");
    tty.keys("?");
    tty.shows("one device and its connections");
    tty.keys("?");
    tty.shows("INSTANCE");

    place.daemon.kill().unwrap();
    tty.shows("no answer, trying again");
    assert!(tty.text().contains(" web "), "the last figures stay:\n{}", tty.text());
    place.daemon.launch().unwrap();
    tty.hides("no answer");
    tty.until("a rate", |tty| {
        tty.text().lines().any(|line| line.contains(" web ") && line.contains("KiB/s"))
    });
    tty.keys("p");
    tty.shows("paused");
    tty.keys("q");
    assert_eq!(tty.end(), Some(0));
    assert!(tty.is_given_back());
    drop((traffic, quiet));
}

/// Fails when: a signal leaves the terminal as the page had it, or is taken for an end of one's own.
#[test]
fn signals_give_the_terminal_back() {
    let Some(place) = Place::start() else { return };
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut tty = top(&place, 80, 24);
        tty.signal(signal);
        assert_eq!(tty.end(), Some(status), "{signal}");
        assert!(tty.is_given_back(), "{signal}");
    }
    let mut tty = top(&place, 80, 24);
    tty.keys("\x03");
    assert_eq!(tty.end(), Some(0));
    assert!(tty.is_given_back());
}

/// By the key, and by who sends the signal.
///
/// Fails when: the shell gets a terminal without echo, or the page does not come back.
#[test]
fn a_stop_gives_the_terminal_back_and_fg_takes_it() {
    let Some(place) = Place::start() else { return };
    let mut tty = top(&place, 80, 24);
    for round in 0..3 {
        if round == 1 {
            tty.signal(Signal::SIGTSTP);
        } else {
            tty.keys("\x1a");
        }
        tty.until("stopped", Tty::is_stopped);
        tty.until("given back", Tty::is_given_back);
        tty.signal(Signal::SIGCONT);
        tty.until("taken again", Tty::is_taken);
        tty.shows("1 device");
    }
    tty.keys("q");
    assert_eq!(tty.end(), Some(0));
    assert!(tty.is_given_back());
}

/// Fails when: the terminal is taken before it is known that there is something to show.
#[test]
fn what_is_wrong_from_the_start_is_told_as_by_any_command() {
    let Some(mut place) = Place::start() else { return };
    let mut command = place.daemon.command();
    command.args(["top", "netns:nobody"]);
    let mut tty = Tty::run(&command, 80, 24);
    assert_eq!(tty.end(), Some(4));
    assert!(tty.is_given_back() && tty.text().contains("error:"), "{}", tty.text());
    place.daemon.kill().unwrap();
    let mut command = place.daemon.command();
    command.arg("top");
    let mut tty = Tty::run(&command, 80, 24);
    assert_eq!(tty.end(), Some(3));
    assert!(tty.text().contains("no daemon answers"), "{}", tty.text());
    // Text, for what is no terminal.
    place.daemon.launch().unwrap();
    let text = place.daemon.cli(&["top"]).unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.starts_with("1 device, 0 connections open") && !text.contains('\u{1b}'), "{text}");
}
